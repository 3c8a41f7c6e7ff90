# SPDX-License-Identifier: Apache-2.0
"""Below a domain with `subdomains = "match"`: who is listed there is not the namesake in the domain itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.transport.test_exim_answer import pairs
from tests.transport.world import NOW, World, answerer, decide, domain, value
from transport.config.settings import Destination, Domain, Location, Unknown
from transport.decision import Verdict
from transport.record import Kind

BELOW = domain(subdomains="match")
BIG = [f"user{n}@example.com" for n in range(1000)]
OTHERS = [f"other{n}@deep.example.com" for n in range(1000)]


def _two_groups(world: World) -> None:
    """`all` in the domain and another `all` below it, each too large for one answer."""
    for member in (*BIG, *OTHERS):
        world.add(member)
    world.add("all@example.com", kind=Kind.GROUP, targets=BIG)
    world.add("all@deep.example.com", kind=Kind.GROUP, targets=OTHERS)


def test_a_large_group_below_goes_to_its_own_members(world: World) -> None:
    """Postfix and Exim: the chunks of all@deep.example.com hold its members, and nobody of all@example.com."""
    _two_groups(world)
    faces = answerer(world, BELOW)
    status, text = value(faces, "virtual_alias", "all@deep.example.com")
    assert status == "OK"
    found: list[str] = []
    for piece in text.split(", "):
        status, inner = value(faces, "virtual_alias", piece)
        assert status == "OK", piece
        found += inner.split(", ")
    assert found == OTHERS

    found = []
    for piece in pairs(faces, "all@deep.example.com")["targets"].split(","):
        found += pairs(faces, piece)["targets"].split(",")
    assert found == OTHERS


@pytest.mark.parametrize("delivery", ["dual", "all"])
def test_copies_of_a_group_below_are_its_own_members(world: World, delivery: str) -> None:
    """recipient_bcc names the group below; virtual_alias expands that to the copies of its members, nobody else's."""
    for name in ("one", "two", "three", "four"):
        world.add(f"{name}@example.com")
    world.add("team@example.com", kind=Kind.GROUP, targets=["one@example.com", "two@example.com"])
    world.add("team@deep.example.com", kind=Kind.GROUP, targets=["three@example.com", "four@example.com"])
    faces = answerer(world, replace(BELOW, delivery=delivery))
    status, copy = value(faces, "recipient_bcc", "team@deep.example.com")
    assert status == "OK"
    copies = value(faces, "virtual_alias", copy)[1].split(", ")
    assert [text.partition("@")[0] for text in copies] == ["three", "four"]


@pytest.mark.parametrize("delivery", ["dual", "all"])
def test_who_forwards_and_keeps_below_has_no_copy(world: World, delivery: str) -> None:
    """There are no copies below; one would be ann@example.com's, who is somebody else."""
    world.add("ann@deep.example.com", targets=["ann@deep.example.com", "friend@elsewhere.example"])
    faces = answerer(world, replace(BELOW, delivery=delivery))
    decision = decide(faces, "ann@deep.example.com", NOW)
    assert decision.verdict is Verdict.EXPAND
    assert (decision.copy, decision.copies) == ("", ())
    assert value(faces, "recipient_bcc", "ann@deep.example.com")[0] == "NOTFOUND"
    assert value(faces, "transport", "ann@deep.example.com")[1] == BELOW.local_transport
    told = pairs(faces, "ann@deep.example.com")
    assert told["self"] == "local"
    assert "copy" not in told


def test_copies_for_another_store_find_their_way_from_a_domain_alias(world: World) -> None:
    """delivery = "all": a group whose members are kept in a store that only their own domain names."""
    other = {"store2": Location(local_transport="lmtp:[192.0.2.24]:24")}
    for name in ("one", "two"):
        world.add(f"{name}@example.com", location="store2")
    world.add("team@example.com", kind=Kind.GROUP, targets=["one@example.com", "two@example.com"])
    faces = answerer(
        world,
        domain(delivery="all", locations=other, local_transport="lmtp:[192.0.2.1]:24"),
        Domain("alias.example", alias_of="example.com"),
        destinations=[Destination("s", hosts=("s.example.net",))],
    )
    status, copy = value(faces, "recipient_bcc", "team@alias.example")
    assert status == "OK"
    status, text = value(faces, "virtual_alias", copy)
    assert (status, [part.partition("@")[0] for part in text.split(", ")]) == ("OK", ["one", "two"])


def test_below_a_domain_the_name_stays_as_given(world: World) -> None:
    """`match` relays under the given name, `envelope` or not: bob@tenant is bob@example.com, and nobody's namesake."""
    world.add("bob@deep.example.com", "there")
    tenant = Destination("s", hosts=("s.example.net",), envelope="tenant.example", plus_strip=True)
    faces = answerer(world, replace(BELOW, unknown=Unknown.RELAY), destinations=[tenant])
    assert value(faces, "virtual_alias", "bob@example.com") == ("OK", "bob@tenant.example")
    for name in ("zed", "bob"):
        below = f"{name}@deep.example.com"
        assert decide(faces, below).verdict is Verdict.RELAY
        assert value(faces, "virtual_alias", below) in (("OK", below), ("NOTFOUND", ""))
        assert pairs(faces, below)["address"] == below
    assert value(faces, "virtual_alias", "bob+x@deep.example.com") == ("OK", "bob@deep.example.com")
