# SPDX-License-Identifier: Apache-2.0
"""The way to the other side: hosts in order, MX, ports, services, locations, envelope, TLS."""

from __future__ import annotations

import socket
import threading

import dns.flags
import dns.message
import dns.rrset
import pytest

from tests.e2e.site import PEOPLE, Cleaned, Site
from tests.mta.places import new_address
from tests.mta.recording import RecordingLmtp, RecordingSmtp, certificate, tls_context
from tests.mta.waiting import wait_for


def test_row_63_hosts_in_order(cleaned: Cleaned) -> None:
    """Row 63: the first host is down, so the second gets it; with both down the mail waits."""
    down, up = new_address(), RecordingSmtp()
    cleaned(up.stop)
    site = Site(cleaned, destination={"hosts": f'["{down}", "{up.host}"]'}).install()

    sent = site.send("bob@example.com")
    up.wait(sent.subject, "bob@example.com")

    up.stop()
    sent = site.send("bob@example.com")
    wait_for(lambda: "Connection refused" in str(site.mta.delayed()), 20, site.tails)
    up.start()
    site.mta.flush()
    up.wait(sent.subject, "bob@example.com")


def test_row_21_port_and_own_service(cleaned: Cleaned) -> None:
    """Row 21: another port, and a master.cf service of its own, which `postfix show` makes."""
    other = RecordingSmtp(port=2525)
    cleaned(other.stop)
    site = Site(cleaned, destination={"hosts": f'["{other.host}"]', "port": "2525", "service": '"cloud"'}).install()

    sent = site.send("bob@example.com")

    other.wait(sent.subject, "bob@example.com")
    assert "cloud" in site.mta.text()
    assert site.check() == []


def test_no_smarthost_takes_what_the_other_side_does_not(cleaned: Cleaned) -> None:
    """With a smtp_fallback_relay, which would bring it back here, mail and copies wait for the other side."""
    site = Site(cleaned, domain={"delivery": '"dual"'})
    site.mta.set(smtp_fallback_relay=site.world.nexthop)
    site.install()
    site.secondary.stop()

    sent = site.send("ann@example.com", "bob@example.com")

    wait_for(lambda: len(site.mta.delayed()) == 2, 20, site.tails)
    assert site.world.recipients(sent.subject) == []
    site.secondary.start()
    site.mta.flush()
    site.arrives(sent, here=["ann@example.com"], there=["ann@example.com", "bob@example.com"])
    assert site.check() == []
    site.mta.command("postconf", "-PX", "relay/unix/smtp_fallback_relay")
    assert ["relay/unix lacks -o smtp_fallback_relay=" in line for line in site.check()] == [True]


class Dns:
    """A name server for one chrooted Postfix: it reads resolv.conf below its queue folder."""

    def __init__(self, records: dict[tuple[str, str], list[str]]) -> None:
        self.records = records
        self.host = new_address()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((self.host, 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                data, peer = self.socket.recvfrom(4096)
            except OSError:
                return
            query = dns.message.from_wire(data)
            reply = dns.message.make_response(query)
            reply.flags |= dns.flags.RA
            question = query.question[0]
            key = (question.name.to_text().rstrip("."), dns.rdatatype.to_text(question.rdtype))
            if key in self.records:
                reply.answer.append(dns.rrset.from_text(question.name, 1, "IN", key[1], *self.records[key]))
            self.socket.sendto(reply.to_wire(), peer)

    def stop(self) -> None:
        """Close it."""
        self.socket.close()


def test_row_45_domain_by_its_mx(cleaned: Cleaned) -> None:
    """Rows 23, 45: a destination domain: its MX hosts in order, and a new MX without any reload."""
    first, second = RecordingSmtp(), RecordingSmtp()
    names = Dns(
        {
            ("tenant.test", "MX"): ["10 mx1.tenant.test.", "20 mx2.tenant.test."],
            ("mx1.tenant.test", "A"): [first.host],
            ("mx2.tenant.test", "A"): [second.host],
        }
    )
    for server in (first, second, names):
        cleaned(server.stop)
    site = Site(cleaned, chroot=True, destination={"hosts": "[]", "domain": '"tenant.test"'})
    site.mta.set(smtp_host_lookup="dns")
    (site.mta.queue / "etc" / "resolv.conf").write_text(f"nameserver {names.host}\n")
    site.text = site.text.replace("hosts = []\n", "")
    site.splitmx.write(site.text)
    site.install()
    (site.mta.queue / "etc" / "resolv.conf").write_text(f"nameserver {names.host}\n")

    sent = site.send("bob@example.com")
    first.wait(sent.subject, "bob@example.com")
    first.stop()
    sent = site.send("bob@example.com")
    second.wait(sent.subject, "bob@example.com")
    third = RecordingSmtp()
    cleaned(third.stop)
    names.records["tenant.test", "MX"] = ["10 mx3.tenant.test."]
    names.records["mx3.tenant.test", "A"] = [third.host]
    sent = site.send("bob@example.com")
    third.wait(sent.subject, "bob@example.com")


def test_row_37_several_destinations_by_location(cleaned: Cleaned) -> None:
    """Rows 37, 71: a location outranks existence; it may name a destination, here, or another store."""
    other, store2 = RecordingSmtp(), RecordingLmtp()
    cleaned(other.stop)
    cleaned(store2.stop)
    site = Site(
        cleaned,
        people=[
            *PEOPLE,
            ("dora@example.com", "mailbox", "", "elsewhere", 1),
            ("emil@example.com", "mailbox", "", "store2", 1),
            ("fred@example.com", "mailbox", "", "onprem", 1),
            ("gus@example.com", "mailbox", "", "no-such-word", 1),
        ],
        domain={
            "locations": f'{{ elsewhere = "other", onprem = "local", store2 = "local:{store2.transport}" }}',
        },
        tables=f'\n[destinations.other]\nhosts = ["{other.host}"]\n',
    ).install()

    sent = site.send(*(f"{name}@example.com" for name in ("ann", "bob", "dora", "emil", "fred", "gus")))

    assert list(sent.codes.values()) == [250, 250, 250, 250, 250, 451]
    site.store.wait(sent.subject, "ann@example.com", "fred@example.com")
    site.secondary.wait(sent.subject, "bob@example.com")
    other.wait(sent.subject, "dora@example.com")
    store2.wait(sent.subject, "emil@example.com")


@pytest.mark.parametrize("deploy", ["live", "both"])
def test_row_27_envelope(cleaned: Cleaned, deploy: str) -> None:
    """Row 27, case 80: RCPT TO at the other domain; headers and own-domain senders untouched; plus kept."""
    site = Site(cleaned, deploy=deploy, destination={"envelope": '"tenant.test"'}).install()

    sent = site.send("bob@example.com", "bob+x@example.com", sender="ann@example.com", client="127.0.0.1")

    mails = site.secondary.wait(sent.subject, "bob@tenant.test", "bob+x@tenant.test")
    assert {mail.headers["To"] for mail in mails} == {"bob@example.com"}
    assert {mail.sender for mail in mails} == {"ann@example.com"}
    assert site.send("stranger@tenant.test").codes["stranger@tenant.test"] in (454, 554)
    assert site.check() == []


def test_case_17_plus_strip(cleaned: Cleaned) -> None:
    """Case 17: plus = "strip" takes the extension off for a destination that knows none."""
    site = Site(cleaned, destination={"plus": '"strip"'}).install()

    sent = site.send("bob+news@example.com", "ann+news@example.com")

    site.arrives(sent, here=["ann+news@example.com"], there=["bob@example.com"])


@pytest.mark.parametrize(
    ("word", "tls", "arrives", "secure"),
    [
        ("none", "self-signed", True, False),
        ("may", "self-signed", True, True),
        ("may", "", True, False),
        ("encrypt", "self-signed", True, True),
        ("encrypt", "", False, False),
        ("ca", "self-signed", False, False),
        ("ca", "", False, False),
        ("ca+name", "authority", True, True),
    ],
)
def test_row_47_tls(cleaned: Cleaned, word: str, tls: str, arrives: bool, secure: bool) -> None:
    """Rows 47, 64, case 85: the words of `tls` in Postfix; what is not good enough waits, never in clear."""
    host = new_address()
    ca = certificate("authority.test")
    pair = certificate(host, authority=ca if tls == "authority" else None)
    there = RecordingSmtp(host=host, tls=tls_context(*pair) if tls else None)
    cleaned(there.stop)
    site = Site(cleaned, destination={"hosts": f'["{host}"]', "tls": f'"{word}"'})
    site.mta.set(smtp_tls_CAfile=str(ca[0]))
    site.install()

    sent = site.send("bob@example.com")

    assert sent.data == 250
    if arrives:
        (mail,) = there.wait(sent.subject, "bob@example.com")
        assert mail.tls is secure
    else:
        wait_for(lambda: site.mta.delayed(), 20, site.tails)
        assert there.mails == []
        assert list(site.mta.delayed()) == ["bob@example.com"]


def test_row_28_bounce_goes_to_the_sender(cleaned: Cleaned) -> None:
    """Row 28, case 57, 88: what the other side refuses after queueing is reported to the sender, never dropped."""
    site = Site(cleaned).install()
    site.secondary.replies["bob@example.com"] = "550 5.4.1 recipient rejected"

    site.send("bob@example.com", sender="told@away.test")

    wait_for(lambda: any("told@away.test" in m.recipients for m in site.world.mails), 20, site.tails)


def test_case_86_throttling_waits(cleaned: Cleaned) -> None:
    """Case 86: 451 4.7.500 from a cloud: the mail waits, and goes out later."""
    site = Site(cleaned).install()
    site.secondary.replies["bob@example.com"] = "451 4.7.500 server busy"
    sent = site.send("bob@example.com")
    wait_for(lambda: "4.7.500" in str(site.mta.delayed()), 20, site.tails)

    site.secondary.replies.clear()
    site.mta.flush()

    site.secondary.wait(sent.subject, "bob@example.com")
