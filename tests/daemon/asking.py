# SPDX-License-Identifier: Apache-2.0
"""A live queue of one directory in a time that a test sets, with queries that return when it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest

from policyd import clock
from policyd.keeper import queue as queues
from policyd.keeper.canaries import CanaryStore
from policyd.keeper.queue import LiveQueue
from policyd.link import Live
from tests.sync.conftest import ListSource, people
from transport.config.settings import Directory, SqlOptions
from transport.directories.base import Source
from transport.index.states import Canary
from transport.lookup import Answers

D = "example.com"
HERE = Directory("here", "sql", SqlOptions("sqlite://", "SELECT 1"), b"", fresh_for=5.0, deadline=1.0)
KNOWN = tuple(Canary(f"user{n:05d}", D) for n in range(5))

Done = Callable[[Answers | None, BaseException | None], None]


@dataclass(eq=False)
class Timer:
    """A call that is due."""

    at: float
    call: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """An event loop of which only time and timers exist."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []

    def call_later(self, seconds: float, call: Callable[..., None], *words: Any) -> Timer:
        self.timers.append(Timer(self.now + seconds, lambda: call(*words)))
        return self.timers[-1]

    def run(self, seconds: float = 0.0) -> None:
        """Let time pass, and make the calls that become due, in their order."""
        end = self.now + seconds
        while due := [one for one in self.timers if not one.cancelled and one.at <= end]:
            first = min(due, key=lambda one: one.at)
            self.timers.remove(first)
            self.now = max(self.now, first.at)
            first.call()
        self.now = end


class Crew:
    """Threads that begin when the test says so. jobs: what was given to them, with whom it tells; limits: how long each
    may take. refuses: no thread can be started."""

    def __init__(self, *_: object) -> None:
        self.free = 4
        self.refuses = self.closed = False
        self.limits: list[float] = []
        self.jobs: list[tuple[Callable[[Source], Answers], Done]] = []

    def submit(self, job: Callable[[Source], Answers], done: Done, limit: float) -> bool:
        if self.refuses or not self.free:
            return False
        self.free -= 1
        self.limits.append(round(limit, 3))
        self.jobs.append((job, done))
        return True

    def look_after(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


class Canaries:
    """Five people of example.com."""

    def choose(self, *_: object) -> tuple[Canary, ...]:
        return KNOWN

    def emptied(self, _: str) -> bool:
        return False


class Asked:
    """A queue, its directory (user00000 to user00009 and ann), and what was replied."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(queues, "Crew", Crew)
        self.loop = Loop()
        monkeypatch.setattr(clock, "now", lambda: self.loop.now)
        self.told: list[str] = []
        self.replies: list[tuple[str, Live]] = []
        self.source = ListSource([*people(10), people(1, prefix="ann")[0]._replace(local="ann")])
        self.queue = LiveQueue(
            cast(asyncio.AbstractEventLoop, self.loop),
            HERE,
            cast(CanaryStore, Canaries()),
            lambda: self.told.append("changed"),
            lambda: self.told.append("foreign"),
        )
        self.crew = cast(Crew, self.queue.crew)

    def ask(self, *locals_: str, anew: bool = False) -> None:
        """Ask, and let the queue send what it wants to send at once."""
        for local in locals_:
            self.queue.ask(local, D, lambda local, _, live: self.replies.append((local, live)), anew=anew)
        self.loop.run()

    def come_back(self, number: int = 0, error: BaseException | None = None) -> None:
        """A query returns: with what the directory says now, or with an error."""
        job, done = self.crew.jobs.pop(number)
        self.crew.free += 1
        done(None if error else job(self.source), error)

    def said(self) -> list[tuple[str, object]]:
        """What was replied since the last time: the local parts found, "no", or None for "could not be asked"."""
        replies, self.replies = self.replies, []
        return [
            (local, None if live.records is None else [r.local for r in live.records] or "no")
            for local, live in replies
        ]
