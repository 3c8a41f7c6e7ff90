# SPDX-License-Identifier: Apache-2.0
"""Small files in the state directory, replaced whole: what the keeper remembers over a restart.

All is written in threads (`Saver`, `policyd.keeper.changes.ChangeLog`): a disk that stands still holds up no answer.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

from policyd import log, threads


def replace(path: Path, text: str) -> bool:
    """Put `text` in place of the file, readable by us alone; False (and a log line) when the disk refuses.

    Folders that are missing let others pass (0711): Postfix reaches its maps below the state directory.
    """
    aside = path.with_name(f".{path.name}.new")
    try:
        make_folder(path.parent)
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        log.limited(log.WARNING, f"write {path.name}", "cannot write a state file: make room, check its owner",
                    file=path, error=error.strerror)  # fmt: skip
        return False
    return True


def append(path: Path) -> int:
    """A descriptor that adds to the file, readable by us alone. Raises OSError, for a link or a FIFO too."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    handle = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a file", str(path))
    return handle


def make_folder(path: Path) -> None:
    """Make a folder and what is missing above it, each to be passed through and not looked into by others."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(mode=0o711, exist_ok=True)


_SLOW = 2.0  # seconds after which a write that has not ended is a fault of the disk


class Saver:
    """Replaces one file from the loop, in a thread, one text at a time: of those that wait the newest.

    A text that the disk refused waits for the next `save` or `again`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._began = 0.0  # CLOCK_MONOTONIC of the write that is going on

    def save(self, text: str) -> None:
        """Write this text as soon as the one before is written."""
        self._text = text
        if self._task is None or self._task.done():
            self._began = time.monotonic()  # not the last write's, until the task runs
            self._task = asyncio.get_running_loop().create_task(self._run())
        elif self._began and time.monotonic() - self._began > _SLOW:
            log.limited(log.WARNING, f"slow {self.path.name}", "the disk does not answer, a state file is not written: "
                        "look at the disk; a restart would forget what is new", file=self.path)  # fmt: skip

    def again(self) -> None:
        """Try to write what could not be written; call it now and then."""
        if self._text is not None:
            self.save(self._text)

    @property
    def unwritten(self) -> bool:
        """Whether the file is not what it should be, but for the moment that writing takes."""
        writing = self._task is not None and not self._task.done()
        return time.monotonic() - self._began > _SLOW if writing else self._text is not None

    async def _run(self) -> None:
        while self._text is not None:
            text, self._text = self._text, None
            self._began = time.monotonic()
            if not await self._written(text):
                self._text = self._text or text
                return

    async def _written(self, text: str) -> bool:
        try:
            return await threads.to_thread(replace, self.path, text)
        except Exception as error:  # no thread can be started
            log.limited(log.WARNING, f"write {self.path.name}", "cannot write a state file", error, file=self.path)
            return False

    async def finish(self, seconds: float) -> None:
        """Wait until all is written, at most so long."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=seconds)


def read(path: Path) -> str:
    """The file's text (as transport.config.load has it), "" when there is none or it cannot be read."""
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""


def read_json(path: Path) -> dict[str, Any]:
    """The file's JSON object, {} when there is none or it is damaged."""
    try:
        value = json.loads(read(path) or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
