# SPDX-License-Identifier: Apache-2.0
"""The same with a real database behind it: SQLite through the sql source."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from transport.config.settings import Directory, SqlOptions
from transport.directories import open_source
from transport.lookup import NO, Failed, ask, canaries_for
from transport.offline import OfflineKnowledge
from transport.record import Record
from transport.sync import SyncReport, apply_changes, compare

from .conftest import World

QUERY = "SELECT address, kind, targets, location, active, changed FROM recipients"


class Database:
    """A table of recipients in a file, and an index over it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "people.db"
        self.run(
            "CREATE TABLE recipients (address TEXT, kind TEXT, targets TEXT, location TEXT, active INT, changed INT)"
        )
        (folder / "state").mkdir()
        self.world = World(folder / "state")
        options = SqlOptions(f"sqlite:///{self.path}", QUERY, changed="changed")
        directory = replace(Directory("here", "sql", options, b"here............"), deadline=5.0)
        self.world.settings = replace(
            self.world.settings, directories={**self.world.settings.directories, "here": directory}
        )
        self.directory = directory

    def run(self, sql: str, *values: object) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(sql, values)

    def fill(self, count: int, domain: str = "example.com") -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.executemany(
                "INSERT INTO recipients VALUES (?, NULL, NULL, NULL, 1, 1700000000)",
                [(f"User{n:05d}@{domain}",) for n in range(count)],
            )

    def sync(self, **options: Any) -> SyncReport:
        source = open_source(self.directory)
        try:
            report = compare(self.world.writer, self.directory, source, self.world.settings, **options)
        finally:
            source.close()
        self.world.reader.renew()
        return report

    def feed(self) -> SyncReport:
        source = open_source(self.directory)
        try:
            report = apply_changes(self.world.writer, self.directory, source, self.world.settings)
        finally:
            source.close()
        assert report is not None
        self.world.reader.renew()
        return report


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path)
    yield made
    made.world.close()


def test_listing_and_feed(database: Database) -> None:
    """A compare brings the table, a feed the rows that carry a newer stamp, and both agree."""
    database.fill(100)
    assert database.sync().added == 100
    database.run("UPDATE recipients SET active = 0, changed = 1700000100 WHERE address = 'User00007@example.com'")
    database.run("INSERT INTO recipients VALUES ('new@example.com', 'mailbox', NULL, NULL, 1, 1700000100)")
    database.run(
        "INSERT INTO recipients VALUES ('all@example.com', 'alias', 'new@example.com x@o.example', NULL, 1, 1700000100)"
    )
    report = database.feed()
    assert (report.good, report.added, report.changed) == (True, 2, 1), report.line()
    reader = database.world.reader
    assert not reader.rows("example.com", "user00007")[0].active
    assert reader.targets("example.com", "all", "here") == ("new@example.com", "x@o.example")
    assert database.feed().generation is None
    assert database.sync().unchanged == 102


@pytest.mark.parametrize("change", ["active = 0", "location = 'elsewhere'"])
def test_a_feed_sees_both_rows_of_an_address(database: Database, change: str) -> None:
    """Of two rows of one address the changed one alone does not say what the address is: as the compare has it."""
    database.fill(20)
    row = "('ann@example.com', 'mailbox', NULL, 'cloud', 1, 1600000000)"
    database.run(f"INSERT INTO recipients VALUES {row}, {row}")
    database.sync()
    database.run(
        f"UPDATE recipients SET {change}, changed = 1700000100 WHERE rowid = (SELECT max(rowid) FROM recipients)"
    )
    assert database.feed().good
    told = database.world.reader.rows("example.com", "ann")[0]
    database.sync()
    assert database.world.reader.rows("example.com", "ann")[0] == told
    assert told.active
    assert told.location == "cloud"


def test_half_the_table_and_the_whole_table(database: Database) -> None:
    """40 % of the rows gone are held; an empty table and a missing one change nothing."""
    database.fill(100)
    database.sync()
    database.run("DELETE FROM recipients WHERE address < 'User00040'")
    assert database.sync().held == 40
    database.run("DELETE FROM recipients")
    report = database.sync()
    assert (report.held, report.believable) == (100, False)
    database.run("DROP TABLE recipients")
    report = database.sync()
    assert report.error
    assert not report.broken
    assert len(database.world.listed()) == 100


def test_file_swapped_for_an_empty_one(database: Database) -> None:
    """A database file exchanged for an empty one: nobody is lost, and its "no" is a lie."""
    database.fill(100)
    database.sync()
    database.path.unlink()
    database.run("CREATE TABLE recipients (address TEXT, kind, targets, location, active, changed)")
    source = open_source(database.directory)
    canaries = canaries_for(database.world.reader, database.directory, ["example.com"])
    answers = ask(source, database.directory, [("nobody", "example.com")], canaries, 5.0)
    source.close()
    assert answers.lying
    assert isinstance(answers.found[("nobody", "example.com")], Failed)
    assert database.sync().held == 100
    assert database.world.reader.rows("example.com", "user00001")


def test_live_question(database: Database) -> None:
    """A new row is found, an unlisted one denied, in one query."""
    database.fill(20)
    database.sync()
    database.run("INSERT INTO recipients VALUES ('New@Example.com', NULL, NULL, NULL, 1, NULL)")
    source = open_source(database.directory)
    canaries = canaries_for(database.world.reader, database.directory, ["example.com"])
    wanted = [("new", "example.com"), ("nobody", "example.com"), ("' OR 1=1 --", "example.com"), ("a\x00b", "x.y")]
    answers = ask(source, database.directory, wanted, canaries, 5.0)
    source.close()
    assert isinstance(answers.found[wanted[0]], Record)
    assert [answers.found[key] for key in wanted[1:3]] == [NO, NO]
    assert answers.lying == ""


@pytest.mark.parametrize("indexed", [True, False])
def test_without_a_daemon(database: Database, indexed: bool) -> None:
    """A command knows the same from the index and from the directory itself."""
    database.fill(20)
    state = None
    if indexed:
        database.sync()
        state = database.world.state
    settings = replace(database.world.settings, directories={"here": database.directory})
    knowledge = OfflineKnowledge(settings, state)
    assert knowledge.indexed == indexed
    assert knowledge.no("here", "example.com", "nobody") is None
    knowledge.resolve([("here", "nobody", "example.com"), ("here", "user00003", "example.com")])
    assert knowledge.no("here", "example.com", "nobody") is True
    assert [row.directory for row in knowledge.rows("example.com", "user00003")] == ["here"]
    assert knowledge.rows("example.com", "nobody") == ()
    database.run("DROP TABLE recipients")
    knowledge.resolve([("here", "later", "example.com")])
    assert knowledge.no("here", "example.com", "later") is False
    assert "here" in knowledge.faults
    knowledge.close()
