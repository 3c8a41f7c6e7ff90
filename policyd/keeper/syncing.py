# SPDX-License-Identifier: Apache-2.0
"""When each directory is read, and what follows: one task and at most one thread a directory.

A full compare at start and every `compare_every`; the feed of changes every `sync_every` where the directory has one;
a file when it changes on disk; a PostgreSQL table when it says so (`policyd.keeper.listening`). A reading that stands
still for two minutes is given up with its thread.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from policyd import clock, log
from policyd.keeper.listening import Listening, can_listen
from policyd.keeper.watching import FileWatch
from transport.config.settings import Directory, Settings
from transport.directories import open_source
from transport.directories.base import DirectoryError
from transport.directories.files.stamp import Stamp
from transport.index.writer import Writer
from transport.sync import SyncReport, apply_changes, apply_named, compare

_STILL = 120.0  # seconds without one more record
_LOOK = 5.0  # seconds between two looks at a reading that is going on
_LOST = 3  # threads given up and not come back until the keeper has to be replaced
_FILE_AGAIN = 300.0  # seconds after which an unchanged file is read again
_TOLD = 0.2  # seconds between the beginnings of two readings that the directory itself asked for, at least
_SHARE = 20  # and so many times what such a reading takes (DESIGN 4: it is never kept busy with us)
_NAMED = 2000  # addresses that wait to be read by name; more: everything

Progress = Callable[[int], None]
Address = tuple[str, str]


class Order:
    """A reading that somebody wants now: `sync`, `flush`, a reload. `done` gets the report."""

    def __init__(
        self, accept: Sequence[str] | None = None, dry_run: bool = False, progress: Progress | None = None
    ) -> None:
        self.accept = accept
        self.dry_run = dry_run
        self.progress = progress
        self.done: asyncio.Future[SyncReport] = asyncio.get_running_loop().create_future()


class Syncing:
    """The readings of one directory.

    read_at: `policyd.clock` at the start of the last good reading whose absences mean something. content_time: unix
    time of a file's content. report: the last one; full: the last of a compare. moves_at, removals_at: `policyd.clock`
    at the start of the last good reading that shows who changed, and who is gone.
    after: called in the loop with each report that was not a dry run. hopeless: called when threads hang for good.
    """

    def __init__(
        self,
        writer: Writer,
        directory: Directory,
        settings: Settings,
        after: Callable[[Syncing, SyncReport], None],
        hopeless: Callable[[str], None],
    ) -> None:
        self.writer = writer
        self.directory = directory
        self.settings = settings
        self.after = after
        self.hopeless = hopeless
        self.loop = asyncio.get_running_loop()
        self.read_at: float | None = None
        self.moves_at: float | None = None
        self.removals_at: float | None = None
        self.content_time: float | None = None
        self.server = ""
        self.report: SyncReport | None = None
        self.full: SyncReport | None = None
        self.good_at: float | None = None  # unix time of the last good reading
        self.failures = 0
        self.counts = {"full": 0, "feed": 0, "named": 0}
        self.running_since: float | None = None
        self.records = 0  # read so far by the reading now running
        self._moved_at = 0.0
        self._orders: list[Order] = []
        self._wake = asyncio.Event()
        self.instance = ""  # of the index into which was read last
        self._next_full = 0.0
        self._next_feed = 0.0
        self._soon_at = -1.0  # `policyd.clock` of the last `soon`
        self._feed = False  # whether the directory tells of changes
        self._feed_removes = directory.type != "sql"  # and of removals: a row that is gone has no `changed` any more
        self._named: set[Address] = set()  # of these it said that they changed
        self._anything = self._anything_fed = False  # it said that something changed, which neither reading has seen
        self._began = dict.fromkeys(("full", "feed", "named"), -_FILE_AGAIN)  # `policyd.clock`
        self._took = dict.fromkeys(self._began, 0.0)
        self._file: Stamp | None = None  # of what was read last
        self._lost = 0
        self.watch = None if directory.live else FileWatch(self.loop, directory, self._wake.set)
        self.listening = Listening(self.loop, directory, self.told) if can_listen(directory) else None
        self.task = self.loop.create_task(self._run())

    def order(self, order: Order) -> None:
        """Read now, or directly after the reading that is running."""
        self._orders.append(order)
        self._wake.set()

    def soon(self) -> None:
        """Compare as soon as possible; nobody waits for the report."""
        self._next_full = 0.0
        self._soon_at = clock.now()
        self._wake.set()

    def told(self, names: frozenset[Address] | None) -> None:
        """The directory itself says that these addresses changed, or (None) that anything may have."""
        if names is None or len(self._named) + len(names) > _NAMED:
            self._named.clear()
            self._anything = self._anything_fed = True
        else:
            self._named |= names
        self._wake.set()

    def close(self) -> None:
        """No more readings. A running one writes nothing: its thread sees that it was given up."""
        self.task.cancel()
        if self.listening is not None:
            self.listening.close()
        if self.watch is not None:
            self.watch.close()
        for order in self._orders:
            if not order.done.done():
                order.done.cancel()

    @property
    def readings(self) -> int:
        """How many readings there were."""
        return sum(self.counts.values())

    @property
    def every(self) -> float:
        """Seconds between two compares (DESIGN 4: `auto` never keeps the directory busy with us)."""
        if self.directory.compare_every is not None:
            return self.directory.compare_every
        took = self.full.listing if self.full is not None else 0.0
        # a file says by itself when it changed
        least = self.directory.sync_every if self.directory.live else _FILE_AGAIN
        return max(least, 20 * took)

    def lag(self) -> dict[str, float]:
        """Seconds after which additions, moves and removals are answers here, as things stand: the pause between two
        readings that show them, and what the last such reading took."""
        if self.watch is not None:
            return dict.fromkeys(("additions", "moves", "removals"), self.watch.pause + self._took["full"])
        moves = removals = self.every + self._took["full"]
        if self.listening is not None and self.listening.up and self.listening.heard:
            moves = removals = max(_TOLD, _SHARE * self._took["named"])
        elif self._feed:
            moves = min(moves, self.directory.sync_every + self._took["feed"])
            if self._feed_removes:
                removals = moves
        # who is not listed is asked live, once the last "no" is no longer fresh
        return {"additions": min(self.directory.fresh_for, moves), "moves": moves, "removals": removals}

    def behind(self) -> dict[str, float | None]:
        """Measured now: what happened in the directory more than so many seconds ago is known here. None: nothing."""
        now = clock.now()
        moves, removals = (None if at is None else now - at for at in (self.moves_at, self.removals_at))
        fresh = self.directory.fresh_for
        additions = moves if not self.directory.live else fresh if moves is None else min(fresh, moves)
        return {"additions": additions, "moves": moves, "removals": removals}

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            order = self._orders.pop(0) if self._orders else None
            what = "full" if order is not None else self._due()
            if what:
                try:
                    await self._read(what, order)
                except Exception as error:
                    log.limited(log.ERROR, f"sync {self.directory.name}", "fault in a sync", error,
                                directory=self.directory.name)  # fmt: skip
                    self._next_full = clock.now() + self.directory.sync_every
                    self.running_since = None
                    if order is not None and not order.done.done():
                        order.done.set_result(SyncReport(self.directory.name, error=_text(error)))
                continue
            try:
                await asyncio.wait_for(self._wake.wait(), self._pause())
            except TimeoutError:
                pass

    def _due(self) -> str:
        """Which reading is to begin now; "" for none."""
        now = clock.now()
        return next((what for what, when in self._times() if now >= when), "")

    def _times(self) -> Iterator[tuple[str, float]]:
        """What is to be read, the first first, and when (`policyd.clock`)."""
        yield "full", self._next_full
        if self.watch is not None and self.watch.stamp not in (None, self._file):
            yield "full", 0.0
        if self._named:
            yield "named", self._not_before("named")
        if self._anything:
            yield "full", self._not_before("full")
        if self._feed and self.directory.live:
            yield "feed", self._not_before("feed") if self._anything_fed else self._next_feed

    def _not_before(self, what: str) -> float:
        return self._began[what] + max(_TOLD, _SHARE * self._took[what])

    def _pause(self) -> float:
        return max(0.01, min(when for _, when in self._times()) - clock.now())

    async def _read(self, what: str, order: Order | None) -> None:
        """One reading in a thread of its own: "full", "feed", or "named" for what the directory named."""
        began, awake = clock.now(), time.monotonic()
        self._began[what] = began
        self.instance = self.writer.instance
        names = self._taken(what) if order is None or not order.dry_run else frozenset()
        result: asyncio.Future[SyncReport | None] = self.loop.create_future()
        given_up = threading.Event()
        self.running_since, self.records, self._moved_at = began, 0, awake

        def progress(count: int) -> None:
            if given_up.is_set():
                raise DirectoryError("given up")
            self.records, self._moved_at = count, time.monotonic()
            if order is not None and order.progress is not None:
                self.loop.call_soon_threadsafe(order.progress, count)

        def work() -> None:
            report: SyncReport | None
            try:
                if self.watch is not None and self.good_at is None:
                    self.watch.rest(given_up)
                if self.watch is not None and not (order is not None and order.dry_run):
                    # the watch's last look is older: taken for news, the file would be read until its next one
                    self._file = self.watch.stamp = self.watch.look()
                report = self._work(what, names, order, progress)
            except BaseException as error:
                report = SyncReport(self.directory.name, error=_text(error), hint=str(getattr(error, "hint", "")))
            try:
                self.loop.call_soon_threadsafe(_deliver, result, report)
            except RuntimeError:
                pass  # the keeper has ended

        threading.Thread(target=work, name=f"sync-{self.directory.name}", daemon=True).start()
        try:
            report = await self._watch(result, given_up)
        except asyncio.CancelledError:  # closed: what it has read is older than what is read next
            given_up.set()
            if order is not None:
                order.done.cancel()
            raise
        self.running_since = None
        self.counts[what] += 1
        self._took[what] = time.monotonic() - awake
        if report is None:  # it cannot tell of changes
            self._feed = self._feed and what != "feed"
            return
        self._settle(report, what, began, order)

    def _taken(self, what: str) -> frozenset[Address]:
        """What a reading that begins now will see is waited for no longer; the addresses that had been named."""
        names: frozenset[Address] = frozenset()
        if what != "feed":
            names = frozenset(self._named)
            self._named.clear()
        if what == "full":
            self._anything = False
        if what != "named":
            self._anything_fed = False
        return names

    async def _watch(self, result: asyncio.Future[SyncReport | None], given_up: threading.Event) -> SyncReport | None:
        while True:
            try:
                return await asyncio.wait_for(asyncio.shield(result), _LOOK)
            except TimeoutError:
                if time.monotonic() - self._moved_at < _STILL:
                    continue
            given_up.set()
            self._lost += 1
            result.add_done_callback(self._came_back)
            if self._lost >= _LOST:
                self.hopeless(f"{_LOST} readings of directory {self.directory.name} hang")
            return SyncReport(
                self.directory.name, error=f"the reading stood still for {_STILL:.0f} s and was given up", timeout=True
            )

    def _came_back(self, _: object) -> None:
        """A thread that was given up has ended: a driver's own time limit may be as long as ours."""
        self._lost -= 1

    def _work(self, what: str, names: frozenset[Address], order: Order | None, progress: Progress) -> SyncReport | None:
        """In the thread. None: no feed, compare."""
        source = open_source(self.directory)
        try:
            if what == "feed":
                return apply_changes(self.writer, self.directory, source, self.settings, progress=progress)
            if what == "named":
                return apply_named(self.writer, self.directory, source, self.settings, names, progress=progress)
            return compare(
                self.writer,
                self.directory,
                source,
                self.settings,
                accept=None if order is None else order.accept,
                dry_run=order is not None and order.dry_run,
                progress=progress,
            )
        finally:
            source.close()

    def _settle(self, report: SyncReport, what: str, began: float, order: Order | None) -> None:
        now = clock.now()
        full = what == "full"
        if not report.dry_run:
            self.report = report
            if full:
                self.full = report
            if report.good:
                self.failures = 0
                self.good_at = time.time()
                self.server = report.server or self.server
                if full:
                    self.content_time = report.content_time
                if what != "named" and not report.full_needed:
                    self.moves_at = began
                    if full or report.removals:
                        self.removals_at = began
                if what == "feed":
                    self._feed_removes = report.removals
                if report.believable:
                    self.read_at = began
            else:
                self.failures += 1
            if full:
                pause = self.directory.sync_every
                if report.good:  # one tenant's fault is looked at again soon, but keeps nobody busy
                    pause = self.every if not report.unread else max(pause, _SHARE * report.listing)
                self._next_full = now + pause
                self._feed = bool(report.cookie)
            if what == "feed" and not report.good and self.directory.type == "ldap":
                # it may come back with another database, of which no feed can tell: a backup, written to since
                self._next_full = min(self._next_full, self._not_before("full"))
            if report.full_needed or (what == "named" and not report.good):
                soon = self._not_before("full") if report.good else now + self.directory.sync_every
                self._next_full = min(self._next_full, soon)
            if self._soon_at >= began:
                self._next_full = 0.0  # this reading began before whatever made a compare necessary
            if what != "named":
                self._next_feed = now + self.directory.sync_every
            self.after(self, report)
        if order is not None and not order.done.done():
            order.done.set_result(report)


def _deliver(result: asyncio.Future[Any], report: SyncReport | None) -> None:
    if not result.done():
        result.set_result(report)


def _text(error: BaseException) -> str:
    return str(getattr(error, "what", "")) or f"{type(error).__name__}: {error}"
