# SPDX-License-Identifier: Apache-2.0
"""SQL directories on the real databases."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.directories.databases import QUERY, Database, listed, names, open_database, pair
from tests.servers import MariaDb, Postgres
from transport.config.settings import SqlOptions
from transport.directories.base import DirectoryError, DirectoryTimeout
from transport.directories.sql import SqlSource
from transport.lookup import one
from transport.record import Kind, Record

KINDS = ("sqlite", "postgresql", "mariadb")
pytestmark = pytest.mark.directory


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A fresh database of each kind in turn."""
    made = open_database(request.param, request, tmp_path)
    yield made
    for source in made.sources:
        source.close()


def test_every_column_becomes_its_part_of_the_record(database: Database) -> None:
    """Kind, targets, location and active are read, in any case, with NULL and '' as their defaults."""
    database.run(
        """INSERT INTO recipients VALUES
        ('Ann@Example.COM', NULL, NULL, NULL, NULL), ('sales@example.com', 'Group', 'ann@example.com, bob@example.com
        carl@example.net', '', 1), ('bob@example.com', '', '', 'cloud', 0),
        ('info@example.com', 'ALIAS', 'Ann@example.com', NULL, 1)"""
    )
    found = listed(database.source().list())
    assert found == {
        "ann@example.com": Record("ann", "example.com"),
        "sales@example.com": Record(
            "sales", "example.com", Kind.GROUP, targets=("ann@example.com", "bob@example.com", "carl@example.net")
        ),
        "bob@example.com": Record("bob", "example.com", active=False, location="cloud"),
        "info@example.com": Record("info", "example.com", Kind.ALIAS, targets=("ann@example.com",)),
    }


def test_only_address_is_required(database: Database) -> None:
    """A query of one column lists mailboxes, under any case of the column's name."""
    database.people("ann@example.com")
    assert listed(database.source("SELECT address FROM recipients;").list()) == {
        "ann@example.com": Record("ann", "example.com")
    }


def test_a_query_without_address_says_what_to_write(database: Database) -> None:
    """The fault names the columns there are, and the cure."""
    with pytest.raises(DirectoryError) as caught:
        list(database.source("SELECT kind FROM recipients").list().records)
    assert "kind" in caught.value.what
    assert "AS address" in caught.value.hint


def test_nonsense_is_skipped_and_counted(database: Database) -> None:
    """No address, two at once, blanks: counted, named, and nobody else is harmed."""
    database.people("", "   ", "nobody", "a@example.com, b@example.com", "a b@example.com", "@example.com", "ann@")
    database.people("ok@example.com", "a@b@example.com")
    database.run("INSERT INTO recipients (address, kind) VALUES (NULL, NULL)")
    listing = database.source().list()
    assert set(listed(listing)) == {"ok@example.com"}
    assert listing.skipped.count == 9


def test_a_kind_nobody_knows_takes_nobody_away(database: Database) -> None:
    """Who has a row is listed, whatever stands in the column for the kind: as a mailbox, named and counted."""
    database.run("INSERT INTO recipients (address, kind) VALUES ('robot@example.com', 'robot')")
    listing = database.source().list()
    assert listed(listing) == {"robot@example.com": Record("robot", "example.com")}
    said = "kind 'robot' is none of mailbox, alias, group: taken as mailbox"
    assert ("robot@example.com", said) in listing.skipped.first
    assert names(database.source().ask([pair("robot@example.com")], 1)) == {"robot@example.com"}


@pytest.mark.parametrize("exact", [False, True])
def test_case_never_hides_a_recipient(database: Database, exact: bool) -> None:
    """A live look-up finds what the listing finds, whatever the case in the table."""
    database.people("ann@example.com" if exact else "Ann.Smith@Example.COM")
    wanted = pair("ann@example.com" if exact else "ann.smith@example.com")
    assert names(database.source(exact_case=exact).ask([wanted], 1)) == {"@".join(wanted)}


def test_collation_never_makes_a_recipient(database: Database) -> None:
    """What a database takes for equal (accents, trailing blanks, wildcards) is not equal for us."""
    database.people("rené@example.com", "ann@example.com ", "bob@example.com")
    asked = [pair("rene@example.com"), pair("ann@example.com"), pair("%@example.com"), pair("_ob@example.com")]
    assert names(database.source().ask(asked, 1)) == set()
    assert names(database.source().ask([pair("rené@example.com")], 1)) == {"rené@example.com"}


def test_a_hostile_address_is_only_a_value(database: Database) -> None:
    """Quotes, backslashes, comments and placeholders in an address change nothing and find nothing."""
    database.people("ann@example.com", "o'brien@example.com", 'we"ird@example.com', "back\\slash@example.com")
    hostile = [
        "' OR '1'='1", "'; DROP TABLE recipients; --", "x') OR 1=1 --", "\\' OR 1=1 #", "%s", "%(x)s", ":addresses",
        "${x}", "{0}", "`id`", "\x1b[31m", "a\x00b", "\udce9",
    ]  # fmt: skip
    source = database.source()
    asked = [(word, "example.com") for word in hostile] + [("x", "example.com' OR ''='")]
    assert names(source.ask(asked, 1)) == set()
    special = [("o'brien", "example.com"), ('we"ird', "example.com"), ("back\\slash", "example.com")]
    assert {r.local for r in source.ask(special, 1).records} == {"o'brien", 'we"ird', "back\\slash"}
    assert "ann@example.com" in listed(source.list())


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ('"john doe"@example.com', ("john doe", "example.com")),
        ("two..dots@example.com", ("two..dots", "example.com")),
        ('"two..dots"@example.com', ("two..dots", "example.com")),
        ("ann@bücher.example", ("ann", "xn--bcher-kva.example")),
        ("ann@xn--bcher-kva.example", ("ann", "xn--bcher-kva.example")),
        ("ann@BÜCHER.example", ("ann", "xn--bcher-kva.example")),
        ("jörg@example.com", ("jörg", "example.com")),
        ("JÖRG@example.com", ("jörg", "example.com")),
        ("straße@example.com", ("strasse", "example.com")),
    ],
)
def test_every_spelling_is_found_live_and_listed(database: Database, stored: str, asked: tuple[str, str]) -> None:
    """Quoted or not, U-label or A-label: a listing and a live look-up agree."""
    database.people(stored)
    source = database.source()
    assert [record[:2] for record in source.list().records] == [asked]
    assert [record[:2] for record in source.ask([asked], 1).records] == [asked]


def test_lookup_replaces_the_wrapped_query(database: Database) -> None:
    """`lookup` with :addresses, in parentheses or not, beside colons and percents that are the query's own."""
    database.people("ann@example.com", "bob@example.com")
    for form in ("IN :addresses", "IN (:addresses)", "IN ( :addresses ) AND address NOT LIKE 'x:%'"):
        source = database.source(lookup=f"SELECT address FROM recipients WHERE address {form}")
        assert names(source.ask([pair("ann@example.com"), pair("zoe@example.com")], 1)) == {"ann@example.com"}


def test_a_query_keeps_its_own_signs(database: Database) -> None:
    """Percents, colons, comments and a last semicolon in the query are no parameters of ours."""
    database.people("ann@example.com", "bob@example.net")
    query = "SELECT address, 'a:b%' AS location FROM recipients WHERE address LIKE '%@example.com' -- :all, 100%\n;"
    source = database.source(query)
    assert listed(source.list()) == {"ann@example.com": Record("ann", "example.com", location="a:b%")}
    assert names(source.ask([pair("ann@example.com"), pair("bob@example.net")], 1)) == {"ann@example.com"}


@pytest.mark.parametrize(
    "rows",
    [
        "'alias', 'x@example.net', NULL, 1), ('ANN@example.com', 'mailbox', 'y@example.net', NULL, 1",
        "'mailbox', NULL, NULL, 0), ('ann@example.com', 'alias', 'ann@example.com,x@example.net', 'cloud', 1",
        "NULL, 'x@example.net', 'here', 0), ('ann@example.com', NULL, 'y@example.net', 'cloud', 1",
        "'group', 'x@example.net', NULL, 1), ('ann@example.com', 'alias', 'y@example.net', 'here', 1",
    ],
)
def test_the_same_address_twice_is_one_answer(database: Database, rows: str) -> None:
    """The one that the index makes of the same rows: else each told change would turn what the compare wrote."""
    database.run(f"INSERT INTO recipients VALUES ('ann@example.com', {rows})")
    source = database.source()
    listed_ = one(sorted(source.list().records, key=lambda record: record.kind))
    assert source.ask([pair("ann@example.com")], 1).records == [listed_]


def test_fifty_addresses_are_one_answer(database: Database) -> None:
    """A full batch is answered wholly."""
    people = [f"user{i}@example.com" for i in range(50)]
    database.people(*people)
    assert names(database.source().ask([pair(p) for p in people], 2)) == set(people)


def test_a_listing_streams(database: Database) -> None:
    """More rows than one fetch arrive all."""
    rows = ",".join(f"('user{i}@example.com')" for i in range(5003))
    database.run(f"INSERT INTO recipients (address) VALUES {rows}")
    assert sum(1 for _ in database.source("SELECT address FROM recipients").list().records) == 5003


def test_the_live_query_only_reads(database: Database) -> None:
    """A query that writes is refused by the database."""
    source = database.source(lookup="DELETE FROM recipients WHERE address IN :addresses")
    database.people("ann@example.com")
    with pytest.raises(DirectoryError):
        source.ask([pair("ann@example.com")], 1)
    assert "ann@example.com" in listed(database.source().list())


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("SELECT address FROM absent", "tables in `query`"),
        ("SELECT adress FROM recipients", "`name AS address`"),
        ("SELECT address FRM recipients", "not valid"),
    ],
)
def test_a_wrong_query_is_explained(database: Database, query: str, hint: str) -> None:
    """An unknown table, an unknown column and a slip each say what to do, for the listing and live."""
    source = database.source(query)
    with pytest.raises(DirectoryError) as caught:
        list(source.list().records)
    assert hint in caught.value.hint
    with pytest.raises(DirectoryError) as caught:
        source.ask([pair("ann@example.com")], 1)
    assert hint in caught.value.hint
    assert not isinstance(caught.value, DirectoryTimeout)


def test_explain_finds_the_full_scan_and_its_cure(database: Database) -> None:
    """Over 10,000 rows without an index are a fault; the statement it prints cures it."""
    rows = ",".join(f"('user{i}@example.com')" for i in range(12000))
    database.run(f"INSERT INTO recipients (address) VALUES {rows}")
    database.run("ANALYZE TABLE recipients" if database.kind == "mariadb" else "ANALYZE")
    source = database.source()
    before = source.explain_live()
    assert list(before.scans) in (["recipients"], ["q"])
    assert not before.ok
    database.run(before.cure.partition(";")[0])
    database.run("ANALYZE TABLE recipients" if database.kind == "mariadb" else "ANALYZE")
    after = source.explain_live()
    assert after.ok, after
    assert after.cure == ""


def test_a_small_table_needs_no_index(database: Database) -> None:
    """A scan of a few rows is no fault."""
    database.people("ann@example.com")
    assert database.source().explain_live().ok


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_a_slow_query_ends_at_its_deadline(database: Database) -> None:
    """A query that takes longer than its time is a time-out, and the next one works."""
    database.people("ann@example.com")
    sleep = "pg_sleep(5)" if database.kind == "postgresql" else "sleep(5)"
    slow = database.source(lookup=f"SELECT address, {sleep} AS x FROM recipients WHERE address IN :addresses")
    with pytest.raises(DirectoryTimeout):
        slow.ask([pair("ann@example.com")], 0.3)
    assert names(database.source().ask([pair("ann@example.com")], 1)) == {"ann@example.com"}


@pytest.mark.parametrize(
    ("kind", "driver"), [("postgres", ""), ("postgres", "+psycopg"), ("mariadb", ""), ("mariadb", "+pymysql")]
)
def test_a_hung_server_is_a_timeout_and_comes_back(
    kind: str, driver: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """SIGSTOP: every look-up ends in time, on an open connection and on a new one, whether the URL names the driver or
    not; afterwards all is well."""
    server: Postgres | MariaDb = request.getfixturevalue(kind)
    database = open_database({"postgres": "postgresql"}.get(kind, kind), request, tmp_path)
    scheme, rest = database.url.split("://", 1)
    database.url = f"{scheme.partition('+')[0]}{driver}://{rest}"
    database.people("ann@example.com")
    source = database.source()
    asked = [pair("ann@example.com")]
    assert names(source.ask(asked, 1)) == {"ann@example.com"}
    server.hang()
    try:
        for _ in range(2):
            with pytest.raises(DirectoryTimeout):
                source.ask(asked, 0.3)
    finally:
        server.cont()
    assert names(source.ask(asked, 2)) == {"ann@example.com"}
    source.close()


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
def test_a_restarted_server_is_asked_again_without_a_fault(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A connection that died while idle is replaced at once; a server that is down says so."""
    server: Postgres | MariaDb = request.getfixturevalue(kind)
    database = open_database({"postgres": "postgresql"}.get(kind, kind), request, tmp_path)
    database.people("ann@example.com")
    source = database.source()
    asked = [pair("ann@example.com")]
    assert names(source.ask(asked, 1)) == {"ann@example.com"}
    server.restart()
    assert names(source.ask(asked, 1)) == {"ann@example.com"}
    server.stop()
    try:
        with pytest.raises(DirectoryError) as caught:
            source.ask(asked, 1)
    finally:
        server.start()
    assert "running" in caught.value.hint
    assert not isinstance(caught.value, DirectoryTimeout)


def test_a_wrong_password_is_named_and_never_shown(postgres: Postgres, mariadb: MariaDb) -> None:
    """The fault says which file to look at, without the secret."""
    secret = "wr0ng/pa:ss'word"
    for url in (postgres.url_of("postgres", "reader", secret), mariadb.url_of("mysql", "app", secret)):
        source = SqlSource("here", SqlOptions(url, "SELECT 1 AS address"))
        with pytest.raises(DirectoryError) as caught:
            list(source.list().records)
        assert "password_file" in caught.value.hint
        assert secret not in caught.value.what + caught.value.hint + repr(source)
    good = postgres.url_of("postgres", "reader", postgres.reader_password)
    assert list(SqlSource("here", SqlOptions(good, "SELECT 'ann@example.com' AS address")).list().records)


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg the fault is the command that installs it."""
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(DirectoryError) as caught:
        SqlSource("here", SqlOptions("postgresql://x@127.0.0.1/y", QUERY)).ask([("a", "b")], 1)
    assert caught.value.hint == "pip install 'splitmx[postgresql]'"


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("postgres://x@127.0.0.1/y", "postgresql+psycopg"),
        ("postgresql+psycopg2://x@127.0.0.1/y", "postgresql+psycopg"),
        ("mysql+mysqldb://x@127.0.0.1/y", "mysql+pymysql"),
    ],
)
def test_another_programs_spelling_of_a_url_names_ours(monkeypatch: pytest.MonkeyPatch, url: str, meant: str) -> None:
    """A driver that no extra installs, and a name that SQLAlchemy gave up, are answered with what to write."""
    for name in ("psycopg2", "MySQLdb"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DirectoryError) as caught:
        SqlSource("here", SqlOptions(url, QUERY)).ask([("a", "b")], 1)
    assert caught.value.hint == f"write {meant}:// in `url`"


@pytest.mark.parametrize("url", ["", "nonsense", "foo://x", "postgresql+psycopg://h:port/x"])
def test_a_wrong_url_is_a_plain_fault(url: str) -> None:
    """No traceback of a library for a slip in the configuration."""
    with pytest.raises(DirectoryError):
        SqlSource("here", SqlOptions(url, QUERY)).ask([("a", "b")], 1)


def test_postgresql_char_columns_are_read_without_their_padding(postgres: Postgres) -> None:
    """CHAR(n) pads with blanks, which are not the address's."""
    url = postgres.database("padded", "CREATE TABLE r (address CHAR(40)); INSERT INTO r VALUES ('Ann@example.com')")
    source = SqlSource("here", SqlOptions(url, "SELECT address FROM r"))
    assert [r.local for r in source.list().records] == ["ann"]
    assert names(source.ask([("ann", "example.com")], 1)) == {"ann@example.com"}
    source.close()


def test_many_threads_each_with_a_source(database: Database) -> None:
    """Four sources in four threads answer at once."""
    database.people("ann@example.com")
    answers: list[set[str]] = []

    def work() -> None:
        source = SqlSource("here", SqlOptions(database.url, QUERY))
        for _ in range(20):
            answers.append(names(source.ask([pair("ann@example.com")], 2)))
        source.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [{"ann@example.com"}] * 80


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
def test_a_database_in_latin1(kind: str, request: pytest.FixtureRequest) -> None:
    """What its encoding cannot hold is nobody's, and does not harm the others in a batch."""
    rows = "INSERT INTO r VALUES ('jörg@example.com'), ('ann@example.com')"
    if kind == "postgres":
        postgres: Postgres = request.getfixturevalue(kind)
        postgres.sql("DROP DATABASE IF EXISTS latin1")
        postgres.sql("CREATE DATABASE latin1 ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
        postgres.sql(f"SET client_encoding = utf8; CREATE TABLE r (address text); {rows}", "latin1")
        url = postgres.url_of("latin1")
    else:
        mariadb: MariaDb = request.getfixturevalue(kind)
        url = mariadb.database("latin1")
        mariadb.sql(f"CREATE TABLE r (address VARCHAR(99) CHARACTER SET latin1); {rows}", "latin1")
    source = SqlSource("here", SqlOptions(url, "SELECT address FROM r"))
    assert {r.local for r in source.list().records} == {"jörg", "ann"}
    asked = [(name, "example.com") for name in ("日本", "ann", "😀", "jörg", "a\u200db")]
    assert {r.local for r in source.ask(asked, 2).records} == {"jörg", "ann"}
    source.close()
