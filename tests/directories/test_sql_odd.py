# SPDX-License-Identifier: Apache-2.0
"""SQL directories with odd columns and odd values: listing and live look-up say the same of them."""

from __future__ import annotations

import gc
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.directories.databases import Database, open_database
from tests.servers import MariaDb
from transport.config.settings import SqlOptions
from transport.directories.base import DirectoryError, Skipped
from transport.directories.reading import targets_in
from transport.directories.sql import SqlSource
from transport.record import Record

pytestmark = pytest.mark.directory


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A fresh database of each kind in turn."""
    made = open_database(request.param, request, tmp_path)
    yield made
    for source in made.sources:
        source.close()


@pytest.mark.parametrize("column", ["VARBINARY(320)", "BLOB", "VARCHAR(320) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"])
def test_a_column_of_octets_is_searched_without_regard_to_case(mariadb: MariaDb, column: str) -> None:
    """lower() of MariaDB leaves octets as they are: who is listed in capitals was never found, and as a canary made
    the directory a liar."""
    url = mariadb.database("octets")
    rows = "INSERT INTO r VALUES ('Ann@Example.com'), ('bob@example.com'), ('JÖRG@example.com')"
    mariadb.sql(f"CREATE TABLE r (address {column}); {rows}", "octets")
    source = SqlSource("here", SqlOptions(url, "SELECT address FROM r"))
    everyone = [record[:2] for record in source.list().records]
    assert everyone == [("ann", "example.com"), ("bob", "example.com"), ("jörg", "example.com")]
    assert [record[:2] for record in source.ask(everyone, 1).records] == everyone
    source.close()


INFO = ("INFO@INFO.EXAMPLE", "Info@EXAMPLE.com", "IRIS@info.example", "iris@EXAMPLE.COM", "bob@example.com")


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_capitals_in_a_turkish_database(request: pytest.FixtureRequest, kind: str) -> None:
    """Its lower() makes ı of I: who stands there in capitals is found all the same, and is no stranger."""
    rows = ", ".join(f"('{one}')" for one in INFO)
    server = request.getfixturevalue("postgres" if kind == "postgresql" else "mariadb")
    if kind == "postgresql":
        server.sql("DROP DATABASE IF EXISTS turkish")
        locale = "LOCALE_PROVIDER icu ICU_LOCALE 'tr' LOCALE 'C.UTF-8'"
        server.sql(f"CREATE DATABASE turkish {locale} ENCODING 'UTF8' TEMPLATE template0")
        url = server.url_of("turkish")
    else:
        url = server.database("turkish", collation="utf8mb4_turkish_ci")
    server.sql(f"CREATE TABLE r (address varchar(200)); INSERT INTO r VALUES {rows}", "turkish")
    source = SqlSource("here", SqlOptions(url, "SELECT address FROM r"))
    everyone = {record[:2] for record in source.list().records}
    assert len(everyone) == len(INFO)
    assert {record[:2] for record in source.ask(sorted(everyone), 1).records} == everyone
    source.close()


@pytest.mark.parametrize(
    "column", ["BIT(1)", "BIT(16)", "BINARY(4)", "CHAR(9)", "ENUM('0', '1')", "SET('0', '1')", "DOUBLE"]
)
def test_a_state_of_any_type_of_mariadb(mariadb: MariaDb, column: str) -> None:
    """Who is switched off in a column of bits, or of octets that are filled up with zeros, is suspended."""
    off, on = ("0", "1") if column.startswith("BIT") else ("'0'", "'1'")
    rows = f"('ann@example.com', {on}), ('bob@example.com', {off})"
    url = mariadb.database(
        "states", f"CREATE TABLE r (address varchar(60), active {column}); INSERT INTO r VALUES {rows}"
    )
    source = SqlSource("here", SqlOptions(url, "SELECT address, active FROM r"))
    assert [(record.local, record.active) for record in source.list().records] == [("ann", True), ("bob", False)]
    source.close()


def test_settings_of_mariadb_cut_nothing(mariadb: MariaDb) -> None:
    """GROUP_CONCAT gives all members of a group whatever its limit is, and a padded CHAR column its addresses."""
    members = ", ".join(f"('all@example.com', 'member{n}@example.com')" for n in range(100))
    url = mariadb.database("cut", f"CREATE TABLE r (address char(60), member text); INSERT INTO r VALUES {members}")
    mode = mariadb.sql("SELECT @@GLOBAL.sql_mode").strip()
    mariadb.sql(f"SET GLOBAL group_concat_max_len = 1024, GLOBAL sql_mode = '{mode},PAD_CHAR_TO_FULL_LENGTH'")
    query = "SELECT address, 'group' AS kind, GROUP_CONCAT(member) AS targets FROM r GROUP BY address"
    source = SqlSource("here", SqlOptions(url, query))
    try:
        for found in (list(source.list().records), source.ask([("all", "example.com")], 1).records):
            assert [(record.local, len(record.targets)) for record in found] == [("all", 100)]
    finally:
        source.close()
        mariadb.sql(f"SET GLOBAL group_concat_max_len = DEFAULT, GLOBAL sql_mode = '{mode}'")


@pytest.mark.parametrize("how", ["killed", "given up"])
def test_a_listing_that_ends_early_prints_nothing(mariadb: MariaDb, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """A connection that is lost among the rows is a fault, and one that is given up is gone: neither is a traceback."""
    rows = "INSERT INTO r SELECT CONCAT('user', seq, '@example.com') FROM seq_1_to_100000"
    url = mariadb.database("early", f"CREATE TABLE r (address varchar(99)); {rows}")
    source = SqlSource("here", SqlOptions(url, "SELECT address, repeat('x', 200) AS other FROM r"))
    seen: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: seen.append(what.exc_value))
    monkeypatch.setattr(warnings, "warn", lambda what, *_: seen.append(what))
    listing = source.list()
    next(listing.records)
    if how == "killed":
        number = mariadb.sql("SELECT id FROM information_schema.processlist WHERE db = 'early' AND user = 'app'")
        mariadb.sql(f"KILL {number.strip()}")
        with pytest.raises(DirectoryError, match="Lost connection"):
            list(listing.records)
    listing.close()
    source.close()
    gc.collect()
    assert seen == []


def test_names_in_mixed_case_beyond_ascii_are_found(database: Database) -> None:
    """Where lower() of the database folds only ASCII, each word may still begin with a capital."""
    database.people(
        "Émile.Müller@example.com", "ANNA-MÄRIA@example.com", "Øyvind.Ålesund@example.com", "élan@example.com"
    )
    source = database.source()
    everyone = {record[:2] for record in source.list().records}
    assert len(everyone) == 4
    assert {record[:2] for record in source.ask(sorted(everyone), 1).records} == everyone


def test_greek_and_german_names_are_found(database: Database) -> None:
    """Folding makes ς a σ and ß ss: who is listed as people write the name is found by a live look-up, too."""
    database.people("Γιώργος@example.com", "νίκος.παπάς@example.com", "Übergröße@example.com")
    source = database.source()
    everyone = {record[:2] for record in source.list().records}
    assert len(everyone) == 3
    assert {record[:2] for record in source.ask(sorted(everyone), 1).records} == everyone


def test_a_column_that_is_not_utf8_hides_nobody_from_a_live_look_up(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """As for a listing: the address is read, whatever else stands in its row. It may be a canary."""
    database = open_database("sqlite", request, tmp_path)
    database.run("INSERT INTO recipients (address, location) VALUES ('ann@example.com', CAST(X'4DFC' AS TEXT))")
    source = database.source()
    everyone = list(source.list().records)
    assert everyone == [Record("ann", "example.com", location="M?")]
    assert source.ask([("ann", "example.com")], 1).records == everyone


def test_an_empty_table_decides_nothing_for_ever(mariadb: MariaDb) -> None:
    """The first question came before the first row: its collation was not to be seen yet."""
    url = mariadb.database("octets")
    mariadb.sql("CREATE TABLE r (address VARBINARY(99))", "octets")
    source = SqlSource("here", SqlOptions(url, "SELECT address FROM r"))
    assert source.ask([("ann", "example.com")], 1).records == []
    mariadb.sql("INSERT INTO r VALUES ('Ann@Example.com')", "octets")
    assert source.ask([("ann", "example.com")], 1).records == [Record("ann", "example.com")]
    source.close()


@pytest.mark.parametrize("how", ["sql_select_limit = 2", "init_connect = 'SET sql_select_limit = 2'"])
def test_a_limit_of_the_server_cuts_no_listing(mariadb: MariaDb, how: str) -> None:
    """MariaDB ends every result there and says success: a listing would be short without a word."""
    rows = ", ".join(f"('u{n}@example.com')" for n in range(9))
    mariadb.database("cut", f"CREATE TABLE r (address varchar(99)); INSERT INTO r VALUES {rows}")
    mariadb.sql("CREATE OR REPLACE USER plain@'%' IDENTIFIED BY 'secret'; GRANT SELECT ON cut.* TO plain@'%'")
    source = SqlSource("here", SqlOptions(mariadb.url_of("cut", "plain", "secret"), "SELECT address FROM r"))
    mariadb.sql(f"SET GLOBAL {how}")
    try:
        assert len(list(source.list().records)) == 9
    finally:
        mariadb.sql("SET GLOBAL sql_select_limit = DEFAULT; SET GLOBAL init_connect = ''")
        source.close()


@pytest.mark.parametrize(
    "change", ["VARCHAR(99) COLLATE utf8mb4_bin", "VARBINARY(99)", "VARCHAR(99) COLLATE utf8mb4_unicode_ci"]
)
@pytest.mark.parametrize("beside", [[("ann", "example.com")], []])
def test_a_column_that_is_given_another_collation(mariadb: MariaDb, change: str, beside: list[tuple[str, str]]) -> None:
    """While we are connected: who stands there in capitals is found as before, with and without a canary beside."""
    rows = "INSERT INTO r VALUES ('ann@example.com'), ('Bob@Example.com')"
    for first in ("VARCHAR(99) COLLATE utf8mb4_general_ci", "VARBINARY(99)"):
        url = mariadb.database("altered", f"CREATE TABLE r (address {first}); {rows}")
        source = SqlSource("here", SqlOptions(url, "SELECT address FROM r"))
        asked = [("bob", "example.com"), *beside]
        assert len(source.ask(asked, 2).records) == len(asked)
        mariadb.sql(f"ALTER TABLE r MODIFY address {change}", "altered")
        assert len(source.ask(asked, 2).records) == len(asked)
        source.close()


def test_a_state_with_decimals_is_a_state(database: Database) -> None:
    """NUMERIC(4,2), or an average, as drivers give it: 0.00 is no, not an unknown word."""
    database.run("CREATE TABLE r (address VARCHAR(99), active NUMERIC(4,2))")
    database.run("INSERT INTO r VALUES ('ann@example.com', 0), ('bob@example.com', 1), ('eve@example.com', NULL)")
    listing = database.source("SELECT address, active FROM r").list()
    assert [(record.local, record.active) for record in listing.records] == [
        ("ann", False),
        ("bob", True),
        ("eve", True),
    ]
    assert listing.skipped.count == 0


def test_a_write_that_was_never_ended_is_a_fault_with_its_cure(tmp_path: Path) -> None:
    """A killed writer left its journal: who may only read cannot roll it back, and answers nothing meanwhile."""
    path = tmp_path / "people.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE r (address TEXT)")
        connection.execute("INSERT INTO r VALUES ('ann@example.com')")
        connection.commit()
    script = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('PRAGMA cache_size = 1'); c.execute('BEGIN'); c.execute('DELETE FROM r');"
        "c.executemany('INSERT INTO r VALUES (?)', [('x' * 500,)] * 3000); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    with closing(SqlSource("here", SqlOptions(f"sqlite:///{path}", "SELECT address FROM r"))) as source:
        for attempt in (lambda: list(source.list().records), lambda: source.ask([("ann", "example.com")], 1)):
            with pytest.raises(DirectoryError) as caught:
                attempt()
            assert "-journal" in caught.value.hint
        with closing(sqlite3.connect(path)) as connection:  # as its own program does
            assert connection.execute("SELECT count(*) FROM r").fetchone() == (1,)
        assert [record.local for record in source.ask([("ann", "example.com")], 1).records] == ["ann"]


ARRAYS = {
    "sqlite": ["json_group_array(t)"],
    "mariadb": ["json_arrayagg(t)"],
    "postgresql": ["array_agg(t)", "CAST(array_agg(t) AS text)", "json_agg(t)", "CAST(jsonb_agg(t) AS text)"],
}


def test_targets_in_an_array_are_its_elements(database: Database) -> None:
    """As databases put the members of a group together: none is lost, and none is made of brackets and quotes."""
    several = ["eve@example.com", '"to be"@example.net', "bob@example.com"]
    words = ", ".join(f"('{word}')" for word in several)
    for makes in ARRAYS[database.kind]:
        for table in (f"(VALUES {words})", "(VALUES ('eve@example.com'))"):
            rows = (
                f"WITH m (t) AS {table} SELECT 'all@example.com' AS address, 'group' AS kind, {makes} AS targets FROM m"
            )
            expected = several if words in table else several[:1]
            source = database.source(rows)
            (live,) = source.ask([("all", "example.com")], 2).records
            (listed,) = source.list().records
            assert sorted(listed.targets) == sorted(live.targets) == sorted(expected), makes


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 9_999 + "}", '["' * 9_999, '["eve@example.com"', "[1, [2]]"])
def test_brackets_that_are_no_array_are_no_target(text: str) -> None:
    """They are noted, and end nothing."""
    skipped = Skipped()
    assert targets_in(text, skipped, "all@example.com") == ((), False)
    assert skipped.count or text.startswith("{")


def test_semicolons_separate_targets(database: Database) -> None:
    """As other programs write lists: everybody in them gets the mail."""
    database.run("INSERT INTO recipients (address, kind, targets) VALUES"
                 " ('all@example.com', 'alias', 'eve@example.com; bob@example.com;')")  # fmt: skip
    (live,) = database.source().ask([("all", "example.com")], 2).records
    assert live.targets == ("eve@example.com", "bob@example.com")
