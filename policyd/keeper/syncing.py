# SPDX-License-Identifier: Apache-2.0
"""When each directory is read, and what follows: one task and at most one thread a directory.

A full compare at start and every `compare_every`; the feed of changes every `sync_every` where the directory has one;
a file when it changes on disk. A reading that stands still for two minutes is given up with its thread.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from policyd import log
from transport.config.settings import Directory, FileOptions, Settings
from transport.directories import open_source
from transport.directories.base import DirectoryError
from transport.index.writer import Writer
from transport.sync import SyncReport, apply_changes, compare

_STILL = 120.0  # seconds without one more record
_LOST = 3  # threads given up until the keeper has to be replaced
_FILE_POLL = 1.0
_FILE_AGAIN = 300.0  # seconds after which an unchanged file is read again

Progress = Callable[[int], None]


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

    read_at: CLOCK_MONOTONIC at the start of the last good reading whose absences mean something. content_time: unix
    time of a file's content. report: the last one; full: the last of a compare.
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
        self.content_time: float | None = None
        self.server = ""
        self.report: SyncReport | None = None
        self.full: SyncReport | None = None
        self.good_at: float | None = None  # unix time of the last good reading
        self.failures = 0
        self.readings = 0
        self.running_since: float | None = None
        self.records = 0  # read so far by the reading now running
        self._moved_at = 0.0
        self._orders: list[Order] = []
        self._wake = asyncio.Event()
        self._next_full = 0.0
        self._next_feed = 0.0
        self._feed = False  # whether the directory tells of changes
        self._file: tuple[int, int, int] | None = None
        self._lost = 0
        self.task = self.loop.create_task(self._run())

    def order(self, order: Order) -> None:
        """Read now, or directly after the reading that is running."""
        self._orders.append(order)
        self._wake.set()

    def soon(self) -> None:
        """Compare as soon as possible; nobody waits for the report."""
        self._next_full = 0.0
        self._wake.set()

    def close(self) -> None:
        """No more readings. A running one writes nothing: its thread sees that it was given up."""
        self.task.cancel()
        for order in self._orders:
            if not order.done.done():
                order.done.cancel()

    @property
    def every(self) -> float:
        """Seconds between two compares (DESIGN 4: `auto` never keeps the directory busy with us)."""
        if self.directory.compare_every is not None:
            return self.directory.compare_every
        took = self.full.listing if self.full is not None else 0.0
        # a file says by itself when it changed
        least = self.directory.sync_every if self.directory.live else _FILE_AGAIN
        return max(least, 20 * took)

    def lag(self) -> dict[str, float | None]:
        """Seconds within which additions, moves and removals become answers here, at most; None: not at all."""
        every = self.every if self.directory.live else _FILE_POLL
        moves = removals = every
        if self._feed and self.directory.live:
            moves = min(every, self.directory.sync_every)
            if self.directory.type != "sql":  # a row that is gone carries no `changed` any more
                removals = moves
        return {"additions": 0.0 if self.directory.live else every, "moves": moves, "removals": removals}

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            order = self._orders.pop(0) if self._orders else None
            full = order is not None or self._full_due()
            if full or self._feed_due():
                try:
                    await self._read(full, order)
                except Exception as error:
                    log.limited(log.ERROR, f"sync {self.directory.name}", "fault in a sync", error,
                                directory=self.directory.name)  # fmt: skip
                    self._next_full = time.monotonic() + self.directory.sync_every
                continue
            try:
                await asyncio.wait_for(self._wake.wait(), self._pause())
            except TimeoutError:
                pass

    def _full_due(self) -> bool:
        if time.monotonic() >= self._next_full:
            return True
        return self._file_now() != self._file

    def _feed_due(self) -> bool:
        return self._feed and self.directory.live and time.monotonic() >= self._next_feed

    def _pause(self) -> float:
        now = time.monotonic()
        until = self._next_full
        if self._feed and self.directory.live:
            until = min(until, self._next_feed)
        pause = max(0.01, until - now)
        return min(pause, _FILE_POLL) if isinstance(self.directory.options, FileOptions) else pause

    def _file_now(self) -> tuple[int, int, int] | None:
        options = self.directory.options
        if not isinstance(options, FileOptions):
            return None
        try:
            status = os.stat(options.path)  # noqa: PTH116  a poll
        except OSError:
            return (0, 0, 0)
        return status.st_ino, status.st_size, status.st_mtime_ns

    async def _read(self, full: bool, order: Order | None) -> None:
        """One reading in a thread of its own."""
        began = time.monotonic()
        file = self._file_now()
        result: asyncio.Future[SyncReport | None] = self.loop.create_future()
        given_up = threading.Event()
        self.running_since, self.records, self._moved_at = began, 0, began

        def progress(count: int) -> None:
            if given_up.is_set():
                raise DirectoryError("given up")
            self.records, self._moved_at = count, time.monotonic()
            if order is not None and order.progress is not None:
                self.loop.call_soon_threadsafe(order.progress, count)

        def work() -> None:
            report: SyncReport | None
            try:
                report = self._work(full, order, progress)
            except BaseException as error:
                report = SyncReport(self.directory.name, error=_text(error), hint=str(getattr(error, "hint", "")))
            try:
                self.loop.call_soon_threadsafe(_deliver, result, report)
            except RuntimeError:
                pass  # the keeper has ended

        threading.Thread(target=work, name=f"sync-{self.directory.name}", daemon=True).start()
        report = await self._watch(result, given_up)
        self.running_since = None
        self.readings += 1
        if report is None:  # it cannot tell of changes
            self._feed = False
            return
        self._settle(report, full, began, file, order)

    async def _watch(self, result: asyncio.Future[SyncReport | None], given_up: threading.Event) -> SyncReport | None:
        while True:
            try:
                return await asyncio.wait_for(asyncio.shield(result), 5.0)
            except TimeoutError:
                if time.monotonic() - self._moved_at < _STILL:
                    continue
            given_up.set()
            self._lost += 1
            if self._lost >= _LOST:
                self.hopeless(f"{_LOST} readings of directory {self.directory.name} hang")
            return SyncReport(
                self.directory.name, error=f"the reading stood still for {_STILL:.0f} s and was given up", timeout=True
            )

    def _work(self, full: bool, order: Order | None, progress: Progress) -> SyncReport | None:
        """In the thread. None: no feed, compare."""
        source = open_source(self.directory)
        try:
            if not full:
                return apply_changes(self.writer, self.directory, source, self.settings)
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

    def _settle(
        self, report: SyncReport, full: bool, began: float, file: tuple[int, int, int] | None, order: Order | None
    ) -> None:
        now = time.monotonic()
        if not report.dry_run:
            self.report = report
            if full:
                self.full = report
                self._file = file
            if report.good:
                self.failures = 0
                self.good_at = time.time()
                self.server = report.server or self.server
                if full:
                    self.content_time = report.content_time
                # a table's feed cannot see a row that came with an old `changed`: only a compare makes its "no" fresh
                if report.believable and (full or self.directory.type != "sql"):
                    self.read_at = began
            else:
                self.failures += 1
            if full:
                self._next_full = now + (self.every if report.good else self.directory.sync_every)
                self._feed = bool(report.cookie)
            if report.full_needed:
                self._next_full = now
            self._next_feed = now + self.directory.sync_every
            self.after(self, report)
        if order is not None and not order.done.done():
            order.done.set_result(report)


def _deliver(result: asyncio.Future[Any], report: SyncReport | None) -> None:
    if not result.done():
        result.set_result(report)


def _text(error: BaseException) -> str:
    return str(getattr(error, "what", "")) or f"{type(error).__name__}: {error}"
