# SPDX-License-Identifier: Apache-2.0
"""A worker's life: listeners, the snapshot's renewal, heartbeats, the links to supervisor and keeper.

One timer does all that is periodic. Nothing here waits: the worker never asks a directory, opens no file but the
index, and starts no thread.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
from typing import Any

from policyd import log
from policyd.link import LoopChannel, Message, Told, not_asked
from policyd.loop import go_first, new_event_loop
from policyd.parts import Arrival
from policyd.sockets import Open
from policyd.worker import listen
from policyd.worker.cache import Cache
from policyd.worker.connection import PATIENCE, Connection
from policyd.worker.counters import Counters
from policyd.worker.faces import KINDS
from policyd.worker.knowledge import LiveKnowledge
from policyd.worker.live import LiveLink, Pending
from transport.answerer import MAPS, Answerer, Outcome
from transport.config.settings import Directory, Settings

RENEW = 0.05
"""Seconds between two renewals of the snapshot (ENGINEERING 3)."""

_BEAT = 0.5
_KEEPER_SILENT, _KEEPER_START = 3.0, 10.0  # seconds without a word of a keeper that spoke, and of a new one
_UNLINKED = 2  # seconds without a link after which another one is asked for
_OBSERVED = 2000  # decisions of observed domains kept for one second; more are counted only
_HALVES, _HALF_OCTETS = 100, 16 << 20  # connections with half a request before what they hold is counted, and its bound
_ATTEMPTS = 2  # to take new settings, before a new worker begins with them
_GRACE = 0.1  # seconds after SIGTERM in which a request that was already sent is still read
_STOP = 3.5  # seconds after which a stopping worker ends whatever is open


class Worker:
    """All that one worker process holds."""

    maps = frozenset(MAPS)

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        number: int,
        listeners: list[Open],
        up: socket.socket,
        keeper: socket.socket | None,
    ) -> None:
        self.loop = loop
        self.settings = settings
        self.number = number
        self.counters = Counters()
        self.connections: set[Connection] = set()
        self.halves: set[Connection] = set()
        self.caches: dict[tuple[str, str], Cache] = {
            (one.role, one.map_name): Cache() for one in listeners if one.role in KINDS
        }
        self.arrival = Arrival(loop, self._configure, self._untaken, _ATTEMPTS)
        self.knowledge = LiveKnowledge(settings, settings.daemon.state)
        self.answerer = Answerer(settings, self.knowledge)
        self.live = LiveLink(loop, settings, self._to_keeper)
        self.debug = log.debugging()
        self.stopping = False
        self.observations: list[dict[str, Any]] = []
        self.index_said = ""
        self.networks = listen.networks(settings.daemon.allow)
        self.supervisor = LoopChannel(loop, up, self._from_supervisor, lambda _: os._exit(0), self._untaken)
        self.keeper: LoopChannel | None = None
        self.heard = self.silence = 0.0
        self.unlinked = 0  # seconds without a link to a keeper
        self.keeper_asks: dict[str, Directory] = {}  # what it asks where, so far as it has said
        if keeper is not None:
            self._link(keeper)
        self.knowledge.renew()
        self.acceptors = [self._accept(one) for one in listeners if one.role in KINDS]
        self.ticks = 0
        self.last_second = time.monotonic()
        self.last_sweep = self.last_second
        self._tick()
        self.supervisor.send(("ready",))

    def _accept(self, one: Open) -> listen.Acceptor:
        kind = KINDS[one.role]
        return listen.Acceptor(
            self.loop, one, lambda: kind(self, one.map_name), lambda: self.networks, self._accepted, self._full
        )

    def _accepted(self) -> None:
        self.counters.accepted += 1

    def _full(self) -> None:
        self.counters.fault("descriptors")

    # --- the timer --------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self.loop.call_later(RENEW, self._tick)
        try:
            self.renew()
            self.live.expire()
            if len(self.halves) > _HALVES:
                self._bound_halves()
            self.ticks += 1
            if self.ticks % int(_BEAT / RENEW) == 0:
                self.supervisor.send(("beat",))
            now = time.monotonic()
            if now - self.last_second >= 1.0:
                self.last_second = now
                self._each_second(now)
        except Exception as error:
            self.counters.fault("internal")
            log.limited(log.ERROR, "tick", "fault in the worker's timer", error)

    def renew(self, *, at_once: bool = False) -> None:
        """Take the present snapshot; with another generation nothing cached counts any more."""
        if self.knowledge.renew(at_once=at_once):
            self._forget()

    def _forget(self) -> None:
        for one in self.caches.values():
            one.clear()
        self.answerer.new_generation()

    def _each_second(self, now: float) -> None:
        self.knowledge.expire()
        self._look_at_keeper(now)
        self._look_at_link()
        self._tell_counts()
        reason = self.knowledge.reader.reason
        if reason != self.index_said:
            self.index_said = reason
            if reason:
                self.counters.fault("index")
                self._to_keeper(("index", reason))
        for one in [one for one in self.halves if now - one.half_since > PATIENCE]:
            self._abort(one, "half a request for 30 s")
        if now - self.last_sweep >= 5.0:
            self.last_sweep = now
            for one in list(self.connections):
                if one.transport.get_write_buffer_size() == 0:
                    one.unread_since = 0.0
                elif not one.unread_since:
                    one.unread_since = now
                elif now - one.unread_since > PATIENCE:
                    self._abort(one, "a reply unread for 30 s")

    def _bound_halves(self) -> None:
        """Half requests take no more memory than `_HALF_OCTETS`: the oldest are let go, an MTA's is a moment old."""
        held = sum(len(one.buffer) for one in self.halves)
        if held > _HALF_OCTETS:
            for one in sorted(self.halves, key=lambda one: one.half_since):
                held -= len(one.buffer)
                self._abort(one, "too much of half requests")
                if held <= _HALF_OCTETS:
                    break

    def _abort(self, one: Connection, why: str) -> None:
        self.counters.fault("slow_client")
        log.limited(log.WARNING, f"slow {one.kind}", "connection ended", protocol=one.kind, why=why)
        self.halves.discard(one)
        one.transport.abort()

    def _tell_counts(self) -> None:
        if self.keeper is None:
            return  # they are kept for the next one
        counts = self.counters.take(len(self.connections), len(self.live.waiting))
        self._to_keeper(("counts", counts, self.knowledge.reader.generation))
        if self.observations:
            observations, self.observations = self.observations, []
            self._to_keeper(("observe", observations))

    # --- observed domains -------------------------------------------------------------------------------------

    def observed(self, request: Any, outcome: Outcome) -> None:
        """Keep what would have been decided for an observed domain; only the policy service feeds it."""
        if outcome.decision is None or not isinstance(request, dict):
            return
        if len(self.observations) >= _OBSERVED:
            self.counters.fault("observe_overflow")
            return
        decision, judgement = outcome.decision, outcome.judgement
        self.observations.append(
            {
                "time": round(time.time(), 3),
                "domain": decision.domain,
                "recipient": request.get("recipient", ""),
                "sender": request.get("sender", ""),
                "client": request.get("client_address", request.get("client", "")),
                "queue_id": request.get("queue_id", ""),
                "instance": request.get("instance", ""),
                "verdict": decision.verdict.value,
                "reason": decision.reason,
                "destination": decision.destination,
                "directory": decision.directory,
                "listed": decision.listed,
                "rule": judgement.rule.name if judgement is not None else "",
                "code": judgement.code if judgement is not None else 0,
            }
        )

    def watch(self, connection: Connection, request: Any, outcome: Outcome) -> None:
        """An observed domain's decision needs live answers: go on beside, nobody waits for it."""
        pending = Pending(_Observer(self, connection.outcome), request, None, time.monotonic())
        if not self.live.wait(pending, outcome.ask, outcome.ask_loop):
            self.observed(request, outcome)

    # --- the keeper -------------------------------------------------------------------------------------------

    def _link(self, sock: socket.socket) -> None:
        if self.keeper is not None:
            self.keeper.close()
        self.keeper = LoopChannel(self.loop, sock, self._from_keeper, self._keeper_closed)
        self.keeper_asks = {}
        self.knowledge.keeper = True
        self.silence = _KEEPER_START
        self.heard = time.monotonic()
        self._to_keeper(("uses", self.settings.digest))

    def _keeper_closed(self, channel: LoopChannel) -> None:
        if channel is not self.keeper:
            return
        self.keeper = None
        self.knowledge.keeper = False
        log.limited(log.WARNING, "keeper gone", "keeper is gone: unlisted recipients are TEMP until it is back")
        self.live.keeper_gone()

    def _look_at_keeper(self, now: float) -> None:
        """It tells ages each second: a silent one hangs, and is not waited for until it speaks again."""
        if self.keeper is not None and self.knowledge.keeper and now - self.heard > self.silence:
            self.knowledge.keeper = False
            log.limited(log.WARNING, "keeper silent", "keeper is silent: unlisted recipients are TEMP until it speaks")
            self.live.keeper_gone()

    def _look_at_link(self) -> None:
        """A new keeper's link comes with it; where that is late it was lost: nobody would bring another one."""
        self.unlinked = 0 if self.keeper is not None else self.unlinked + 1
        if self.unlinked >= _UNLINKED:
            self.supervisor.send(("unlinked",))

    def _to_keeper(self, message: Message) -> bool:
        return self.keeper is not None and self.keeper.send(message)

    def _from_keeper(self, channel: LoopChannel, message: Message) -> None:
        knowledge = self.knowledge
        self.heard = time.monotonic()
        self.silence = _KEEPER_SILENT
        knowledge.keeper = True
        match message:
            case ("answers", answers):
                self._answered(answers)
            case ("told", answers):
                self._answered(answers)
                self._forget()  # what was answered before they came rests on the index alone
            case ("asks", directories):
                self.keeper_asks = directories
            case ("ages", ages, mark):
                # the rows of a reading must be in our snapshot before its "no" is believed
                knowledge.mark = mark
                self.renew(at_once=True)
                knowledge.ages = ages
            case ("nudge",):
                self.renew(at_once=True)
            case ("loop", local, domain, first):
                knowledge.loop_seen(local, domain, first)
                self.live.loop_seen(local, domain)
            case ("peers", networks):
                if networks != knowledge.networks:
                    knowledge.networks = networks
                    self._forget()
            case ("flush", local, domain, answers):
                knowledge.forget(local, domain)
                self._answered(answers)
                self._forget()
                self.renew()
                channel.send(("flushed", local, domain))

    def _answered(self, answers: list[Told]) -> None:
        """Live answers. By other settings than ours the same name may be another directory: then they say nothing."""
        ours = {name: self._asks_ours(name) for name in {answer[0] for answer in answers}}
        for directory, local, domain, result in answers:
            triple = (directory, local, domain)
            if ours[directory]:
                self.knowledge.learn(triple, result)
            self.live.answer(triple, result if ours[directory] else not_asked())

    def _asks_ours(self, name: str) -> bool:
        """Whether the keeper asks the directory that our settings mean."""
        mine = self.settings.directories.get(name)
        return mine is not None and self.keeper_asks.get(name) == mine.asked

    # --- the supervisor ---------------------------------------------------------------------------------------

    def _from_supervisor(self, channel: LoopChannel, message: Message) -> None:
        match message:
            case ("settings", parts, text):
                self.arrival.begin(parts, text)
            case ("link", _):
                self._linked(channel)
            case ("stop",):
                self._stop()

    def _linked(self, channel: LoopChannel) -> None:
        try:
            self._link(socket.socket(fileno=channel.descriptor()))
        except OSError as error:
            self.counters.fault("descriptors")
            log.limited(log.ERROR, "descriptors for a link", "out of descriptors, the link to the keeper is lost: "
                        "raise LimitNOFILE= or lower default_process_limit", error=error.strerror)  # fmt: skip

    def _configure(self, settings: Settings, _: str) -> None:
        """Between two callbacks everything is the new configuration's; no connection notices."""
        answerer = Answerer(settings, self.knowledge)
        self.arrival.let_go(self.settings)
        self.settings = settings
        self.knowledge.configure(settings)
        self.answerer = answerer
        self.live.configure(settings)
        self.networks = listen.networks(settings.daemon.allow)
        self.renew()
        self._forget()
        self._to_keeper(("uses", settings.digest))

    def _untaken(self) -> None:
        """Answers by settings that count no more are wrong ones, and a successor begins with the new."""
        self.counters.fault("settings")
        log.say(log.ERROR, "worker cannot take what it is told, it ends and is started again with the present settings")
        self._stop()

    def _stop(self) -> None:
        if self.stopping:
            return
        self.stopping = True
        for one in self.acceptors:
            one.close()
        self.loop.call_later(_GRACE, self._close_idle)
        self.loop.call_later(_STOP, self._end)

    def _close_idle(self) -> None:
        for one in list(self.connections):
            if one.pending is None and not one.blocked:
                one.transport.close()
        self._end_when_empty()

    def _end_when_empty(self) -> None:
        if self.connections:
            self.loop.call_later(0.02, self._end_when_empty)
        else:
            self._end()

    def _end(self) -> None:
        self._tell_counts()
        self.loop.stop()


class _Observer:
    """Goes on with a decision that nobody waits for."""

    def __init__(self, worker: Worker, outcome: Any) -> None:
        self.worker = worker
        self.outcome = outcome

    def resume(self, pending: Pending) -> None:
        """Everything asked for is known."""
        worker = self.worker
        worker.knowledge.overlay = pending.overlay
        try:
            outcome = self.outcome(pending.request, time.time())
            if not (outcome.ask or outcome.ask_loop) or not worker.live.wait(pending, outcome.ask, outcome.ask_loop):
                worker.observed(pending.request, outcome)
        except Exception as error:
            worker.counters.fault("internal")
            log.limited(log.ERROR, "observe", "fault in deciding for an observed domain", error)
        finally:
            worker.knowledge.overlay = {}


def run(
    settings: Settings, number: int, listeners: list[Open], up: socket.socket, keeper: socket.socket | None
) -> None:
    """A worker process's whole life; called in the child after the fork."""
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    worker = Worker(loop, settings, number, listeners, up, keeper)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # answers leave no cycles; the collector's pauses would be our slowest answers
    go_first()
    loop.run_forever()
    del worker
