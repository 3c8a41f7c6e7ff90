# SPDX-License-Identifier: Apache-2.0
"""What can be the matter with the index, in an administrator's words."""

from __future__ import annotations

import sqlite3
from pathlib import Path


class IndexFault(Exception):  # noqa: N818  a fault is what the log calls it
    """The index could not be read or written; what was there before still holds. `hint` says what to do."""

    def __init__(self, what: str, hint: str = "", *, broken: bool = False, unwritten: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.broken = broken
        """True when the file itself is damaged: `Writer.recover` makes a new one."""
        self.unwritten = unwritten
        """True when the file is good, and what was to be written has to wait: a full disk, somebody's lock."""


class IndexBusy(IndexFault):
    """Another process writes this index."""


def fault_of(error: sqlite3.Error, path: Path) -> IndexFault:
    """An SQLite error in an administrator's words."""
    text = str(error)
    if getattr(error, "sqlite_errorname", "") == "SQLITE_IOERR_SHORT_READ":  # the log's map tells of more than is there
        return IndexFault(f"{path} or its log was cut: {text}", "it is rebuilt from the directories", broken=True)
    if "full" in text or "disk I/O" in text:
        return IndexFault(
            f"cannot write {path}: {text}",
            "make room on its disk; until then the index keeps its last good state",
            unwritten=True,
        )
    if "interrupted" in text:
        return IndexFault("the sync was given up", "")
    if isinstance(error, sqlite3.OperationalError) and "locked" in text:
        return IndexFault(
            f"{path} is locked by another process", "end whatever else has it open for writing", unwritten=True
        )
    if "readonly" in text or "unable to open" in text:
        return IndexFault(
            f"cannot write {path}: {text}",
            "check the owner and mode of the state directory, and whether its disk is read-only",
            unwritten=True,
        )
    return IndexFault(f"{path} is damaged: {text}", "it is rebuilt from the directories", broken=True)
