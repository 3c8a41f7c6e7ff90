# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL holds values that Python does not, and octets that are no text: neither hides anybody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.mta.waiting import wait_for
from tests.servers import Postgres
from transport.config.settings import Directory, SqlOptions
from transport.directories.base import Changes, DirectoryError
from transport.directories.sql import SqlSource
from transport.directories.sql_listen import Listener
from transport.record import Record

pytestmark = pytest.mark.directory

NAMES = [("ann", "example.com"), ("bob", "example.com")]


@pytest.fixture
def sources() -> Iterator[list[SqlSource]]:
    """Sources that are closed with the test."""
    made: list[SqlSource] = []
    yield made
    for source in made:
        source.close()


def suspend_eve(postgres: Postgres, database: str, stamp: str) -> None:
    postgres.sql(f"UPDATE r SET active = 0, stamp = {stamp} WHERE address LIKE 'eve%'", database)


def follows(source: SqlSource, suspend: Callable[[], None]) -> Changes:
    """Three rows are listed, the odd stamp is noted as one in the future, and the suspension of eve is a change."""
    listing = source.list()
    assert len(list(listing.records)) == 3
    assert [what for what, why in listing.skipped.first if "future" in why] == ["stamp"]
    suspend()
    changes = source.changes(listing.cookie, 100)
    assert not changes.full_needed, changes.why
    assert ("eve", False) in [(record.local, record.active) for _, (record,) in changes.upserts]
    return changes


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("timestamptz", "infinity"),
        ("timestamptz", "-infinity"),
        ("timestamp", "infinity"),
        ("date", "infinity"),
        ("date", "0044-03-15 BC"),
        ("timestamptz", "20000-01-01"),
        ("timetz", "24:00:00+15:59"),
        ("timestamptz[]", "{infinity}"),
    ],
)
def test_a_time_that_python_does_not_know_hides_nobody(
    postgres: Postgres, sources: list[SqlSource], column: str, value: str
) -> None:
    """`expires = 'infinity'` in one row: that row and all others are listed, and found live."""
    rows = f"INSERT INTO r VALUES ('ann@example.com', NULL), ('bob@example.com', '{value}')"
    url = postgres.database("oddtimes", f"CREATE TABLE r (address text, expires {column}); {rows}")
    source = SqlSource("here", SqlOptions(url, "SELECT * FROM r"))
    sources.append(source)
    assert [record[:2] for record in source.list().records] == NAMES
    assert [record[:2] for record in source.ask(NAMES, 1).records] == NAMES


@pytest.mark.parametrize("column", ["json", "jsonb", "jsonb[]"])
@pytest.mark.parametrize("value", ["repeat('9', 5000)", "repeat('[', 5000) || repeat(']', 5000)"])
def test_json_that_python_does_not_know_hides_nobody(
    postgres: Postgres, sources: list[SqlSource], column: str, value: str
) -> None:
    """What one user's preferences hold is nobody's address: that row and all others are listed, and found live."""
    odd = f"({value})::jsonb" if column == "jsonb" else f"({value})::json"
    odd = f"ARRAY[({value})::jsonb]" if column == "jsonb[]" else odd
    rows = f"INSERT INTO r VALUES ('ann@example.com', NULL), ('bob@example.com', {odd})"
    url = postgres.database("oddjson", f"CREATE TABLE r (address text, preferences {column}); {rows}")
    source = SqlSource("here", SqlOptions(url, "SELECT * FROM r"))
    sources.append(source)
    assert [record[:2] for record in source.list().records] == NAMES
    assert [record[:2] for record in source.ask(NAMES, 1).records] == NAMES


@pytest.mark.parametrize("column", ["timestamptz", "timestamp", "date"])
def test_a_watermark_of_infinity_is_one_in_the_future(
    postgres: Postgres, sources: list[SqlSource], column: str
) -> None:
    """It is noted and hides no later change; rows that are all before any time have no watermark."""
    rows = "('ann@example.com', '2026-01-01'), ('bob@example.com', 'infinity'), ('eve@example.com', '-infinity')"
    url = postgres.database(
        "infinity", f"CREATE TABLE r (address text, active int DEFAULT 1, stamp {column}); CREATE TABLE none (n int)"
    )
    postgres.sql(f"INSERT INTO r (address, stamp) VALUES {rows}", "infinity")
    source = SqlSource("here", SqlOptions(url, "SELECT address, active, stamp FROM r", changed="stamp"))
    sources.append(source)
    follows(source, lambda: suspend_eve(postgres, "infinity", "'2026-02-01'"))
    postgres.sql("UPDATE r SET stamp = '-infinity'", "infinity")
    listing = source.list()
    assert (len(list(listing.records)), listing.cookie) == (3, b"")


@pytest.fixture
def octets(postgres: Postgres, sources: list[SqlSource]) -> SqlSource:
    """A database without an encoding, as initdb makes it under LANG=C."""
    postgres.sql("DROP DATABASE IF EXISTS octets")
    postgres.sql("CREATE DATABASE octets ENCODING SQL_ASCII LOCALE 'C' TEMPLATE template0")
    postgres.sql(
        "CREATE TABLE r (address text, location varchar(9), stamp text);"
        "INSERT INTO r VALUES ('ann@example.com', NULL, '2'), ('bob@example.com', 'M' || chr(252), '1'),"
        " ('eve' || chr(252) || '@example.com', NULL, '1');",
        "octets",
    )
    source = SqlSource("here", SqlOptions(postgres.url_of("octets"), "SELECT * FROM r", changed="stamp"))
    sources.append(source)
    return source


def test_a_database_without_an_encoding(octets: SqlSource) -> None:
    """Octets that are no UTF-8 harm only themselves: everybody else is listed and found live."""
    listing = octets.list()
    everyone = list(listing.records)
    assert everyone == [Record("ann", "example.com"), Record("bob", "example.com", location="M?")]
    assert listing.skipped.count == 1
    assert octets.ask([*NAMES, ("jörg", "example.com")], 1).records == everyone
    changes = octets.changes(listing.cookie, 100)
    assert [record.local for _, (record,) in changes.upserts] == ["ann"]


def test_a_row_that_cannot_be_told_is_no_absent_one(postgres: Postgres, sources: list[SqlSource]) -> None:
    """What the server cannot turn into UTF-8 is a fault of that row, never a no about who stands in it."""
    postgres.sql("DROP DATABASE IF EXISTS windows")
    postgres.sql("CREATE DATABASE windows ENCODING WIN1252 LOCALE 'C' TEMPLATE template0")
    postgres.sql(
        "CREATE TABLE r (address text, name text);"
        "INSERT INTO r VALUES ('j' || chr(246) || 'rg@example.com', chr(129)), ('bob@example.com', chr(129)),"
        " ('ann@example.com', '');",
        "windows",
    )
    source = SqlSource("here", SqlOptions(postgres.url_of("windows"), "SELECT * FROM r"))
    sources.append(source)
    for name in ("jörg", "bob"):
        with pytest.raises(DirectoryError) as caught:
            source.ask([(name, "example.com"), ("ann", "example.com")], 1)
        assert "encoding" in caught.value.what
    assert [r.local for r in source.ask([("日本", "example.com"), ("ann", "example.com")], 1).records] == ["ann"]


@pytest.mark.parametrize(
    ("before", "after", "hint"),
    [
        ("ALTER ROLE reader CONNECTION LIMIT 0", "ALTER ROLE reader CONNECTION LIMIT -1", "who holds the connections"),
        ("ALTER ROLE reader NOLOGIN", "ALTER ROLE reader LOGIN", "let this user log in"),
        ("ALTER DATABASE hints ALLOW_CONNECTIONS false", "SELECT 1", "nothing to do here"),
    ],
)
def test_who_is_refused_is_told_why(
    postgres: Postgres, sources: list[SqlSource], before: str, after: str, hint: str
) -> None:
    """Each refusal of a running server begins with the words of one that is down, and needs another cure."""
    postgres.database("hints", "CREATE TABLE r (address text)")
    url = postgres.url_of("hints", "reader", postgres.reader_password)
    source = SqlSource("here", SqlOptions(url, "SELECT address FROM r"))
    sources.append(source)
    postgres.sql(before)
    try:
        with pytest.raises(DirectoryError) as caught:
            source.ask(NAMES, 1)
    finally:
        postgres.sql(after)
    assert hint in caught.value.hint


def test_a_password_that_was_changed_is_read_again(
    postgres: Postgres, sources: list[SqlSource], tmp_path: Path
) -> None:
    """Its file is rewritten and nothing reloaded: look-ups, listings and LISTEN go on with the next connection."""
    postgres.database("passwords", "CREATE TABLE r (address text); INSERT INTO r VALUES ('ann@example.com')")
    secret = tmp_path / "secret"
    secret.write_text("o/l:d@1\n")
    secret.chmod(0o600)
    postgres.sql("DROP ROLE IF EXISTS changing; CREATE ROLE changing LOGIN PASSWORD 'o/l:d@1'")
    postgres.sql("GRANT SELECT ON r TO changing", "passwords")
    hba = postgres.folder / "data" / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text(f"host all changing 127.0.0.1/32 scram-sha-256\n{before}")
    try:
        postgres.sql("SELECT pg_reload_conf()")
        url = postgres.url_of("passwords", "changing", "o/l:d@1")
        options = SqlOptions(url, "SELECT address FROM r", password_file=str(secret))
        source = SqlSource("here", options)
        sources.append(source)
        assert len(source.ask(NAMES, 2).records) == 1
        postgres.sql(
            "ALTER ROLE changing PASSWORD 'n%e/w';"
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'changing'"
        )
        with pytest.raises(DirectoryError, match="password"):
            source.ask(NAMES, 2)
        secret.write_text("n%e/w\n")
        assert len(source.ask(NAMES, 2).records) == 1
        assert len(list(source.list().records)) == 1
        Listener(Directory("here", "sql", options, b"")).close()
    finally:
        hba.write_text(before)
        postgres.sql("SELECT pg_reload_conf()")


@pytest.mark.parametrize("style", ["German", "SQL, DMY", "Postgres, MDY"])
@pytest.mark.parametrize("column", ["timestamptz", "timestamp"])
def test_a_watermark_in_a_style_of_the_country(
    postgres: Postgres, sources: list[SqlSource], style: str, column: str
) -> None:
    """However a database writes its times (`DateStyle`), it is listed and its changes are followed."""
    url = postgres.database("styled", f"CREATE TABLE r (address text, active int DEFAULT 1, stamp {column})")
    rows = "('ann@example.com', '2026-02-01'), ('eve@example.com', '2026-02-01')"
    postgres.sql(
        f"INSERT INTO r (address, stamp) VALUES {rows}; ALTER DATABASE styled SET DateStyle = '{style}'", "styled"
    )
    source = SqlSource("here", SqlOptions(url, "SELECT address, active, stamp FROM r", changed="stamp"))
    sources.append(source)
    listing = source.list()
    assert len(list(listing.records)) == 2
    suspend_eve(postgres, "styled", "'2026-03-02'")
    changes = source.changes(listing.cookie, 100)
    assert [(record.local, record.active) for _, (record,) in changes.upserts] == [("ann", True), ("eve", False)]
    assert b"2026-03-02" in changes.cookie


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
@pytest.mark.parametrize("column", ["double precision", "numeric"])
def test_a_watermark_that_is_no_number(postgres: Postgres, sources: list[SqlSource], column: str, value: str) -> None:
    """It is noted as one in the future, and the others' changes are followed by the largest that is a number."""
    url = postgres.database("nan", f"CREATE TABLE r (address text, active int DEFAULT 1, stamp {column})")
    rows = f"('ann@example.com', 1700000000), ('bob@example.com', '{value}'), ('eve@example.com', 1700000000)"
    postgres.sql(f"INSERT INTO r (address, stamp) VALUES {rows}", "nan")
    source = SqlSource("here", SqlOptions(url, "SELECT address, active, stamp FROM r", changed="stamp"))
    sources.append(source)
    changes = follows(source, lambda: suspend_eve(postgres, "nan", "1700000100"))
    assert b"1700000100" in changes.cookie


def test_a_long_version_number_is_not_rounded(postgres: Postgres, sources: list[SqlSource]) -> None:
    """`changed numeric` beyond what a float holds: who changed directly after the watermark is read."""
    url = postgres.database("long", "CREATE TABLE r (address text, active int DEFAULT 1, stamp numeric(30))")
    postgres.sql("INSERT INTO r VALUES ('ann@example.com', 1, 36028797018963973)", "long")
    source = SqlSource("here", SqlOptions(url, "SELECT address, active, stamp FROM r", changed="stamp"))
    sources.append(source)
    listing = source.list()
    assert len(list(listing.records)) == 1
    postgres.sql("INSERT INTO r VALUES ('eve@example.com', 0, 36028797018963974)", "long")
    postgres.sql("DELETE FROM r WHERE address LIKE 'ann%'", "long")
    changes = source.changes(listing.cookie, 100)
    assert [(record.local, record.active) for _, (record,) in changes.upserts] == [("eve", False)], changes.why


def test_a_policy_that_hides_rows_is_a_fault_where_none_is_meant(postgres: Postgres, sources: list[SqlSource]) -> None:
    """As docs/directories.md has it: with `row_security = off` a shorter answer is an error that names its cure."""
    rows = "CREATE TABLE r (address text); INSERT INTO r VALUES ('ann@example.com'), ('bob@example.com')"
    postgres.database("policies", f"{rows}; ALTER ROLE reader IN DATABASE policies SET row_security = off")
    source = SqlSource(
        "here", SqlOptions(postgres.url_of("policies", "reader", postgres.reader_password), "SELECT address FROM r")
    )
    sources.append(source)
    assert len(source.ask(NAMES, 2).records) == 2
    postgres.sql("ALTER TABLE r ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON r USING (address < 'b')", "policies")
    for read in (lambda: source.ask(NAMES, 2), lambda: list(source.list().records)):
        with pytest.raises(DirectoryError, match="row-level security") as caught:
            read()
        assert "BYPASSRLS" in caught.value.hint


def test_a_session_that_was_outlived_denies_nobody(postgres: Postgres, sources: list[SqlSource]) -> None:
    """Tables were moved to another schema by `search_path`, which an open session does not see: once the new ones were
    listed, look-ups ask them, too. A name that leads to another server is the same."""
    rows = "(address text); INSERT INTO {}r VALUES ('ann@example.com')"
    new = f"CREATE SCHEMA new; CREATE TABLE new.r {rows.format('new.')}, ('bob@example.com'); GRANT USAGE ON SCHEMA new"
    postgres.database("moved", f"CREATE TABLE r {rows.format('')}; {new} TO reader")
    url = postgres.url_of("moved", "reader", postgres.reader_password)
    live, listing = (SqlSource("here", SqlOptions(url, "SELECT address FROM r")) for _ in range(2))
    sources += [live, listing]
    assert [record[:2] for record in live.ask(NAMES, 2).records] == NAMES[:1]
    assert len(list(listing.list().records)) == 1
    kept = live._live
    assert [record[:2] for record in live.ask(NAMES, 2).records] == NAMES[:1]
    assert live._live is kept
    postgres.sql("ALTER ROLE reader IN DATABASE moved SET search_path = new, public")
    assert len(list(listing.list().records)) == 2
    assert [record[:2] for record in live.ask(NAMES, 2).records] == NAMES


def test_a_connection_that_was_idle_for_too_long_is_made_anew(postgres: Postgres, sources: list[SqlSource]) -> None:
    """`idle_session_timeout` ends it with the word timeout: the look-up that comes next is answered all the same."""
    url = postgres.database("idle", "CREATE TABLE r (address text); INSERT INTO r VALUES ('ann@example.com')")
    postgres.sql("ALTER DATABASE idle SET idle_session_timeout = '300ms'")
    source = SqlSource("here", SqlOptions(url, "SELECT address FROM r"))
    sources.append(source)
    for _ in range(2):
        assert [record[:2] for record in source.ask(NAMES, 2).records] == NAMES[:1]
        wait_for(lambda: not postgres.sql("SELECT 1 FROM pg_stat_activity WHERE datname = 'idle'").strip(), 30)
    assert [record[:2] for record in source.ask(NAMES, 2).records] == NAMES[:1]


@pytest.mark.parametrize("column", ["bytea", "jsonb", "xml"])
def test_addresses_that_are_no_text_are_a_fault_with_its_cure(
    postgres: Postgres, sources: list[SqlSource], column: str
) -> None:
    """They can be listed; a look-up has no lower() for them."""
    url = postgres.database("notext", f"CREATE TABLE r (address {column})")
    source = SqlSource("here", SqlOptions(url, "SELECT address FROM r"))
    sources.append(source)
    with pytest.raises(DirectoryError, match="lower") as caught:
        source.ask(NAMES, 2)
    assert "CAST(" in caught.value.hint


def test_who_listens_may_be_idle(postgres: Postgres) -> None:
    """`idle_session_timeout` ended it again and again, and what was notified before it came back was found late."""
    url = postgres.database("listening", "ALTER DATABASE listening SET idle_session_timeout = '300ms'")
    listener = Listener(Directory("here", "sql", SqlOptions(url, "SELECT 1"), b""))
    with psycopg.connect(host=postgres.host, port=postgres.port, user="postgres", dbname="listening") as other:
        number = other.info.backend_pid
        other.commit()
        wait_for(lambda: not postgres.sql(f"SELECT 1 FROM pg_stat_activity WHERE pid = {number}").strip(), 30)
    postgres.sql("NOTIFY splitmx", "listening")
    wait_for(lambda: bool(listener.received()), 30)
    listener.close()
