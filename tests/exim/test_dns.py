# SPDX-License-Identifier: Apache-2.0
"""Destinations that are named, not numbered: MX and address records, a null MX, a silent name server."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import dns.flags
import dns.message
import pytest

from tests.checks.zone import Zone
from tests.exim.listener import Stub
from tests.exim.site import Site, exim_conf
from tests.mta.exim import EximInstance
from tests.mta.places import new_address
from tests.mta.recording import RecordingLmtp, RecordingSmtp, certificate, tls_context
from tests.mta.sending import OUTSIDE, send
from tests.mta.waiting import wait_for
from transport.config.settings import Daemon, Destination, Domain, Listener, Settings

pytestmark = pytest.mark.e2e

Cleaned = Callable[[Callable[[], object]], None]


def made(site: Site, folder: Path, cleaned: Cleaned, zone: Zone, hops: dict[str, tuple[str, str]]) -> EximInstance:
    """An Exim that asks `zone`; hops: first letter of a local part -> (hosts, tls)."""

    def answer(line: bytes) -> bytes:
        local = line.decode().rpartition("recipient=")[2][0]
        hosts, tls = hops[local]
        return f"decision=relay hosts={hosts} port=25 tls={tls} address={local}@example.com verify=no".encode()

    stub = Stub(folder / "exim.sock", answer)
    cleaned(stub.close)
    settings = Settings(
        daemon=Daemon(exim=(Listener("unix", str(stub.path)),)),
        destinations={"s": Destination("s", domain="tenant.example")},
        domains={"example.com": Domain("example.com", destination="s")},
    )
    exim = EximInstance(
        exim_conf(settings, store=site.store, outside=site.outside, extra="dns_dnssec_ok = 1"), name="dns"
    )
    cleaned(exim.stop)
    if not exim.ask_dns(zone.host):
        pytest.skip("no mount namespace may be made here: Exim would ask this host's own name server")
    return exim.start()


def test_named_destinations(site: Site, folder: Path, cleaned: Cleaned) -> None:
    """A destination domain goes to its MX hosts in order, a host to its address whatever its MX is; a null MX fails at
    once with 5.1.10; while the DNS is silent listed people are taken and their mail waits (cases 21-23, 45, 83)."""
    first, second, host = RecordingSmtp(), RecordingSmtp(), RecordingSmtp()
    zone = Zone(
        {
            "tenant.example": {"MX": ["10 mx1.tenant.example.", "20 mx2.tenant.example."]},
            "mx1.tenant.example": {"A": [first.host]},
            "mx2.tenant.example": {"A": [second.host]},
            "host.example": {"A": [host.host], "MX": ["10 mx1.tenant.example."]},
            "nomail.example": {"MX": ["0 ."]},
        },
        new_address(),
        53,
    )
    hops = {"a": ("tenant.example/MX", "may"), "b": ("host.example", "may"), "c": ("nomail.example/MX", "may")}
    exim = made(site, folder, cleaned, zone, hops)
    sent = send(exim.ip, "", ["a@example.com", "b@example.com", "c@example.com"])
    assert list(sent.codes.values())[:2] == [250, 250]
    first.wait(sent.subject, "a@example.com")
    host.wait(sent.subject, "b@example.com")
    wait_for(lambda: "** c@example.com" in exim.log(), 10, exim.tail)
    assert "550 5.1.10" in exim.log() or "null MX" in exim.log()
    first.stop()
    again = send(exim.ip, "", "a@example.com")
    second.wait(again.subject, "a@example.com")
    zone.silent = True
    waits = send(exim.ip, "o@outside.test", "b@example.com")
    assert waits.codes == {"b@example.com": 250}
    assert ["b@example.com"] in exim.queued().values()
    zone.silent = False
    exim.flush()
    host.wait(waits.subject, "b@example.com")


class SecureZone(Zone):
    """Says of each answer that DNSSEC proved it, as a validating resolver does (RFC 4035 3.2.3)."""

    def _answer(self, packet: bytes) -> bytes:
        reply = dns.message.from_wire(super()._answer(packet))
        reply.flags |= dns.flags.AD
        return reply.to_wire()


def tlsa(cert: Path) -> str:
    """The TLSA record `3 1 1` of a certificate's key."""
    key = subprocess.run(["openssl", "x509", "-in", str(cert), "-pubkey", "-noout"], capture_output=True, check=True)
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"], input=key.stdout, capture_output=True, check=True
    ).stdout
    return f"3 1 1 {hashlib.sha256(der).hexdigest()}"


def test_dane(site: Site, folder: Path, cleaned: Cleaned) -> None:
    """dane: delivered where a proven TLSA record fits the certificate; deferred where it does not fit or is missing."""
    files = [certificate(f"{name}.dane.example") for name in ("good", "other", "none")]
    servers = [RecordingSmtp(tls=tls_context(*pair)) for pair in files]
    zone = SecureZone(
        {
            "good.dane.example": {"A": [servers[0].host]},
            "_25._tcp.good.dane.example": {"TLSA": [tlsa(files[0][0])]},
            "other.dane.example": {"A": [servers[1].host]},
            "_25._tcp.other.dane.example": {"TLSA": [tlsa(files[0][0])]},
            "none.dane.example": {"A": [servers[2].host]},
        },
        new_address(),
        53,
    )
    hops = {name[0]: (f"{name}.dane.example", "dane") for name in ("good", "other", "none")}
    exim = made(site, folder, cleaned, zone, hops)
    sent = send(exim.ip, "", ["g@example.com", "o@example.com", "n@example.com"])
    assert set(sent.codes.values()) == {250}
    (mail,) = servers[0].wait(sent.subject, "g@example.com")
    assert mail.tls
    wait_for(lambda: all(f"== {n}@example.com" in exim.log() for n in "on"), 10, exim.tail)
    assert "**" not in exim.log()
    assert not servers[1].mails
    assert not servers[2].mails


def test_own_clients_known_by_name(folder: Path, cleaned: Cleaned) -> None:
    """While the DNS, or a database, cannot say whether a client is ours, nobody is refused as an outsider: 451."""
    client = new_address()
    pointer = f"{'.'.join(reversed(client.split('.')))}.in-addr.arpa"
    zone = Zone({pointer: {"PTR": ["pc.office.test."]}, "pc.office.test": {"A": [client]}}, new_address(), 53)
    store, cloud = RecordingLmtp(), RecordingSmtp()
    cleaned(store.stop)
    cleaned(cloud.stop)

    def answer(line: bytes) -> bytes:
        if b" outsider=yes " in line:
            return b'decision=refuse code=550 text="5.1.1 No such recipient here"'
        return f"decision=relay hosts={cloud.host} port=25 tls=may address=zed@example.com verify=no".encode()

    stub = Stub(folder / "exim.sock", answer)
    cleaned(stub.close)
    settings = Settings(
        daemon=Daemon(exim=(Listener("unix", str(stub.path)),)),
        destinations={"s": Destination("s", hosts=(cloud.host,))},
        domains={"example.com": Domain("example.com", destination="s")},
    )
    conf = exim_conf(settings, store=store, outside=cloud)
    names, database = "*.office.test", "${lookup dnsdb{defer_strict,a=clients.office.test}}"
    exims = [EximInstance(conf.replace("127.0.0.1 : {ip}", ours, 1), name="names") for ours in (names, database)]
    for exim in exims:
        cleaned(exim.stop)
        if not exim.ask_dns(zone.host):
            pytest.skip("no mount namespace may be made here: Exim would ask this host's own name server")
        exim.start()
    first, second = exims

    def told(exim: EximInstance, sender: str, address: str) -> int:
        return next(iter(send(exim.ip, sender, "zed@example.com", client=address, probe=True).codes.values()))

    assert told(first, "ann@example.com", client) == 250
    assert told(first, "o@outside.test", OUTSIDE) == 550
    zone.silent = True
    assert told(first, "ann@example.com", client) == 451
    assert told(second, "ann@example.com", client) == 451
