# SPDX-License-Identifier: Apache-2.0
"""A feed in doubt ends in a compare and says so; what is no doubt does not."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.changes.directories import HERE, THERE, Table, Tree, config, readings, wait_steady
from tests.daemon.site import Site
from tests.mta.waiting import wait_for
from tests.servers import MariaDb, Postgres, Slapd

Sites = Callable[..., Site]

PEOPLE = [f"p{n}" for n in range(40)]
DOUBT = "changes cannot be followed from here"


@pytest.fixture
def own_slapd() -> Iterator[Slapd]:
    """A slapd whose database a test may exchange."""
    made = Slapd()
    yield made
    made.close()


def followed(sites: Sites, world: Tree | Table, **options: str) -> tuple[Site, int]:
    """A daemon that follows this directory; how many compares there were."""
    world.add(*PEOPLE)
    site: Site = sites("ann@example.com", more=config(world.table, **options)).start()
    compares = wait_steady(site)
    wait_for(lambda: readings(site)["feed"] > 0, 60, site.splitmx.tail)
    return site, compares


def doubted(site: Site, compares: int, why: str) -> None:
    """Wait for the compare, and for the line that says why."""
    wait_for(lambda: readings(site)["full"] > compares, 60, site.splitmx.tail)
    lines = [line for line in site.log().splitlines() if DOUBT in line]
    assert lines
    assert why in lines[-1], lines


def backed_up(site: Site, world: Tree, slapd: Slapd) -> Path:
    """A backup of the server's data, and somebody, "later", who came after it and is in the index, with the mark."""
    slapd.stop()
    backup = slapd.folder / "backup"
    shutil.copytree(slapd.folder / "data", backup)
    slapd.start()
    world.add("later")
    site.answers("later@example.org", HERE[1], 60)
    before = readings(site)["feed"]
    wait_for(lambda: readings(site)["feed"] > before + 1, 60, site.splitmx.tail)
    return backup


def test_a_restored_openldap(sites: Sites, own_slapd: Slapd) -> None:
    """The contextCSN goes back with a backup: whoever came after it is compared away, nobody else is."""
    world = Tree(own_slapd)
    site, _ = followed(sites, world)
    backup = backed_up(site, world, own_slapd)
    compares = readings(site)["full"]
    own_slapd.stop()
    shutil.rmtree(own_slapd.folder / "data")
    backup.rename(own_slapd.folder / "data")
    own_slapd.start()
    doubted(site, compares, "went back")
    site.answers("later@example.org", THERE[1], 60)
    assert site.ask("p7@example.org") == HERE


def test_a_restored_openldap_that_was_written_to(sites: Sites, own_slapd: Slapd) -> None:
    """The first write to a backup brings contextCSN beyond ours again: after an outage it is compared all the same."""
    world = Tree(own_slapd)
    site, _ = followed(sites, world)
    backup = backed_up(site, world, own_slapd)
    own_slapd.stop()
    count = sum(readings(site).values())
    wait_for(lambda: sum(readings(site).values()) > count + 1, 60, site.splitmx.tail)
    shutil.rmtree(own_slapd.folder / "data")
    backup.rename(own_slapd.folder / "data")
    (keeper,) = site.pids("keeper")
    os.kill(keeper, signal.SIGSTOP)  # it sees the backup as it is after the first write only
    own_slapd.start()
    world.add("first")
    os.kill(keeper, signal.SIGCONT)
    site.answers("later@example.org", THERE[1], 60)
    assert site.ask("p7@example.org") == HERE
    assert DOUBT not in site.log()


def test_a_restarted_openldap_is_no_doubt(sites: Sites, own_slapd: Slapd) -> None:
    """The log of deletions is in slapd's memory: without it the set of those present tells who is gone."""
    world = Tree(own_slapd)
    site, compares = followed(sites, world)
    world.remove("p1")
    own_slapd.restart()
    world.remove("p2")
    world.move("p3")
    for gone in ("p1", "p2", "p3"):
        site.answers(f"{gone}@example.org", THERE[1], 60)
    assert site.ask("p7@example.org") == HERE
    assert readings(site)["full"] == compares
    assert DOUBT not in site.log()


def test_an_emptied_openldap_takes_nobody_away(sites: Sites, own_slapd: Slapd) -> None:
    """Another, empty database behind the same address: it is said, and nobody is lost."""
    site, compares = followed(sites, Tree(own_slapd))
    own_slapd.restart(empty=True)
    wait_for(lambda: site.status()["held"] or readings(site)["full"] > compares, 60, site.splitmx.tail)
    wait_for(lambda: site.status()["held"], 60, site.splitmx.tail)
    assert site.ask("p7@example.org") == HERE
    wait_for(lambda: site.ask("stranger@example.org")[0] == "TEMP", 60, site.splitmx.tail)


def test_a_lost_mark(sites: Sites, own_slapd: Slapd) -> None:
    """A mark that nobody understands is a compare, not a fault."""
    world = Tree(own_slapd)
    site, _ = followed(sites, world)
    site.stop()
    with sqlite3.connect(site.folder / "state" / "index.sqlite") as index:
        index.execute("UPDATE directory SET cookie = ? WHERE name = 'corp'", (b'{"sync": "rid=000,csn=?"}',))
    index.close()
    world.move("p1")
    site.start()
    site.answers("p1@example.org", THERE[1], 60)
    assert site.ask("p7@example.org") == HERE


def test_members_of_a_group_are_not_missed(sites: Sites) -> None:
    """Who enters the group of the filter is nowhere among the changes: the absence of an address means nothing then."""
    server = Slapd(extra="moduleload memberof\noverlay memberof\n")
    try:
        world = Tree(server)
        world.add(*PEOPLE, "later")
        group = server.group("mail", "mail@example.org", [world.dn(name) for name in PEOPLE])
        world.table = world.table.replace("(objectClass=inetOrgPerson)", f"(memberOf={group})")
        site = sites("ann@example.com", more=config(world.table, fresh_for="3s")).start()
        wait_steady(site)
        assert site.ask("later@example.org") == THERE
        server.ldif(f"dn: {group}\nchangetype: modify\nadd: member\nmember: {world.dn('later')}\n")
        before = readings(site)["feed"]
        wait_for(lambda: readings(site)["feed"] > before + 4, 60, site.splitmx.tail)
        assert site.ask("later@example.org") == HERE
    finally:
        server.close()


@pytest.mark.parametrize("server", ["postgres", "mariadb"])
def test_a_restored_table(request: pytest.FixtureRequest, sites: Sites, server: str) -> None:
    """The largest `changed` goes back: the table is compared."""
    database: Postgres | MariaDb = request.getfixturevalue(server)
    world = Table(database, "doubt")
    site, compares = followed(sites, world)
    world.sql("UPDATE people SET location = 'cloud', stamp = '2020-01-01' WHERE address <> 'p7@example.org' AND"
              " address LIKE 'p1%';")  # fmt: skip
    world.sql("UPDATE people SET stamp = '2020-01-01';")
    doubted(site, compares, "went back")
    wait_for(lambda: site.status()["held"], 60, site.splitmx.tail)  # eleven moves of forty are too many at once
    assert site.ask("p7@example.org") == HERE
    compares = readings(site)["full"]
    world.move("p2")
    site.answers("p2@example.org", THERE[1], 60)


def test_too_much_at_once(sites: Sites, postgres: Postgres) -> None:
    """More rows than a feed takes: a compare does."""
    world = Table(postgres, "much")
    site, compares = followed(sites, world)
    world.sql("INSERT INTO people (address) SELECT 'm' || n || '@example.org' FROM generate_series(1, 1500) n;")
    doubted(site, compares, "more than")
    wait_for(lambda: site.status()["directories"]["corp"]["rows"] == 1540, 60, site.splitmx.tail)
