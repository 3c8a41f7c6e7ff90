# SPDX-License-Identifier: Apache-2.0
"""The keeper's side of its links to the workers: answers collected a loop turn, totals that outlive a worker."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from policyd.link import Age, Live, LoopChannel, Message, Told
from policyd.worker.counters import BUCKETS, Counts
from transport.config.settings import Directory

Handler = Callable[["WorkerLink", Message], None]


class WorkerLink:
    """One worker as the keeper sees it. generation: of its snapshot when it last counted; digest: of its settings."""

    def __init__(self, crowd: Crowd, number: int, sock: socket.socket) -> None:
        self.crowd = crowd
        self.number = number
        self.generation = -1
        self.digest = b""
        self.connections = self.waiting = self.rss = 0
        self.counted_at = time.monotonic()
        self._answers: list[tuple[str, str, str, Live]] = []
        self.channel = LoopChannel(crowd.loop, sock, self._message, self._closed)

    def _message(self, _: LoopChannel, message: Message) -> None:
        self.crowd.handle(self, message)

    def _closed(self, _: LoopChannel) -> None:
        self.crowd.gone(self)

    def answer(self, directory: str, local: str, domain: str, live: Live) -> None:
        """Send a live answer, together with all others of this loop turn."""
        if not self._answers:
            self.crowd.loop.call_soon(self._flush)
        self._answers.append((directory, local, domain, live))

    def _flush(self) -> None:
        answers, self._answers = self._answers, []
        if answers:
            self.channel.send(("answers", answers))

    def asks(self, directories: Mapping[str, Directory]) -> None:
        """Say what is asked under each name from now on; what was answered before goes first."""
        self._flush()
        self.channel.send(("asks", directories))


class Crowd:
    """All workers.

    decisions, latency …: totals since the keeper's start, of dead workers too.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, handler: Handler) -> None:
        self.loop = loop
        self.handler = handler
        self.workers: dict[int, WorkerLink] = {}
        self.decisions: dict[tuple[str, str, str], int] = {}
        self.faults: dict[str, int] = {}
        self.latency = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.cached = 0
        self.accepted = 0
        self._flushes: dict[tuple[str | None, str | None], list[tuple[set[WorkerLink], asyncio.Future[bool]]]] = {}

    def add(self, number: int, sock: socket.socket) -> WorkerLink:
        """A worker was started, or we were."""
        old = self.workers.pop(number, None)
        if old is not None:
            old.channel.close()
        link = WorkerLink(self, number, sock)
        self.workers[number] = link
        return link

    def gone(self, link: WorkerLink) -> None:
        """A worker's link closed."""
        if self.workers.get(link.number) is link:
            del self.workers[link.number]
        for waiting in self._flushes.values():
            for missing, _ in waiting:
                missing.discard(link)
        self._look_at_flushes()

    def handle(self, link: WorkerLink, message: Message) -> None:
        """A message from a worker."""
        match message:
            case ("counts", counts, generation):
                self._count(link, counts)
                link.generation = generation
            case ("uses", digest):
                link.digest = digest
            case ("flushed", local, domain):
                for missing, _ in self._flushes.get((local, domain), ()):
                    missing.discard(link)
                self._look_at_flushes()
            case _:
                self.handler(link, message)

    def _count(self, link: WorkerLink, counts: Counts) -> None:
        for key, number in counts.decisions.items():
            self.decisions[key] = self.decisions.get(key, 0) + number
        for kind, number in counts.faults.items():
            self.fault(kind, number)
        for at, number in enumerate(counts.latency):
            self.latency[at] += number
        self.seconds += counts.seconds
        self.cached += counts.cached
        self.accepted += counts.accepted
        link.connections, link.waiting, link.rss = counts.connections, counts.waiting, counts.rss
        link.counted_at = time.monotonic()

    def fault(self, kind: str, number: int = 1) -> None:
        """Count faults of ours, in a worker or elsewhere."""
        self.faults[kind] = self.faults.get(kind, 0) + number

    def send(self, message: Message) -> None:
        """To every worker."""
        for link in list(self.workers.values()):
            link.channel.send(message)

    def without(self, digest: bytes) -> list[int]:
        """The workers that have not said that they answer by these settings."""
        return [link.number for link in self.workers.values() if link.digest != digest]

    def asks(self, directories: Mapping[str, Directory]) -> None:
        """Tell what is asked under each name from now on."""
        for link in list(self.workers.values()):
            link.asks(directories)

    def ages(self, ages: dict[str, Age], mark: tuple[str, int] | None) -> None:
        """Tell how old each directory is, and of which index."""
        self.send(("ages", ages, mark))

    async def flush(
        self, local: str | None, domain: str | None, patience: float = 5.0, answers: Sequence[Told] = ()
    ) -> bool:
        """Make every worker forget what it learned, and learn these live answers; whether all said that they did."""
        done: asyncio.Future[bool] = self.loop.create_future()
        entry: tuple[set[WorkerLink], asyncio.Future[bool]] = (set(self.workers.values()), done)
        self._flushes.setdefault((local, domain), []).append(entry)
        self.send(("flush", local, domain, list(answers)))
        self._look_at_flushes()
        try:
            return await asyncio.wait_for(asyncio.shield(done), patience)
        except TimeoutError:
            return False
        finally:
            waiting = self._flushes.get((local, domain), [])
            if entry in waiting:
                waiting.remove(entry)
            if not waiting:
                self._flushes.pop((local, domain), None)

    def _look_at_flushes(self) -> None:
        for waiting in self._flushes.values():
            for missing, done in waiting:
                if not missing and not done.done():
                    done.set_result(True)

    def status(self) -> list[dict[str, Any]]:
        """Each worker for `status`."""
        return [
            {
                "number": link.number,
                "generation": link.generation,
                "connections": link.connections,
                "waiting": link.waiting,
                "rss": link.rss,
            }
            for _, link in sorted(self.workers.items())
        ]
