# SPDX-License-Identifier: Apache-2.0
"""What an alias, a group or a domain alias becomes; REQUIREMENTS (e) numbers stand behind the tests that show them."""

from __future__ import annotations

from tests.transport.world import NOW, D, World, answerer, decide, domain, value
from transport.config.settings import Domain
from transport.decision import Verdict
from transport.record import Kind


def test_alias(world: World) -> None:
    """An alias is its target, extension and all; `transport` changes nothing for it (cases 33, 34)."""
    world.add("b.jones@example.com", kind=Kind.ALIAS, targets=["bob@example.com"])
    faces = answerer(world, D)
    assert value(faces, "virtual_alias", "b.jones+x@example.com") == ("OK", "bob+x@example.com")
    assert value(faces, "transport", "b.jones@example.com")[0] == "OK"
    assert value(faces, "relay_recipients", "b.jones@example.com") == ("OK", "EXPAND")
    assert value(faces, "here", "b.jones@example.com") == ("OK", "EXPAND")


def test_alias_owned_by_the_other_side_is_relayed(world: World) -> None:
    """An alias in a remote directory is the other side's to expand (case 35)."""
    world.add("b.jones@example.com", "there", kind=Kind.ALIAS, targets=["bob@example.com"])
    assert decide(answerer(world, D), "b.jones@example.com").verdict is Verdict.RELAY


def test_group_nested_and_each_once(world: World) -> None:
    """Groups are flattened, each leaf once, foreign members kept (case 37)."""
    world.add("sales@example.com", kind=Kind.GROUP, targets=["ann@example.com", "team@example.com", "x@other.example"])
    world.add("team@example.com", kind=Kind.GROUP, targets=["bob@example.com", "ann@example.com", "sales@example.com"])
    decision = decide(answerer(world, D), "sales@example.com")
    assert decision.targets == ("ann@example.com", "bob@example.com", "x@other.example")
    assert any("loop" in finding for finding in decision.findings)


def test_group_members_off(world: World) -> None:
    """Without group_members those at the destination are left out by name (case 38)."""
    world.add("sales@example.com", kind=Kind.GROUP, targets=["ann@example.com", "bob@example.com"])
    decision = decide(answerer(world, domain(group_members=False)), "sales@example.com")
    assert decision.targets == ("ann@example.com",)
    assert decision.dropped == ("bob@example.com",)


def test_alias_cycle_is_unknown(world: World) -> None:
    """Aliases that only lead to each other are UNKNOWN at once (case 36)."""
    world.add("x@example.com", kind=Kind.ALIAS, targets=["y@example.com"])
    world.add("y@example.com", kind=Kind.ALIAS, targets=["x@example.com"])
    assert decide(answerer(world, D), "x@example.com").verdict is Verdict.UNKNOWN


def test_targets_that_cannot_be_read(world: World) -> None:
    """An alias whose targets the index cannot give is TEMP, never UNKNOWN."""
    world.add("al@example.com", kind=Kind.ALIAS, targets=["ann@example.com"])
    world.target_lists.clear()
    assert decide(answerer(world, D), "al@example.com").verdict is Verdict.TEMP


def test_forward_that_keeps_a_copy(world: World) -> None:
    """A mailbox whose targets name itself keeps its copy."""
    world.add("kim@example.com", targets=["kim@example.com", "bob@example.com"])
    assert decide(answerer(world, D), "kim@example.com").targets == ("kim@example.com", "bob@example.com")


def test_targets_decide_one_by_one(world: World) -> None:
    """One TEMP target makes TEMP; an UNKNOWN one stays in; all UNKNOWN make UNKNOWN."""
    world.add("mix@example.com", kind=Kind.GROUP, targets=["ann@example.com", "zed@example.com"])
    world.add("gone@example.com", kind=Kind.ALIAS, targets=["zed@example.com"])
    faces = answerer(world, D)
    mixed = decide(faces, "mix@example.com")
    assert (mixed.verdict, mixed.dangling) == (Verdict.EXPAND, ("zed@example.com",))
    assert decide(faces, "gone@example.com").verdict is Verdict.UNKNOWN
    world.stale = {"here"}
    assert decide(faces, "mix@example.com").ask == (("here", "zed", "example.com"),)
    world.dead = {"here"}
    assert decide(faces, "mix@example.com").verdict is Verdict.TEMP


def test_alias_of(world: World) -> None:
    """A domain alias is the same local part and extension there; UNKNOWN and TEMP pass through."""
    faces = answerer(world, D, Domain("example.org", alias_of="example.com"))
    assert decide(faces, "ann+x@example.org").targets == ("ann+x@example.com",)
    assert decide(faces, "zed@example.org").verdict is Verdict.UNKNOWN
    world.dead = {"here"}
    assert decide(faces, "zed@example.org").verdict is Verdict.TEMP


def test_large_group_is_nested(world: World) -> None:
    """More members than one answer may hold are nested chunks that expand to all of them, each once."""
    members = [f"user{n}@example.com" for n in range(2500)]
    for member in members:
        world.add(member)
    world.add("all@example.com", kind=Kind.GROUP, targets=members)
    faces = answerer(world, D)
    status, text = value(faces, "virtual_alias", "all@example.com")
    assert status == "OK"
    found: list[str] = []
    for piece in text.split(", "):
        assert piece.endswith("@example.com.group.splitmx.invalid")
        status, inner = value(faces, "virtual_alias", piece)
        assert status == "OK"
        assert len(inner) < 100_000
        found.extend(inner.split(", "))
    assert found == members


def test_large_group_that_changes(world: World) -> None:
    """Chunks of a group as it was, asked for when it has changed or is gone, put the message off: with the chunks of
    the new one somebody would be left out, and a chunk that is nobody would be mailed to as such."""
    members = [f"far{n}@foreign.example" for n in range(1801)]
    world.add("all=x@example.com", kind=Kind.GROUP, targets=members)
    faces = answerer(world, D)
    pieces = value(faces, "virtual_alias", "all=x@example.com")[1].split(", ")
    assert [value(faces, "virtual_alias", piece)[0] for piece in pieces] == ["OK"] * 3
    for now in (members[1:], members[:3], []):
        changed = World()
        changed.add("all=x@example.com", kind=Kind.GROUP, targets=now)
        faces = answerer(changed, D)
        assert [value(faces, "virtual_alias", piece)[0] for piece in pieces] == ["TEMP"] * 3
    assert [value(answerer(World(), D), "virtual_alias", piece)[0] for piece in pieces] == ["TEMP"] * 3
    for nobody in ("all", "all=", "=1", "all=x=0", "all=x=9"):
        assert value(faces, "virtual_alias", f"{nobody}@example.com.group.splitmx.invalid")[0] == "NOTFOUND"


def test_who_forwards_to_an_own_extension_keeps(world: World) -> None:
    """ann -> ann+kept, friend: asked again and again (as cleanup and Exim's routers do) the answer stays the same;
    it used to grow until Postfix put the mail off for ever and Exim bounced it."""
    world.add("eve@example.com", targets=["eve+kept@example.com", "friend@elsewhere.example"])
    world.add("team@example.com", kind=Kind.GROUP, targets=["eve@example.com", "ann@example.com"])
    faces = answerer(world, D)
    friend = "friend@elsewhere.example"
    assert value(faces, "virtual_alias", "eve@example.com") == ("OK", f"eve@example.com, {friend}")
    assert value(faces, "virtual_alias", "eve+kept@example.com") == (
        "OK", "eve+kept@example.com, friend+kept@elsewhere.example"
    )  # fmt: skip
    assert decide(faces, "team@example.com").targets == ("eve@example.com", friend, "ann@example.com")
    for name in ("eve", "eve+kept"):
        outcome = faces.exim({"recipient": f"{name}@example.com"}, NOW)
        assert outcome.pairs["self"] == "local"
