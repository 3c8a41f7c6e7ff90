# SPDX-License-Identifier: Apache-2.0
"""Whether the files of a directory have changed since they were read: by inode, size and mtime, nothing is opened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from transport.config.settings import FileOptions
from transport.directories import cpanel
from transport.directories.base import DirectoryError

Stamp = tuple[int, int, int]


def stamp(options: FileOptions, domains: Sequence[str]) -> Stamp:
    """Another value whenever a file was changed, replaced, added or removed. Never raises; it may wait for a disk."""
    path = Path(options.path)
    try:
        if options.format == "cpanel":
            return _all(cpanel.watched(path, domains))
        if options.format == "cpanel-uapi" and path.is_dir():
            return _all([path, *sorted(path.glob("*.json"))])
    except (DirectoryError, OSError, ValueError):
        return (0, 0, 0)
    return _one(path)


def _one(path: Path) -> Stamp:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return (0, 0, 0)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _all(paths: Iterable[Path]) -> Stamp:
    count = 0
    marks = []
    for path in paths:
        count += 1
        marks.append(_one(path))
    return count, hash(tuple(marks)), max((mark[2] for mark in marks), default=0)
