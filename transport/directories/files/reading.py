# SPDX-License-Identifier: Apache-2.0
"""A file read whole and at rest: its text, its age, and no half-written one."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from transport.directories.base import DirectoryError

_EXPORTED = re.compile(r"#\s*exported_at\s*[:=]\s*(\S+)", re.IGNORECASE)
_ZEROS = "\0\0"  # one alone may be a slip in a name
_MARK = "\ufeff"  # of the byte order; also in the middle, where files that had one were put together
_BLOCK = bytes(4096)  # what no text holds in any encoding: found before a hole of gigabytes is read
_AT_ONCE = 1 << 20
MOST = 1 << 30
"""Octets of a file: five million recipients with 200 each. What is larger is another file, or one that somebody's
program fills without end, and would take all memory."""
_DAMAGED = "write the file anew"
_WRITTEN = "write the new content to another name and rename it over this one"


@dataclass(frozen=True, slots=True)
class Content:
    """text: decoded, without byte order marks. time: unix time of the content. complete: ends with a line end."""

    path: Path
    text: str
    time: float
    complete: bool

    def lines(self) -> Iterator[str]:
        """Lines without their ends: LF, CRLF, or CR where there is no other."""
        if "\n" not in self.text:
            return iter(self.text.split("\r"))
        return (line.rstrip("\r") for line in self.text.split("\n"))


def read(path: Path) -> Content:
    """Read a file. Raises DirectoryError when it is missing, unreadable, no regular file, was written to meanwhile, or
    holds blocks of zeros, as a crash leaves them: who stood there has not left.

    Its time is that of a comment `# exported_at: RFC3339` in the first line, else its mtime.
    """
    try:
        with open(path, "rb", opener=_opener) as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise DirectoryError(f"{path} is no regular file", "name a file, no pipe or device")
            data = _octets(path, file, before.st_size)
            after = os.fstat(file.fileno())
    except FileNotFoundError:
        raise DirectoryError(f"{path} does not exist", "check `path`") from None
    except IsADirectoryError:
        raise DirectoryError(f"{path} is a folder", "name a file") from None
    except PermissionError:
        raise DirectoryError(f"{path} cannot be read", "let the daemon's user read it and enter its folders") from None
    except OSError as error:
        raise DirectoryError(f"{path}: {error.strerror}", "check `path`") from None
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size) or len(data) != after.st_size:
        raise DirectoryError(f"{path} is being written", _WRITTEN)
    text = _decoded(data).replace(_MARK, "")
    if _ZEROS in text:
        raise _damaged(path)
    return Content(path, text, _time(path, text, after.st_mtime), text.endswith(("\n", "\r")) or not text)


def _opener(path: str, flags: int) -> int:
    """Without O_NONBLOCK the opening of a pipe waits for its writer, for ever (fifo(7))."""
    return os.open(path, flags | os.O_NONBLOCK)


def _octets(path: Path, file: BinaryIO, size: int) -> bytearray:
    """All of a file of `size` octets, or a little more where it grows meanwhile; never more than fits."""
    if size > MOST:
        raise DirectoryError(f"{path} has {size >> 20} MB, more than {MOST >> 20}", "check `path`, or use a database")
    data = bytearray()
    while len(data) <= size and (part := file.read(_AT_ONCE)):
        if _BLOCK in part:
            raise _damaged(path)
        data += part
    return data


def _damaged(path: Path) -> DirectoryError:
    return DirectoryError(f"{path} holds zeros where text should be: it is damaged", _DAMAGED)


def half_written(path: Path, what: str) -> DirectoryError:
    """The fault of a file that ends in the midst of something."""
    return DirectoryError(f"{path} looks half written: {what}", _WRITTEN)


def _decoded(data: bytearray) -> str:
    """UTF-8, UTF-16 as Microsoft 365 and Excel write it, else Windows' code page: addresses are ASCII in all."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    if data.startswith(b"\xef\xbb\xbf"):
        return data[3:].decode("utf-8", "replace")
    if data[1:2] == b"\0" and data[3:4] == b"\0":
        return data.decode("utf-16-le", "replace")
    if data[0:1] == b"\0" and data[2:3] == b"\0":
        return data.decode("utf-16-be", "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _time(path: Path, text: str, mtime: float) -> float:
    match = _EXPORTED.match(text)
    if match is None:
        return mtime
    try:
        stamp = datetime.fromisoformat(match[1])
    except ValueError:
        raise DirectoryError(f"{path}: exported_at {match[1]!r} is no time", "write 2026-12-01T12:00:00Z") from None
    return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()
