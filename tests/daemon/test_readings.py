# SPDX-License-Identifier: Apache-2.0
"""When a directory is read again, and what each reading is worth: which "no" is fresh, what is compared, what waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from policyd.keeper import syncing
from policyd.keeper.syncing import Order, Syncing
from transport.config.settings import Directory, Settings, SqlOptions
from transport.directories.base import DirectoryError
from transport.sync import SyncReport

ANN = ("ann", "example.com")


class Plan:
    """A directory whose readings come to what a test says; `seen`: the readings that began, with what was named.

    results: of the next readings, then good ones without news. None: it cannot tell of changes.
    """

    def __init__(self, *results: SyncReport | None) -> None:
        self.results = list(results)
        self.seen: list[tuple[str, frozenset[Any]]] = []
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.states: list[tuple[float, float]] = []  # after each: since when moves are known, and removals
        self.progress: Callable[[int], None] = lambda _: None
        self.hopeless: list[str] = []
        self.fault: Exception | None = None  # of the next reading
        self.made: Syncing

    def _read(self, what: str, names: frozenset[Any], dry_run: bool = False) -> SyncReport | None:
        self.seen.append((what, names))
        assert self.goes_on.wait(20)
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault
        found = self.results.pop(0) if self.results else good()
        if found is not None:
            found.dry_run = dry_run
        return found

    def after(self, made: Syncing, _: SyncReport) -> None:
        self.states.append((made.moves_at or 0.0, made.removals_at or 0.0))

    def full(self, *_: object, dry_run: bool, progress: Any, **__: object) -> SyncReport | None:
        self.progress = progress
        return self._read("full", frozenset(), dry_run)

    def feed(self, *_: object, **__: object) -> SyncReport | None:
        return self._read("feed", frozenset())

    def named(
        self, _writer: object, _directory: object, _source: object, _settings: object, names: Any, **__: Any
    ) -> Any:
        return self._read("named", names)

    async def read(self, *what: str) -> None:
        """Wait until these have ended, and nothing else has begun; forget them."""
        await until(lambda: len(self.seen) >= len(what) and self.made.running_since is None)
        assert [one for one, _ in self.seen] == list(what)
        self.seen.clear()

    async def order(self, dry_run: bool = False) -> SyncReport:
        """A compare that somebody wants."""
        order = Order(dry_run=dry_run)
        self.made.order(order)
        report = await asyncio.wait_for(order.done, 10)
        assert self.seen.pop()[0] == "full"
        return report


def good(believable: bool = True, cookie: bytes = b"c", **changes: Any) -> SyncReport:
    return SyncReport("here", believable=believable, cookie=cookie, **changes)


def bad() -> SyncReport:
    return SyncReport("here", error="it is down", believable=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a test's life over a plan, with a directory that is read every `sync_every` seconds."""

    def begin(
        plan: Plan, life: Callable[[Plan], Coroutine[Any, Any, None]], sync_every: float = 600.0, compare: float = 600.0
    ) -> None:
        monkeypatch.setattr(syncing, "_TOLD", 0.0)
        monkeypatch.setattr(syncing, "_SHARE", 0)
        monkeypatch.setattr(syncing, "open_source", lambda _: SimpleNamespace(close=lambda: None))
        monkeypatch.setattr(syncing, "compare", plan.full)
        monkeypatch.setattr(syncing, "apply_changes", plan.feed)
        monkeypatch.setattr(syncing, "apply_named", plan.named)
        options = SqlOptions("sqlite://", "SELECT 1")
        here = Directory("here", "sql", options, b"here", sync_every=sync_every, compare_every=compare)

        async def whole() -> None:
            writer: Any = SimpleNamespace(instance="")
            plan.made = Syncing(writer, here, Settings(), plan.after, plan.hopeless.append)
            try:
                await life(plan)
            finally:
                plan.goes_on.set()
                plan.made.close()

        asyncio.run(whole())

    return begin


def test_whose_no_is_fresh(run: Callable[..., None]) -> None:
    """Only a good reading whose absences mean something makes a "no" fresh, from its beginning on."""

    async def life(plan: Plan) -> None:
        await plan.read("full")
        assert (plan.made.read_at, plan.made.good_at is None) == (None, False)
        assert plan.made.moves_at is not None
        await plan.order()
        first = plan.made.read_at
        assert first is not None
        for failures in (1, 0):
            await plan.order()
            assert (plan.made.read_at, plan.made.failures) == (first, failures)
        await plan.order()
        assert first < (plan.made.read_at or 0.0)
        assert plan.made.content_time == 5.0

    last = good(content_time=5.0)
    run(Plan(good(believable=False), good(), bad(), good(believable=False), last), life)


def test_what_a_feed_shows_and_what_it_cannot(run: Callable[..., None]) -> None:
    """What it could not follow is compared at once and makes nothing younger; nor does it make removals, unnamed."""

    async def life(plan: Plan) -> None:
        await until(lambda: len(plan.states) >= 5)
        assert [one for one, _ in plan.seen[:5]] == ["full", "feed", "full", "feed", "feed"]
        begun, doubted, compared, unnamed, named = plan.states[:5]
        assert doubted == begun
        assert compared[0] > doubted[0]
        assert unnamed[0] > compared[0] == unnamed[1]
        assert named[1] > unnamed[1]

    run(Plan(good(), good(full_needed=True), good(), good(removals=False)), life, 0.02)


def test_a_directory_that_tells_of_no_changes_is_compared_alone(run: Callable[..., None]) -> None:
    """Neither one without a cookie is asked for changes, nor one that has said that it cannot tell."""

    async def life(plan: Plan) -> None:
        await until(lambda: plan.made.lag()["moves"] < 1.0)
        await until(lambda: plan.made.lag()["moves"] >= 600.0)
        assert [one for one, _ in plan.seen] == ["full", "feed"]
        plan.seen.clear()
        plan.results = [good(cookie=b"")]
        await plan.order()
        assert plan.made.lag()["moves"] >= 600.0

    run(Plan(good(), None), life, 0.02)


def test_a_feed_does_not_put_off_the_compare(run: Callable[..., None]) -> None:
    """However often changes are asked for: what they never name is found by comparing."""

    async def life(plan: Plan) -> None:
        await until(lambda: [one for one, _ in plan.seen].count("full") == 3)
        assert ("feed", frozenset()) in plan.seen

    run(Plan(), life, 0.02, 0.1)


def test_a_compare_that_failed_is_not_put_off(run: Callable[..., None]) -> None:
    """It is tried again after `sync_every`, not when the next one would be due."""

    async def life(plan: Plan) -> None:
        await until(lambda: plan.made.good_at is not None)
        assert [one for one, _ in plan.seen] == ["full", "full", "full"]

    run(Plan(bad(), bad(), good(cookie=b"")), life, 0.02)


def test_a_fault_in_a_reading_is_told_at_once(run: Callable[..., None]) -> None:
    """Whatever ends it, `sync` hears of it, and the directory is read again."""

    async def life(plan: Plan) -> None:
        await plan.read("full")
        plan.fault = MemoryError("no memory")
        report = await plan.order()
        assert (report.good, report.error) == (False, "MemoryError: no memory")
        assert (await plan.order()).good

    run(Plan(), life)


def test_who_was_named_is_read(run: Callable[..., None]) -> None:
    """By name; where that fails, or too many are named, with all others."""

    async def life(plan: Plan) -> None:
        await plan.read("full")
        plan.made.told(frozenset([ANN]))
        await until(lambda: len(plan.seen) == 2)
        assert plan.seen == [("named", {ANN}), ("full", frozenset())]
        await plan.read("named", "full")
        plan.made.told(frozenset([ANN]))
        moves_at = plan.made.moves_at
        await plan.read("named")
        assert plan.made.moves_at == moves_at, "who was not named may have moved"
        plan.made.told(frozenset((f"user{n}", "example.com") for n in range(syncing._NAMED + 1)))
        await plan.read("full")
        plan.made.told(None)
        await plan.read("full")

    run(Plan(good(cookie=b""), bad(), *(good(cookie=b"") for _ in range(4))), life, 0.02)


def test_what_happens_during_a_reading_is_read_after_it(run: Callable[..., None]) -> None:
    """A reading that has begun may not have seen it."""

    async def life(plan: Plan) -> None:
        plan.goes_on.clear()
        await until(lambda: len(plan.seen) == 1)
        plan.made.told(frozenset([ANN]))
        plan.goes_on.set()
        await plan.read("full", "named")
        plan.goes_on.clear()
        plan.made.told(frozenset([ANN]))
        await until(lambda: len(plan.seen) == 1)
        plan.made.soon()
        plan.goes_on.set()
        await plan.read("named", "full")
        plan.goes_on.clear()
        plan.made.soon()
        await until(lambda: len(plan.seen) == 1)
        plan.made.soon()
        plan.goes_on.set()
        await plan.read("full", "full")

    run(Plan(), life)


def test_a_dry_run_reads_for_nobody_else(run: Callable[..., None]) -> None:
    """What it finds is not taken: who was named is read after it, and nothing is fresher."""

    async def life(plan: Plan) -> None:
        await plan.read("full")
        report, read_at = plan.made.report, plan.made.read_at
        order = Order(dry_run=True)
        plan.made.order(order)
        plan.made.told(frozenset([ANN]))
        assert (await order.done).dry_run
        assert (plan.made.report, plan.made.read_at) == (report, read_at)
        await plan.read("full", "named")

    run(Plan(), life)


def test_readings_that_hang_end_the_keeper_and_slow_ones_do_not(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reading that still gets on is waited for; one that stands still is given up, and the third ends the keeper."""
    monkeypatch.setattr(syncing, "_LOOK", 0.01)
    now, looks = 0.0, 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        return now

    monkeypatch.setattr(syncing, "time", SimpleNamespace(monotonic=clock, time=time.time))

    async def later(seconds: float) -> None:
        nonlocal now
        now, before = now + seconds, looks
        await until(lambda: looks > before + 1)

    def seen(plan: Plan, number: int) -> bool:
        return len(plan.seen) == number

    async def life(plan: Plan) -> None:
        await plan.read("full")
        plan.goes_on.clear()
        plan.made.order(order := Order())
        await until(lambda: len(plan.seen) == 1)
        for count in range(5):
            plan.progress(count)
            await later(syncing._STILL - 1)
        for hanging in range(2, 5):
            assert not order.done.done()
            assert plan.hopeless == []
            plan.made.order(following := Order())
            hung = plan.progress
            await later(syncing._STILL + 1)
            assert "stood still" in (await order.done).error
            with pytest.raises(DirectoryError, match="given up"):
                hung(1)  # it writes nothing when it comes back
            order = following
            await until(partial(seen, plan, hanging))
        assert len(plan.hopeless) == 1

    run(Plan(), life)


def test_a_reading_writes_nothing_once_its_directory_is_another(run: Callable[..., None]) -> None:
    """A reload that changes a directory gives up the reading of the old one."""

    async def life(plan: Plan) -> None:
        plan.goes_on.clear()
        await until(lambda: len(plan.seen) == 1)
        plan.progress(1)
        plan.made.close()
        with pytest.raises(asyncio.CancelledError):
            await plan.made.task
        with pytest.raises(DirectoryError, match="given up"):
            plan.progress(2)

    run(Plan(), life)
