# SPDX-License-Identifier: Apache-2.0
"""Role secondary, loops and peers: two real Postfix instances that point at each other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.site import US, Cleaned, Site
from tests.mta.auth import DovecotAuth
from tests.mta.places import new_address
from tests.mta.recording import certificate
from tests.mta.waiting import wait_for

Kept = Callable[[Callable[[], object]], None]


class Pair:
    """Primary and secondary of example.com. ann lives at the primary, carl at the secondary, zed nowhere."""

    def __init__(self, keep: Cleaned, *, primary: dict[str, str], secondary: dict[str, str], exclusive: str) -> None:
        first, second = new_address(), new_address()
        self.primary = Site(
            keep,
            ip=first,
            name="first",
            people=[("ann@example.com", "mailbox", "", None, 1)],
            remote=["carl@example.com"],
            domain=primary,
            destination={"hosts": f'["{second}"]', "peers": f'["{second}/32"]', "exclusive": exclusive},
        )
        self.secondary = Site(
            keep,
            ip=second,
            name="second",
            people=[
                ("carl@example.com", "mailbox", "", None, 1),
                ("ann@example.com", "alias", "nobody@x.test", "gone", 0),
            ],
            remote=["ann@example.com"],
            domain={"role": '"secondary"', "postmaster": '"carl@example.com"'} | secondary,
            destination={"hosts": f'["{first}"]', "peers": f'["{first}/32"]'},
        )
        self.secondary.remove("ann@example.com")
        self.primary.install()
        self.secondary.splitmx.start()
        self.secondary.wait_known("carl@example.com")
        self.secondary.build()
        self.secondary.mta.apply(self.secondary.show())
        self.secondary.mta.start()


@pytest.fixture(scope="module")
def pair(kept: Kept) -> Pair:
    """Strangers are relayed by both: without loop protection this goes round until hops are counted."""
    return Pair(
        kept,
        primary={"unknown": '"relay"'},
        secondary={"unknown": '"relay"', "outsiders": '"reject"'},
        exclusive="true",
    )


def test_rows_1_4_mail_reaches_both_sides(pair: Pair) -> None:
    """Rows 1, 2, 4, 79, 80: the primary keeps ann and hands carl over, the secondary delivers him."""
    sent = pair.primary.send("ann@example.com", "carl@example.com")

    assert set(sent.codes.values()) == {250}
    pair.primary.store.wait(sent.subject, "ann@example.com")
    (mail,) = pair.secondary.store.wait(sent.subject, "carl@example.com")
    assert mail.sender == "me@away.test"


@pytest.mark.parametrize("how", ["smtp", "sendmail"])
def test_row_66_inverse_rule(pair: Pair, how: str) -> None:
    """Row 66, cases 49, 50: a user of the secondary, or cron on it, writes to ann: it goes to the primary."""
    if how == "smtp":
        subject = pair.secondary.send("ann@example.com", sender="carl@example.com", client=US).subject
    else:
        subject = "row 66 by cron"
        pair.secondary.mta.sendmail("carl@example.com", ["ann@example.com"], f"Subject: {subject}\n\nHello\n")

    (mail,) = pair.primary.store.wait(subject, "ann@example.com")
    assert mail.sender == "carl@example.com"


def test_row_81_own_domain_sender_from_the_peer(pair: Pair) -> None:
    """Row 81, case 95: ann at the primary writes to carl: the secondary takes it, reject_unlisted_sender or not."""
    pair.secondary.mta.set(smtpd_reject_unlisted_sender="yes")
    pair.secondary.mta.reload()

    sent = pair.primary.send("carl@example.com", sender="ann@example.com", client=US)

    pair.secondary.store.wait(sent.subject, "carl@example.com")


def test_row_82_stranger_stops_at_the_secondary(pair: Pair) -> None:
    """Row 82 (ii), case 47: the primary relays a stranger; the secondary refuses at RCPT with 5.4.6, once."""
    sent = pair.secondary.send("zed@example.com", client=pair.primary.mta.ip)
    assert sent.texts["zed@example.com"].startswith("5.4.6")

    sent = pair.primary.send("zed@example.com", sender="writer@away.test")
    assert sent.codes == {"zed@example.com": 250}
    wait_for(lambda: any("writer@away.test" in m.recipients for m in pair.primary.world.mails), 20, pair.primary.tails)
    assert "5.4.6" in pair.primary.mta.text()
    pair.primary.mta.wait_empty()


def test_row_82_stranger_stops_at_the_primary(pair: Pair) -> None:
    """Row 82 (i), cases 41, 51, 52: carl writes to a stranger; the primary refuses it, carl gets a report."""
    sent = pair.secondary.send("zed@example.com", sender="carl@example.com", client=US)
    assert sent.codes == {"zed@example.com": 250}

    wait_for(lambda: any(m.sender == "" for m in pair.secondary.store.mails), 20, pair.secondary.tails)
    report = next(m for m in pair.secondary.store.mails if m.sender == "")
    assert report.recipients == ["carl@example.com"]
    assert b"5.4.6" in report.content
    pair.secondary.mta.wait_empty()


def test_cases_outsiders_reject(pair: Pair) -> None:
    """outsiders = "reject": a stranger from outside is refused at the secondary, listed remote people are relayed."""
    sent = pair.secondary.send("zed@example.com", "ann@example.com", "carl@example.com")

    assert sent.codes == {"zed@example.com": 550, "ann@example.com": 250, "carl@example.com": 250}
    assert sent.texts["zed@example.com"].startswith("5.1.1")
    pair.primary.store.wait(sent.subject, "ann@example.com")
    pair.secondary.store.wait(sent.subject, "carl@example.com")


def test_case_94_peer_is_no_relay_client(pair: Pair) -> None:
    """Case 94: being a peer gives no right to relay elsewhere."""
    sent = pair.secondary.send("x@elsewhere.test", sender="ann@example.com", client=pair.primary.mta.ip)

    assert sent.codes["x@elsewhere.test"] in (554, 454)


def test_postfix_check_is_content(pair: Pair) -> None:
    """Both hosts pass `postfix check`."""
    assert pair.primary.check() == []
    assert pair.secondary.check() == []


def test_row_2_peer_only(cleaned: Cleaned) -> None:
    """Row 2, case 53: with peer_only an outsider is refused with 5.7.1, the primary and our users are not."""
    peer = new_address()
    site = Site(
        cleaned,
        domain={"role": '"secondary"', "peer_only": "true", "unknown": '"relay"', "outsiders": '"reject"'},
        destination={"peers": f'["{peer}/32"]'},
    ).install()

    assert site.send("ann@example.com").texts["ann@example.com"].startswith("5.7.1")
    assert site.send("ann@example.com", client=peer).codes == {"ann@example.com": 250}
    assert site.send("ann@example.com", client=US).codes == {"ann@example.com": 250}


def test_row_2_who_is_logged_in_is_ours(cleaned: Cleaned) -> None:
    """Row 2: whoever has logged in is no outsider, also where the site has its permit_sasl_authenticated in
    smtpd_relay_restrictions alone, as Postfix's default has it; the next stranger from the same address is one."""
    site = Site(
        cleaned,
        domain={"role": '"secondary"', "peer_only": "true", "unknown": '"relay"', "outsiders": '"reject"'},
        destination={"peers": f'["{new_address()}/32"]'},
        settings={
            "smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination",
            "smtpd_recipient_restrictions": "permit_mynetworks, reject_unauth_pipelining",
        },
    )
    auth = DovecotAuth(site.folder / "auth")
    cleaned(auth.stop)
    site.mta.set(**auth.settings)
    site.install()
    names = ["ann@example.com", "bob@example.com", "zed@example.com"]

    for login, code in ((None, 550), (("carl@example.com", "secret"), 250), (None, 550)):
        assert site.send(*names, login=login, probe=True).codes == dict.fromkeys(names, code)


def test_row_82_shared_cloud_proves_nothing(cleaned: Cleaned) -> None:
    """Row 82 (i), case 44: another tenant of the same cloud writes to bob from a peer's address: relayed."""
    peer = new_address()
    site = Site(cleaned, destination={"peers": f'["{peer}/32"]'}).install()

    sent = site.send("bob@example.com", client=peer)

    site.arrives(sent, there=["bob@example.com"])


def test_case_42_listed_address_has_a_grace(cleaned: Cleaned) -> None:
    """Case 42: a listed remote address that comes back from its exclusive peer: 451 for loop_grace, then 550."""
    peer = new_address()
    site = Site(
        cleaned,
        domain={"loop_grace": '"3s"'},
        destination={"peers": f'["{peer}/32"]', "exclusive": "true"},
    ).install()

    first = site.send("bob@example.com", client=peer, probe=True)
    assert (first.codes["bob@example.com"], first.texts["bob@example.com"][:5]) == (451, "4.4.6")
    wait_for(lambda: site.send("bob@example.com", client=peer, probe=True).codes["bob@example.com"] == 550, 20)
    # who is here is welcome from there
    assert site.send("ann@example.com", client=peer, probe=True).codes == {"ann@example.com": 250}


def test_row_82_listener_and_certificate(cleaned: Cleaned) -> None:
    """Row 82: a listener of its own, or a client certificate, proves the peer even where its address is shared."""
    import hashlib
    import ssl

    door = new_address()
    cert, key = certificate("peer.test")
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(cert.read_text())).hexdigest().upper()
    print_ = ":".join(digest[n : n + 2] for n in range(0, 64, 2))
    site = Site(
        cleaned, destination={"peers": f'["listener:{door}:25", "cert:{print_}"]'}, domain={"loop_grace": '"1s"'}
    )
    own_cert, own_key = certificate(site.mta.ip)
    site.mta.set(
        smtpd_tls_security_level="may",
        smtpd_tls_cert_file=str(own_cert),
        smtpd_tls_key_file=str(own_key),
        smtpd_tls_ask_ccert="yes",
        smtpd_tls_fingerprint_digest="sha256",
    )
    site.mta.command("postconf", "-Me", f"{door}:25/inet={door}:25 inet n - n - - smtpd")
    site.install()

    from tests.mta.sending import send

    assert site.send("zed2@example.com", "bob@example.com", probe=True).codes["bob@example.com"] == 250
    codes = send(door, "me@away.test", "bob@example.com", probe=True).texts["bob@example.com"]
    assert codes.startswith("4.4.6")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(cert, key)
    said = site.send("bob@example.com", sender="c@away.test", starttls=context, probe=True).texts["bob@example.com"]
    assert "4.6" in said


def test_row_16_both_roles_on_one_host(cleaned: Cleaned) -> None:
    """Rows 16, 17: one host is primary for one domain and secondary for another; each follows its own rule."""
    peer = new_address()
    site = Site(
        cleaned,
        destination={"peers": f'["{peer}/32"]'},
        domain={"unknown": '"relay"'},
        people=[("ann@example.com", "mailbox", "", None, 1), ("ann@second.test", "mailbox", "", None, 1)],
        tables="""
[domains."second.test"]
role = "secondary"
local = ["here"]
destination = "there"
unknown = "relay"
outsiders = "reject"
local_transport = "{site.store.transport}"
""",
    ).install()

    sent = site.send("zed@example.com", "zed@second.test", "ann@second.test", client=peer)
    assert sent.codes == {"zed@example.com": 250, "zed@second.test": 550, "ann@second.test": 250}
    assert sent.texts["zed@second.test"].startswith("5.4.6")
    site.arrives(sent, here=["ann@second.test"], there=["zed@example.com"])
    sent = site.send("zed@second.test", client=US)
    site.arrives(sent, there=["zed@second.test"])
