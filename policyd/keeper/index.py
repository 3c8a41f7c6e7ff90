# SPDX-License-Identifier: Apache-2.0
"""Care for the index: opened, watched, written back, rebuilt when it is broken. The keeper is its only writer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from pathlib import Path

from policyd import log, threads
from transport.config.settings import Settings
from transport.index.faults import IndexFault
from transport.index.writer import Writer
from transport.sync import SyncReport

_AGAIN = 5.0  # seconds until a file that cannot be opened is tried again
_CHECK = 2.0  # seconds between two looks at the file
_PAUSE = 5.0  # seconds between two rebuildings that readings ask for
_DEEP = 600.0  # seconds between two of SQLite's own checks


class IndexCare:
    """writer: None until the file could be opened. error: why it cannot be written, or "": by ourselves, or by the last
    reading of a directory (`read`).

    opened: called in the loop once there is a writer. rebuilt: called in the loop after a broken file was replaced.
    """

    def __init__(self, state: Path, opened: Callable[[], None], rebuilt: Callable[[], None]) -> None:
        self.state = state
        self.writer: Writer | None = None
        self._error = "not opened yet"
        self.tried = asyncio.Event()  # set once it was opened, or could not be
        self._unwritten: dict[str, str] = {}  # by directory
        self.opened = opened
        self.rebuilt = rebuilt
        self._then: Callable[[], None] | None = None  # opened or rebuilt, still to be called
        self._noted = b""  # the digest that the file has
        self._deep_at = time.monotonic()
        self._rebuilt_at: float | None = None  # CLOCK_MONOTONIC

    @property
    def mark(self) -> tuple[str, int] | None:
        """(instance, generation) as last written; None without a writer."""
        return None if self.writer is None else self.writer.mark

    @property
    def error(self) -> str:
        """Why it cannot be written, or ""."""
        return self._error or next(iter(self._unwritten.values()), "")

    def read(self, report: SyncReport) -> None:
        """A reading of a directory ended: what it found stands in the index, or could not be written."""
        if not report.unwritten:
            self._unwritten.pop(report.directory, None)
            return
        self._unwritten[report.directory] = report.error
        self._say(report.error, report.hint)

    def use(self, directories: Collection[str]) -> None:
        """There are only these any more."""
        for name in self._unwritten.keys() - set(directories):
            del self._unwritten[name]

    async def run(self, settings: Callable[[], Settings]) -> None:
        """Never gives up: a full disk is emptied some day, and what failed half-way goes on where it stopped."""
        while True:
            try:
                if self.writer is None:
                    await self._open()
                elif reason := await threads.to_thread(self._look, self.writer):
                    await self._recover(reason)
                await self._go_on(settings())
            except IndexFault as fault:
                self.fault(fault)
            except Exception as error:
                log.limited(log.ERROR, "index", "fault in keeping the index", error)
            self.tried.set()
            await asyncio.sleep(_AGAIN if self.writer is None else _CHECK)

    async def _open(self) -> None:
        writer = await threads.to_thread(Writer, self.state)
        self._error = ""
        if writer.said:
            log.say(log.WARNING, "index", said=writer.said)
        self.writer = writer
        self._then = self.opened

    async def _recover(self, reason: str) -> None:
        assert self.writer is not None
        await threads.to_thread(self.writer.recover, reason)
        log.say(log.ERROR, "index was broken", said=self.writer.said)
        self._noted = b""
        self._then = self._then or self.rebuilt

    async def _go_on(self, settings: Settings) -> None:
        """What is still to be done after the file was opened, rebuilt, or could not be written."""
        if self._noted != settings.digest:
            await self.note(settings)
        if self._then is not None:
            then, self._then = self._then, None
            then()

    async def rebuild(self, reason: str, settings: Settings) -> None:
        """Put a new, empty index in place of a broken one; the directories fill it.

        One that is broken again at once is left to the next reading: a disk that spoils what is written would have each
        directory listed all the time.
        """
        if self.writer is None or (self._rebuilt_at is not None and time.monotonic() - self._rebuilt_at < _PAUSE):
            return
        self._rebuilt_at = time.monotonic()
        try:
            await self._recover(reason)
            await self._go_on(settings)
        except IndexFault as fault:
            self.fault(fault)

    async def note(self, settings: Settings) -> None:
        """Write down the configuration's digest: another one is a new generation. What fails is done again by `run`."""
        if self.writer is not None and await self._written(
            self.writer.settings, settings.digest, list(settings.directories)
        ):
            self._noted = settings.digest

    async def new_generation(self) -> None:
        """Answers change without a change of rows."""
        if self.writer is not None:
            await self._written(self.writer.new_generation)

    async def _written(self, work: Callable[..., object], *arguments: object) -> bool:
        """Do this in a thread; whether it was done."""
        try:
            await threads.to_thread(work, *arguments)
        except IndexFault as fault:
            self.fault(fault)
        except Exception as error:  # no thread can be started
            log.limited(log.ERROR, "index", "fault in keeping the index", error)
        else:
            return True
        return False

    def fault(self, fault: IndexFault) -> None:
        """Say what is wrong; what was there before still holds."""
        self._error = fault.what
        self._say(fault.what, fault.hint)

    @staticmethod
    def _say(error: str, hint: str) -> None:
        log.limited(log.ERROR, f"index {error}", "index cannot be written", error=error, hint=hint)

    def bytes(self) -> int:
        """Size of the index with its log."""
        size = 0
        for end in ("", "-wal"):
            try:
                size += (self.state / f"index.sqlite{end}").stat().st_size
            except OSError:
                pass
        return size

    def close(self) -> None:
        """Write back and let go."""
        if self.writer is not None:
            self.writer.close()

    def _look(self, writer: Writer) -> str:
        """In a thread: why the file is no longer ours, or "" after the log was written back."""
        now = time.monotonic()
        deep = now - self._deep_at > _DEEP
        if deep:
            self._deep_at = now
        reason = writer.check(deep=deep)
        if not reason:
            writer.checkpoint()
            self._error = ""
        return reason
