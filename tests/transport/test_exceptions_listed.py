# SPDX-License-Identifier: Apache-2.0
"""Aliases, groups, rows and maps where a rule ends: what the usual cases alone would not tell from its neighbours."""

from __future__ import annotations

import pytest

from tests.transport.world import NOW, D, World, answerer, decide, domain, value
from transport.answerer import ADDRESS_MAPS
from transport.config.settings import Destination, Location, Unknown, Wave
from transport.decision import Verdict
from transport.maps import virtual_alias
from transport.record import Kind, Row

# --- aliases and groups


def test_a_target_that_has_to_be_asked_for(world: World) -> None:
    """An alias whose target is new is asked about that target, and is TEMP, without any, when that cannot be."""
    world.add("al@example.com", targets=["ann@example.com", "new@example.com"])
    faces = answerer(world, D)
    world.stale = {"here"}
    decision = decide(faces, "al@example.com")
    assert (decision.verdict, decision.ask) == (Verdict.ASK, (("here", "new", "example.com"),))
    world.dead = {"here"}
    decision = decide(faces, "al@example.com")
    assert (decision.verdict, decision.targets, decision.keep) == (Verdict.TEMP, (), False)
    assert value(faces, "virtual_alias", "al@example.com")[0] == "TEMP"


def test_one_target_is_judged_for_its_alias(world: World) -> None:
    """An alias of one suspended, or unlisted, person is that to policy; a group with one among others is not."""
    world.add("sue@example.com", active=False)
    world.add("one@example.com", targets=["sue@example.com"])
    world.add("two@example.com", targets=["ann@example.com", "sue@example.com"])
    world.add("new@example.com", targets=["zed@example.com"])
    world.add("more@example.com", targets=["ann@example.com", "zed@example.com"])
    faces = answerer(world, domain(unknown=Unknown.VERIFY))
    assert [decide(faces, f"{name}@example.com").suspended for name in ("one", "two")] == [True, False]
    assert [decide(faces, f"{name}@example.com").verify for name in ("new", "more")] == [True, False]


def test_loops_are_named_and_other_ways_are_not(world: World) -> None:
    """A way back to a group that is still open is cut and named; two ways to the same group are no loop."""
    for name, targets in (
        ("top", ["left@example.com", "right@example.com"]),
        ("left", ["team@example.com"]),
        ("right", ["team@example.com"]),
        ("team", ["ann@example.com"]),
        ("deep", ["ring1@example.com", "ann@example.com"]),
        ("ring1", ["ring2@example.com", "bob@example.com"]),
        ("ring2", ["ring1@example.com"]),
    ):
        world.add(f"{name}@example.com", kind=Kind.GROUP, targets=targets)
    faces = answerer(world, D)
    assert decide(faces, "top@example.com").targets == ("ann@example.com",)
    assert decide(faces, "top@example.com").findings == ()
    deep = decide(faces, "deep@example.com")
    assert deep.targets == ("bob@example.com", "ann@example.com")
    assert deep.findings == ("alias loop: ring2@example.com leads back to ring1@example.com",)


def test_a_target_that_is_no_address(world: World) -> None:
    """It is named and left out; the others get the mail."""
    world.add("al@example.com", targets=["nonsense", "ann@example.com"])
    decision = decide(answerer(world, D), "al@example.com")
    assert decision.targets == ("ann@example.com",)
    assert len(decision.findings) == 1
    assert "nonsense" in decision.findings[0]


def test_members_are_left_out_of_groups_alone(world: World) -> None:
    """group_members = false: an alias of somebody at the other side is no group; one of nobody else is UNKNOWN."""
    world.add("b.jones@example.com", kind=Kind.ALIAS, targets=["bob@example.com"])
    world.add("far@example.com", kind=Kind.GROUP, targets=["bob@example.com"])
    world.add("none@example.com", kind=Kind.GROUP, targets=["zed@example.com"])
    faces = answerer(world, domain(group_members=False))
    assert decide(faces, "b.jones@example.com").targets == ("bob@example.com",)
    far = decide(faces, "far@example.com")
    assert (far.verdict, far.targets) == (Verdict.UNKNOWN, ())
    assert "group_members" in far.reason
    assert "none of its targets exists" in decide(faces, "none@example.com").reason


def test_a_mailbox_that_forwards_and_keeps_under_all(world: World) -> None:
    """Its own mail goes to the destination, a copy stays here; an alias of it is only an alias."""
    world.add("fred@example.com", targets=["fred@example.com", "friend@elsewhere.example"])
    world.add("al@example.com", targets=["fred@example.com"])
    faces = answerer(world, domain(delivery="all"))
    fred = decide(faces, "fred+x@example.com")
    assert fred.targets == ("fred+x@example.com", "friend+x@elsewhere.example")
    assert (fred.verdict, fred.copy, fred.destination) == (Verdict.EXPAND, "all", "s")
    assert fred.copies == ("fred+x@example.com.local.splitmx.invalid",)
    al = decide(faces, "al@example.com")
    assert (al.targets, al.copy, al.destination) == (("fred@example.com", "friend@elsewhere.example"), "", "")
    split = decide(answerer(world, D), "fred@example.com")
    assert (split.copy, split.destination, split.copies) == ("", "", ())


def test_a_mailbox_that_keeps_under_an_extension(world: World) -> None:
    """The kept mail stays at the address to which it was sent: no extension grows."""
    world.add("kay@example.com", targets=["kay+kept@example.com", "friend@elsewhere.example"])
    faces = answerer(world, D)
    for sent in ("kay", "kay+x"):
        assert decide(faces, f"{sent}@example.com").targets[0] == f"{sent}@example.com"


def test_an_envelope_domain_is_relayed_as_it_is(world: World) -> None:
    """`local-part@` the destination's envelope domain belongs to that destination, and to no other."""
    goals = [Destination("s", hosts=("s.example.net",), envelope="tenant.example"), Destination("t", hosts=("t.x",))]
    faces = answerer(world, domain(delivery="dual"), destinations=goals)
    decision = decide(faces, "anyone@tenant.example")
    assert (decision.verdict, decision.destination, decision.listed) == (Verdict.RELAY, "s", True)


# --- which row counts


def test_the_order_of_directories_decides_not_that_of_rows(world: World) -> None:
    """The first directory that lists an address, or gives its location, counts; no other directory does."""
    two = domain(local=("first", "second"), locations={"cloud": Location("s"), "onprem": Location()})
    world.add("cy@example.com", "second", targets=["zed@example.com"])
    world.add("cy@example.com", "first")
    world.add("lo@example.com", "there", location="cloud")
    world.add("lo@example.com", "first", location="onprem")
    world.add("el@example.com", "elsewhere")
    faces = answerer(world, two)
    assert (decide(faces, "cy@example.com").verdict, decide(faces, "cy@example.com").directory) == (
        Verdict.LOCAL,
        "first",
    )
    assert decide(faces, "lo@example.com").verdict is Verdict.LOCAL
    assert decide(faces, "el@example.com").verdict is Verdict.UNKNOWN


def test_an_alias_has_the_targets_of_its_own_row(world: World) -> None:
    """Also where another directory's row gives the location."""
    world.add("al@example.com", targets=["ann@example.com"])
    world.add("al@example.com", "there", location="onprem")
    decision = decide(answerer(world, domain(locations={"onprem": Location()})), "al@example.com")
    assert (decision.targets, decision.directory) == (("ann@example.com",), "here")


@pytest.mark.parametrize(("known", "verdict"), [({}, Verdict.RELAY), ({"tenant.example": Location()}, Verdict.LOCAL)])
def test_routing_domains(world: World, known: dict[str, Location], verdict: Verdict) -> None:
    """`@tenant.example` is the other side unless `locations` names it; other words, and no other side, are TEMP."""
    world.add("cy@example.com", location="@tenant.example")
    world.add("odd@example.com", location="tenant.net")
    faces = answerer(world, domain(locations=known))
    assert decide(faces, "cy@example.com").verdict is verdict
    odd = decide(faces, "odd@example.com")
    assert (odd.verdict, odd.listed, odd.keep) == (Verdict.TEMP, True, False)
    if not known:
        assert decide(answerer(world, domain(destination="")), "cy@example.com").verdict is Verdict.TEMP


def test_suspended_people_and_aliases(world: World) -> None:
    """They get no copy and hand nothing on; a group of nobody is a finding, a mailbox of nobody is not."""
    world.add("sue@example.com", active=False)
    world.add("sal@example.com", active=False, targets=["ann@example.com"])
    world.add("none@example.com", kind=Kind.GROUP)
    faces = answerer(world, domain(delivery="dual"))
    for name in ("sue", "sal"):
        decision = decide(faces, f"{name}@example.com")
        assert (decision.verdict, decision.suspended, decision.copy) == (Verdict.LOCAL, True, "")
        assert value(faces, "recipient_bcc", f"{name}@example.com") == ("NOTFOUND", "")
    assert [len(decide(faces, f"{name}@example.com").findings) for name in ("none", "ann")] == [1, 0]


def test_a_longer_form_may_be_somebody_else(world: World) -> None:
    """Before a local directory was read, ann+x@ is ann's only when it says that it does not list ann+x@ by itself."""
    world.unloaded = {"here"}
    faces = answerer(world, D)
    first = decide(faces, "ann+x@example.com")
    assert (first.verdict, first.keep) == (Verdict.LOCAL, False)
    world.stale = {"here"}
    assert decide(faces, "ann+x@example.com").ask == (("here", "ann+x", "example.com"),)
    world.dead = {"here"}
    decision = decide(faces, "ann+x@example.com")
    assert (decision.verdict, decision.directory, decision.keep) == (Verdict.TEMP, "here", False)
    world.unloaded = world.dead = {"there"}
    world.stale = set()
    assert decide(faces, "ann+x@example.com").verdict is Verdict.LOCAL
    world.dead = set()
    world.unloaded = {"here"}
    bob = decide(faces, "bob@example.com")
    assert (bob.verdict, bob.keep) == (Verdict.RELAY, False)


def test_what_is_partly_learned_live_is_not_kept(world: World) -> None:
    """One row out of a live look-up among others is enough."""
    world.add("bob@example.com", live=True)
    assert not decide(answerer(world, D), "bob@example.com").keep


def test_a_wave_brings_home_nobody_who_is_not_listed(world: World) -> None:
    """`to = "local"` needs a record, a destination does not; a person's other addresses may be known live alone."""
    names = frozenset({"ghost@example.com", "bob@example.com", "eve2@example.com"})
    home, out = (Wave("w", NOW, "example.com", to, names) for to in ("local", "s"))
    assert decide(answerer(world, D, waves=[home]), "ghost@example.com").verdict is Verdict.UNKNOWN
    assert decide(answerer(world, D, waves=[home]), "bob@example.com").verdict is Verdict.LOCAL
    assert decide(answerer(world, D, waves=[out]), "ghost@example.com").verdict is Verdict.RELAY
    person = (("eve", "example.com"), ("eve2", "example.com"))
    world.listed["example.com", "eve"] = [Row("here", Kind.MAILBOX, True, None, 0, live=True, beside=person)]
    assert decide(answerer(world, D, waves=[out]), "eve@example.com").verdict is Verdict.RELAY


def test_the_next_moment(world: World) -> None:
    """An answer may change at the first moment that is still to come, its own domain's or a target's."""
    names = frozenset({"x@example.com"})
    for at, until in ((NOW + 1, NOW + 1), (NOW, None), (NOW - 1, None)):
        assert decide(answerer(world, domain(delivery="dual", delivery_until=at)), "ann@example.com").until == until
        assert (
            decide(answerer(world, D, waves=[Wave("w", at, "example.com", "s", names)]), "zed@example.com").until
            == until
        )
    world.add("al@example.com", targets=["dora@other.example"])
    world.add("dora@other.example")
    there = domain(name="other.example", delivery="dual", delivery_until=NOW + 5)
    for own, until in ((NOW + 3, NOW + 3), (NOW + 9, NOW + 5)):
        here = domain(delivery="dual", delivery_until=own)
        assert decide(answerer(world, here, there), "al@example.com").until == until


def test_mailboxes_below_a_domain_have_no_copies(world: World) -> None:
    """`match`: the copy would be the namesake's."""
    world.add("ann@sub.example.com")
    faces = answerer(world, domain(subdomains="match", delivery="dual"))
    assert [decide(faces, f"ann@{name}example.com").copy for name in ("", "sub.")] == ["dual", ""]


# --- what the maps make of it


@pytest.mark.parametrize("name", ADDRESS_MAPS)
def test_every_map_says_temp_and_not_found(world: World, name: str) -> None:
    """What cannot be decided is TEMP in every map, what is not ours is found in none."""
    world.dead = {"here"}
    world.add("odd@example.com", location="mars")
    for text in ("zed@example.com", "zed+x@example.com", "odd@example.com", "odd+x@example.com"):
        assert value(answerer(world, D), name, text)[0] == "TEMP"
        for enabled in ("no", "observe"):
            assert value(answerer(world, domain(enabled=enabled)), name, text) == ("NOTFOUND", "")


def test_the_directory_that_is_missed_is_named(world: World) -> None:
    """The first one whose "no" is needed, for the log and `explain`."""
    world.dead = {"here", "there"}
    decision = decide(answerer(world, D), "zed@example.com")
    assert (decision.directory, decision.domain, decision.keep) == ("here", "example.com", False)
    assert "directory here" in decision.reason


def test_routes_without_a_transport_of_the_domain(world: World) -> None:
    """`:` leaves LOCAL, UNKNOWN and EXPAND to the domain's class; an empty value would be no answer at all."""
    world.add("al@example.com", targets=["bob@example.com"])
    faces = answerer(world, domain(local_transport=""))
    for name in ("ann", "zed", "al"):
        assert value(faces, "transport", f"{name}@example.com") == ("OK", ":")


@pytest.mark.parametrize("identity", [True, False])
def test_addresses_on_the_wire(world: World, identity: bool) -> None:
    """`envelope` and `plus = "strip"` change who is relayed, under "all" whoever is here too, and nobody else."""
    goal = Destination("s", hosts=("s.example.net",), envelope="tenant.example", plus_strip=True)
    faces = answerer(world, domain(unknown=Unknown.RELAY, identity=identity), destinations=[goal])
    for name in ("bob", "zed"):
        assert value(faces, "virtual_alias", f"{name}+x@example.com") == ("OK", f"{name}@tenant.example")
    own = ("OK", "ann+x@example.com") if identity else ("NOTFOUND", "")
    assert value(faces, "virtual_alias", "ann+x@example.com") == own
    world.add("fred@example.com", targets=["fred@example.com", "friend@elsewhere.example"])
    faces = answerer(world, domain(delivery="all", identity=identity), destinations=[goal])
    assert value(faces, "virtual_alias", "ann+x@example.com") == ("OK", "ann@tenant.example")
    assert value(faces, "virtual_alias", "fred@example.com") == ("OK", "fred@tenant.example, friend@elsewhere.example")
    assert value(faces, "transport", "fred@example.com") == ("OK", "relay:[s.example.net]")
    plain = answerer(world, domain(unknown=Unknown.RELAY, identity=identity))
    assert value(plain, "virtual_alias", "bob@example.com") == (
        ("OK", "bob@example.com") if identity else ("NOTFOUND", "")
    )
    assert value(plain, "virtual_alias", "zed@example.com") == ("NOTFOUND", "")


def test_parts_of_groups_have_no_route(world: World) -> None:
    """They are only expanded; nor has the copy for a destination that nobody configured."""
    faces = answerer(world, domain(delivery="dual"))
    for text in ("all=1@example.com.group.splitmx.invalid", "ann@example.com.other.splitmx.invalid"):
        assert value(faces, "transport", text) == ("NOTFOUND", "")


@pytest.mark.parametrize(
    ("members", "length", "pieces"),
    [
        (900, 20, [900]),
        (901, 20, [900, 1]),
        (100, 598, [100]),
        (100, 599, [99, 1]),
        (300, 598, [100, 100, 100]),
        (0, 0, [0]),
    ],
)
def test_large_groups_are_cut_within_both_bounds(members: int, length: int, pieces: list[int]) -> None:
    """900 addresses, or 60,000 octets with what stands between them, and nobody is lost at a cut."""
    targets = [f"{number:03d}@{'x' * (length - 4)}" for number in range(members)]
    made = virtual_alias.chunks(targets)
    assert [len(one) for one in made] == pieces
    assert [target for one in made for target in one] == targets


@pytest.mark.parametrize(
    ("local", "meant"),
    [
        ("all=1", ("all", "", 1)),
        ("all=0123abcd=999999", ("all", "0123abcd", 999_999)),
        ("a=b=0123abcd=2", ("a=b", "0123abcd", 2)),
        ("all=0123abc=2", ("all=0123abc", "", 2)),
        ("=0123abcd=2", ("=0123abcd", "", 2)),
        *(
            (nothing, None)
            for nothing in ("all", "all=", "=1", "all=x", "all=1000000", "all=\u00b2", "all=-1", "all=\u0663")
        ),
    ],
)
def test_names_of_parts(local: str, meant: tuple[str, str, int] | None) -> None:
    """`GROUP=STATE=NUMBER`, whatever the group is called; anything else is no part."""
    assert virtual_alias.chunk_of(local) == meant


@pytest.mark.parametrize("turned", [False, True])
def test_every_member_counts_wherever_it_stands(world: World, turned: bool) -> None:
    """One live member lets nobody keep the group, the first moment of any ends it, a stranger among them is named."""

    def group(name: str, *members: str) -> str:
        world.add(f"{name}@example.com", kind=Kind.GROUP, targets=members[::-1] if turned else members)
        return f"{name}@example.com"

    world.add("new@example.com", live=True)
    plain = answerer(world, D)
    assert not decide(plain, group("one", "new@example.com", "ann@example.com")).keep
    assert decide(plain, group("two", "ann@example.com", "zed@example.com")).findings == (
        "target zed@example.com exists nowhere",
    )
    world.add("dora@other.example")
    world.add("eve@third.example")
    others = [domain(name=name) for name in ("other.example", "third.example")]
    waves = [Wave(name, NOW + at, name, "s", frozenset()) for name, at in (("other.example", 5), ("third.example", 9))]
    faces = answerer(world, D, *others, waves=waves)
    assert decide(faces, group("three", "dora@other.example", "eve@third.example")).until == NOW + 5
    whole = answerer(world, domain(delivery="all", group_members=False))
    four = decide(whole, group("four", "ann@example.com", "bob@example.com"))
    assert (four.targets, four.dropped) == (("ann@example.com",), ("bob@example.com",))
