# SPDX-License-Identifier: Apache-2.0
"""What policy delegation answers (DESIGN 5.5), rule by rule; numbers are REQUIREMENTS (e) cases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.transport.world import NOW, World, answerer
from transport.answerer import Answerer
from transport.config.settings import Destination, Domain, Peer, Unknown
from transport.record import Kind

PRIMARY = Domain("example.com", local=("here",), remote=("there",), destination="s", unknown=Unknown.REJECT)
SECONDARY = replace(PRIMARY, role="secondary", unknown=Unknown.RELAY, outsiders=Unknown.VERIFY)
OWN = Peer("network", "198.51.100.9/32")
LISTENER = Peer("listener", "192.0.2.1:2525")


def destination(*peers: Peer, exclusive: bool = False) -> Destination:
    return Destination("s", hosts=("s.example.net",), peers=peers, exclusive=exclusive)


@pytest.fixture
def world() -> World:
    """ann here, bob at the other side, an alias and a group of ours that lead there."""
    made = World()
    made.add("ann@example.com")
    made.add("bob@example.com", "there")
    made.add("bjones@example.com", kind=Kind.ALIAS, targets=["bob@example.com"])
    made.add("sales@example.com", kind=Kind.GROUP, targets=["ann@example.com", "bob@example.com"])
    return made


def action(faces: Answerer, recipient: str, client: str = "203.0.113.5", **attributes: str) -> str:
    """The action for one RCPT."""
    request = {
        "request": "smtpd_access_policy",
        "protocol_state": "RCPT",
        "recipient": recipient,
        "sender": "someone@other.example",
        "client_address": client,
        "server_address": "192.0.2.1",
        "server_port": "25",
        **attributes,
    }
    return faces.policy(request, NOW).value


def test_nothing_to_say(world: World) -> None:
    """Known, unknown and foreign recipients of an ordinary client are left to the maps."""
    faces = answerer(world, PRIMARY, destinations=[destination(OWN)])
    for recipient in ("ann@example.com", "bob@example.com", "zed@example.com", "x@other.example", "", "a@b@c d"):
        assert action(faces, recipient) == "DUNNO"
    assert action(faces, "zed@example.com", protocol_state="DATA") == "DUNNO"


def test_verify_adds_the_probe(world: World) -> None:
    """Unlisted addresses under verify are probed, listed ones are not (cases 6-8)."""
    faces = answerer(world, replace(PRIMARY, unknown=Unknown.VERIFY))
    assert action(faces, "zed@example.com") == "reject_unverified_recipient"
    assert action(faces, "bob@example.com") == "DUNNO"


def test_temp_defers(world: World) -> None:
    """What cannot be decided is deferred, with text behind the code."""
    world.dead = {"here"}
    found = action(answerer(world, PRIMARY), "zed@example.com")
    assert found.startswith("DEFER_IF_PERMIT 4.3.0 ")


ROUTED = ("sue%example.com", "example.com!sue", "sue%example.com%", "sue%EXAMPLE.com.", "sue%example.com@mx.host.test",
          "sue%example.com@[192.0.2.1]", "sue@example.com@mx.host.test", "example.com!sue@mx.host.test")  # fmt: skip


@pytest.mark.parametrize("recipient", ROUTED)
def test_routed_recipients_are_judged(world: World, recipient: str) -> None:
    """Postfix delivers them to sue, and tells the policy service what the client wrote."""
    world.add("sue@example.com", active=False)
    faces = answerer(world, PRIMARY)
    assert action(faces, recipient).startswith("550 5.2.1 ")
    assert action(faces, recipient.replace("example.com", "other.test").replace("EXAMPLE.com", "other.test")) == "DUNNO"


def test_recipients_with_a_single_label(world: World) -> None:
    """Where append_dot_mydomain makes a domain of ours out of it, the restriction class says so behind an @ and a dot;
    a whole name is completed by nothing."""
    world.add("sue@example.com", active=False)
    faces = answerer(world, PRIMARY)
    for context in ("@.com", "outsider@.com", "@example.com@.com"):
        assert action(faces, "sue@example", policy_context=context).startswith("550 5.2.1 ")
        assert action(faces, "sue@example.com", policy_context=context).startswith("550 5.2.1 ")
    assert action(faces, "sue@example", policy_context="@example.com") == "DUNNO"
    assert action(faces, "sue@example.other", policy_context="@.com") == "DUNNO"


def test_recipients_without_a_domain(world: World) -> None:
    """Where $myorigin is ours, the restriction class says so behind an @."""
    world.add("sue@example.com", active=False)
    faces = answerer(world, PRIMARY)
    for context in ("@example.com", "outsider@example.com"):
        assert action(faces, "sue", policy_context=context).startswith("550 5.2.1 ")
        assert action(faces, "sue+x", policy_context=context).startswith("550 5.2.1 ")
        assert action(faces, "ann", policy_context=context) == action(faces, "sue@other.test", policy_context=context)
    assert action(faces, "sue") == "DUNNO"
    for odd in ("%", "!", "@", "%%%", "a" * 2000, "%" * 2000, "!" * 2000, "a%" * 900, "@" * 900):
        assert action(faces, odd, policy_context="@example.com") == "DUNNO"


def test_suspended(world: World) -> None:
    """A suspended mailbox is refused, also behind an alias (case 91)."""
    world.add("sue@example.com", active=False)
    world.add("susan@example.com", kind=Kind.ALIAS, targets=["sue@example.com"])
    faces = answerer(world, PRIMARY)
    assert action(faces, "sue+x@example.com").startswith("550 5.2.1 ")
    assert action(faces, "susan@example.com").startswith("550 5.2.1 ")


def test_primary_shared_cloud_proves_nothing(world: World) -> None:
    """As primary a shared address proves no loop: other tenants write from it (case 44)."""
    faces = answerer(world, PRIMARY, destinations=[destination(OWN)])
    assert action(faces, "zed@example.com", "198.51.100.9") == "DUNNO"
    assert action(faces, "bob@example.com", "198.51.100.9") == "DUNNO"


@pytest.mark.parametrize(
    ("peers", "exclusive", "client", "more"),
    [
        ((OWN,), True, "198.51.100.9", {}),
        ((OWN,), True, "::ffff:198.51.100.9", {}),
        ((LISTENER,), False, "203.0.113.5", {"server_port": "2525"}),
        ((Peer("cert", "AB:CD:EF"),), False, "203.0.113.5", {"ccert_fingerprint": "ab:cd:ef"}),
        ((Peer("cert", "AB:CD:EF"),), False, "203.0.113.5", {"ccert_pubkey_fingerprint": "AB:CD:EF"}),
        ((Peer("listener", "[2001:db8::1]:25"),), False, "2001:db8::7", {"server_address": "2001:db8:0::1"}),
    ],
)
def test_primary_loop(
    world: World, peers: tuple[Peer, ...], exclusive: bool, client: str, more: dict[str, str]
) -> None:
    """What proves the peer makes a stranger a loop at once; who is here is ordinary mail (cases 41, 43)."""
    faces = answerer(world, PRIMARY, destinations=[destination(*peers, exclusive=exclusive)])
    assert action(faces, "zed@example.com", client, **more).startswith("550 5.4.6 ")
    assert action(faces, "ann@example.com", client, **more) == "DUNNO"
    assert action(faces, "bjones@example.com", client, **more) == "DUNNO"
    assert action(faces, "sales@example.com", client, **more) == "DUNNO"


def test_listed_loop_has_grace(world: World) -> None:
    """A listed address that comes back: asked for its first sight, 451 for the grace, then 550 (case 42)."""
    faces = answerer(world, PRIMARY, destinations=[destination(LISTENER)])
    request = {"recipient": "bob@example.com", "server_address": "192.0.2.1", "server_port": "2525"}
    assert faces.policy(request, NOW).ask_loop == ("bob", "example.com")
    world.loops[("bob", "example.com")] = NOW - 599
    assert faces.policy(request, NOW).value.startswith("451 4.4.6 ")
    world.loops[("bob", "example.com")] = NOW - 600
    assert faces.policy(request, NOW).value.startswith("550 5.4.6 ")


def test_peer_of_another_destination_does_not_count(world: World) -> None:
    """A peer counts only for the destination that the recipient would be relayed to."""
    other = Destination("t", hosts=("t.example.net",), peers=(OWN,), exclusive=True)
    faces = answerer(world, PRIMARY, destinations=[destination(LISTENER), other])
    assert action(faces, "bob@example.com", "198.51.100.9") == "DUNNO"


def test_secondary_loop(world: World) -> None:
    """As secondary the primary's address is enough, shared or not, for whoever is not here (cases 47-52)."""
    faces = answerer(world, SECONDARY, destinations=[destination(OWN)])
    assert action(faces, "zed@example.com", "198.51.100.9").startswith("550 5.4.6 ")
    assert action(faces, "ann@example.com", "198.51.100.9") == "DUNNO"
    assert faces.policy({"recipient": "bob@example.com", "client_address": "198.51.100.9"}, NOW).ask_loop
    assert action(faces, "zed@example.com", "127.0.0.1") == "DUNNO"


def test_spf_peers(world: World) -> None:
    """An spf: peer is the networks that it resolved to last, both families."""
    world.spf["spf.example.net"] = ("192.0.2.0/25", "2001:db8::/48")
    faces = answerer(world, SECONDARY, destinations=[destination(Peer("spf", "spf.example.net"))])
    assert action(faces, "zed@example.com", "192.0.2.9").startswith("550 5.4.6 ")
    assert action(faces, "zed@example.com", "2001:db8::9").startswith("550 5.4.6 ")
    assert action(faces, "zed@example.com", "192.0.2.200") == "DUNNO"


def test_unresolved_peers_refuse_nobody(world: World) -> None:
    """Before an spf: name was ever resolved the primary cannot be told from a stranger: later, never a refusal."""
    spf = destination(Peer("spf", "spf.example.net"), OWN)
    faces = answerer(world, replace(SECONDARY, peer_only=True), destinations=[spf])
    assert action(faces, "ann@example.com", policy_context="outsider").startswith("DEFER_IF_PERMIT 4.3.0 ")
    assert action(faces, "ann@example.com", "198.51.100.9", policy_context="outsider") == "DUNNO"
    faces = answerer(world, replace(SECONDARY, outsiders=Unknown.REJECT), destinations=[spf])
    assert action(faces, "ann@example.com", policy_context="outsider") == "DUNNO"
    for name in ("zed@example.com", "bob@example.com"):
        assert action(faces, name, policy_context="outsider").startswith("DEFER_IF_PERMIT 4.3.0 ")
        assert action(faces, name) == "DUNNO"
    world.spf["spf.example.net"] = ("192.0.2.0/25",)
    assert action(faces, "zed@example.com", policy_context="outsider").startswith("550 5.1.1 ")


def test_secondary_catchall(world: World) -> None:
    """As secondary with a catch-all a stranger from the primary is caught, a bounce never (cases 10, 11)."""
    domain = replace(SECONDARY, unknown=Unknown.CATCHALL, catchall="ann@example.com")
    faces = answerer(world, domain, destinations=[destination(OWN)])
    assert action(faces, "zed@example.com", "198.51.100.9") == "DUNNO"
    assert action(faces, "zed@example.com", sender="").startswith("550 5.1.1 ")
    assert action(faces, "ann@example.com", sender="") == "DUNNO"


@pytest.mark.parametrize(
    ("outsiders", "answer"), [(Unknown.REJECT, "550 5.1.1 "), (Unknown.VERIFY, "reject_unverified_recipient")]
)
def test_secondary_catchall_is_for_the_primary(world: World, outsiders: Unknown, answer: str) -> None:
    """Row 13 (ii): what outsiders write to a stranger follows `outsiders` before any catch-all; listed people pass."""
    domain = replace(SECONDARY, unknown=Unknown.CATCHALL, catchall="ann@example.com", outsiders=outsiders)
    faces = answerer(world, domain, destinations=[destination(OWN)])
    assert action(faces, "zed@example.com", policy_context="outsider").startswith(answer)
    assert action(faces, "zed@example.com", "198.51.100.9", policy_context="outsider") == "DUNNO"
    assert action(faces, "ann@example.com", policy_context="outsider") == "DUNNO"


@pytest.mark.parametrize(
    ("outsiders", "answer"),
    [
        (Unknown.REJECT, "550 5.1.1 "),
        (Unknown.VERIFY, "reject_unverified_recipient"),
        (Unknown.RELAY, "DUNNO"),
    ],
)
def test_outsiders(world: World, outsiders: Unknown, answer: str) -> None:
    """An unlisted address from a stranger follows `outsiders`, in the second call only."""
    faces = answerer(world, replace(SECONDARY, outsiders=outsiders), destinations=[destination(OWN)])
    assert action(faces, "zed@example.com") == "DUNNO"
    assert action(faces, "zed@example.com", policy_context="outsider").startswith(answer)
    assert action(faces, "bob@example.com", policy_context="outsider") == "DUNNO"
    assert action(faces, "ann@example.com", policy_context="outsider") == "DUNNO"


def test_another_spelling_opens_no_other_door(world: World) -> None:
    """A domain alias of a secondary, whatever its own role, asks as much of outsiders as the domain itself."""
    alias = Domain("other.example", alias_of="example.com")
    for more, text in (({"peer_only": True}, "550 5.7.1 "), ({"outsiders": Unknown.REJECT}, "550 5.1.1 ")):
        faces = answerer(world, replace(SECONDARY, **more), alias, destinations=[destination(OWN)])
        assert action(faces, "zed@other.example", policy_context="outsider").startswith(text)
        assert action(faces, "zed@other.example") == "DUNNO"
        assert action(faces, "zed@other.example", "198.51.100.9").startswith("550 5.4.6 ")


def test_peer_only(world: World) -> None:
    """peer_only refuses strangers for the whole domain, never the primary itself (case 53)."""
    faces = answerer(world, replace(SECONDARY, peer_only=True), destinations=[destination(OWN)])
    assert action(faces, "ann@example.com", policy_context="outsider").startswith("550 5.7.1 ")
    assert action(faces, "ann@example.com", "198.51.100.9", policy_context="outsider") == "DUNNO"
    assert action(faces, "ann@example.com") == "DUNNO"


def test_observe_answers_nothing(world: World) -> None:
    """An observed domain is judged for the log, and answered DUNNO."""
    domain = replace(PRIMARY, enabled="observe", unknown=Unknown.VERIFY)
    outcome = answerer(world, domain).policy({"recipient": "zed@example.com"}, NOW)
    assert (outcome.value, outcome.observe) == ("DUNNO", True)
    assert outcome.decision is not None
    assert outcome.decision.verdict.value == "RELAY"


def test_domain_alias_is_looked_through(world: World) -> None:
    """A loop is seen through another spelling of the domain."""
    alias = Domain("example.org", alias_of="example.com")
    faces = answerer(world, SECONDARY, alias, destinations=[destination(OWN)])
    assert action(faces, "zed@example.org", "198.51.100.9").startswith("550 5.4.6 ")
    assert action(faces, "ann@example.org", "198.51.100.9") == "DUNNO"


@pytest.mark.parametrize("since", [None, NOW - 60, NOW - 3600])
def test_a_loop_is_judged_anew_each_time(world: World, since: float | None) -> None:
    """What is put off now is refused later, and let through when it is mended: no such answer is kept."""
    if since is not None:
        world.loops["bob", "example.com"] = since
    faces = answerer(world, PRIMARY, destinations=[destination(OWN, exclusive=True)])
    request = {"recipient": "bob@example.com", "sender": "a@other.example", "client_address": "198.51.100.9"}
    outcome = faces.policy(request, NOW)
    assert outcome.value[:3] == ("550" if since == NOW - 3600 else "451")
    assert not outcome.keep
    assert faces.policy(request | {"client_address": "203.0.113.5"}, NOW).keep
