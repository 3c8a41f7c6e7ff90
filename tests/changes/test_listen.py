# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL says by itself what changed: the shipped trigger, and any other NOTIFY."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.changes.directories import HERE, THERE, Table, config, readings, wait_steady
from tests.daemon.site import Site
from tests.mta.waiting import wait_for
from tests.servers import Postgres
from transport.directories.sql_listen import named

Sites = Callable[..., Site]

NOTIFY = Path(__file__).resolve().parents[2] / "contrib" / "postgresql" / "notify.sql"
PEOPLE = [f"p{n}" for n in range(150)]


class Reader(Table):
    """The directory as a user who may only read."""

    def __init__(self, server: Postgres, name: str, notify: str) -> None:
        super().__init__(server, name, watermark=False, notify=notify)
        url = server.url_of(name)
        self.table = self.table.replace(url, server.url_of(name, "reader", server.reader_password))


@pytest.fixture
def listening(sites: Sites, postgres: Postgres) -> tuple[Site, Table, int]:
    """A daemon that listens to a table with the trigger; how many compares there were."""
    world = Reader(postgres, "listen", f"\\set table people\n{NOTIFY.read_text()}")
    world.add(*PEOPLE)
    site: Site = sites("ann@example.com", more=config(world.table)).start()
    return site, world, wait_steady(site)


def test_trigger_can_be_installed_twice(postgres: Postgres) -> None:
    """It replaces itself; the table and the column have defaults and can be named."""
    url = postgres.database(
        "twice", 'CREATE TABLE "Odd Names" ("The Address" text); CREATE TABLE recipients (address text);'
    )
    assert url
    text = NOTIFY.read_text()
    for _ in range(2):
        postgres.sql(text, "twice")
        postgres.sql(f"\\set table 'Odd Names'\n\\set address 'The Address'\n{text}", "twice")
    postgres.sql("INSERT INTO \"Odd Names\" VALUES ('ann@example.org'); TRUNCATE recipients", "twice")


def test_named_changes_need_no_compare(listening: tuple[Site, Table, int]) -> None:
    """A hundred moves and removals by one statement each, and an address that becomes another."""
    site, world, compares = listening
    world.sql("DELETE FROM people WHERE address = 'p1@example.org';")
    world.sql("UPDATE people SET address = 'renamed@example.org' WHERE address = 'p2@example.org';")
    world.sql("UPDATE people SET active = 0 WHERE address IN ('p3@example.org', 'p4@example.org');")
    world.sql("UPDATE people SET location = 'cloud' WHERE address ~ '^p5[0-5]@';")
    for gone in ("p1", "p2", "p50", "p55"):
        site.answers(f"{gone}@example.org", THERE[1], 60)
    site.answers("renamed@example.org", HERE[1], 60)
    wait_for(lambda: site.status()["directories"]["corp"]["rows"] == len(PEOPLE) - 1, 60, site.splitmx.tail)
    assert readings(site)["full"] == compares
    assert site.ask("p9@example.org") == HERE
    one = site.status()["directories"]["corp"]
    assert one["listening"]["heard"] >= 4
    assert one["lag"]["moves"] == one["lag"]["removals"] < 30  # not the hour of compare_every


def test_more_than_a_hundred_are_compared(listening: tuple[Site, Table, int]) -> None:
    """And what a guard must hold, it holds: half a table gone by one statement."""
    site, world, compares = listening
    world.sql("DELETE FROM people WHERE address ~ '[0-4]@' OR address ~ '^p1..@';")
    wait_for(lambda: site.status()["held"], 60, site.splitmx.tail)
    wait_for(lambda: readings(site)["full"] > compares, 60, site.splitmx.tail)
    assert site.ask("p11@example.org") == HERE


def test_named_removals_are_held_too(listening: tuple[Site, Table, int]) -> None:
    """Seventy of a hundred and fifty by name are as many as seventy in a compare."""
    site, world, _ = listening
    world.sql("DELETE FROM people WHERE address ~ '^p[1-7].@';")
    wait_for(lambda: site.status()["held"], 60, site.splitmx.tail)
    assert site.ask("p11@example.org") == HERE


def test_truncate_takes_nobody_away(listening: tuple[Site, Table, int]) -> None:
    """An emptied table is compared at once and not believed."""
    site, world, compares = listening
    world.sql("TRUNCATE people;")
    wait_for(lambda: site.status()["held"], 60, site.splitmx.tail)
    wait_for(lambda: readings(site)["full"] > compares, 60, site.splitmx.tail)
    assert site.ask("p11@example.org") == HERE


def test_a_false_notification_changes_nothing(listening: tuple[Site, Table, int]) -> None:
    """It only says when to read: nobody moves because somebody says so."""
    site, world, _ = listening
    for payload in ("p1@example.org", "stranger@example.org\np2@example.org", "nonsense", "\t", "x" * 7000):
        world.sql(f"SELECT pg_notify('splitmx', $q${payload}$q$);")
    world.sql("NOTIFY splitmx;")
    wait_for(lambda: site.status()["directories"]["corp"]["listening"]["heard"] >= 6, 60, site.splitmx.tail)
    before = readings(site)["full"]
    wait_for(lambda: readings(site)["full"] > before or readings(site)["full"] > 2, 60, site.splitmx.tail)
    assert site.ask("p1@example.org") == site.ask("p2@example.org") == HERE
    assert site.ask("stranger@example.org") == THERE


def test_a_database_that_restarts(listening: tuple[Site, Table, int], postgres: Postgres) -> None:
    """What was said while nobody listened is found when somebody listens again."""
    site, world, _ = listening
    postgres.restart()
    world.sql("UPDATE people SET location = 'cloud' WHERE address = 'p1@example.org';")
    site.answers("p1@example.org", THERE[1], 60)
    world.sql("DELETE FROM people WHERE address = 'p2@example.org';")
    site.answers("p2@example.org", THERE[1], 60)
    assert site.ask("p9@example.org") == HERE


def test_payloads() -> None:
    """Addresses, one a line; anything else is "something"."""
    assert named(b"Ann@Example.org\nbob@example.org\n") == frozenset((("ann", "example.org"), ("bob", "example.org")))
    for payload in (b"", b"\n", b"UPDATE", b"ann@example.org\nnonsense", b"\xff@example.org"):
        assert named(payload) is None
