# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL with standbys: who is not there yet is nobody's stranger, and a failover loses nobody."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from sqlalchemy import text

from tests.changes.directories import HERE, THERE, config
from tests.daemon.site import Site
from tests.mta.waiting import wait_for
from tests.servers import Postgres
from tests.servers import postgres as _postgres
from transport.config.settings import SqlOptions
from transport.directories.sql import SqlSource
from transport.directories.sql_servers import Servers, behind

Sites = Callable[..., Site]

PEOPLE = [f"p{n}" for n in range(40)]
QUERY = "SELECT address FROM people"
NEW = ("new", "example.org")


@pytest.fixture
def servers() -> Iterator[Callable[..., Postgres]]:
    """PostgreSQLs of a test's own, gone with it."""
    if not _postgres.BINARY:
        pytest.skip("postgres is not installed")
    with ExitStack() as stack:

        def make(standby_of: Postgres | None = None, delay: str = "0") -> Postgres:
            return stack.enter_context(closing(Postgres(standby_of, delay)))

        yield make


def primary_of(servers: Callable[..., Postgres]) -> Postgres:
    primary = servers()
    primary.sql("CREATE TABLE people (address text PRIMARY KEY)")
    add(primary, *PEOPLE)
    return primary


def add(server: Postgres, *names: str) -> None:
    server.sql("INSERT INTO people VALUES " + ", ".join(f"('{name}@example.org')" for name in names))


def has(server: Postgres, name: str) -> Callable[[], bool]:
    return lambda: server.sql(f"SELECT 1 FROM people WHERE address = '{name}@example.org'").strip() == "1"


def table(*places: tuple[str, int], more: str = "") -> str:
    hosts = "&".join(f"host={host}:{port}" for host, port in places)
    return f'type = "sql"\nurl = "postgresql+psycopg://postgres@/postgres?{hosts}{more}"\nquery = "{QUERY}"\n'


def loaded(site: Site, rows: int = len(PEOPLE)) -> None:
    wait_for(lambda: site.status()["directories"]["corp"]["rows"] == rows, 60, site.splitmx.tail)


def place(server: Postgres) -> tuple[str, int]:
    return server.host, server.port


def test_a_standby_that_lags_takes_over(sites: Sites, servers: Callable[..., Postgres]) -> None:
    """Whoever the primary had created and the standby does not show yet is TEMP, never a stranger, and never removed;
    once the standby is the primary and has caught up it answers."""
    primary = primary_of(servers)
    standby = servers(primary, delay="1h")
    add(primary, "indexed")
    site = sites("ann@example.com", more=config(table(place(primary), place(standby)))).start()
    loaded(site, len(PEOPLE) + 1)
    assert site.ask("stranger@example.org") == THERE
    received = "SELECT pg_last_wal_receive_lsn() >= '{}'"
    add(primary, "late")
    mark = primary.sql("SELECT pg_current_wal_flush_lsn()").strip()
    wait_for(lambda: standby.sql(received.format(mark)).strip() == "t", 30)
    primary.stop()
    wait_for(lambda: site.ask("s0@example.org")[0] == "TEMP", 60, site.splitmx.tail)
    before = site.status()["directories"]["corp"]["readings"]["full"]
    seen = set()

    def read_again() -> bool:
        seen.add(site.ask("late@example.org")[0])
        assert site.ask("indexed@example.org") == HERE
        assert site.ask("p3@example.org") == HERE
        return bool(site.status()["directories"]["corp"]["readings"]["full"] >= before + 2)

    wait_for(read_again, 60, site.splitmx.tail)
    assert seen == {"TEMP"}
    assert "the server is a standby" in site.log()
    standby.sql("ALTER SYSTEM SET recovery_min_apply_delay = 0; SELECT pg_reload_conf()")
    standby.promote()
    site.answers("late@example.org", HERE[1], 60)
    site.answers("stranger@example.org", THERE[1], 60)
    assert site.ask("indexed@example.org") == HERE


def test_a_standby_that_hears_nothing(sites: Sites, servers: Callable[..., Postgres]) -> None:
    """Its replication broke long ago: its "no" proves nothing, whoever it lists is found."""
    primary = primary_of(servers)
    standby = servers(primary)
    site = sites("ann@example.com", more=config(table(place(standby)))).start()
    loaded(site)
    assert site.ask("stranger@example.org") == THERE
    add(primary, "young")
    wait_for(has(standby, "young"), 30)
    assert site.ask("young@example.org") == HERE
    add(primary, "younger")
    wait_for(has(standby, "younger"), 30)
    standby.sql("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'; SELECT pg_reload_conf()")
    wait_for(lambda: standby.sql("SELECT count(*) FROM pg_stat_wal_receiver").strip() == "0", 30)
    add(primary, "youngest")
    assert site.ask("youngest@example.org")[0] == "TEMP"
    assert site.ask("younger@example.org") == HERE
    assert site.ask("p7@example.org") == HERE
    assert "primary" in site.log()
    conninfo = f"host={primary.host} port={primary.port} user=postgres"
    standby.sql(f"ALTER SYSTEM SET primary_conninfo = '{conninfo}'; SELECT pg_reload_conf()")
    site.answers("youngest@example.org", HERE[1], 60)
    site.answers("stranger2@example.org", THERE[1], 60)


def test_another_host_answers(sites: Sites, servers: Callable[..., Postgres]) -> None:
    """Two servers that are not each other's standby: the second one's "no" does not count until it was read."""
    primary = primary_of(servers)
    other = servers()
    other.sql("CREATE TABLE people (address text PRIMARY KEY)")
    add(other, *PEOPLE)
    site = sites("ann@example.com", more=config(table(place(primary), place(other)))).start()
    loaded(site)
    assert site.status()["directories"]["corp"]["server"] == f"127.0.0.1:{primary.port}"
    assert site.ask("stranger@example.org") == THERE
    primary.stop()
    assert site.ask("s1@example.org")[0] == "TEMP"
    site.answers("s2@example.org", THERE[1], 60)
    assert site.status()["directories"]["corp"]["server"] == f"127.0.0.1:{other.port}"


def test_the_first_host_is_a_black_hole(sites: Sites, servers: Callable[..., Postgres]) -> None:
    """A host that takes connections and never answers: the next one is asked, and not after each time-out anew."""
    primary = primary_of(servers)
    with socket.create_server(("127.0.0.1", 0)) as hole:
        port = hole.getsockname()[1]
        site = sites("ann@example.com", more=config(table(("127.0.0.1", port), place(primary)))).start()
        loaded(site)
        site.answers("stranger@example.org", THERE[1], 60)
        add(primary, "new")
        site.answers("new@example.org", HERE[1], 60)


def test_a_standby_that_cannot_say_how_far_it_is(servers: Callable[..., Postgres]) -> None:
    """Its connection ends while it is asked: that is no word for its "no"."""
    standby = servers(primary_of(servers))
    wait_for(lambda: standby.sql("SELECT count(*) FROM pg_stat_wal_receiver").strip() == "1", 30)
    url = f"postgresql+psycopg://postgres@{standby.host}:{standby.port}/postgres"
    connection = Servers(SqlOptions(url, QUERY)).connect(live=True)
    with closing(connection):
        assert behind(connection) == ""
        number = connection.execute(text("SELECT pg_backend_pid()")).scalar()
        standby.sql(f"SELECT pg_terminate_backend({number})")
        assert "did not say" in behind(connection)


@pytest.fixture
def pair(servers: Callable[..., Postgres]) -> Iterator[tuple[SqlSource, Postgres, Callable[[], None]]]:
    """A source on a standby, the standby, and what makes it stand still with somebody new ahead of it: `new`."""
    primary = primary_of(servers)
    standby = servers(primary)
    url = f"postgresql+psycopg://postgres@{standby.host}:{standby.port}/postgres"

    def fall_behind() -> None:
        standby.sql("SELECT pg_wal_replay_pause()")
        wait_for(lambda: standby.sql("SELECT pg_get_wal_replay_pause_state()").strip() == "paused", 30)
        add(primary, "new")
        mark = primary.sql("SELECT pg_current_wal_insert_lsn()").strip()
        wait_for(lambda: standby.sql(f"SELECT pg_last_wal_receive_lsn() >= '{mark}'").strip() == "t", 30)

    wait_for(lambda: standby.sql("SELECT count(*) FROM pg_stat_wal_receiver").strip() == "1", 30)
    with closing(SqlSource("here", SqlOptions(url, QUERY))) as source:
        yield source, standby, fall_behind


def test_a_standby_that_is_a_moment_behind(pair: tuple[SqlSource, Postgres, Callable[[], None]]) -> None:
    """It denies nobody whom it has received and does not show yet, however short a time ago that was."""
    source, standby, fall_behind = pair
    assert source.ask([NEW], 2).doubt == ""
    fall_behind()
    assert "the server is a standby" in source.ask([NEW], 2).doubt
    standby.sql("SELECT pg_wal_replay_resume()")
    wait_for(has(standby, "new"), 30)
    assert len(source.ask([NEW], 2).records) == 1


def test_a_standby_that_catches_up_behind_its_answer(
    pair: tuple[SqlSource, Postgres, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it shows when it is asked how far it is says nothing of the answer that it gave before."""
    source, standby, fall_behind = pair
    fall_behind()
    judged = source._judged

    def later(*words: Any) -> Any:
        standby.sql("SELECT pg_wal_replay_resume()")
        wait_for(has(standby, "new"), 30)
        return judged(*words)

    monkeypatch.setattr(source, "_judged", later)
    assert len(source.ask([NEW], 30).records) == 1
