# SPDX-License-Identifier: Apache-2.0
"""The watermark on the real databases, and the presets."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.directories.databases import Database, listed, names, open_database
from transport.directories.base import Changes, DirectoryError
from transport.directories.sql import SqlSource
from transport.record import Kind, Record

pytestmark = pytest.mark.directory

NOW = {
    "sqlite": "datetime('now', '{}')",
    "postgresql": "now() + interval '{}'",
    "mariadb": "now() + interval {}",
}


@pytest.fixture(params=("sqlite", "postgresql", "mariadb"))
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database whose recipients carry the time of their last change."""
    made = open_database(request.param, request, tmp_path)
    kind = {"sqlite": "TEXT", "postgresql": "timestamptz", "mariadb": "DATETIME"}[request.param]
    made.run(f"CREATE TABLE people (address VARCHAR(320), active INTEGER, changed {kind})")
    yield made
    for source in made.sources:
        source.close()


def put(database: Database, address: str, ago: int = 0, active: int = 1) -> None:
    """A row that changed `ago` seconds ago (negative: in the future)."""
    unit = "second" if database.kind == "mariadb" else "seconds"
    stamp = NOW[database.kind].format(f"{-ago} {unit}")
    database.run(f"DELETE FROM people WHERE address = '{address}'")
    database.run(f"INSERT INTO people VALUES ('{address}', {active}, {stamp})")


def source_of(database: Database) -> SqlSource:
    """A source with a watermark."""
    return database.source("SELECT address, active, changed FROM people", changed="changed")


def changed(changes: Changes) -> set[str]:
    """The addresses in a set of changes."""
    assert not changes.full_needed, changes.why
    assert all(key is None for key, _ in changes.upserts)
    return {f"{r.local}@{r.domain}" for _, records in changes.upserts for r in records}


def test_changes_come_from_the_cookie_of_the_listing(database: Database) -> None:
    """What changed after the listing is told, and the minute before it; older rows are not."""
    put(database, "old@example.com", 7200)
    put(database, "older@example.com", 3700)
    source = source_of(database)
    listing = source.list()
    assert len(listed(listing)) == 2
    assert listing.cookie
    put(database, "new@example.com", 0)
    first = source.changes(listing.cookie, 1000)
    assert changed(first) == {"new@example.com", "older@example.com"}
    put(database, "old@example.com", -5, active=0)
    second = source.changes(first.cookie, 1000)
    assert changed(second) == {"new@example.com", "old@example.com"}
    assert [r.active for _, rs in second.upserts for r in rs if r.local == "old"] == [False]


@pytest.mark.parametrize("rest", ["", "Z", ".5", ".123Z", ".1234567", ".123456+01:00"])
def test_times_as_text(tmp_path: Path, rest: str) -> None:
    """Of a time written as text a minute is taken, too, however many digits its second has."""
    database = Database("sqlite", f"sqlite:///{tmp_path / 'text.db'}", lambda script: None)
    with closing(sqlite3.connect(tmp_path / "text.db")) as connection:
        connection.execute("CREATE TABLE people (address, active, changed)")
        connection.execute("INSERT INTO people VALUES ('ann@example.com', 1, ?)", (f"2026-01-02T00:00:30{rest}",))
        connection.commit()
        source = source_of(database)
        listing = source.list()
        assert len(listed(listing)) == 1
        rows = [
            ("late@example.com", 1, f"2026-01-01T23:59:31{rest}"),
            ("old@example.com", 1, f"2026-01-01T23:59:29{rest}"),
        ]
        connection.executemany("INSERT INTO people VALUES (?, ?, ?)", rows)
        connection.commit()
        assert changed(source.changes(listing.cookie, 10)) == {"ann@example.com", "late@example.com"}


def test_rows_in_the_future_do_not_hide_later_ones(database: Database) -> None:
    """A stamp of next year is noted and does not move the watermark."""
    put(database, "ann@example.com", 600)
    put(database, "future@example.com", -400 * 86400)
    source = source_of(database)
    listing = source.list()
    assert len(listed(listing)) == 2
    assert any("future" in why for _, why in listing.skipped.first)
    put(database, "new@example.com")
    assert "new@example.com" in changed(source.changes(listing.cookie, 1000))


@pytest.mark.parametrize("column", ["timestamptz", "bigint", "double precision"])
def test_a_clock_that_was_ahead_hides_no_change(request: pytest.FixtureRequest, tmp_path: Path, column: str) -> None:
    """A stamp of five hours from now (a wrong clock, set right since): what changes now is told all the same."""
    database = open_database("postgresql", request, tmp_path)
    now = "now()" if column == "timestamptz" else "extract(epoch FROM now())"
    hours = "interval '5 hours'" if column == "timestamptz" else "18000"
    database.run(
        f"CREATE TABLE people (address text, active int, changed {column});"
        f"INSERT INTO people VALUES ('ann@example.com', 1, {now} - {hours}), ('bob@example.com', 1, {now} + {hours})"
    )
    name = database.url.rpartition("/")[2]
    database.run(f"ALTER DATABASE {name} SET TimeZone = 'America/New_York'")
    source = source_of(database)
    listing = source.list()
    assert len(listed(listing)) == 2
    assert listing.skipped.count == 0
    database.run(f"INSERT INTO people VALUES ('eve@example.com', 0, {now})")
    assert changed(source.changes(listing.cookie, 10)) >= {"bob@example.com", "eve@example.com"}
    database.run(f"UPDATE people SET changed = changed - 2 * {hours} WHERE address = 'bob@example.com'")
    assert "eve@example.com" in changed(source.changes(source.changes(listing.cookie, 10).cookie, 10))


def test_rows_without_a_stamp_are_noted(database: Database) -> None:
    """NULL is counted in the listing, since no watermark will ever cover it."""
    put(database, "ann@example.com")
    database.run("INSERT INTO people VALUES ('null@example.com', 1, NULL)")
    listing = source_of(database).list()
    assert len(listed(listing)) == 2
    assert listing.skipped.first == [
        ("changed", "NULL in 1 rows: changes of those are found by the full compare alone")
    ]


def test_too_many_changes_ask_for_a_compare(database: Database) -> None:
    """Beyond the limit, with an empty table's cookie and with a foreign one, the compare is asked for."""
    source = source_of(database)
    listing = source.list()
    assert listed(listing) == {}
    assert source.changes(listing.cookie, 10).full_needed
    assert source.changes(b"garbage", 10).full_needed
    for i in range(3):
        put(database, f"user{i}@example.com")
    cookie = source.changes(b"", 10).cookie
    assert source.changes(cookie, 2).full_needed
    assert len(changed(source.changes(cookie, 3))) == 3


def test_a_watermark_that_is_no_column_is_a_fault(database: Database) -> None:
    """Neither an unknown column nor an expression passes silently."""
    for name in ("modified", "changed) OR (1=1"):
        source = database.source("SELECT address FROM people", changed=name)
        with pytest.raises(DirectoryError):
            list(source.list().records)


def test_numbers_serve_as_watermark(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Seconds since 1970 are read with a minute of overlap, version numbers as they are."""
    database = open_database("sqlite", request, tmp_path)
    database.run(
        "CREATE TABLE v (address TEXT, n INTEGER); INSERT INTO v VALUES ('a@x.example', 5), ('b@x.example', 7)"
    )
    source = database.source("SELECT address, n FROM v", changed="n")
    listing = source.list()
    list(listing.records)
    database.run("INSERT INTO v VALUES ('c@x.example', 8)")
    assert changed(source.changes(listing.cookie, 10)) == {"b@x.example", "c@x.example"}
    database.run("UPDATE v SET n = 1700000000 WHERE address = 'a@x.example'")
    database.run("UPDATE v SET n = 1700000059 WHERE address = 'b@x.example'")
    later = source.changes(listing.cookie, 10)
    assert changed(source.changes(later.cookie, 10)) == {"a@x.example", "b@x.example"}


def test_a_watermark_that_becomes_another_type_is_compared(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Numbers that are times after an ALTER TABLE: what was seen says nothing of what is there now."""
    database = open_database("sqlite", request, tmp_path)
    database.run("CREATE TABLE v (address TEXT, n); INSERT INTO v VALUES ('a@x.example', 5), ('b@x.example', 7)")
    source = database.source("SELECT address, n FROM v", changed="n")
    listing = source.list()
    assert len(listed(listing)) == 2
    database.run("UPDATE v SET n = '2026-01-01 00:00:00'")
    assert source.changes(listing.cookie, 10).full_needed


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000])
def test_times_as_numbers_of_any_unit(database: Database, unit: int) -> None:
    """Seconds, milliseconds (as Java writes them) and microseconds: a minute of overlap, and one in the future hides
    nobody who changes now."""
    now = 1_700_000_000
    database.run(
        "CREATE TABLE v (address VARCHAR(99), n BIGINT);"
        f"INSERT INTO v VALUES ('a@x.example', {now * unit}), ('b@x.example', {(now - 3600) * unit})"
    )
    source = database.source("SELECT address, n FROM v", changed="n")
    listing = source.list()
    list(listing.records)
    database.run(f"UPDATE v SET n = {(now - 59) * unit + 1} WHERE address = 'b@x.example'")
    assert changed(source.changes(listing.cookie, 10)) == {"a@x.example", "b@x.example"}
    database.run(f"INSERT INTO v VALUES ('c@x.example', {now * 2 * unit})")
    later = source.list()
    list(later.records)
    assert "future" in later.skipped.first[0][1]
    assert later.cookie == listing.cookie


POSTFIXADMIN = """
CREATE TABLE mailbox (username VARCHAR(255) PRIMARY KEY, active {boolean});
CREATE TABLE alias (address VARCHAR(255) PRIMARY KEY, goto TEXT, active {boolean});
INSERT INTO mailbox VALUES ('ann@example.com', {yes}), ('bob@example.com', {yes}), ('off@example.com', {no}),
  ('carl@example.com', {yes}), ('bare@example.com', {yes});
INSERT INTO alias VALUES ('ann@example.com', 'ann@example.com', {yes}),
  ('bob@example.com', 'bob@example.com,bob@example.net', {yes}), ('off@example.com', 'off@example.com', {yes}),
  ('carl@example.com', 'carl@example.net', {no}), ('sales@example.com', 'ann@example.com,bob@example.com', {yes}),
  ('gone@example.com', 'ann@example.com', {no}), ('@example.com', 'ann@example.com', {yes});
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_postfixadmin(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Mailboxes with and without forwards, aliases, suspended ones, no catch-all: listed and live alike."""
    database = open_database(kind, request, tmp_path)
    words = {"boolean": "BOOLEAN", "yes": "true", "no": "false"}
    if kind == "sqlite":
        words = {"boolean": "INTEGER", "yes": "1", "no": "0"}
    database.run(POSTFIXADMIN.format(**words))
    source = database.source("", schema="postfixadmin")
    wanted = {
        "ann@example.com": Record("ann", "example.com"),
        "bob@example.com": Record("bob", "example.com", targets=("bob@example.com", "bob@example.net")),
        "off@example.com": Record("off", "example.com", active=False),
        "carl@example.com": Record("carl", "example.com"),
        "bare@example.com": Record("bare", "example.com"),
        "sales@example.com": Record("sales", "example.com", Kind.ALIAS, targets=("ann@example.com", "bob@example.com")),
        "gone@example.com": Record("gone", "example.com", Kind.ALIAS, False, targets=("ann@example.com",)),
    }
    listing = source.list()
    assert listed(listing) == wanted
    assert listing.skipped.count == 0
    found = source.ask([(r.local, r.domain) for r in wanted.values()] + [("", "example.com")], 2)
    assert names(found) == set(wanted)
    assert set(found.records) == set(wanted.values())


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_postfixadmin_live_uses_the_indexes(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """With 12,000 mailboxes and aliases no table is read whole for one look-up."""
    database = open_database(kind, request, tmp_path)
    database.run(POSTFIXADMIN.format(boolean="INTEGER", yes="1", no="0") if kind == "sqlite" else POSTFIXADMIN.format(
        boolean="BOOLEAN", yes="true", no="false"))  # fmt: skip
    yes = "1" if kind == "sqlite" else "true"
    boxes = ",".join(f"('user{i}@example.com', {yes})" for i in range(12000))
    database.run(f"INSERT INTO mailbox VALUES {boxes}")
    aliases = ",".join(f"('list{i}@example.com', 'user{i}@example.com', {yes})" for i in range(12000))
    database.run(f"INSERT INTO alias VALUES {aliases}")
    database.run("ANALYZE TABLE mailbox, alias" if kind == "mariadb" else "ANALYZE")
    explained = database.source("", schema="postfixadmin").explain_live()
    assert explained.ok, explained


def test_a_clock_that_is_ahead_is_named_where_the_watermark_goes_back(database: Database) -> None:
    """Whose stamp was the largest changes again, by a clock that is ahead: nothing was removed, and a compare tells."""
    put(database, "old@example.com", 7200)
    put(database, "ann@example.com", 10)
    source = source_of(database)
    cookie = source.changes(b"", 100).cookie
    put(database, "ann@example.com", -172800)
    changes = source.changes(cookie, 100)
    assert changes.full_needed
    assert "clock" in changes.why
