# SPDX-License-Identifier: Apache-2.0
"""What a stranger is answered once every directory says no is known before they are asked: for all strangers of a
domain alike, and never for anybody else."""

from __future__ import annotations

from itertools import product

import pytest

from tests.transport.world import NOW, D, World, answerer, domain
from transport.answerer import ADDRESS_MAPS, Answerer
from transport.config.settings import Destination, Domain, Unknown

DESTINATIONS = (
    Destination("s", hosts=("s.example.net",)),
    Destination("s", hosts=("s.example.net",), envelope="inside.example.net", plus_strip=True),
)

DOMAINS = (
    domain(unknown=Unknown.REJECT),
    domain(unknown=Unknown.RELAY),
    domain(unknown=Unknown.VERIFY),
    domain(unknown=Unknown.CATCHALL, catchall="ann@example.com"),
    domain(unknown=Unknown.RELAY, destination=""),
    domain(subdomains="match"),
    domain(postmaster="ann@example.com", abuse="zed@example.com"),
)
PLACES = ("example.com", "sub.example.com", "other.example")
LOCALS = ("x1", "x2", "x3+tag", "postmaster", "abuse+x", "ann", "ann+tag", "list", "ring", '"x 4"', "+x")


def faces_of(one: Domain, destination: Destination) -> tuple[World, Answerer]:
    """ann here, bob there; list leads to a stranger, other.example is another name of example.com."""
    world = World()
    world.add("ann@example.com")
    world.add("bob@example.com", "there")
    world.add("list@example.com", targets=["nobody@example.com"])
    world.add("ring@example.com", targets=["ring@example.com", "nobody@example.com"])
    alias = Domain("other.example", alias_of="example.com")
    return world, answerer(world, one, alias, destinations=(destination,))


STATES = list(product(("known", "stale", "dead"), repeat=2))


@pytest.mark.parametrize("one", DOMAINS, ids=lambda one: f"{one.unknown.name}-{one.subdomains}")
def test_the_prepared_answer_is_the_one_that_deciding_again_gives(one: Domain) -> None:
    """For every domain, map, address and state of the directories: prepared or decided anew is the same."""
    prepared_answers = 0
    for destination, name, states in product(DESTINATIONS, ADDRESS_MAPS, STATES):
        world, faces = faces_of(one, destination)
        faces.map(name, "somebody@example.com", NOW)
        among = dict(zip(("here", "there"), states, strict=True))
        for local, place in product(LOCALS, PLACES):
            key = f"{local}@{place}"
            world.stale = {which for which, state in among.items() if state == "stale"}
            world.dead = {which for which, state in among.items() if state == "dead"}
            prepared = faces.map(name, key, NOW).otherwise
            world.stale = set()  # all that were asked said no
            fresh = Answerer(faces.settings, world).map(name, key, NOW)
            if prepared is not None:
                prepared_answers += 1
                assert (prepared.status, prepared.value) == (fresh.status, fresh.value), (key, among)
                assert prepared.decision is not None
                assert fresh.decision is not None
                assert prepared.decision.verdict is fresh.decision.verdict
            faces.map(name, key, NOW)
    assert bool(prepared_answers) == (one.unknown is not Unknown.CATCHALL and one.destination != "")


@pytest.mark.parametrize("name", ["transport", "relay_recipients"])
def test_the_second_stranger_of_a_domain_has_a_prepared_answer(world: World, name: str) -> None:
    """The first one is decided; whoever comes after that is answered alike."""
    faces = answerer(world, D)
    world.stale = {"here"}
    assert faces.map(name, "x1@example.com", NOW).otherwise is None
    world.stale = set()
    decided = faces.map(name, "x1@example.com", NOW)
    world.stale = {"here"}
    assert faces.map(name, "x2@example.com", NOW).otherwise is decided


def test_nothing_is_prepared_while_another_directory_cannot_be_asked(world: World) -> None:
    """One says no, the other one does not answer: that is TEMP, whatever strangers were told before."""
    faces = answerer(world, D)
    faces.map("transport", "x1@example.com", NOW)
    world.stale, world.dead = {"here"}, {"there"}
    assert faces.map("transport", "x2@example.com", NOW).otherwise is None


def test_nothing_is_prepared_for_an_alias_of_a_stranger(world: World) -> None:
    """The list is listed, its member has to be asked about: a "no" about him is none about the list."""
    world.add("list@example.com", targets=["nobody@example.com"])
    faces = answerer(world, D)
    faces.map("relay_recipients", "x1@example.com", NOW)
    world.stale = {"here"}
    asking = faces.map("relay_recipients", "list@example.com", NOW)
    assert asking.ask
    assert asking.otherwise is None
