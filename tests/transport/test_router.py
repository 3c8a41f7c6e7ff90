# SPDX-License-Identifier: Apache-2.0
"""The decision itself, case by case: REQUIREMENTS (e) numbers stand behind the tests that show them."""

from __future__ import annotations

import pytest

from tests.transport.world import NOW, D, World, answerer, decide, domain, value
from transport.config.settings import Destination, Location, Unknown, Wave
from transport.decision import Verdict


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


def test_subdomains(world: World) -> None:
    """exact leaves subdomains alone, strip takes the parent's address, match relays (cases 30-32)."""
    strip = answerer(world, domain(subdomains="strip"))
    assert decide(strip, "ann@a.b.example.com").targets == ("ann@example.com",)
    match = answerer(world, domain(subdomains="match"))
    assert decide(match, "anyone@sub.example.com").verdict is Verdict.RELAY
    assert decide(match, "anyone@subexample.com").verdict is Verdict.PASS


@pytest.mark.parametrize(("how", "verdict"), [("strip", Verdict.EXPAND), ("match", Verdict.RELAY)])
def test_what_is_below_an_exact_domain_is_its_open_parents(world: World, how: str, verdict: Verdict) -> None:
    """lab.example.com is itself alone: other names below example.com, and below lab too, are example.com's."""
    faces = answerer(world, domain(subdomains=how), domain(name="lab.example.com"))
    for name in ("else.example.com", "x.lab.example.com", "y.x.lab.example.com"):
        assert decide(faces, f"ann@{name}").verdict is verdict
    assert decide(faces, "ann@lab.example.com").verdict is Verdict.UNKNOWN


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
