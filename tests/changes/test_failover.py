# SPDX-License-Identifier: Apache-2.0
"""A replica takes over: its "no" does not count until it was synced from."""

from __future__ import annotations

from collections.abc import Callable

from tests.changes.directories import HERE, THERE, Tree, config, wait_steady
from tests.daemon.site import Site
from tests.mta.waiting import wait_for
from tests.servers import Slapd

PEOPLE = [f"p{n}" for n in range(40)]


def test_a_lagging_replica_takes_over(
    sites: Callable[..., Site], cleaned: Callable[[Callable[[], object]], None]
) -> None:
    """While the replica cannot be listed its "no" is TEMP, listed people flow; after a sync with it, it counts."""
    first, replica = Slapd(), Slapd(size_limit="10")
    cleaned(first.close)
    cleaned(replica.close)
    for name in PEOPLE:
        for server in (first, replica):
            server.person(name, f"{name}@example.org")
    first.person("late", "late@example.org")  # the replica has not got that far
    site = sites("ann@example.com", more=config(Tree(first, replica).table)).start()
    wait_steady(site)
    assert site.status()["directories"]["corp"]["server"] == first.url
    assert site.ask("late@example.org") == HERE
    wait_for(lambda: site.ask("stranger@example.org") == THERE, 60, site.splitmx.tail)

    first.stop()
    # the first failed, the replica answers live, but its listing is cut by its limit
    wait_for(
        lambda: "another server answers" in site.log() or site.ask("s1@example.org")[0] == "", 60, site.splitmx.tail
    )
    for number in range(20):
        assert site.ask(f"unknown{number}@example.org")[0] == "TEMP"
        assert site.ask(f"p{number}@example.org") == HERE
    assert site.ask("late@example.org") == HERE

    replica.conf.write_text(replica.conf.read_text().replace("sizelimit 10", "sizelimit unlimited"))
    replica.restart()
    site.answers("stranger@example.org", THERE[1], 60)
    assert site.status()["directories"]["corp"]["server"] == replica.url
    assert site.ask("p7@example.org") == HERE


def test_both_servers_alike(sites: Callable[..., Site], cleaned: Callable[[Callable[[], object]], None]) -> None:
    """With a good replica strangers wait only for the sync with it, and nobody listed ever does."""
    first, replica = Slapd(), Slapd()
    cleaned(first.close)
    cleaned(replica.close)
    for name in PEOPLE:
        for server in (first, replica):
            server.person(name, f"{name}@example.org")
    site = sites("ann@example.com", more=config(Tree(first, replica).table)).start()
    wait_steady(site)
    first.stop()
    while site.ask("stranger@example.org") != THERE or site.status()["directories"]["corp"]["server"] == first.url:
        assert site.ask("p3@example.org") == HERE
    replica.person("new", "new@example.org")
    site.answers("new@example.org", HERE[1], 60)
