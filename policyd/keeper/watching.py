# SPDX-License-Identifier: Apache-2.0
"""Looks each second whether a file directory has changed, in a thread: a disk that hangs must not hang the keeper."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from policyd import log
from transport.config.settings import Directory, FileOptions
from transport.directories.files.stamp import Stamp, stamp

POLL = 1.0
"""Seconds between two looks, and at least 20 times what a look takes: a host may have thousands of files."""


class FileWatch:
    """stamp: what the last look found, None before the first. changed: called in the loop when that is another."""

    def __init__(self, loop: asyncio.AbstractEventLoop, directory: Directory, changed: Callable[[], None]) -> None:
        assert isinstance(directory.options, FileOptions)
        self.options = directory.options
        self.domains = directory.domains
        self.stamp: Stamp | None = None
        self.pause = POLL
        self._loop = loop
        self._changed = changed
        self._closed = threading.Event()
        try:
            threading.Thread(target=self._run, name=f"watch-{directory.name}", daemon=True).start()
        except RuntimeError as error:  # at the limit of threads: it is read now and then all the same
            log.limited(log.ERROR, f"watch {directory.name}", "a file is not watched: raise TasksMax= or the limit of "
                        "processes", directory=directory.name, error=error)  # fmt: skip

    def look(self) -> Stamp:
        """Look now, in the calling thread."""
        return stamp(self.options, self.domains)

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self.pause):
            began = time.monotonic()
            found = self.look()
            self.pause = max(POLL, 20 * (time.monotonic() - began))
            if found != self.stamp:
                self.stamp = found
                try:
                    self._loop.call_soon_threadsafe(self._changed)
                except RuntimeError:
                    return  # the keeper has ended
