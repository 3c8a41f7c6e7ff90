# SPDX-License-Identifier: Apache-2.0
"""A worker's questions to the keeper: one message a loop turn, bounded in number and in time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from policyd import log
from policyd.link import Live, not_asked
from policyd.worker.knowledge import Triple
from policyd.worker.pace import INTERVAL, TURN, Pace
from transport.config.settings import Settings

MAX_WAITING = 1000
"""Requests of one worker that wait for a live answer; beyond: TEMP at once."""

MAX_ROUNDS = 8
"""How often one request may ask anew (an alias of an alias …) before it is TEMP."""

_MANY = 16  # addresses on their way, beyond which further ones are gathered
_MOMENT = 0.001
_SLICE = 1  # requests that go on in one turn of the loop: more hold up known recipients and gain nothing
_MARGIN = 0.25  # seconds after a directory's deadline until a request stops waiting for the keeper
_LONGEST = 4.0  # seconds that all rounds of one request take together at most
_LOOP_WAIT = 0.5  # seconds for the keeper to look into its own memory


class Waiter(Protocol):
    """Who is called when everything that was asked is known (or has failed)."""

    def resume(self, pending: Pending) -> None:
        """Go on with the request."""


class Pending:
    """One request that waits.

    overlay: live answers that this request has got so far. needs: what is still out. failed: keeper gone or late.
    """

    __slots__ = ("deadline", "end", "key", "loop", "needs", "overlay", "request", "rounds", "started", "waiter")

    def __init__(self, waiter: Waiter, request: Any, key: Any, started: float) -> None:
        self.waiter = waiter
        self.request = request
        self.key = key
        self.started = started  # CLOCK_MONOTONIC
        self.end = started + _LONGEST
        self.deadline = started
        self.rounds = 0
        self.needs: set[Triple] = set()
        self.loop: tuple[str, str] | None = None
        self.overlay: dict[Triple, Live] = {}


class LiveLink:
    """Collects questions, sends them, and hands answers back.

    send: gives a message to the keeper, False when it is gone.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, settings: Settings, send: Callable[[tuple[Any, ...]], bool]
    ) -> None:
        self.loop = loop
        self.settings = settings
        self.send = send
        self.waiting: dict[Pending, None] = {}
        self._by_triple: dict[Triple, list[Pending]] = {}
        self._by_loop: dict[tuple[str, str], list[Pending]] = {}
        self._outbox: dict[Triple, None] = {}  # in their order; somebody waits for each of them
        self._planned = False
        self._known: deque[Pending] = deque()
        self.pace = Pace()
        self._sent_at = 0.0  # CLOCK_MONOTONIC of the last message

    def configure(self, settings: Settings) -> None:
        """Take new settings: what those who wait were told of the old directories says nothing of the new ones."""
        self.settings = settings
        for pending in (*self.waiting, *self._known):
            pending.overlay = {}

    def wait(self, pending: Pending, ask: Iterable[Triple], loop: tuple[str, str] | None) -> bool:
        """Ask for `ask` and `loop`, and call `pending.waiter.resume` later. False: no room, answer TEMP now."""
        pending.rounds += 1
        now = time.monotonic()
        if len(self.waiting) >= MAX_WAITING or pending.rounds > MAX_ROUNDS or now >= pending.end:
            return False
        needs = {triple for triple in ask if triple not in pending.overlay}
        if not needs and loop is None:
            return False  # it asks again for what it was told: a fault; never turn in circles
        longest = _LOOP_WAIT
        for triple in needs:
            directory = self.settings.directories.get(triple[0])
            longest = max(longest, (directory.deadline if directory is not None else 0.0) + _MARGIN)
        pending.deadline = min(now + longest, pending.end)
        pending.needs = needs
        pending.loop = loop
        self.waiting[pending] = None
        for triple in needs:
            others = self._by_triple.get(triple)
            if others is None:
                self._by_triple[triple] = [pending]
                self._outbox[triple] = None
                self._plan(now)
            else:
                others.append(pending)
        if loop is not None:
            others = self._by_loop.setdefault(loop, [])
            others.append(pending)
            if len(others) == 1 and not self.send(("loop", *loop)):
                self.loop.call_soon(self.keeper_gone)
        return True

    def _plan(self, now: float) -> None:
        """Say when what is in the outbox goes, unless that is said."""
        if self._planned:
            return
        self._planned = True
        if self.pace.give_way():
            self.loop.call_later(max(0.0, self._sent_at + INTERVAL - now), self._flush)
        elif len(self._by_triple) > _MANY:  # the keeper has enough to do: send what gathers in a moment
            self.loop.call_later(_MOMENT, self._flush)
        else:
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._planned = False
        going = list(self._outbox)
        if self.pace.give_way():
            del going[self.pace.questions(len(going)) :]
        if not going:
            return
        for triple in going:
            del self._outbox[triple]
        self._sent_at = time.monotonic()
        if not self.send(("ask", going)):
            self.keeper_gone()
        if self._outbox:
            self._plan(self._sent_at)

    def answer(self, triple: Triple, result: Live) -> None:
        """A live answer came: those that waited for nothing else go on."""
        self._outbox.pop(triple, None)  # somebody else has asked
        for pending in self._by_triple.pop(triple, ()):
            pending.overlay[triple] = result
            pending.needs.discard(triple)
            self._ready(pending)

    def loop_seen(self, local: str, domain: str) -> None:
        """The keeper told when this address first came back."""
        for pending in self._by_loop.pop((local, domain), ()):
            pending.loop = None
            self._ready(pending)

    def _ready(self, pending: Pending) -> None:
        if not pending.needs and pending.loop is None and pending in self.waiting:
            del self.waiting[pending]
            if not self._known:
                self.loop.call_soon(self._resume)
            self._known.append(pending)

    def _resume(self) -> None:
        """Answer a few whose answers are known, then let the loop read: a batch must not hold up known recipients."""
        waits = self.pace.give_way()
        many = self.pace.answers(len(self._known)) if waits else _SLICE
        for _ in range(min(many, len(self._known))):
            _go_on(self._known.popleft())
        if self._known and waits:
            self.loop.call_later(TURN, self._resume)
        elif self._known:
            self.loop.call_soon(self._resume)

    def expire(self) -> int:
        """Give up what is overdue: it is answered with "could not be asked". How many."""
        if not self.waiting:
            return 0
        now = time.monotonic()
        late = [pending for pending in self.waiting if pending.deadline <= now]
        for pending in late:
            self._fail(pending, now)
        return len(late)

    def keeper_gone(self) -> None:
        """Nobody will answer: everything that waits goes on at once."""
        now = time.monotonic()
        for pending in list(self.waiting):
            self._fail(pending, now)

    def drop(self, pending: Pending) -> None:
        """The client is gone."""
        self.waiting.pop(pending, None)
        self._unlist(pending)

    def _fail(self, pending: Pending, now: float) -> None:
        if self.waiting.pop(pending, _ABSENT) is _ABSENT:
            return
        self._unlist(pending)
        for triple in pending.needs:
            pending.overlay[triple] = not_asked()
        pending.needs = set()
        if pending.loop is not None:
            pending.loop = None
            pending.rounds = MAX_ROUNDS  # it would only ask for that again
        _go_on(pending)

    def _unlist(self, pending: Pending) -> None:
        for triple in pending.needs:
            others = self._by_triple.get(triple)
            if others is not None:
                if pending in others:
                    others.remove(pending)
                if not others:
                    del self._by_triple[triple]
                    self._outbox.pop(triple, None)
        if pending.loop is not None:
            others = self._by_loop.get(pending.loop)
            if others is not None:
                if pending in others:
                    others.remove(pending)
                if not others:
                    del self._by_loop[pending.loop]


def _go_on(pending: Pending) -> None:
    """One request goes on; a fault in it is nobody else's."""
    try:
        pending.waiter.resume(pending)
    except Exception as error:
        log.limited(log.ERROR, "resume", "fault in answering one request, it is let go", error)


_ABSENT: Any = object()
