# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL shows a table as empty to whoever waited for it while it was emptied and filled, or rewritten."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest

from tests.mta.waiting import wait_for
from tests.servers import Postgres
from transport.config.settings import SqlOptions
from transport.directories.base import DirectoryError
from transport.directories.sql import SqlSource

pytestmark = pytest.mark.directory

FILL = "INSERT INTO {} SELECT 'a' || n || '@example.com' FROM generate_series(1, 10) n"
TABLES = (
    "CREATE TABLE mailbox (address text, stamp int DEFAULT 1); CREATE TABLE alias (address text, stamp int DEFAULT 1);"
    " INSERT INTO mailbox SELECT 'm' || n || '@example.com' FROM generate_series(1, 90) n;"
    f" {FILL.format('alias')}; CREATE TABLE new (address text, stamp int DEFAULT 1);"
)
EVERYBODY = "SELECT address, stamp FROM mailbox UNION ALL SELECT address, stamp FROM alias"
VIEW = f"CREATE VIEW everybody AS {EVERYBODY};"
FUNCTION = (
    "CREATE TYPE pair AS (address text, stamp int); CREATE FUNCTION everybody() RETURNS SETOF pair LANGUAGE plpgsql AS"
    " $$ BEGIN RETURN QUERY SELECT address, stamp FROM mailbox;"
    " RETURN QUERY SELECT address, stamp FROM alias; END $$;"
)
RELOAD = ["TRUNCATE alias", FILL.format("alias")]


@pytest.fixture
def other(postgres: Postgres) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Another program's connection to a fresh database with mailboxes and aliases."""
    postgres.database("exchanged", TABLES)
    with closing(psycopg.connect(host=postgres.host, port=postgres.port, user="postgres", dbname="exchanged")) as one:
        yield one


@pytest.mark.parametrize(
    ("more", "query", "changed", "script"),
    [
        ("", EVERYBODY, "", RELOAD),
        ("", EVERYBODY, "stamp", RELOAD),
        (VIEW, "SELECT * FROM everybody", "", RELOAD),
        (FUNCTION, "SELECT * FROM everybody()", "", RELOAD),
        ("", EVERYBODY, "", ["ALTER TABLE alias ADD other double precision DEFAULT random()"]),
        ("", EVERYBODY, "", ["DROP TABLE alias", "CREATE TABLE alias (LIKE mailbox)", FILL.format("alias")]),
        (
            "",
            EVERYBODY,
            "",
            ["ALTER TABLE alias RENAME TO old", FILL.format("new"), "ALTER TABLE new RENAME TO alias"],
        ),
    ],
    ids=["truncate", "watermark", "view", "function", "rewritten", "made anew", "renamed"],
)
def test_a_table_that_is_exchanged_when_a_listing_begins(
    postgres: Postgres, other: psycopg.Connection[tuple[object, ...]], more: str, query: str, changed: str,
    script: list[str],
) -> None:  # fmt: skip
    """The aliases, few enough for every guard, do not leave because they were loaded anew in a transaction."""
    postgres.sql(more, "exchanged")
    url = postgres.url_of("exchanged", "reader", postgres.reader_password)
    with closing(SqlSource("here", SqlOptions(url, query, changed=changed))) as source, ThreadPoolExecutor(1) as pool:
        for statement in script:
            other.execute(statement)
        reading = pool.submit(lambda: len(list(source.list().records)))
        wait_for(lambda: postgres.sql("SELECT 1 FROM pg_locks WHERE NOT granted").strip() == "1", 30)
        other.commit()
        with pytest.raises(DirectoryError, match="alias was emptied") as caught:
            reading.result(30)
        assert "read again" in caught.value.hint
        assert len(list(source.list().records)) == 100


def test_a_materialized_view_that_is_refreshed_is_whole(
    postgres: Postgres, other: psycopg.Connection[tuple[object, ...]]
) -> None:
    """Its new rows are for every snapshot: where it is refreshed all the time, it can be listed all the time."""
    postgres.sql(f"CREATE MATERIALIZED VIEW everybody AS {EVERYBODY}; GRANT SELECT ON everybody TO reader", "exchanged")
    url = postgres.url_of("exchanged", "reader", postgres.reader_password)
    with (
        closing(SqlSource("here", SqlOptions(url, "SELECT * FROM everybody"))) as source,
        ThreadPoolExecutor(1) as pool,
    ):
        other.execute("REFRESH MATERIALIZED VIEW everybody")
        reading = pool.submit(lambda: len(list(source.list().records)))
        wait_for(lambda: postgres.sql("SELECT 1 FROM pg_locks WHERE NOT granted").strip() == "1", 30)
        other.commit()
        assert reading.result(30) == 100


def test_a_user_who_may_not_read_locks_is_served(postgres: Postgres) -> None:
    """Whether tables were exchanged cannot be told there, as on kin of PostgreSQL; everybody is listed."""
    postgres.database("hardened", "CREATE TABLE r (address text); INSERT INTO r VALUES ('ann@example.com')")
    postgres.sql(
        "REVOKE SELECT ON pg_locks FROM PUBLIC; CREATE ROLE plain LOGIN; GRANT SELECT ON r TO plain", "hardened"
    )
    try:
        with closing(SqlSource("here", SqlOptions(postgres.url_of("hardened", "plain"), "SELECT * FROM r"))) as source:
            assert len(list(source.list().records)) == 1
    finally:
        postgres.sql("DROP OWNED BY plain; DROP ROLE plain", "hardened")


def test_a_kin_of_postgresql_that_fails_when_it_is_asked_for_locks(postgres: Postgres) -> None:
    """An internal error there (YugabyteDB, where pg_locks is switched off) hides nobody, listing for listing."""
    postgres.database(
        "kin",
        "CREATE TABLE r (address text); INSERT INTO r VALUES ('ann@example.com');"
        " CREATE FUNCTION broken() RETURNS int LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'get lock status is unavailable' USING ERRCODE = 'XX000'; END $$;"
        " CREATE VIEW public.pg_locks AS SELECT l.locktype, l.database, l.relation, broken() AS pid"
        " FROM pg_catalog.pg_locks l; GRANT SELECT ON r, public.pg_locks TO reader;"
        " ALTER DATABASE kin SET search_path = public, pg_catalog",
    )
    url = postgres.url_of("kin", "reader", postgres.reader_password)
    with closing(SqlSource("here", SqlOptions(url, "SELECT * FROM r"))) as source:
        assert len(list(source.list().records)) == 1
