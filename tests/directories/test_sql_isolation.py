# SPDX-License-Identifier: Apache-2.0
"""How a server isolates transactions by default changes no answer: a look-up sees what is committed when it answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext

import psycopg
import pytest

from tests.mta.waiting import wait_for
from tests.servers import MariaDb, PgBouncer, Postgres
from tests.servers import pgbouncer as _pgbouncer
from transport.config.settings import SqlOptions
from transport.directories.base import DirectoryError
from transport.directories.sql import SqlSource

pytestmark = pytest.mark.directory

NAMES = [("ann", "example.com"), ("bob", "example.com")]
ROWS = "INSERT INTO r VALUES ('ann@example.com'), ('bob@example.com')"
QUERY = "SELECT address FROM r"


@pytest.fixture(params=["repeatable read", "serializable"])
def isolated(request: pytest.FixtureRequest, postgres: Postgres) -> str:
    """A database whose transactions keep their snapshots."""
    postgres.database("isolated", f"CREATE TABLE r (address text); {ROWS}")
    postgres.sql(f"ALTER DATABASE isolated SET default_transaction_isolation = '{request.param}'")
    return "isolated"


@pytest.mark.parametrize("pooled", [False, True])
def test_a_look_up_that_waits_for_a_reload_sees_it(postgres: Postgres, isolated: str, pooled: bool) -> None:
    """TRUNCATE and COPY in a transaction: a snapshot from before it would show nobody."""
    if pooled and not _pgbouncer.BINARY:
        pytest.skip("pgbouncer is not installed")
    pool = PgBouncer(postgres, "transaction", 1) if pooled else None
    url = pool.url_of(isolated) if pool else postgres.url_of(isolated)
    other = psycopg.connect(host=postgres.host, port=postgres.port, user="postgres", dbname=isolated)
    with (
        closing(SqlSource("here", SqlOptions(url, QUERY))) as source,
        closing(pool) if pool else nullcontext(),
        closing(other),
        ThreadPoolExecutor(1) as threads,
    ):
        assert len(source.ask(NAMES, 2).records) == 2
        other.execute("TRUNCATE r")
        other.execute(ROWS)
        answer = threads.submit(source.ask, NAMES, 2)
        wait_for(lambda: postgres.sql("SELECT 1 FROM pg_locks WHERE NOT granted").strip() == "1", 30)
        other.commit()
        assert len(answer.result(30).records) == 2


def test_what_is_not_committed_is_no_answer(mariadb: MariaDb) -> None:
    """A MariaDB set to READ UNCOMMITTED shows half of a reload; who is deleted in it is there until it is committed."""
    url = mariadb.database("dirty", f"CREATE TABLE r (address varchar(99)); {ROWS}")
    mariadb.sql("SET GLOBAL tx_isolation = 'READ-UNCOMMITTED'")
    try:
        with closing(SqlSource("here", SqlOptions(url, QUERY))) as source:
            other = source._servers.connect(live=False)
            with closing(other):
                other.exec_driver_sql("SET SESSION TRANSACTION READ WRITE")
                other.exec_driver_sql("COMMIT")
                other.exec_driver_sql("START TRANSACTION READ WRITE")
                other.exec_driver_sql("DELETE FROM r")
                assert len(source.ask(NAMES, 2).records) == 2
    finally:
        mariadb.sql("SET GLOBAL tx_isolation = DEFAULT")


def test_a_standby_that_cannot_answer_names_the_cure(postgres: Postgres) -> None:
    """Replay ends a listing, or the primary's default of serializable transactions every look-up."""
    rows = "INSERT INTO r SELECT 'p' || n || '@example.com' FROM generate_series(1, 60000) n"
    postgres.database("replayed", f"CREATE TABLE r (address text); {rows}")
    with closing(Postgres(postgres)) as standby:
        standby.sql("ALTER SYSTEM SET max_standby_streaming_delay = 0; SELECT pg_reload_conf()")
        options = SqlOptions(standby.url_of("replayed"), "SELECT address, repeat('x', 300) FROM r")
        with closing(SqlSource("here", options)) as source:
            listing = source.list()
            next(listing.records)
            postgres.sql("ALTER TABLE r ADD more int", "replayed")
            replayed = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'r'::regclass AND attname = 'more'"
            wait_for(lambda: standby.sql(replayed, "replayed").strip() == "1", 30)
            with pytest.raises(DirectoryError, match="conflict with recovery") as caught:
                list(listing.records)
            assert "hot_standby_feedback" in caught.value.hint
            postgres.sql("ALTER DATABASE replayed SET default_transaction_isolation = 'serializable'")
            wait_for(lambda: "serializable" in standby.sql("SHOW default_transaction_isolation", "replayed"), 30)
            with pytest.raises(DirectoryError, match="serializable") as caught:
                source.ask(NAMES, 2)
            assert "ALTER ROLE" in caught.value.hint
