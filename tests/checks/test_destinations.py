# SPDX-License-Identifier: Apache-2.0
"""Destinations that are not there, are this host, or do not do the TLS that is asked of them, are found."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.checks.zone import Zone
from tests.mta.places import new_address
from tests.mta.recording import RecordingSmtp, certificate, tls_context
from transport.checks import destinations
from transport.checks.configured import findings
from transport.checks.destinations import DestinationResult, Ourselves, ourselves
from transport.checks.dns import Dns
from transport.config.load import load_text

Cleaned = Callable[[Callable[[], object]], None]

RECORDS = {
    "null.example": {"MX": ["0 ."]},
    "empty.example": {"TXT": ['"v=spf1 -all"']},
    "dead.example": {"MX": ["10 gone.example."]},
    "ours.example": {"MX": ["10 mx.ours.example."]},
    "mx.ours.example": {"A": ["127.0.0.1"]},
    "named.example": {"MX": ["10 us.example."]},
    "us.example": {"A": ["192.0.2.1"]},
    "dane.example": {"A": ["127.0.0.9"]},
    "_25._tcp.dane.example": {"TLSA": ["3 1 1 " + "ab" * 32]},
}


@pytest.fixture
def zone() -> Iterator[Zone]:
    """A name server with a few domains."""
    with Zone(RECORDS) as server:
        yield server


def look(
    zone: Zone, keys: str, *, us: Ourselves | None = None, connect: bool = True, ca: Path | None = None
) -> DestinationResult:
    """Check one destination, used by one domain."""
    text = f'[destinations.d]\n{keys}\n[domains."example.com"]\ndestination = "d"\n'
    settings = load_text(text, "x")
    dns = Dns(timeout=2.0, nameservers=(zone.host,), port=zone.port)
    us = us or ourselves(["us.example"])
    (result,) = destinations.check(settings, dns, us, connect=connect, ca_file=str(ca or ""))
    result.findings += destinations.tlsa(settings, dns)
    return result


def said(result: DestinationResult, level: str = "error") -> str:
    """The findings of a level as one text."""
    return "\n".join(finding.text for finding in result.findings if finding.level == level)


def test_a_good_destination_has_no_findings(zone: Zone, cleaned: Cleaned) -> None:
    """A server that answers is reached, by its address or by MX and A of a domain, on the port that is given."""
    server = RecordingSmtp(port=0)
    cleaned(server.stop)
    zone.records = {"good.example": {"MX": ["20 no.good.example.", "10 mx.good.example."]},
                    "no.good.example": {"A": [new_address()]},
                    "mx.good.example": {"A": [server.host]}}  # fmt: skip
    result = look(zone, f'hosts = ["{server.host}"]\nport = {server.port}\ntls = "none"')
    assert (result.reached, result.findings) == (True, [])
    result = look(zone, f'domain = "good.example"\nport = {server.port}')
    assert result.reached
    assert not said(result)
    assert "no.good.example cannot be used" in said(result, "warning")
    assert "plain text" in said(result, "note")


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ('domain = "null.example"', "null MX"),
        ('domain = "nowhere.example"', "no such name"),
        ('hosts = ["nowhere.example"]', "no such name"),
        ('domain = "dead.example"', "no such name: gone.example"),
        ('domain = "empty.example"', "empty.example has no A"),
        ('domain = "ours.example"', "mx.ours.example is this host (127.0.0.1)"),
        ('hosts = ["mx.ours.example"]', "mx.ours.example is this host (127.0.0.1)"),
        ('domain = "named.example"', "us.example is this host"),
    ],
)
def test_what_the_dns_says(zone: Zone, keys: str, text: str) -> None:
    """Null MX, missing names, and an MX or a host that is this one after all (rows 22 and 82)."""
    assert text in said(look(zone, keys, connect=False))


def test_proxy_interfaces_are_this_host(zone: Zone) -> None:
    """An address that Postfix has in proxy_interfaces leads back here."""
    us = ourselves([], ["192.0.2.1", "not an address"])
    assert "this host (192.0.2.1)" in said(look(zone, 'domain = "named.example"', us=us, connect=False))


def test_a_silent_name_server_is_no_final_answer(zone: Zone) -> None:
    """Without an answer nothing is said of the name but that nobody knows now."""
    zone.silent = True
    result = look(zone, 'domain = "named.example"', connect=False)
    assert "does not answer" in said(result)
    assert "try again" in result.findings[0].hint


def test_nobody_listens(zone: Zone) -> None:
    """A closed port is an error that names the address."""
    host = new_address()
    result = look(zone, f'hosts = ["{host}"]\nport = 2525')
    assert not result.reached
    assert f"{host}: connection refused" in said(result)


def test_a_server_that_says_no(zone: Zone, cleaned: Cleaned) -> None:
    """A greeting other than 220 is shown."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        import threading

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"554 5.7.1 go away\r\n")

        threading.Thread(target=refuse, daemon=True).start()
        port = listener.getsockname()[1]
        assert "it answers 554 5.7.1 go away" in said(look(zone, f'hosts = ["127.0.0.1"]\nport = {port}'))


def test_our_own_name_in_the_greeting(zone: Zone, cleaned: Cleaned) -> None:
    """A server that greets with this host's own name would give the mail back."""
    server = RecordingSmtp(port=0)
    cleaned(server.stop)
    us = Ourselves(frozenset({"recorder.test"}), ports=frozenset({server.port}))
    result = look(zone, f'hosts = ["{server.host}"]\nport = {server.port}', us=us)
    assert "this host's own name, recorder.test" in said(result)


@pytest.mark.parametrize(
    ("tls", "trusted", "text"),
    [
        ("none", False, ""),
        ("may", False, ""),
        ("encrypt", False, ""),
        ("ca", False, "is not believed"),
        ("ca", True, ""),
        ("ca+name", True, ""),
    ],
)
def test_certificates(zone: Zone, cleaned: Cleaned, tls: str, trusted: bool, text: str) -> None:
    """Only ca and ca+name care whether the certificate is believed."""
    address = new_address()
    cert, key = certificate(address)
    server = RecordingSmtp(host=address, port=0, tls=tls_context(cert, key))
    cleaned(server.stop)
    keys = f'hosts = ["{server.host}"]\nport = {server.port}\ntls = "{tls}"'
    result = look(zone, keys, ca=cert if trusted else None)
    assert text in said(result)
    assert bool(said(result)) == bool(text)
    assert result.tls.startswith("TLSv1") == (tls != "none" and not text)


def test_a_certificate_of_another_name(zone: Zone, cleaned: Cleaned) -> None:
    """ca+name wants the host's own name in the certificate; ca does not."""
    cert, key = certificate("other.example")
    server = RecordingSmtp(port=0, tls=tls_context(cert, key))
    cleaned(server.stop)
    keys = f'hosts = ["{server.host}"]\nport = {server.port}\n'
    assert "is not believed" in said(look(zone, keys + 'tls = "ca+name"', ca=cert))
    assert not said(look(zone, keys + 'tls = "ca"', ca=cert))


def test_no_starttls(zone: Zone, cleaned: Cleaned) -> None:
    """A server without STARTTLS is an error where TLS is asked for."""
    server = RecordingSmtp(port=0)
    cleaned(server.stop)
    keys = f'hosts = ["{server.host}"]\nport = {server.port}\ntls = "encrypt"'
    assert "offers no STARTTLS" in said(look(zone, keys))


def test_dane_needs_tlsa(zone: Zone) -> None:
    """tls = "dane" without a TLSA record is an error."""
    assert "no TLSA" not in said(look(zone, 'hosts = ["dane.example"]\ntls = "dane"', connect=False))
    assert "no TLSA record for us.example" in said(
        look(zone, 'hosts = ["us.example"]\ntls = "dane"', us=ourselves(), connect=False)
    )


def test_what_postfix_must_be_told() -> None:
    """ca needs a CA file or folder, dane needs DNSSEC; without those words nothing is said."""

    def errors(tls: str, **values: str) -> int:
        settings = load_text(f'[destinations.d]\nhosts = ["h.example"]\ntls = "{tls}"\n', "x")
        return len(destinations.mta_settings(settings, values))

    assert errors("may") == errors("none") == errors("encrypt") == 0
    assert errors("ca") == errors("ca+name", smtp_tls_CAfile="") == 1
    assert errors("ca", smtp_tls_CApath="/etc/ssl/certs") == 0
    assert errors("dane", smtp_dns_support_level="") == 1
    assert errors("dane", smtp_dns_support_level="dnssec") == 0


def test_one_next_hop_with_two_tls_words() -> None:
    """Destinations that share a next hop share its TLS policy, and check says which one wins."""
    text = '[destinations.a]\nhosts = ["h.example"]\n[destinations.b]\nhosts = ["h.example"]\ntls = "encrypt"\n'
    (found,) = findings(load_text(text, "x"))
    assert "Postfix takes encrypt for all" in found.text
