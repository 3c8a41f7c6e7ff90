# SPDX-License-Identifier: Apache-2.0
"""The decision itself, case by case: REQUIREMENTS (e) numbers stand behind the tests that show them."""

from __future__ import annotations

import re

import pytest

from tests.transport.world import NOW, World, answerer, decide, value
from transport.config.settings import Destination, Domain, Location, Unknown, Wave
from transport.decision import Verdict
from transport.maps import static_only
from transport.record import Kind

D = Domain(
    "example.com",
    local=("here",),
    remote=("there",),
    destination="s",
    unknown=Unknown.REJECT,
    local_transport="lmtp:unix:private/dovecot-lmtp",
)


def domain(**changes: object) -> Domain:
    from dataclasses import replace

    return replace(D, **changes)  # type: ignore[arg-type]


@pytest.fixture
def world() -> World:
    """ann here, bob at the other side, zed nowhere."""
    made = World()
    made.add("ann@example.com")
    made.add("bob@example.com", "there")
    return made


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("ann@example.com", Verdict.LOCAL),
        ("ANN@Example.COM", Verdict.LOCAL),
        ('"ann"@example.com', Verdict.LOCAL),
        ("ann+news@example.com", Verdict.LOCAL),
        ("bob@example.com", Verdict.RELAY),
        ("bob+news@example.com", Verdict.RELAY),
        ("zed@example.com", Verdict.UNKNOWN),
        ("zed+x@example.com", Verdict.UNKNOWN),
        ("ann-x@example.com", Verdict.UNKNOWN),
        ("+ann@example.com", Verdict.UNKNOWN),
        ("a%b@example.com", Verdict.UNKNOWN),
        ("x@other.example", Verdict.PASS),
        ("ann@sub.example.com", Verdict.PASS),
    ],
)
def test_base_cases(world: World, text: str, verdict: Verdict) -> None:
    """Existence decides, folded, quotes and extensions aside (cases 1-4, 13-21, 26, 30)."""
    assert decide(answerer(world, D), text).verdict is verdict


def test_maps_of_the_base_cases(world: World) -> None:
    """Every map follows the one decision."""
    faces = answerer(world, D)
    assert value(faces, "transport", "ann@example.com") == ("OK", "lmtp:unix:private/dovecot-lmtp")
    assert value(faces, "transport", "bob+x@example.com") == ("OK", "relay:[s.example.net]")
    assert value(faces, "transport", "zed@example.com") == ("OK", "lmtp:unix:private/dovecot-lmtp")
    assert value(faces, "transport", "x@other.example") == ("NOTFOUND", "")
    assert value(faces, "transport", "*") == ("NOTFOUND", "")
    assert value(faces, "transport", "example.com") == ("NOTFOUND", "")
    assert value(faces, "relay_recipients", "bob@example.com") == ("OK", "RELAY")
    assert value(faces, "relay_recipients", "zed@example.com") == ("NOTFOUND", "")
    assert value(faces, "here", "bob@example.com") == ("NOTFOUND", "")
    assert value(faces, "here", "ann@example.com") == ("OK", "LOCAL")
    assert value(faces, "virtual_alias", "Bob+X@example.com") == ("OK", "bob+x@example.com")
    assert value(faces, "virtual_alias", "zed@example.com") == ("NOTFOUND", "")
    assert value(faces, "recipient_bcc", "ann@example.com") == ("NOTFOUND", "")
    assert value(faces, "relay_domains", "example.com") == ("OK", "OK")
    assert value(faces, "relay_domains", "sub.example.com") == ("NOTFOUND", "")
    assert value(faces, "nonsense", "ann@example.com")[0] == "TEMP"


def test_answers_repeat_from_the_memo(world: World) -> None:
    """The second answer of a situation is another recipient's own, never the first one's."""
    world.add("carl@example.com")
    faces = answerer(world, D)
    for name in ("transport", "virtual_alias", "relay_recipients", "here"):
        first = value(faces, name, "ann@example.com")
        second = value(faces, name, "carl@example.com")
        assert second == (first[0], first[1].replace("ann", "carl"))


@pytest.mark.parametrize(
    ("unknown", "verdict", "verify"),
    [
        (Unknown.REJECT, Verdict.UNKNOWN, False),
        (Unknown.RELAY, Verdict.RELAY, False),
        (Unknown.VERIFY, Verdict.RELAY, True),
    ],
)
def test_unknown(world: World, unknown: Unknown, verdict: Verdict, verify: bool) -> None:
    """An unlisted address follows `unknown` (cases 4, 5, 6)."""
    decision = decide(answerer(world, domain(unknown=unknown)), "zed@example.com")
    assert (decision.verdict, decision.verify, decision.keep) == (verdict, verify, False)


def test_catchall(world: World) -> None:
    """A catch-all is the last rule: strangers only, never a listed remote recipient (cases 10, 12)."""
    faces = answerer(world, domain(unknown=Unknown.CATCHALL, catchall="ann@example.com"))
    assert decide(faces, "zed@example.com").targets == ("ann@example.com",)
    assert decide(faces, "bob@example.com").verdict is Verdict.RELAY


def test_catchall_that_is_unlisted(world: World) -> None:
    """A catch-all address that nobody lists is TEMP and a finding, never a loop or a loss."""
    decision = decide(answerer(world, domain(unknown=Unknown.CATCHALL, catchall="no@example.com")), "zed@example.com")
    assert decision.verdict is Verdict.TEMP
    assert decision.findings


def test_stale_no_asks(world: World) -> None:
    """A "no" that is too old is asked live, in both forms, and nothing else is."""
    world.stale = {"here"}
    decision = decide(answerer(world, D), "zed+x@example.com")
    assert decision.verdict is Verdict.ASK
    assert set(decision.ask) == {("here", "zed+x", "example.com"), ("here", "zed", "example.com")}
    assert decide(answerer(world, D), "ann+x@example.com").verdict is Verdict.LOCAL


@pytest.mark.parametrize(
    ("unknown", "dead", "verdict"),
    [
        (Unknown.REJECT, "here", Verdict.TEMP),
        (Unknown.REJECT, "there", Verdict.TEMP),
        (Unknown.RELAY, "here", Verdict.TEMP),
        (Unknown.RELAY, "there", Verdict.RELAY),
        (Unknown.VERIFY, "here", Verdict.TEMP),
        (Unknown.VERIFY, "there", Verdict.RELAY),
    ],
)
def test_directory_that_cannot_be_asked(world: World, unknown: Unknown, dead: str, verdict: Verdict) -> None:
    """A final no needs every `local` directory under relay and verify, every one under reject; else TEMP."""
    world.dead = {dead}
    faces = answerer(world, domain(unknown=unknown))
    assert decide(faces, "zed@example.com").verdict is verdict
    assert decide(faces, "ann@example.com").verdict is Verdict.LOCAL
    assert decide(faces, "bob@example.com").verdict is Verdict.RELAY


def test_remote_listing_waits_for_the_local_directories(world: World) -> None:
    """Who only a remote directory lists is not relayed before every local one was loaded or asked."""
    world.unloaded = {"here"}
    world.stale = {"here"}
    assert decide(answerer(world, D), "bob@example.com").verdict is Verdict.ASK
    world.dead = {"here"}
    assert decide(answerer(world, D), "bob@example.com").verdict is Verdict.TEMP
    world.dead, world.stale = set(), set()
    assert decide(answerer(world, D), "bob@example.com").verdict is Verdict.RELAY


def test_location_outranks_existence(world: World) -> None:
    """A location word decides over an existing mailbox (row 71), and can name another store."""
    world.add("moved@example.com", location="cloud")
    world.add("store@example.com", location="store2")
    places = {"cloud": Location("s"), "store2": Location("", "lmtp:[store2.example.com]:24"), "x": Location()}
    faces = answerer(world, domain(locations=places))
    assert decide(faces, "moved@example.com").verdict is Verdict.RELAY
    assert value(faces, "transport", "store@example.com") == ("OK", "lmtp:[store2.example.com]:24")


def test_unknown_location_word(world: World) -> None:
    """A word that `locations` does not know is TEMP and a finding, never existence."""
    world.add("odd@example.com", location="mars")
    decision = decide(answerer(world, D), "odd@example.com")
    assert decision.verdict is Verdict.TEMP
    assert "mars" in decision.findings[0]


def test_routing_domain_of_a_preset_means_the_other_side(world: World) -> None:
    """A targetAddress's domain is the destination unless `locations` names it."""
    world.add("cloud@example.com", location="@tenant.example.net")
    assert decide(answerer(world, D), "cloud@example.com").destination == "s"


def test_both_sides_local_wins(world: World) -> None:
    """A duplicate without a location is local (judgement 3)."""
    world.add("bob@example.com", "here")
    assert decide(answerer(world, D), "bob@example.com").verdict is Verdict.LOCAL


def test_exact_extension_wins(world: World) -> None:
    """The longest listed form decides (case 15)."""
    world.add("ann+lists@example.com", "there")
    faces = answerer(world, D)
    assert decide(faces, "ann+lists@example.com").verdict is Verdict.RELAY
    assert decide(faces, "ann+other@example.com").verdict is Verdict.LOCAL


def test_suspended_exists(world: World) -> None:
    """A suspended recipient is listed: accepted by the maps, refused by policy (case 91)."""
    world.add("sue@example.com", active=False)
    faces = answerer(world, D)
    assert value(faces, "relay_recipients", "sue@example.com") == ("OK", "LOCAL")
    assert decide(faces, "sue@example.com").suspended


@pytest.mark.parametrize(("enabled", "verdict"), [("no", Verdict.PASS), ("observe", Verdict.PASS)])
def test_domains_that_are_off(world: World, enabled: str, verdict: Verdict) -> None:
    """A domain that is off or only observed is not our business (case 73)."""
    assert decide(answerer(world, domain(enabled=enabled)), "bob@example.com").verdict is verdict


def test_postmaster(world: World) -> None:
    """postmaster is never UNKNOWN: where it is told to, else LOCAL with a finding (case 60)."""
    bare = decide(answerer(world, D), "postmaster@example.com")
    assert (bare.verdict, len(bare.findings)) == (Verdict.LOCAL, 1)
    told = decide(answerer(world, domain(postmaster="ann@example.com")), "Postmaster@example.com")
    assert told.targets == ("ann@example.com",)
    assert decide(answerer(world, D), "abuse@example.com").verdict is Verdict.UNKNOWN
    told = decide(answerer(world, domain(abuse="ann@example.com")), "abuse@example.com")
    assert told.targets == ("ann@example.com",)


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


def test_subdomains(world: World) -> None:
    """exact leaves subdomains alone, strip takes the parent's address, match relays (cases 30-32)."""
    strip = answerer(world, domain(subdomains="strip"))
    assert decide(strip, "ann@a.b.example.com").targets == ("ann@example.com",)
    match = answerer(world, domain(subdomains="match"))
    assert decide(match, "anyone@sub.example.com").verdict is Verdict.RELAY
    assert decide(match, "anyone@subexample.com").verdict is Verdict.PASS


def test_idn(world: World) -> None:
    """U-label and A-label are one domain (cases 27, 28)."""
    world.add("bob@bücher.example", "there")
    faces = answerer(world, domain(name="xn--bcher-kva.example"))
    assert decide(faces, "bob@bücher.example").verdict is Verdict.RELAY
    assert decide(faces, "bob@XN--BCHER-KVA.example").verdict is Verdict.RELAY


def test_wave(world: World) -> None:
    """From its moment a wave is the location, for every address of the person; undone by removing it (case 90)."""
    world.add("ann2@example.com", entry=7)
    world.add("a.nother@example.com", entry=7)
    wave = Wave("pilot", NOW, "example.com", "s", frozenset(("ann2@example.com", "new@example.com")))
    faces = answerer(world, D, waves=[wave])
    assert decide(faces, "ann2@example.com", NOW - 1).verdict is Verdict.LOCAL
    assert decide(faces, "ann2@example.com", NOW - 1).until == NOW
    for text in ("ann2@example.com", "ann2+x@example.com", "a.nother@example.com", "new@example.com"):
        assert decide(faces, text, NOW).verdict is Verdict.RELAY
    assert decide(faces, "ann@example.com", NOW).verdict is Verdict.LOCAL


def test_dual(world: World) -> None:
    """Dual: who is here gets a copy by a shadow that names domain and destination (case 75)."""
    world.add("sales@example.com", kind=Kind.GROUP, targets=["ann@example.com", "bob@example.com", "carl@example.com"])
    world.add("carl@example.com")
    world.add("al@example.com", kind=Kind.ALIAS, targets=["ann@example.com"])
    faces = answerer(world, domain(delivery="dual"))
    shadow = "example.com.s.splitmx.invalid"
    assert value(faces, "transport", "ann@example.com") == ("OK", "lmtp:unix:private/dovecot-lmtp")
    assert value(faces, "recipient_bcc", "ann+x@example.com") == ("OK", f"ann+x@{shadow}")
    assert value(faces, "recipient_bcc", "al@example.com") == ("OK", f"ann@{shadow}")
    assert value(faces, "recipient_bcc", "bob@example.com") == ("NOTFOUND", "")
    assert value(faces, "recipient_bcc", "sales@example.com") == ("OK", f"sales@{shadow}")
    assert value(faces, "virtual_alias", f"sales@{shadow}") == ("OK", f"ann@{shadow}, carl@{shadow}")
    assert value(faces, "virtual_alias", f"ann@{shadow}") == ("OK", f"ann@{shadow}")
    assert value(faces, "transport", f"ann@{shadow}") == ("OK", "dual-s:[s.example.net]")
    assert decide(faces, "zed@example.com").verdict is Verdict.UNKNOWN


def test_dual_ends_by_itself(world: World) -> None:
    """delivery_until ends dual at its moment."""
    faces = answerer(world, domain(delivery="dual", delivery_until=NOW))
    assert value(faces, "recipient_bcc", "ann@example.com", NOW - 1)[0] == "OK"
    assert value(faces, "recipient_bcc", "ann@example.com", NOW) == ("NOTFOUND", "")


def test_all(world: World) -> None:
    """all: the destination is the delivery, the copy here is a local shadow (case 79)."""
    faces = answerer(world, domain(delivery="all"))
    shadow = "ann@example.com.local.splitmx.invalid"
    assert value(faces, "transport", "ann@example.com") == ("OK", "relay:[s.example.net]")
    assert value(faces, "recipient_bcc", "ann@example.com") == ("OK", shadow)
    assert value(faces, "here", "ann@example.com")[0] == "OK"
    assert value(faces, "transport", shadow) == ("OK", "splitmx-lmtp:unix:private/dovecot-lmtp")
    assert value(faces, "recipient_bcc", "bob@example.com") == ("NOTFOUND", "")


def test_all_with_several_stores(world: World) -> None:
    """all: the copy of somebody in another store goes there, not to the domain's first store."""
    world.add("second@example.com", location="store2")
    stores = {"store2": Location(local_transport="lmtp:[store2.example.com]:24")}
    faces = answerer(world, domain(delivery="all", locations=stores))
    status, shadow = value(faces, "recipient_bcc", "second@example.com")
    assert status == "OK"
    assert shadow.startswith("second@example.com.local-")
    assert value(faces, "transport", shadow) == ("OK", "splitmx-lmtp:[store2.example.com]:24")
    assert value(faces, "recipient_bcc", "ann@example.com") == ("OK", "ann@example.com.local.splitmx.invalid")
    lines = list(static_only.shadow_transport(faces.settings))
    assert sum("splitmx-lmtp:[store2.example.com]:24" in line for line in lines) == 1
    back = [line.split("\t") for line in static_only.shadow_generic(faces.settings)]
    found = [re.sub(p.strip("/"), r.replace("$", "\\"), shadow) for p, r in back if re.search(p.strip("/"), shadow)]
    assert found == ["second@example.com"]


@pytest.mark.parametrize("name", ["zed@example.com", "postmaster@example.com"])
def test_dual_reaches_who_is_caught_for(world: World, name: str) -> None:
    """Who gets others' mail by catch-all or as postmaster gets the copy of it too, also as a group."""
    world.add("info@example.com", kind=Kind.GROUP, targets=["ann@example.com", "carl@example.com"])
    world.add("carl@example.com")
    for goal, copies in (("ann", ["ann"]), ("info", ["ann", "carl"])):
        entry = domain(
            delivery="dual",
            unknown=Unknown.CATCHALL,
            catchall=f"{goal}@example.com",
            postmaster=f"{goal}@example.com",
        )
        faces = answerer(world, entry)
        status, shadow = value(faces, "recipient_bcc", name)
        assert status == "OK"
        wanted = [f"{copy}@example.com.s.splitmx.invalid" for copy in copies]
        if len(wanted) == 1:
            assert shadow == wanted[0]
        else:
            assert value(faces, "virtual_alias", shadow) == ("OK", ", ".join(wanted))


def test_envelope(world: World) -> None:
    """envelope rewrites RCPT only, and its domain is routed, never ours (case 80)."""
    goal = Destination("s", hosts=("s.example.net", "192.0.2.7"), port=2525, envelope="tenant.example")
    faces = answerer(world, D, destinations=[goal])
    assert value(faces, "virtual_alias", "bob+x@example.com") == ("OK", "bob+x@tenant.example")
    assert value(faces, "virtual_alias", "ann@example.com") == ("OK", "ann@example.com")
    assert value(faces, "virtual_alias", "bob@tenant.example") == ("OK", "bob@tenant.example")
    route = "relay:[s.example.net]:2525,[192.0.2.7]:2525"
    assert value(faces, "transport", "bob@tenant.example") == ("OK", route)
    assert value(faces, "relay_domains", "tenant.example") == ("NOTFOUND", "")


def test_plus_strip(world: World) -> None:
    """plus = "strip" takes the extension off for the other side only (case 17)."""
    faces = answerer(world, D, destinations=[Destination("s", hosts=("s.example.net",), plus_strip=True)])
    assert value(faces, "virtual_alias", "bob+x@example.com") == ("OK", "bob@example.com")
    assert value(faces, "virtual_alias", "ann+x@example.com") == ("OK", "ann+x@example.com")


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


def test_live_rows_are_not_kept(world: World) -> None:
    """An answer that rests on a live look-up is made anew each time."""
    world.add("new@example.com", live=True)
    faces = answerer(world, D)
    assert not faces.map("transport", "new@example.com", NOW).keep
    assert faces.map("transport", "ann@example.com", NOW).keep


def test_identity_off(world: World) -> None:
    """identity = false leaves listed people to the site's own alias maps."""
    faces = answerer(world, domain(identity=False))
    assert value(faces, "virtual_alias", "ann@example.com") == ("NOTFOUND", "")


def test_tls_words(world: World) -> None:
    """The six words are Postfix's policies; of two destinations at one next hop the stricter wins."""
    goals = [
        Destination("s", hosts=("s.example.net",), tls="ca+name"),
        Destination("t", hosts=("s.example.net",), tls="may"),
        Destination("u", domain="u.example", tls="dane"),
    ]
    faces = answerer(world, D, destinations=goals)
    assert value(faces, "tls_policy", "[s.example.net]") == ("OK", "secure match=s.example.net")
    assert value(faces, "tls_policy", "u.example") == ("OK", "dane-only")
    assert value(faces, "tls_policy", "[x.example]") == ("NOTFOUND", "")
