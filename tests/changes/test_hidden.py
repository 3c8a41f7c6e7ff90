# SPDX-License-Identifier: Apache-2.0
"""A server that hides an attribute from its bind DN from one day to the next: nobody comes over to this side by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.changes.directories import THERE, Tree, config, readings, wait_steady
from tests.daemon.site import Site
from tests.mta.waiting import wait_for
from tests.servers import Slapd

Sites = Callable[..., Site]

OPEN = "access to * by * read\n"
HIDDEN = "access to attrs=mailHost by * none\n"


@pytest.fixture
def own_slapd() -> Iterator[Slapd]:
    """A slapd whose rights a test may change."""
    made = Slapd(extra=OPEN)
    yield made
    made.close()


def allow(server: Slapd, rights: str) -> None:
    """These rights from now on."""
    text = server.conf.read_text().replace(HIDDEN, "")
    server.conf.write_text(text.replace(OPEN, rights + OPEN))
    server.restart()


def test_a_hidden_location_moves_nobody(sites: Sites, own_slapd: Slapd) -> None:
    """Three of five are at the other side, which no guard would hold: they stay there, and who comes is put off."""
    world = Tree(own_slapd)
    world.add("p0", "p1", "p2", "p3", "p4")
    for name in ("p1", "p2", "p3"):
        world.move(name)
    site: Site = sites("ann@example.com", more=config(world.table, compare_every="1s")).start()
    wait_steady(site)
    assert site.ask("p1@example.org") == THERE
    allow(own_slapd, HIDDEN)
    world.add("new")
    world.move("new")
    wait_for(lambda: "bind_dn may not read mailHost of" in site.log(), 60, site.splitmx.tail)
    before = readings(site)["full"]
    wait_for(lambda: readings(site)["full"] > before + 1, 60, site.splitmx.tail)
    assert site.ask("new@example.org")[0] == "TEMP"
    assert [site.ask(f"p{n}@example.org") for n in (1, 2, 3)] == [THERE] * 3
    allow(own_slapd, "")
    site.answers("new@example.org", THERE[1], 60)
