# SPDX-License-Identifier: Apache-2.0
"""Looks each second whether a file directory has changed, in a thread: a disk that hangs must not hang the keeper."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable

from policyd import log
from transport.config.settings import Directory, FileOptions
from transport.directories.files.stamp import Stamp, stamp

POLL = 1.0
"""Seconds between two looks, and at least 20 times what a look takes: a host may have thousands of files."""

RESTS = 2
"""Looks for which a file that is written in place must be the same: half a list looks like a list."""

_REST_AT_MOST = 30.0  # seconds that a first reading waits for a file that is written on and on
_WITHIN_A_LINE = 3.0  # seconds after the last write for which it waits, where that was not the end of a line


class FileWatch:
    """stamp: what is to be read or was, None before the first look. changed: called in the loop when that is another.

    A file that takes another one's place is told at once; one that is written in place once it is left alone. One that
    never is, is read every five minutes all the same (`policyd.keeper.syncing`).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, directory: Directory, changed: Callable[[], None]) -> None:
        assert isinstance(directory.options, FileOptions)
        self.options = directory.options
        self.domains = directory.domains
        self.stamp: Stamp | None = None
        self.pause = POLL
        self._loop = loop
        self._changed = changed
        self._closed = threading.Event()
        self._seen: Stamp | None = None  # of a file that is being written in place
        self._rested = 0
        try:
            threading.Thread(target=self._run, name=f"watch-{directory.name}", daemon=True).start()
        except RuntimeError as error:  # at the limit of threads: it is read now and then all the same
            log.limited(log.ERROR, f"watch {directory.name}", "a file is not watched: raise TasksMax= or the limit of "
                        "processes", directory=directory.name, error=error)  # fmt: skip

    def look(self) -> Stamp:
        """Look now, in the calling thread."""
        return stamp(self.options, self.domains)

    def rest(self, given_up: threading.Event) -> None:
        """Wait, in the calling thread, until a file that was written a moment ago is left alone: before the first
        reading there is no older content to stand by. Of a cPanel host cPanel replaces the files."""
        end = time.monotonic() + _REST_AT_MOST
        while not self.options.format.startswith("cpanel") and time.monotonic() < end:
            age = time.time() - self.look()[2] / 1e9
            rests = POLL if self._ends_a_line() else _WITHIN_A_LINE
            if not 0 <= age < rests or given_up.wait(rests - age):
                return

    def _ends_a_line(self) -> bool:
        """Whether the file's last octet is a line end, as nearly every writer's is; so does one that cannot be read."""
        try:
            handle = os.open(self.options.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return True
        try:
            size = os.fstat(handle).st_size
            return not size or os.pread(handle, 1, size - 1) in (b"\n", b"\r")
        except OSError:
            return True
        finally:
            os.close(handle)

    def is_news(self, found: Stamp) -> bool:
        """Whether what a look found is to be read now."""
        seen, self._seen = self._seen, found
        if found == self.stamp:
            return False
        # of a cPanel host it is many files, which cPanel replaces
        if self.stamp is None or found[0] != self.stamp[0] or self.options.format.startswith("cpanel"):
            return True
        self._rested = self._rested + 1 if found == seen else 0
        return self._rested >= RESTS

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self.pause):
            began = time.monotonic()
            found = self.look()
            self.pause = max(POLL, 20 * (time.monotonic() - began))
            if self.is_news(found):
                self.stamp = found
                try:
                    self._loop.call_soon_threadsafe(self._changed)
                except RuntimeError:
                    return  # the keeper has ended
