# SPDX-License-Identifier: Apache-2.0
"""A reading that something overtakes: a reload replaces it, another order comes, nothing of it is taken or lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from policyd import control_client
from tests.changes.directories import HERE, THERE, Sheet, config, readings, wait_steady
from tests.daemon.site import Site
from tests.mta.waiting import wait_for
from tests.servers import Postgres

Sites = Callable[..., Site]

PEOPLE = [f"p{n}" for n in range(40)]
NOTIFY = Path(__file__).resolve().parents[2] / "contrib" / "postgresql" / "notify.sql"
GATE = 4711

# A listing that finds `gate` empty waits for the lock with what it sees of `people`; one that finds a row does not.
QUERY = (
    "SELECT address, location, active FROM people CROSS JOIN"
    f" (SELECT CASE WHEN (SELECT count(*) FROM gate) = 0 THEN pg_advisory_xact_lock_shared({GATE})::text END) one"
)


class Gated:
    """A table whose listings can be made to wait."""

    def __init__(self, server: Postgres, name: str, *, notify: bool = False) -> None:
        self.server, self.name = server, name
        self.url = server.database(
            name,
            "CREATE TABLE people (address text PRIMARY KEY, location text, active int DEFAULT 1);"
            "CREATE TABLE gate (n int); INSERT INTO gate VALUES (1);"
            "INSERT INTO people (address) VALUES " + ", ".join(f"('{one}@example.org')" for one in PEOPLE),
        )
        if notify:
            server.sql(f"\\set table people\n{NOTIFY.read_text()}", name)
        lookup = "SELECT address, location, active FROM people WHERE address IN :addresses"
        self.table = f'type = "sql"\nurl = "{self.url}"\nquery = "{QUERY}"\nlookup = "{lookup}"\n'

    def sql(self, text: str) -> str:
        return self.server.sql(text, self.name)

    def move(self, name: str) -> None:
        self.sql(f"UPDATE people SET location = 'cloud' WHERE address = '{name}@example.org'")

    def waiting(self) -> int:
        """Listings that wait now."""
        return int(self.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))

    def reading(self) -> int:
        """Connections that list now."""
        where = "query LIKE '%pg_advisory%' OR query LIKE 'FETCH%'"
        return int(self.sql(f"SELECT count(*) FROM pg_stat_activity WHERE ({where}) AND pid <> pg_backend_pid()"))

    @contextmanager
    def shut(self) -> Iterator[Callable[[], str]]:
        """Listings that begin now wait until the end; what it gives lets those pass that begin later."""
        plain = self.url.replace("+psycopg", "")
        with psycopg.connect(plain, autocommit=True) as one:
            one.execute(f"SELECT pg_advisory_lock({GATE})")
            self.sql("DELETE FROM gate")
            yield lambda: self.sql("INSERT INTO gate VALUES (1)")


class Asking(threading.Thread):
    """A control request in a thread. answer: what came, None before; an error's text."""

    def __init__(self, site: Site, do: str, **more: Any) -> None:
        super().__init__(daemon=True)
        self.site, self.do, self.more = site, do, more
        self.answer: dict[str, Any] | str | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self.site.control(self.do, **self.more)
        except control_client.ControlError as error:
            self.answer = str(error)


def test_a_reload_ends_the_reading_it_replaces(sites: Sites, postgres: Postgres) -> None:
    """What an older reading saw never overwrites what a younger one took, and whoever ordered it is told."""
    world = Gated(postgres, "overtaken")
    site: Site = sites("ann@example.com", more=config(world.table)).start()
    wait_steady(site)
    assert site.ask("p1@example.org") == HERE
    world.sql("INSERT INTO people (address) VALUES ('new@example.org')")
    with world.shut() as let_later_ones_pass:
        order = Asking(site, "sync", names=["corp"])
        wait_for(world.waiting, 20, site.splitmx.tail)
        world.move("p1")
        let_later_ones_pass()
        site.splitmx.write(site.config().replace('fresh_for = "0.1s"', 'fresh_for = "0.2s"'))
        assert site.control("reload")["ok"]
        site.answers("p1@example.org", THERE[1])
        wait_for(lambda: order.answer is not None, 10, site.splitmx.tail)
        assert "configuration changed" in str(order.answer)
    wait_for(lambda: not world.reading(), 20, site.splitmx.tail)
    for _ in range(3):
        (report,) = site.control("sync", names=["corp"], dry_run=True)["reports"]
        assert (report["moved"], report["unchanged"]) == (0, len(PEOPLE) + 1)
    assert site.ask("p1@example.org") == THERE


def test_a_dry_run_takes_no_named_change_away(sites: Sites, postgres: Postgres) -> None:
    """A change that the database names while dry runs go on arrives after them, without a compare."""
    world = Gated(postgres, "dry", notify=True)
    site: Site = sites("ann@example.com", more=config(world.table)).start()
    compares = wait_steady(site)
    with world.shut() as let_later_ones_pass:
        first = Asking(site, "sync", names=["corp"], dry_run=True)
        wait_for(world.waiting, 20, site.splitmx.tail)
        second = Asking(site, "sync", names=["corp"], dry_run=True)
        let_later_ones_pass()
        heard = site.status()["directories"]["corp"]["listening"]["heard"]
        world.move("p1")
        wait_for(lambda: site.status()["directories"]["corp"]["listening"]["heard"] > heard, 20, site.splitmx.tail)
        assert site.ask("p1@example.org") == HERE
    wait_for(lambda: first.answer is not None and second.answer is not None, 20, site.splitmx.tail)
    site.answers("p1@example.org", THERE[1])
    assert readings(site)["full"] == compares + 2


def test_a_file_that_was_read_by_order_is_not_read_on_and_on(sites: Sites, tmp_path: Path) -> None:
    """A reading that saw a change before the watch did is enough, however long the watch's pause is."""
    (tmp_path / "other").mkdir()
    world, other = Sheet(tmp_path), Sheet(tmp_path / "other")
    world.add(*PEOPLE)
    other.add(*PEOPLE)
    beside = f'[directories.other]\n{other.table}\n[domains."example.net"]\nlocal = ["other"]\ndestination = "m365"\n'
    site: Site = sites("ann@example.com", more=config(world.table) + beside).start()
    before = wait_steady(site)
    for n in range(3):
        world.move(f"p{n}")
        site.control("sync", names=["corp"])
        assert site.ask(f"p{n}@example.org") == THERE
        others = _further_reading(site, "other")
        other.move(f"p{n}")
        wait_for(others, 20, site.splitmx.tail)
    assert readings(site)["full"] - before <= 9


def _further_reading(site: Site, name: str) -> Callable[[], bool]:
    """Whether a directory was read whole since now."""
    seen = readings(site, name)["full"]
    return lambda: readings(site, name)["full"] > seen
