# SPDX-License-Identifier: Apache-2.0
"""A watermark tells of rows with a later stamp, and of nothing else: what it does not tell is asked."""

from __future__ import annotations

from collections.abc import Callable

from tests.changes.directories import HERE, Table, config, readings, wait_steady
from tests.daemon.site import Site
from tests.mta.waiting import wait_for
from tests.servers import MariaDb

Sites = Callable[..., Site]

PEOPLE = [f"p{n}" for n in range(40)]


def test_who_came_with_an_old_stamp_is_nobodys_stranger(sites: Sites, mariadb: MariaDb) -> None:
    """An imported row keeps the stamp that it had: that the changes were read a moment ago denies nobody."""
    world = Table(mariadb, "imported")
    world.add(*PEOPLE)
    site = sites("ann@example.com", more=config(world.table, fresh_for="3s")).start()
    compares = wait_steady(site)
    fed = readings(site)["feed"]  # for longer than a "no" is fresh
    wait_for(lambda: readings(site)["feed"] >= fed + 5, 60, site.splitmx.tail)
    world.sql("INSERT INTO people (address, stamp) VALUES ('eve@example.org', '2020-01-01 00:00:00')")
    assert site.ask("eve@example.org") == HERE
    assert readings(site)["full"] == compares
