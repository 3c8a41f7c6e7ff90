# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL behind PgBouncer, whose server connections are shared with other programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from tests.servers import PgBouncer, Postgres
from tests.servers import pgbouncer as _pgbouncer
from transport.config.settings import Directory, SqlOptions
from transport.directories.base import DirectoryError, DirectoryTimeout
from transport.directories.sql import SqlSource
from transport.directories.sql_driver import end_call
from transport.directories.sql_listen import CannotListenError, Listener
from transport.directories.sql_pooler import begin_session

pytestmark = pytest.mark.directory

ANN, STRANGER = ("ann", "example.com"), ("stranger", "example.com")
Make = Callable[..., tuple[SqlSource, str]]


@pytest.fixture
def behind(postgres: Postgres) -> Iterator[Make]:
    """A source on a table behind a PgBouncer, and another program's way to it. Options are PgBouncer's."""
    if not _pgbouncer.BINARY:
        pytest.skip("pgbouncer is not installed")
    postgres.database(
        "pooled",
        "CREATE TABLE r (address text, stamp timestamptz DEFAULT now()); INSERT INTO r VALUES ('Ann@example.com')",
    )
    with ExitStack() as stack:

        def make(**options: Any) -> tuple[SqlSource, str]:
            pooler = stack.enter_context(closing(PgBouncer(postgres, **options)))
            url = pooler.url_of("pooled")
            source = SqlSource("here", SqlOptions(url, "SELECT address, stamp FROM r", changed="stamp"))
            stack.callback(source.close)
            return source, url.replace("+psycopg", "")

        yield make


def test_nothing_of_ours_stays_on_a_shared_connection(behind: Make) -> None:
    """Other programs that get our server connection next write, and take their time, as if we were not there."""
    source, other = behind()
    with psycopg.connect(other, autocommit=True, prepare_threshold=None) as connection:

        def writes() -> None:
            connection.execute("INSERT INTO r VALUES ('bob@example.com')")
            assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)

        assert len(source.ask([ANN, STRANGER], 2).records) == 1
        writes()
        assert len(source.ask([ANN, ("bob", "example.com")], 2).records) == 2
        listing = source.list()
        assert len(list(listing.records)) == 2
        writes()
        assert not source.changes(listing.cookie, 100).full_needed
        writes()


def test_a_listing_without_a_watermark(behind: Make) -> None:
    """The query itself is the first statement of its transaction: everybody is listed all the same."""
    source, _ = behind()
    plain = SqlSource("here", replace(source.options, changed=""))
    with closing(plain):
        assert [record[:2] for record in plain.list().records] == [ANN]
        assert [record[:2] for record in plain.ask([ANN, STRANGER], 2).records] == [ANN]


def test_behind_a_pooler_we_only_read_and_the_database_ends_a_slow_query(behind: Make) -> None:
    """What a session sets elsewhere each transaction sets there."""
    source, _ = behind()
    source.ask([ANN], 2)
    assert source._live is not None
    settings = "SELECT current_setting('transaction_read_only'), current_setting('statement_timeout')"
    assert source._live.exec_driver_sql(settings).one() == ("on", "2s")
    source._live.rollback()
    assert source.ask([ANN], 2).records


def test_a_pooler_without_a_free_connection(behind: Make) -> None:
    """The login succeeds, and the first query waits for somebody else: a look-up ends in its time all the same."""
    source, other = behind()
    with psycopg.connect(other) as connection:
        connection.execute("SELECT 1")  # a transaction that stays open
        with pytest.raises(DirectoryTimeout):
            source.ask([ANN], 0.3)
    assert source.ask([ANN], 2).records


def test_others_get_the_connection_between_two_questions(behind: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a "no" counts is asked in a transaction of its own: a pooler that has none free then makes it late."""
    source, other = behind()
    assert source.ask([ANN], 2).records
    judged = source._judged
    with psycopg.connect(other) as connection:

        def taken(*words: Any) -> Any:
            connection.execute("SELECT 1")  # a transaction that stays open
            return judged(*words)

        with monkeypatch.context() as patch:
            patch.setattr(source, "_judged", taken)
            with pytest.raises(DirectoryTimeout):
                source.ask([ANN, STRANGER], 0.3)
    found = source.ask([ANN, STRANGER], 2)
    assert len(found.records) == 1
    assert not found.doubt


def test_a_pooler_that_ends_before_the_first_row(behind: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing and a look-up say so, like any other fault of the database."""
    source, _ = behind()
    assert source.ask([ANN], 2).records
    judged, connect = source._judged, source._servers.connect

    def cut(connection: Any) -> Any:
        assert end_call(connection.connection.dbapi_connection)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(source._servers, "connect", lambda **how: cut(connect(**how)))
        with pytest.raises(DirectoryError):
            list(source.list().records)
    with monkeypatch.context() as patch:
        patch.setattr(source, "_judged", lambda *words: cut(source._live) and judged(*words))
        assert "did not say" in source.ask([ANN, STRANGER], 2).doubt
    found = source.ask([ANN, STRANGER], 2)
    assert len(found.records) == 1
    assert not found.doubt


def test_another_driver_behind_a_pooler() -> None:
    """psycopg2, which any URL may name, calls it otherwise, and takes no attribute that it does not know."""

    class Psycopg2:
        __slots__ = ("autocommit", "readonly")
        autocommit: bool
        readonly: bool
        info = SimpleNamespace(backend_pid=7)

        def cursor(self) -> Any:
            return nullcontext(SimpleNamespace(execute=lambda statement: None, fetchone=lambda: (8, "i")))

        def rollback(self) -> None:
            pass

    raw, record = Psycopg2(), SimpleNamespace(info={})
    begin_session(raw, record, 2000)
    assert (raw.autocommit, raw.readonly) == (False, True)


@pytest.mark.parametrize(("mode", "listens"), [("session", True), ("transaction", False)])
def test_nobody_listens_on_a_shared_connection(behind: Make, mode: str, listens: bool) -> None:
    """LISTEN is for whom the pooler lends a connection for the whole session; it is not left on one of others."""
    source, other = behind(mode=mode, size=3)
    directory = Directory("here", "sql", source.options, b"")
    if listens:
        Listener(directory).close()
    else:
        with pytest.raises(CannotListenError, match="pooler"):
            Listener(directory)
    with psycopg.connect(other, autocommit=True) as connection:
        assert connection.execute("SELECT * FROM pg_listening_channels()").fetchall() == []
