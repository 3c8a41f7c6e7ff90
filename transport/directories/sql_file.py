# SPDX-License-Identifier: Apache-2.0
"""A SQLite file while it is listed: whoever keeps SQLite's locks waits, and whoever does not is found out."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from transport.directories.base import DirectoryError
from transport.directories.sql_connect import BULK, fault_of
from transport.directories.sql_driver import end_call
from transport.directories.watchdog import Guard


class Untouched:
    """A read transaction on a SQLite file, in which nothing is written to it; of another database: nothing.

    path: the file, None for another database. Raises DirectoryError when it cannot be begun.
    """

    def __init__(self, raw: Any, path: Path | None, url: str) -> None:
        self._path = path
        self._before: tuple[int, int, int] | None = None
        if path is None or not isinstance(raw, sqlite3.Connection):
            self._path = None
            return
        try:
            with Guard(BULK, lambda: end_call(raw)):
                raw.execute("BEGIN")
                raw.execute("SELECT count(*) FROM sqlite_master").fetchone()  # takes the lock
                if raw.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                    self._path = None  # a checkpoint may write while others read
        except sqlite3.Error as error:
            raise fault_of(error, url) from None
        self._before = self._now()

    def need(self) -> None:
        """Raises DirectoryError when somebody wrote to the file all the same: what was read is of two databases."""
        before, now = self._before, self._now()
        if before is None or now is None or before == now or before[0] != now[0]:
            return  # under another inode it is another file: what we read was whole
        raise DirectoryError(
            f"{self._path} was written to while it was read",
            "copy a new database to another name and rename it over this one",
        )

    def _now(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns
