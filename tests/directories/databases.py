# SPDX-License-Identifier: Apache-2.0
"""One small way to fill any of the three databases, so that a test says its claim once for all."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from transport.address import external, parse
from transport.config.settings import SqlOptions
from transport.directories.base import Found, Listing
from transport.directories.sql import SqlSource
from transport.record import Record

RECIPIENTS = (
    "CREATE TABLE recipients (address VARCHAR(320), kind VARCHAR(20), targets VARCHAR(2000), "
    "location VARCHAR(40), active INTEGER)"
)
QUERY = "SELECT address, kind, targets, location, active FROM recipients"
_numbers = itertools.count()


@dataclass
class Database:
    """A fresh database: its kind, its URL, and a way to run SQL in it as an administrator."""

    kind: str
    url: str
    run: Callable[[str], object]
    sources: list[SqlSource] = field(default_factory=list)

    def people(self, *addresses: str) -> None:
        """Plain mailboxes."""
        for address in addresses:
            quoted = address.replace("'", "''")
            if self.kind == "mariadb":
                quoted = quoted.replace("\\", "\\\\")
            self.run(f"INSERT INTO recipients (address) VALUES ('{quoted}')")

    def source(self, query: str = QUERY, **options: Any) -> SqlSource:
        """A source on this database, closed with the test."""
        made = SqlSource("here", SqlOptions(url=self.url, query=query, **options))
        self.sources.append(made)
        return made


def open_database(kind: str, request: pytest.FixtureRequest, folder: Path) -> Database:
    """An empty database with the table `recipients`."""
    name = f"test{next(_numbers)}"
    if kind == "sqlite":
        path = folder / f"{name}.db"

        def run(script: str) -> None:
            with sqlite3.connect(path) as connection:
                connection.executescript(script)
            connection.close()

        made = Database(kind, f"sqlite:///{path}", run)
    else:
        server = request.getfixturevalue({"postgresql": "postgres", "mariadb": "mariadb"}[kind])
        made = Database(kind, server.database(name), lambda script: server.sql(script, name))
    made.run(RECIPIENTS)
    return made


def listed(listing: Listing) -> dict[str, Record]:
    """A whole listing by address; the same address twice is an error here."""
    found: dict[str, Record] = {}
    for record in listing.records:
        address = external(record.local, record.domain)
        assert address not in found
        found[address] = record
    return found


def names(found: Found) -> set[str]:
    """The addresses of an answer."""
    return {external(record.local, record.domain) for record in found.records}


def pair(address: str) -> tuple[str, str]:
    """An address as `ask` wants it."""
    parsed = parse(address)
    assert parsed is not None
    return parsed.local, parsed.domain
