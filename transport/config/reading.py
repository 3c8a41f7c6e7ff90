# SPDX-License-Identifier: Apache-2.0
"""Reads the configuration and the files it names, whatever stands in their place: within bounds of time and memory.

A FIFO that nobody writes into would be waited for without an end (fifo(7)), and a device never ends.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from pathlib import Path

LARGEST = 64 << 20
"""Octets of a configuration or of a wave's file: half a million domains."""

_PATIENCE = 10.0  # seconds for what comes through a pipe, such as a shell's <(…)
_READ = 1 << 20

_pipes: dict[tuple[str, int, int], bytes] = {}  # what came through: a command may look twice, it comes but once


def read(path: Path, largest: int = LARGEST, *, pipes: bool = True) -> bytes:
    """The content of a file, or of a pipe until its writer closes it.

    Raises OSError: for what cannot be read, too (a folder, a device, more than `largest` octets; a pipe where those are
    not meant), and ETIMEDOUT for a pipe into which nobody writes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        mode, pipe = status.st_mode, (str(path), status.st_dev, status.st_ino)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode) and not (pipes and stat.S_ISFIFO(mode)):
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        if stat.S_ISFIFO(mode) and pipe in _pipes:
            return _pipes[pipe]
        end = time.monotonic() + _PATIENCE
        data = bytearray()
        while len(data) <= largest:
            if stat.S_ISFIFO(mode):
                _wait(descriptor, end, path)
            try:
                more = os.read(descriptor, _READ)
            except BlockingIOError:
                continue
            if not more:
                if stat.S_ISFIFO(mode):
                    _pipes[pipe] = bytes(data)
                return bytes(data)
            data += more
    finally:
        os.close(descriptor)
    raise OSError(errno.EFBIG, f"more than {largest:,} octets", str(path))


def _wait(descriptor: int, end: float, path: Path) -> None:
    """Until something was written into the pipe, or its writer has closed it."""
    left = end - time.monotonic()
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    if left <= 0 or not waiting.poll(left * 1000):
        raise TimeoutError(errno.ETIMEDOUT, "a pipe into which nobody writes", str(path))
