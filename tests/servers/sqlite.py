# SPDX-License-Identifier: Apache-2.0
"""An SQLite file as a directory: the table that most tests list their people in."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

QUERY = "SELECT address, kind, targets, location, active FROM recipients"
"""What a configuration asks it."""

Person = tuple[str, str | None, str | None, str | None, int]


class SqliteTable:
    """Made empty, unless the file is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            self.execute("CREATE TABLE recipients (address PRIMARY KEY, kind, targets, location, active DEFAULT 1)")

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the file."""
        return f"sqlite:///{self.path}"

    def execute(self, statement: str, *values: object) -> None:
        """One change."""
        with closing(sqlite3.connect(self.path)) as database, database:
            database.execute(statement, values)

    def add(
        self, address: str, kind: str | None = None, targets: str | None = None, location: str | None = None,
        active: int = 1,
    ) -> None:  # fmt: skip
        """List one address, or change it."""
        self.add_all([(address, kind, targets, location, active)])

    def add_all(self, rows: Iterable[Person]) -> None:
        """List these, or change them."""
        with closing(sqlite3.connect(self.path)) as database, database:
            database.executemany("INSERT OR REPLACE INTO recipients VALUES (?, ?, ?, ?, ?)", rows)

    def remove(self, address: str) -> None:
        """List somebody no more."""
        self.execute("DELETE FROM recipients WHERE address = ?", address)

    def become(self, addresses: Iterable[str]) -> None:
        """List exactly these mailboxes."""
        rows = [(address, "mailbox", "", None, 1) for address in addresses]
        with closing(sqlite3.connect(self.path)) as database, database:
            database.execute("DELETE FROM recipients")
            database.executemany("INSERT INTO recipients VALUES (?, ?, ?, ?, ?)", rows)
