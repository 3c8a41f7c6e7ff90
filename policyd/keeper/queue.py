# SPDX-License-Identifier: Apache-2.0
"""Live look-ups of one directory: questions of all workers coalesced into few queries, bounded in number and time.

The next batch forms while one is on its way; equal questions are asked once. A query that is late is accompanied by
a canary in another thread: when neither comes back by the deadline the directory hangs, and the circuit opens at
the first deadline; when only the canary does, one of the asked addresses is slow by itself, and harms nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from policyd import clock, log
from policyd.keeper.canaries import CanaryStore
from policyd.keeper.circuit import Circuit
from policyd.keeper.crew import Crew
from policyd.link import Live
from transport.config.settings import Directory
from transport.directories.base import DirectoryTimeout, Source
from transport.index.states import Canary
from transport.lookup import BATCH, CANARIES_ASKED, NO, Answers, Failed, ask
from transport.record import Record

LONGEST = 2.0
"""Seconds of one query at most, whatever `deadline` says."""

_WAITING = 8_000  # addresses that wait at most; beyond: could not be asked
_REMEMBERED = 20_000  # results in one of two generations
_SECOND = 0.02  # seconds after which a second thread begins beside one that is at work
_MANY = 25  # waiting addresses that are worth a second query at once
_FEW = 4  # addresses of a query behind which the next ones are gathered for a moment: those it answered ask again
_GATHER = 0.003
_SUSPECT = 0.4  # part of the deadline after which a canary accompanies a late query

Address = tuple[str, str]
"""(local, domain)."""

Reply = Callable[[str, str, Live], None]
"""Called once for each question with local, domain and the result."""


@dataclass(slots=True, eq=False)
class _Item:
    local: str
    domain: str
    since: float
    replies: list[Reply]
    done: bool = False


@dataclass(slots=True, eq=False)
class _Batch:
    items: list[_Item]
    asked_at: float
    deadline: float
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    companion: str = ""  # "", "asked", "back"
    over: bool = False


class LiveQueue:
    """One directory's live look-ups.

    changed: called when circuit or belief changed, so that workers hear of it at once. foreign: called when another
    server answers than the one last synced from.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        directory: Directory,
        canaries: CanaryStore,
        changed: Callable[[], None],
        foreign: Callable[[], None],
    ) -> None:
        self.loop = loop
        self.directory = directory
        self.canaries = canaries
        self.changed = changed
        self.foreign = foreign
        self.server = ""  # the one last synced from
        self.read_at: float | None = None  # `policyd.clock`, of the last good reading
        self.circuit = Circuit()
        self.crew = Crew(loop, directory, self._dispatch)
        self.deadline = min(directory.deadline, LONGEST)
        self.waiting: dict[Address, _Item] = {}
        self.flying: dict[Address, _Item] = {}
        self.batches: dict[_Batch, None] = {}
        self.results: dict[Address, Live] = {}
        self.old_results: dict[Address, Live] = {}
        self._turned = clock.now()
        self.closed = False
        self.asked = self.queries = self.found = self.missed = self.errors = 0
        self.seconds = 0.0
        self._again: asyncio.TimerHandle | None = None
        self._gather_until = 0.0
        self._expiry: asyncio.TimerHandle | None = None
        self._probe_timer: asyncio.TimerHandle | None = None

    # --- questions --------------------------------------------------------------------------------------------

    def ask(self, local: str, domain: str, reply: Reply, *, anew: bool = False) -> None:
        """Ask for one address; `reply` is called soon, at the latest after the deadline.

        anew: do not take a result that is remembered (`flush`, `explain`).
        """
        self.asked += 1
        now = clock.now()
        at = (local, domain)
        if not anew:
            known = self.results.get(at) or self.old_results.get(at)
            if known is not None and known.end > now and (self.read_at is None or known.asked_at >= self.read_at):
                reply(local, domain, known)
                return
        if self.circuit.open or self.closed:
            reply(local, domain, self._failure(now))
            return
        item = self.waiting.get(at) or (None if anew else self.flying.get(at))
        if item is not None:
            item.replies.append(reply)
            return
        if len(self.waiting) >= _WAITING:
            reply(local, domain, self._failure(now))
            return
        self.waiting[at] = _Item(local, domain, now, [reply])
        if self._again is None:
            self._again = self.loop.call_later(0, self._dispatch)
        elif len(self.waiting) == _MANY:
            self._again.cancel()
            self._again = self.loop.call_later(0, self._dispatch)
        if self._expiry is None:
            self._expiry = self.loop.call_later(0.05, self._expire)

    def forget(self, local: str | None, domain: str) -> None:
        """Forget results: of one address, or of a domain."""
        for known in (self.results, self.old_results):
            for at in [at for at in known if at[1] == domain and (local is None or at[0] == local)]:
                del known[at]

    def close(self) -> None:
        """The directory is no longer configured like this: who waits could not ask."""
        self.closed = True
        for batch in list(self.batches):
            self._end(batch, remember=False)
        self._fail_waiting()
        for timer in (self._again, self._expiry, self._probe_timer):
            if timer is not None:
                timer.cancel()
        self.crew.close()

    def look_after(self) -> bool:
        """Each second: forget what is too old, give up hanging threads. False: all four are lost."""
        now = clock.now()
        if now - self._turned > max(1.0, self.directory.fresh_for):  # so long a result counts
            self._turned = now
            self.old_results, self.results = self.results, {}
        return self.crew.look_after()

    # --- batches ----------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        now = clock.now()
        if self.waiting and not self.batches and len(self.waiting) < _MANY and now < self._gather_until:
            self._again = self.loop.call_later(self._gather_until - now, self._dispatch)
            return
        while self.waiting and not self.circuit.open and not self.closed and self.crew.free:
            if self.batches and len(self.waiting) < _MANY:
                youngest = max(batch.asked_at for batch in self.batches)
                if now - youngest < _SECOND:
                    self._again = self.loop.call_later(_SECOND, self._dispatch)
                    return
            if not self._begin(now):
                return

    def _begin(self, now: float) -> bool:
        """Ask for those that have waited longest. What fails before the query is on its way leaves them waiting."""
        items = list(self.waiting.values())[: BATCH - CANARIES_ASKED]
        limit = max(0.05, min(item.since for item in items) + self.deadline - now)
        batch = _Batch(items, now, now + limit)
        asked = [(item.local, item.domain) for item in items]
        canaries = self.canaries.choose(self.directory, {item.domain for item in items})
        if not self._submit(asked, canaries, limit, lambda result, error: self._answered(batch, result, error)):
            return False
        self.queries += 1
        for at in asked:
            self.flying[at] = self.waiting.pop(at)
        self.batches[batch] = None
        batch.timers = [
            self.loop.call_later(limit, self._late, batch),
            self.loop.call_later(limit * _SUSPECT, self._accompany, batch, canaries),
        ]
        return True

    def _submit(
        self,
        asked: Sequence[Address],
        canaries: Sequence[Canary],
        limit: float,
        done: Callable[[Answers | None, BaseException | None], None],
    ) -> bool:
        """Ask in a thread; no addresses: the canaries alone."""
        directory, server, emptied = self.directory, self.server, self.canaries.emptied(self.directory.name)

        def job(source: Source) -> Answers:
            return ask(source, directory, asked, canaries, limit, server=server, emptied_on_purpose=emptied)

        return self.crew.submit(job, done, limit)

    def _answered(self, batch: _Batch, result: Answers | None, error: BaseException | None) -> None:
        """A query came back; `batch.over` when nobody waits for it any more."""
        if batch.over:
            return
        now = clock.now()
        self.seconds += now - batch.asked_at
        if result is None:
            if isinstance(error, DirectoryTimeout):
                self._late(batch)
                return
            self.errors += 1
            self._complain(str(getattr(error, "what", "") or repr(error)), str(getattr(error, "hint", "")))
            self._end(batch, remember=True)
            return
        self.queries += max(0, result.queries - 1)
        failed = self._take(batch, result, now)
        if result.timeout:
            self._late(batch)
            return
        self._stop_timers(batch)
        if result.down:
            self.errors += 1
            self._complain(result.down, result.hint)
            return
        self.circuit.answered()
        if result.lying:
            self._trip(result.lying)
        elif self.server and result.server and result.server != self.server:
            log.limited(log.WARNING, f"server {self.directory.name}", "another server answers than was synced from: "
                        "its \"no\" does not count until a sync with it", directory=self.directory.name,
                        server=result.server, synced_from=self.server)  # fmt: skip
            self.foreign()
        elif failed:
            self.errors += 1
            log.limited(log.WARNING, f"poisoned {self.directory.name}", "directory fails for some addresses",
                        directory=self.directory.name, addresses=len(failed), error=failed[0])  # fmt: skip

    def _take(self, batch: _Batch, result: Answers, now: float) -> list[str]:
        """Hand out what a query brought; the reasons of what failed."""
        failed = []
        end = max(batch.asked_at + self.directory.fresh_for, now + 0.1)
        for item in batch.items:
            answer = result.found.get(at := (item.local, item.domain))
            if answer is NO:
                live = Live((), batch.asked_at, end)
            elif isinstance(answer, Record):
                live = Live((answer,), batch.asked_at, end, result.beside.get(at, ()))
                self.found += 1
            else:
                if result.timeout:
                    continue  # said once, below
                failed.append(answer.reason if isinstance(answer, Failed) else "no answer")
                live = self._failure(now)
            self._settle(item, live)
        return failed

    def _accompany(self, batch: _Batch, canaries: Sequence[Canary]) -> None:
        """The query takes long: ask a canary beside it."""
        if batch.over:
            return

        def back(result: Answers | None, error: BaseException | None) -> None:
            if result is not None and not result.timeout:
                batch.companion = "back"

        limit = max(0.05, batch.deadline - clock.now())
        if self._submit(_nobody(canaries), canaries[:1], limit, back):
            batch.companion = "asked"

    def _late(self, batch: _Batch) -> None:
        """The deadline passed: these addresses could not be asked, and are not asked again for a while."""
        if batch.over:
            return
        now = clock.now()
        self.missed += 1
        log.limited(log.WARNING, f"late {self.directory.name}", "directory did not answer in time: unlisted recipients "
                    "are TEMP", directory=self.directory.name, deadline=f"{self.deadline}s",
                    addresses=len(batch.items))  # fmt: skip
        self._end(batch, remember=True)
        why = f"no answer within {self.deadline} s"
        if batch.companion == "asked":
            self._trip(why)
        elif batch.companion == "" and self.circuit.missed(now, why):
            self._tripped()

    def _end(self, batch: _Batch, *, remember: bool) -> None:
        """Nobody waits for this batch any more."""
        self._stop_timers(batch)
        failure = self._failure(clock.now())
        for item in batch.items:
            self._settle(item, failure, remember=remember)

    def _stop_timers(self, batch: _Batch) -> None:
        batch.over = True
        self.batches.pop(batch, None)
        if len(batch.items) >= _FEW:
            self._gather_until = clock.now() + _GATHER
        for timer in batch.timers:
            timer.cancel()

    def _settle(self, item: _Item, live: Live, *, remember: bool = True) -> None:
        at = (item.local, item.domain)
        if self.flying.get(at) is item:
            del self.flying[at]
        if item.done:
            return
        item.done = True
        if remember:
            if len(self.results) >= _REMEMBERED:
                self.old_results = self.results
                self.results = {}
            self.results[at] = live
        for reply in item.replies:
            reply(item.local, item.domain, live)

    def _failure(self, now: float) -> Live:
        return Live(None, now, now + min(1.0, self.directory.fresh_for))

    def _expire(self) -> None:
        """What still waits for a thread when its deadline passes could not be asked."""
        self._expiry = None
        now = clock.now()
        late = [item for item in self.waiting.values() if now - item.since >= self.deadline]
        failure = self._failure(now)
        for item in late:
            del self.waiting[item.local, item.domain]
            self._settle(item, failure, remember=False)
        if self.waiting:
            self._expiry = self.loop.call_later(0.05, self._expire)

    def _fail_waiting(self) -> None:
        failure = self._failure(clock.now())
        waiting, self.waiting = self.waiting, {}
        for item in waiting.values():
            self._settle(item, failure, remember=False)

    def _complain(self, what: str, hint: str) -> None:
        log.limited(log.WARNING, f"error {self.directory.name}", "directory fails: unlisted recipients are TEMP",
                    directory=self.directory.name, error=what, hint=hint)  # fmt: skip

    # --- the circuit ------------------------------------------------------------------------------------------

    def _trip(self, why: str) -> None:
        if self.circuit.trip(clock.now(), why):
            self._tripped()

    def _tripped(self) -> None:
        log.limited(log.WARNING, f"circuit {self.directory.name}", "circuit open: unlisted recipients are TEMP at once "
                    "until a probe comes back", directory=self.directory.name, why=self.circuit.why)  # fmt: skip
        for batch in list(self.batches):
            self._end(batch, remember=False)
        self._fail_waiting()
        self._schedule_probe()
        self.changed()

    def _schedule_probe(self) -> None:
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        self._probe_timer = self.loop.call_later(self.circuit.next_probe(), self._probe)

    def _probe(self) -> None:
        self._probe_timer = None
        if self.closed or not self.circuit.open:
            return
        asked = False
        try:
            canaries = self.canaries.choose(self.directory, ())
            asked = self._submit(_nobody(canaries), canaries, self.deadline, self._probed)
        finally:
            if not asked:
                self._schedule_probe()

    def _probed(self, result: Answers | None, error: BaseException | None) -> None:
        if self.closed or not self.circuit.open:
            return
        if result is None or result.timeout or result.lying or result.down:
            self._schedule_probe()
            return
        self.circuit.close()
        log.say(log.INFO, "circuit closed", directory=self.directory.name)
        self.changed()


def _nobody(canaries: Sequence[Canary]) -> tuple[Address, ...]:
    """What a probe asks beside its canaries: nothing; without any canary, for somebody who cannot exist."""
    return () if canaries else (("splitmx-probe", "probe.invalid"),)
