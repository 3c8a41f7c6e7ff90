# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics on their own listener: a collector over the keeper's plain integers (docs/metrics.md)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from policyd import clock, log
from policyd.sockets import Open
from policyd.worker import listen
from policyd.worker.counters import BUCKETS

if TYPE_CHECKING:
    from policyd.keeper.main import Keeper

_REQUEST = 8192
_PATIENCE = 10.0
_CLIENTS = 32  # whoever may connect must not take the descriptors with which directories are asked
_AT_ONCE = 200  # samples of one metric that are made in one turn of the loop: about a millisecond
_CONTENT = "text/plain; version=0.0.4; charset=utf-8"


class KeeperCollector(Collector):
    """All metrics at the moment of a scrape. One with many samples comes in several families of the same name."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper

    def collect(self) -> Iterator[Metric]:
        """Called for each scrape."""
        yield from self._answers()
        yield from self._processes()
        yield from self._directories()
        yield from self._live()
        yield from self._rest()

    def _answers(self) -> Iterator[Metric]:
        crowd = self.keeper.crowd
        known = list(crowd.decisions.items())
        for at in range(0, max(1, len(known)), _AT_ONCE):
            decisions = CounterMetricFamily(
                "splitmx_decisions", "Answers given, by map (or policy, exim), split domain and verdict.",
                labels=["map", "domain", "verdict"],
            )  # fmt: skip
            for key, number in known[at : at + _AT_ONCE]:
                decisions.add_metric(key, number)
            yield decisions
        yield CounterMetricFamily("splitmx_cached_answers", "Answers that came out of a cache.", crowd.cached)
        yield CounterMetricFamily("splitmx_connections_accepted", "Connections accepted.", crowd.accepted)
        buckets = []
        total = 0
        for bound, number in zip((*map(str, BUCKETS), "+Inf"), crowd.latency, strict=True):
            total += number
            buckets.append((bound, float(total)))
        latency = HistogramMetricFamily(
            "splitmx_answer_seconds", "From the whole request to its reply; cached ones count in the first bucket."
        )
        latency.add_metric([], buckets, crowd.seconds)
        yield latency
        faults = CounterMetricFamily("splitmx_faults", "Faults by kind; see docs/metrics.md.", labels=["kind"])
        for kind, number in crowd.faults.items():
            faults.add_metric([kind], number)
        yield faults

    def _processes(self) -> Iterator[Metric]:
        links = list(self.keeper.crowd.workers.values())
        running = GaugeMetricFamily("splitmx_processes", "Running processes by role.", labels=["role"])
        running.add_metric(["worker"], len(links))
        running.add_metric(["keeper"], 1)
        yield running
        yield GaugeMetricFamily(
            "splitmx_workers_configured", "Workers that should run.", self.keeper.settings.daemon.workers
        )
        connections = GaugeMetricFamily("splitmx_connections", "Open connections of MTAs.", labels=["worker"])
        waiting = GaugeMetricFamily("splitmx_waiting", "Requests waiting for a live look-up.", labels=["worker"])
        memory = GaugeMetricFamily("splitmx_worker_resident_bytes", "Resident memory.", labels=["worker"])
        generation = GaugeMetricFamily("splitmx_worker_generation", "Index generation it reads.", labels=["worker"])
        for link in links:
            name = [str(link.number)]
            connections.add_metric(name, link.connections)
            waiting.add_metric(name, link.waiting)
            memory.add_metric(name, link.rss)
            generation.add_metric(name, link.generation)
        yield from (connections, waiting, memory, generation)
        yield GaugeMetricFamily("splitmx_keeper_start_seconds", "Unix time of the keeper's start.", self.keeper.started)

    def _directories(self) -> Iterator[Metric]:
        def gauge(name: str, text: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"splitmx_directory_{name}", text, labels=["directory"])

        rows = gauge("recipients", "Addresses in the index.")
        age = gauge("age_seconds", "Since the start of the last good reading; absent before the first.")
        content = gauge("content_age_seconds", "Age of a file's content.")
        took = gauge("sync_seconds", "Duration of the last full compare.")
        up = gauge("up", "1 when the last reading was good.")
        skipped = gauge("skipped", "Entries that are not used.")
        parts = gauge("unread_domains", "Domains of a cPanel host that the last reading could not read.")
        unread = Counter(part.directory for part in self.keeper.reader.unread())
        held = GaugeMetricFamily(
            "splitmx_held_changes", "Changes that a guard holds back.", labels=["directory", "domain", "what"]
        )
        readings = CounterMetricFamily("splitmx_directory_readings", "Readings begun.", labels=["directory"])
        labels = ["directory", "change"]
        lag = GaugeMetricFamily("splitmx_directory_lag_seconds", "Until a change is an answer.", labels=labels)
        behind = GaugeMetricFamily("splitmx_directory_behind_seconds", "Older changes are known.", labels=labels)
        heard = CounterMetricFamily("splitmx_directory_notifications", "NOTIFYs received.", labels=["directory"])
        now, at = time.time(), clock.now()
        states = {state.name: state for state in self.keeper.reader.directories()}
        for name, sync in self.keeper.syncs.items():
            label = [name]
            state = states.get(name)
            rows.add_metric(label, state.rows if state is not None and state.current else 0)
            skipped.add_metric(label, state.skipped if state is not None else 0)
            parts.add_metric(label, unread[name])
            if sync.read_at is not None:
                age.add_metric(label, at - sync.read_at)
            if sync.content_time is not None:
                content.add_metric(label, now - sync.content_time)
            if sync.full is not None:
                took.add_metric(label, sync.full.duration)
            if sync.report is not None:
                up.add_metric(label, float(sync.report.good))
            readings.add_metric(label, sync.readings)
            for change, seconds in sync.lag().items():
                lag.add_metric([name, change], seconds)
            for change, age_now in sync.behind().items():
                if age_now is not None:
                    behind.add_metric([name, change], age_now)
            if sync.listening is not None:
                heard.add_metric(label, sync.listening.heard)
        for one in self.keeper.reader.held():
            held.add_metric([one.directory, one.domain, one.what], one.count)
        yield from (rows, age, content, took, up, skipped, parts, held, readings, lag, behind, heard)

    def _live(self) -> Iterator[Metric]:
        def counter(name: str, text: str) -> CounterMetricFamily:
            return CounterMetricFamily(f"splitmx_live_{name}", text, labels=["directory"])

        asked = counter("asked", "Addresses that workers asked for.")
        queries = counter("queries", "Queries sent to the directory.")
        found = counter("found", "Addresses found live.")
        missed = counter("deadlines_missed", "Queries that came too late.")
        errors = counter("errors", "Queries that ended in an error.")
        seconds = counter("seconds", "Time that queries took.")
        opened = counter("circuit_opened", "How often the circuit opened.")
        is_open = GaugeMetricFamily("splitmx_live_circuit_open", "1 while the circuit is open.", labels=["directory"])
        waiting = GaugeMetricFamily("splitmx_live_waiting", "Addresses waiting to be asked.", labels=["directory"])
        for name, queue in self.keeper.queues.items():
            label = [name]
            asked.add_metric(label, queue.asked)
            queries.add_metric(label, queue.queries)
            found.add_metric(label, queue.found)
            missed.add_metric(label, queue.missed)
            errors.add_metric(label, queue.errors)
            seconds.add_metric(label, queue.seconds)
            opened.add_metric(label, queue.circuit.opened)
            is_open.add_metric(label, float(queue.circuit.open))
            waiting.add_metric(label, len(queue.waiting) + len(queue.flying))
        yield from (asked, queries, found, missed, errors, seconds, opened, is_open, waiting)

    def _rest(self) -> Iterator[Metric]:
        keeper = self.keeper
        yield GaugeMetricFamily("splitmx_index_bytes", "Size of the index with its log.", keeper.index.bytes())
        yield GaugeMetricFamily("splitmx_index_generation", "Generation of the index.", keeper.reader.generation)
        yield GaugeMetricFamily("splitmx_domains", "Split domains configured.", len(keeper.settings.domains))
        yield GaugeMetricFamily(
            "splitmx_config_loaded_seconds", "Unix time of the last load.", keeper.reloading.loaded_at
        )
        yield GaugeMetricFamily(
            "splitmx_config_refused", "1 when the last reload was refused.", float(bool(keeper.reloading.refused))
        )
        if keeper.static.built_at is not None:
            yield GaugeMetricFamily(
                "splitmx_static_built_seconds", "Unix time of the last build.", keeper.static.built_at
            )
        yield GaugeMetricFamily(
            "splitmx_static_failed", "1 when the last build of static maps failed.", float(bool(keeper.static.error))
        )
        unwritten = GaugeMetricFamily(
            "splitmx_unwritten", "1 while a file of the state directory cannot be written.", labels=["file"]
        )
        unwritten.add_metric(["index.sqlite"], float(bool(keeper.index.error)))
        for saver in (keeper.loops.file, keeper.peers.file):
            unwritten.add_metric([saver.path.name], float(saver.unwritten))
        yield unwritten
        yield CounterMetricFamily(
            "splitmx_observed", "Decisions of observed domains written.", keeper.observations.written
        )
        spf = GaugeMetricFamily("splitmx_peer_networks", "Networks behind an `spf:` name.", labels=["name"])
        for name, one in keeper.peers.names.items():
            spf.add_metric([name], len(one.networks))
        yield spf


class MetricsServer:
    """GET /metrics, one request a connection (RFC 9112), for networks in `allow`."""

    def __init__(self, keeper: Keeper, listener: Open) -> None:
        self.keeper = keeper
        self.listener = listener
        self.clients = 0
        self.collector = KeeperCollector(keeper)
        self._alone = asyncio.Lock()

    async def serve(self) -> None:
        """Listen as long as the daemon lives: a loop need not hold a server that nobody refers to."""
        if self.listener.listener.kind == "unix":
            server = await asyncio.start_unix_server(self._client, sock=self.listener.sock)
        else:
            server = await asyncio.start_server(self._client, sock=self.listener.sock)
        await server.serve_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients += 1
        try:
            if self.clients > _CLIENTS:
                log.limited(log.WARNING, "metrics clients", "too many ask for the metrics at once: some are refused")
                return
            peer = writer.get_extra_info("peername")
            if isinstance(peer, tuple) and not listen.allowed(peer[0], self.keeper.networks):
                return
            async with asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                method, _, rest = head.partition(b" ")
                path = rest.partition(b" ")[0].partition(b"?")[0]
                if len(head) > _REQUEST or method not in (b"GET", b"HEAD") or path not in (b"/metrics", b"/"):
                    body, status = b"GET /metrics\n", "404 Not Found"
                else:
                    async with self._alone:
                        body, status = await _text(self.collector), "200 OK"
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {_CONTENT}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + (b"" if method == b"HEAD" else body)
                )
                await writer.drain()
        except TimeoutError:
            writer.transport.abort()  # an answer that it does not read is not kept for it
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        except Exception as error:
            log.limited(log.ERROR, "metrics", "fault in the metrics", error)
        finally:
            self.clients -= 1
            writer.close()


async def _text(collector: Collector) -> bytes:
    """The exposition of all metrics, made a little at a time: with thousands of domains it takes a second, and whoever
    waits for a live look-up would wait as well."""
    parts = []
    before = ""
    for metric in collector.collect():
        text = generate_latest(_One(metric))
        if metric.name == before:  # HELP and TYPE stand above the first of its samples only
            text = b"".join(line for line in text.splitlines(keepends=True) if not line.startswith(b"#"))
        before = metric.name
        parts.append(text)
        await asyncio.sleep(0)
    return b"".join(parts)


class _One(Collector):
    """One metric for prometheus_client."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self.metric
