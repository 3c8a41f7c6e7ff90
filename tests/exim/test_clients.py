# SPDX-License-Identifier: Apache-2.0
"""What depends on who connects: loops, peers, outsiders, sender verification."""

from __future__ import annotations

import pytest

from tests.exim.site import Site

pytestmark = pytest.mark.e2e


def test_loop_by_listener(site: Site) -> None:
    """A stranger that comes back by the peer's own listener is refused as a loop; a listed one waits first; who is
    here is taken (cases 41-43)."""
    sent = site.send(["zed@example.com", "ann@example.com"], port=2525)
    assert list(sent.codes.values()) == [550, 250]
    assert sent.texts["zed@example.com"].startswith("5.4.6 ")
    site.store.wait(sent.subject, "ann@example.com")
    again = site.send("bob@example.com", port=2525)
    assert again.codes == {"bob@example.com": 451}
    assert again.texts["bob@example.com"].startswith("4.4.6 ")


def test_shared_cloud_is_no_proof(site: Site) -> None:
    """The address of a shared cloud proves nothing: its other tenants' mail is relayed (case 44)."""
    sent = site.send(["bob@shared.example", "zed@shared.example"], client=site.cloud)
    assert list(sent.codes.values()) == [250, 550]
    assert sent.texts["zed@shared.example"].startswith("5.1.1 ")
    site.s.wait(sent.subject, "bob@shared.example")


def test_secondary_peer(site: Site) -> None:
    """Role secondary: what is not here and comes from the primary is a loop, listed or not; who is here is taken
    (cases 47, 48, 52)."""
    names = ["zed@secondary.example", "ann@secondary.example", "carl@secondary.example"]
    sent = site.send(names, client=site.peer)
    assert list(sent.codes.values()) == [550, 451, 250]
    site.store.wait(sent.subject, "carl@secondary.example")


def test_secondary_own_users(site: Site) -> None:
    """Role secondary: our own users' mail for the primary's people, and for strangers, goes there (cases 49, 51)."""
    sent = site.send(["ann@secondary.example", "zed@secondary.example"], "carl@secondary.example", client=site.ip)
    assert set(sent.codes.values()) == {250}
    site.s.wait(sent.subject, "ann@secondary.example", "zed@secondary.example")


def test_secondary_outsiders(site: Site) -> None:
    """Role secondary: `outsiders` decides about strangers' addresses from outside; listed people are relayed."""
    sent = site.send(["zed@secondary.example", "ann@secondary.example"], probe=True)
    assert list(sent.codes.values()) == [550, 250]


def test_peer_only(site: Site) -> None:
    """peer_only: only the primary brings mail from outside; our own users may write (case 53)."""
    assert site.send("carl@peeronly.example").codes == {"carl@peeronly.example": 550}
    assert site.send("carl@peeronly.example").texts["carl@peeronly.example"].startswith("5.7.1 ")
    assert site.send("carl@peeronly.example", client=site.peer).codes == {"carl@peeronly.example": 250}
    assert site.send("carl@peeronly.example", client=site.ip).codes == {"carl@peeronly.example": 250}


def test_peers_users_with_sender_verification(site: Site) -> None:
    """The other side's users write to people, aliases and groups here, with sender verification on: nothing is a
    loop, and members at the other side get their copy (case 81, 95)."""
    for client, port in ((site.peer, 25), ("127.99.9.9", 2525)):
        names = ["ann@example.com", "b.jones@example.com", "sales@example.com", "a.smith@example.com"]
        sent = site.send(names, "bob@example.com", client=client, port=port)
        assert set(sent.codes.values()) == {250}, sent.texts
        site.store.wait(sent.subject, "ann@example.com")
        site.s.wait(sent.subject, "bob@example.com")


def test_unknown_sender_of_ours(site: Site) -> None:
    """Sender verification refuses a forged address of ours that nobody has, and takes aliases and groups."""
    assert site.send("ann@example.com", "zed@example.com").codes == {"ann@example.com": 550}
    for sender in ("sales@example.com", "a.smith@example.com", "keeps@example.com", "ann+x@example.com"):
        assert site.send("ann@example.com", sender, probe=True).codes == {"ann@example.com": 250}


def test_peer_is_no_relay_client(site: Site) -> None:
    """Being a peer allows nobody to relay elsewhere (case 94)."""
    sent = site.send("x@foreign.example", "bob@example.com", client=site.peer)
    assert sent.codes == {"x@foreign.example": 550}


def test_shadows_are_not_for_outsiders(site: Site) -> None:
    """Nobody from outside reaches the addresses of copies and of parts of groups."""
    names = ["ann@all.example.local.splitmx.invalid", "everyone=1@example.com.group.splitmx.invalid"]
    assert set(site.send(names).codes.values()) == {550}


def test_client_certificate(site: Site) -> None:
    """The daemon hears the certificate's fingerprint from the ACL, in Exim's own spelling."""
    question = site.ask("zed@example.com", "client=192.0.2.1 listener=[127.0.0.1]:25 cert= outsider=yes bounce=no")
    assert question["decision"] == "unknown"
