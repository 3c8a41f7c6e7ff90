# SPDX-License-Identifier: Apache-2.0
"""The threads that ask one directory: at most four, each with its own connection, none waited for for ever."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from policyd import log
from transport.config.settings import Directory
from transport.directories import open_source
from transport.directories.base import DirectoryTimeout, Source

THREADS = 4
GIVE_UP = 30.0
"""Seconds beyond its own time limit after which a thread is given up: it hangs where no time-out reaches it."""

Job = Callable[[Source], Any]
Done = Callable[[Any, BaseException | None], None]


class _Hand:
    """One thread. busy_since: CLOCK_MONOTONIC; limit: seconds that its job should take at most."""

    def __init__(self, crew: Crew, number: int) -> None:
        self.crew = crew
        self.jobs: queue.SimpleQueue[tuple[Job, Done] | None] = queue.SimpleQueue()
        self.busy_since = 0.0
        self.limit = 0.0
        self.lost = False
        self.done: Done | None = None  # who waits for the job
        self.thread = threading.Thread(target=self._run, name=f"{crew.directory.name}-{number}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        source: Source | None = None
        while (task := self.jobs.get()) is not None:
            job, done = task
            result: Any = None
            error: BaseException | None = None
            try:
                if source is None:
                    source = open_source(self.crew.directory)
                result = job(source)
            except BaseException as fault:
                error = fault
                if source is not None and isinstance(fault, DirectoryTimeout):
                    source.close()  # what comes late on that connection is nobody's answer
                    source = None
            try:
                self.crew.loop.call_soon_threadsafe(self._done, done, result, error)
            except RuntimeError:
                break  # the loop is closed: the keeper ends
        if source is not None:
            source.close()

    def _done(self, done: Done, result: Any, error: BaseException | None) -> None:
        if self.lost:  # it came back after all: it ends, and another one may begin
            self.crew.lost -= 1
            self.jobs.put(None)
        else:
            self.busy_since = 0.0
            done(result, error)
        self.crew.freed()

    def give_up(self) -> None:
        """Wait for it no longer, and tell who does."""
        self.lost = True
        if self.done is not None:
            self.done(None, DirectoryTimeout("a thread that asked did not come back"))


class Crew:
    """All threads of one directory. Started when first needed.

    freed: called in the loop whenever a thread has become free.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, directory: Directory, freed: Callable[[], None]) -> None:
        self.loop = loop
        self.directory = directory
        self.freed = freed
        self.hands: list[_Hand] = []
        self.lost = 0

    @property
    def busy(self) -> int:
        """Threads at work."""
        return sum(1 for hand in self.hands if hand.busy_since)

    @property
    def free(self) -> int:
        """Threads that could begin now, those not started yet included."""
        return THREADS - self.lost - self.busy

    def submit(self, job: Job, done: Done, limit: float) -> bool:
        """Run `job` in a thread, then `done` in the loop; False when all are busy."""
        hand = next((hand for hand in self.hands if not hand.busy_since), None)
        if hand is None:
            if len(self.hands) + self.lost >= THREADS:
                return False
            try:
                hand = _Hand(self, len(self.hands) + self.lost + 1)
            except RuntimeError as error:
                log.limited(log.ERROR, "thread", "no thread can be started: raise TasksMax= or the limit of processes",
                            directory=self.directory.name, error=error)  # fmt: skip
                return False
            self.hands.append(hand)
        hand.busy_since = time.monotonic()
        hand.limit = limit
        hand.done = done
        hand.jobs.put((job, done))
        return True

    def look_after(self) -> bool:
        """Give up threads that overran; False when none is left and only a new process helps."""
        now = time.monotonic()
        for hand in [one for one in self.hands if one.busy_since and now - one.busy_since > one.limit + GIVE_UP]:
            self.hands.remove(hand)
            self.lost += 1
            hand.give_up()
        return self.lost < THREADS

    def close(self) -> None:
        """Let the threads end after what they do now; waits for nobody."""
        for hand in self.hands:
            hand.jobs.put(None)
        self.hands.clear()
