# SPDX-License-Identifier: Apache-2.0
"""Strangers of a domain are answered alike while the same "no"s count, and nobody else is answered like them."""

from __future__ import annotations

from itertools import product

import pytest

from tests.transport.world import NOW, D, World, answerer, domain, value
from transport.answerer import ADDRESS_MAPS, Answerer
from transport.config.settings import Destination, Domain, Unknown
from transport.outcome import Outcome

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
def test_nobody_is_answered_otherwise_because_others_were_asked_about(one: Domain) -> None:
    """For every domain, map, address and state of the directories: what is remembered is what deciding gives."""
    remembered = 0
    for destination, name in product(DESTINATIONS, ADDRESS_MAPS):
        world, faces = faces_of(one, destination)
        for states, place, local in product(2 * STATES, PLACES, LOCALS):
            key = f"{local}@{place}"
            world.stale = {which for which, state in zip(("here", "there"), states, strict=True) if state == "stale"}
            world.dead = {which for which, state in zip(("here", "there"), states, strict=True) if state == "dead"}
            decided = Answerer(faces.settings, world).map(name, key, NOW)
            shared = faces.shared(name, key.encode())
            if shared is not None:
                remembered += not shared.keep
                assert summary(shared) == summary(decided), (name, key, states)
            assert summary(faces.map(name, key, NOW)) == summary(decided), (name, key, states)
    assert remembered


def summary(outcome: Outcome) -> tuple[object, ...]:
    """All of an outcome that an MTA, a log or a metric sees."""
    verdict = outcome.decision.verdict if outcome.decision is not None and not outcome.ask else None
    reason = outcome.decision.reason if outcome.decision is not None and not outcome.ask else ""
    return outcome.status, outcome.value, outcome.ask, outcome.keep, verdict, reason


@pytest.mark.parametrize("name", ["transport", "relay_recipients"])
def test_the_second_stranger_of_a_domain_is_not_decided_anew(world: World, name: str) -> None:
    """While the same "no"s count, all strangers share one outcome; with other ones they share another."""
    faces = answerer(world, D)
    assert faces.shared(name, b"x1@example.com") is None
    first = faces.map(name, "x1@example.com", NOW)
    assert faces.shared(name, b"x2@example.com") is first
    assert faces.map(name, "x3@example.com", NOW) is first
    world.dead = {"there"}
    assert faces.shared(name, b"x2@example.com") is None
    assert faces.map(name, "x2@example.com", NOW).status == "TEMP"


def test_a_stranger_is_asked_about_whatever_others_were_told(world: World) -> None:
    """A "no" that is stale has to be asked for, however many strangers came before."""
    faces = answerer(world, D)
    faces.map("transport", "x1@example.com", NOW)
    world.stale = {"here"}
    assert faces.shared("transport", b"x2@example.com") is None
    assert faces.map("transport", "x2@example.com", NOW).ask == (("here", "x2", "example.com"),)


def test_the_member_of_a_list_says_nothing_about_the_list(world: World) -> None:
    """The list is listed, its only member is a stranger: neither is answered like the other."""
    world.add("list@example.com", targets=["nobody@example.com"])
    faces = answerer(world, D)
    for key in ("x1@example.com", "list@example.com", "nobody@example.com", "list@example.com"):
        answer = faces.map("virtual_alias", key, NOW)
        assert (answer.status, answer.value) == value(answerer(world, D), "virtual_alias", key)
