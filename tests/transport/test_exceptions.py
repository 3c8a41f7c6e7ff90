# SPDX-License-Identifier: Apache-2.0
"""The decision where a rule ends: what a look at the usual cases alone would not tell from its neighbours."""

from __future__ import annotations

import pytest

from tests.transport.world import NOW, D, World, answerer, decide, domain, value
from transport.config.settings import Domain, Unknown, Wave
from transport.decision import Decision, Verdict
from transport.record import Kind

ALIAS = Domain("alias.example", alias_of="example.com", local_transport="lmtp:alias")
SHADOW = "ann@example.com.s.splitmx.invalid"


# --- who is listed nowhere


def test_abuse_is_nobody_else(world: World) -> None:
    """A domain that says where abuse@ goes still knows no strangers."""
    faces = answerer(world, domain(abuse="ann@example.com"))
    assert decide(faces, "zed@example.com").verdict is Verdict.UNKNOWN
    assert decide(faces, "abuse+x@example.com").targets == ("ann@example.com",)


def test_postmaster_and_abuse_that_name_each_other(world: World) -> None:
    """It ends, is accepted, and is a finding."""
    faces = answerer(world, domain(abuse="postmaster@example.com", postmaster="abuse@example.com"))
    for name in ("postmaster", "abuse"):
        decision = decide(faces, f"{name}@example.com")
        assert (decision.verdict, len(decision.findings), decision.keep) == (Verdict.EXPAND, 1, False)


@pytest.mark.parametrize("which", ["here", "there"])
def test_postmaster_before_a_directory_was_read(world: World, which: str) -> None:
    """Any directory may list postmaster@: until one was read it is asked, and what it says is not kept."""
    world.unloaded = {which}
    faces = answerer(world, D)
    first = decide(faces, "postmaster@example.com")
    assert (first.verdict, first.keep) == (Verdict.LOCAL, False)
    world.stale = {which}
    assert decide(faces, "postmaster@example.com").ask == ((which, "postmaster", "example.com"),)
    world.dead = {which}
    assert decide(faces, "postmaster@example.com").verdict is Verdict.TEMP
    world.unloaded = set()
    assert decide(faces, "postmaster@example.com").keep


@pytest.mark.parametrize("unknown", [Unknown.REJECT, Unknown.CATCHALL])
def test_below_a_domain_strangers_are_the_other_sides(world: World, unknown: Unknown) -> None:
    """`match`: whoever is listed nowhere is relayed, whatever `unknown` says, as soon as nobody is here for sure."""
    faces = answerer(world, domain(subdomains="match", unknown=unknown, catchall="ann@example.com"))
    for dead, verdict in ((set[str](), Verdict.RELAY), ({"there"}, Verdict.RELAY), ({"here"}, Verdict.TEMP)):
        world.dead = dead
        decision = decide(faces, "anyone@sub.example.com")
        assert (decision.verdict, decision.destination) == (verdict, "s" if verdict is Verdict.RELAY else "")


@pytest.mark.parametrize("dead", ["here", "there"])
def test_a_catchall_takes_nobody_who_may_be_listed(world: World, dead: str) -> None:
    """A stranger is the catch-all's once every directory, local or remote, has said no."""
    world.dead = {dead}
    faces = answerer(world, domain(unknown=Unknown.CATCHALL, catchall="ann@example.com"))
    assert decide(faces, "zed@example.com").verdict is Verdict.TEMP


@pytest.mark.parametrize("name", ["zed@example.com", "bob@example.com"])
def test_nowhere_to_relay_to(world: World, name: str) -> None:
    """Without a destination who would be relayed is TEMP and a finding."""
    decision = decide(answerer(world, domain(unknown=Unknown.RELAY, destination="")), name)
    assert (decision.verdict, len(decision.findings), decision.keep) == (Verdict.TEMP, 1, False)


# --- moments


@pytest.mark.parametrize("turned", [False, True])
def test_the_latest_wave_that_has_come_decides(world: World, turned: bool) -> None:
    """Of several waves the one with the latest passed moment counts, wherever it stands in the file."""
    names = frozenset({"ann@example.com"})
    waves = [Wave("out", NOW - 10, "example.com", "s", names), Wave("back", NOW - 5, "example.com", "local", names)]
    waves.append(Wave("later", NOW + 5, "example.com", "s", names))
    faces = answerer(world, D, waves=waves[::-1] if turned else waves)
    assert decide(faces, "ann@example.com", NOW - 7).verdict is Verdict.RELAY
    assert decide(faces, "ann@example.com").verdict is Verdict.LOCAL
    assert decide(faces, "ann@example.com").until == NOW + 5
    assert decide(faces, "ann@example.com", NOW + 5).verdict is Verdict.RELAY


def test_an_answer_given_before_a_moment_is_not_given_after_it(world: World) -> None:
    """What was answered before a wave, or before the end of dual delivery, is not remembered beyond it."""
    world.add("ann2@example.com")
    wave = Wave("out", NOW, "example.com", "s", frozenset({"ann2@example.com"}))
    faces = answerer(world, D, waves=[wave])
    for _ in range(2):
        for name in ("ann", "ann2"):
            assert value(faces, "relay_recipients", f"{name}@example.com", NOW - 1) == ("OK", "LOCAL")
    assert value(faces, "relay_recipients", "ann2@example.com") == ("OK", "RELAY")
    assert value(faces, "relay_recipients", "ann@example.com") == ("OK", "LOCAL")
    faces = answerer(world, domain(delivery="all", delivery_until=NOW))
    for _ in range(2):
        assert value(faces, "relay_recipients", "ann@example.com", NOW - 1) == ("OK", "RELAY")
    assert value(faces, "relay_recipients", "ann@example.com") == ("OK", "LOCAL")


def test_a_wave_of_one_member_is_nobody_elses(world: World) -> None:
    """Members of a group who look alike are told apart by a wave that moves one of them."""
    world.add("ann2@example.com")
    world.add("all@example.com", kind=Kind.GROUP, targets=["ann@example.com", "ann2@example.com"])
    wave = Wave("out", NOW, "example.com", "s", frozenset({"ann2@example.com"}))
    decision = decide(answerer(world, domain(group_members=False), waves=[wave]), "all@example.com")
    assert (decision.targets, decision.dropped) == (("ann@example.com",), ("ann2@example.com",))


def test_an_expansion_lasts_as_long_as_each_of_its_targets(world: World) -> None:
    """A wave in a target's domain, and a target or alias out of a live look-up, let nobody keep the answer."""
    names = frozenset({"dora@other.example"})
    other = domain(name="other.example")
    world.add("al@example.com", targets=["ann@example.com", "dora@other.example", "team@other.example"])
    world.add("dora@other.example")
    world.add("team@other.example", kind=Kind.GROUP, targets=["dora@other.example"])
    waves = [Wave("a", NOW + 9, "other.example", "s", names), Wave("b", NOW + 5, "other.example", "local", names)]
    assert decide(answerer(world, D, other, waves=waves), "al@example.com").until == NOW + 5
    world.add("two@example.com", targets=["ann@example.com", "new@example.com"])
    world.add("new@example.com", live=True)
    world.add("three@example.com", targets=["ann@example.com"], live=True)
    faces = answerer(world, D, other)
    assert decide(faces, "al@example.com").until is None
    kept = {n: faces.map("virtual_alias", f"{n}@example.com", NOW).keep for n in ("al", "two", "three")}
    assert kept == {"al": True, "two": False, "three": False}


# --- other names


def test_a_shadow_is_no_recipient(world: World) -> None:
    """The address of a copy, and of a part of a large group, is decided by nobody but the maps that made it."""
    faces = answerer(world, domain(delivery="dual"))
    for text in (SHADOW, "all=1@example.com.group.splitmx.invalid", "ann@example.com.local.splitmx.invalid"):
        assert decide(faces, text).verdict is Verdict.PASS


def test_another_name_of_a_domain_waits_with_it(world: World) -> None:
    """`alias_of`: what has to be asked there is asked, what is off there is off, what is TEMP there is TEMP."""
    faces = answerer(world, D, ALIAS)
    world.stale = {"here"}
    decision = decide(faces, "zed@alias.example")
    assert (decision.verdict, decision.ask) == (Verdict.ASK, (("here", "zed", "example.com"),))
    world.dead = {"here"}
    assert decide(faces, "zed@alias.example").verdict is Verdict.TEMP
    for enabled in ("no", "observe"):
        assert decide(answerer(world, domain(enabled=enabled), ALIAS), "ann@alias.example").verdict is Verdict.PASS


@pytest.mark.parametrize("alias", [ALIAS, domain(subdomains="strip")])
def test_another_name_of_a_domain_is_an_alias(world: World, alias: Domain) -> None:
    """Both spellings expand to the domain's own address, with its copy, and are routed as their own domain is."""
    name = "sub.example.com" if alias.name == "example.com" else alias.name
    for delivery, copies in (("split", ()), ("dual", (SHADOW,))):
        own = domain(delivery=delivery, subdomains=alias.subdomains)
        faces = answerer(world, *((own,) if alias.name == own.name else (own, alias)))
        decision = decide(faces, f"ann@{name}")
        assert (decision.verdict, decision.targets) == (Verdict.EXPAND, ("ann@example.com",))
        assert (decision.copies, decision.copy, decision.destination) == (copies, "", "")
        assert decision.domain == alias.name
        assert value(faces, "transport", f"ann@{name}") == ("OK", alias.local_transport)
        assert decide(faces, f"bob@{name}").copies == ()
        assert decide(faces, f"bob@{name}").destination == ""


# --- to whom the configuration gives mail


@pytest.mark.parametrize("name", ["zed", "postmaster"])
def test_who_is_named_in_the_configuration(world: World, name: str) -> None:
    """A catch-all or postmaster elsewhere is not ours to judge; one of ours that is not known yet is asked for."""

    def said(goal: str) -> Decision:
        return decide(
            answerer(world, domain(unknown=Unknown.CATCHALL, catchall=goal, postmaster=goal)), f"{name}@example.com"
        )

    assert (said("boss@elsewhere.example").verdict, said("boss@elsewhere.example").findings) == (Verdict.EXPAND, ())
    assert said("bob@example.com").targets == ("bob@example.com",)
    world.add("al@example.com", targets=["zoe@example.com"])
    world.add("zoe@example.com")
    assert said("al@example.com").targets == ("al@example.com",)
    world.listed.pop(("example.com", "zoe"))
    world.stale = {"here"}
    asked = {("here", "new", "example.com"), ("here", "zed", "example.com")}
    assert set(said("new@example.com").ask) <= asked
    assert said("new@example.com").verdict is Verdict.ASK
    world.dead = {"here"}
    decision = said("new@example.com")
    assert (decision.verdict, decision.targets, decision.keep) == (Verdict.TEMP, (), False)


def test_a_postmaster_as_long_as_it_is_true(world: World) -> None:
    """What postmaster@ leads to may change with a wave, a live answer, or when its own copies have to be asked for."""
    world.add("pat@example.com", live=True)
    world.add("al@example.com", targets=["new@example.com"])
    wave = Wave("w", NOW + 5, "example.com", "s", frozenset({"ann@example.com"}))
    assert (
        decide(answerer(world, domain(postmaster="ann@example.com"), waves=[wave]), "postmaster@example.com").until
        == NOW + 5
    )
    for goal, keep in (("ann", True), ("pat", False)):
        faces = answerer(world, domain(postmaster=f"{goal}@example.com"))
        assert decide(faces, "postmaster@example.com").keep is keep
        assert value(faces, "here", "postmaster@example.com")[0] == "OK"
    other = domain(name="other.example", local=("elsewhere",))
    world.add("dora@other.example", "elsewhere")
    wave = Wave("w", NOW + 5, "other.example", "s", frozenset({"dora@other.example"}))
    faces = answerer(world, domain(postmaster="dora@other.example"), other, waves=[wave])
    assert decide(faces, "postmaster@example.com").until == NOW + 5
    world.stale = {"here"}
    faces = answerer(world, domain(delivery="dual", postmaster="al@example.com"))
    assert decide(faces, "postmaster@example.com").ask == (("here", "new", "example.com"),)


def test_postmaster_of_the_domain_itself(world: World) -> None:
    """postmaster = "postmaster@…" of this domain is a mailbox here; that of another domain is another address."""
    own = decide(answerer(world, domain(postmaster="postmaster@example.com")), "postmaster@example.com")
    assert (own.verdict, own.targets) == (Verdict.LOCAL, ())
    world.add("postmaster@other.example")
    other = domain(name="other.example")
    faces = answerer(world, domain(postmaster="postmaster@other.example"), other)
    assert decide(faces, "postmaster@example.com").targets == ("postmaster@other.example",)
