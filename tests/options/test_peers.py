# SPDX-License-Identifier: Apache-2.0
"""The other side as a client: known by its SPF record, by networks; no flood, no stranger, no grey list."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checks.zone import Zone, asking_only
from tests.e2e.site import Cleaned, Site
from tests.mta import daemon
from tests.mta.places import new_address
from tests.mta.waiting import wait_for


@pytest.fixture
def cloud(cleaned: Cleaned, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Zone:
    """A name server that the daemon asks instead of the host's: its resolv.conf is another one."""
    zone = Zone(
        {
            "spf.cloud.test": {"TXT": ['"v=spf1 include:more.cloud.test ip6:2001:db8::/48 -all"']},
            "more.cloud.test": {"TXT": ['"v=spf1 ip4:127.77.7.0/24 -all"']},
        },
        host=new_address(),
        port=53,
    )
    cleaned(lambda: zone.__exit__(None, None, None))
    command = asking_only(zone, folder, "timeout:1 attempts:1")
    monkeypatch.setattr(daemon, "COMMAND", [*command, *daemon.COMMAND])
    return zone


CLOUD, STRANGER = "127.77.7.9", "127.78.8.9"


def test_row_82_spf_peer(cleaned: Cleaned, cloud: Zone) -> None:
    """Row 82 (ii), 6: the primary's networks come out of its SPF record; the last good set outlives the name server."""
    site = Site(
        cleaned,
        domain={"role": '"secondary"', "unknown": '"relay"', "outsiders": '"verify"', "peer_only": "true"},
        destination={"peers": '["spf:spf.cloud.test"]'},
    ).install()
    wait_for(lambda: "127.77.7.0/24" in (site.folder / "state" / "peers.json").read_text(), 20, site.tails)
    table = f"cidr:{site.maps}/peers_access"
    site.build()
    assert site.mta.query(CLOUD, table) == "permit"
    assert site.mta.query("2001:db8::9", table) == "permit"
    assert site.mta.query(STRANGER, table) is None

    def answers() -> dict[str, str]:
        said = site.send("zed@example.com", "bob@example.com", "ann@example.com", client=CLOUD, probe=True)
        return {name: f"{said.codes[name]} {text[:5]}" for name, text in said.texts.items()}

    wanted = {"zed@example.com": "550 5.4.6", "bob@example.com": "451 4.4.6", "ann@example.com": "250 2.1.5"}
    wait_for(lambda: answers() == wanted, 10, lambda: f"{answers()}\n{site.tails()}")
    assert site.send("ann@example.com", client=STRANGER).texts["ann@example.com"].startswith("5.7.1")
    assert "loop: an address came back" in site.splitmx.tail(100)
    wait_for(lambda: 'domain="example.com",map="policy",verdict="LOOP"' in _metrics(site), 10)

    cloud.silent = True
    site.splitmx.stop()
    kept = site.folder / "state" / "maps" / "peers_access"  # where `build` writes without [static]
    kept.write_text("# older\n")
    site.splitmx.start()
    site.wait_known("ann@example.com")
    wait_for(lambda: answers() == wanted, 10, lambda: f"{answers()}\n{site.tails()}")
    wait_for(lambda: "127.77.7.0/24\tpermit" in kept.read_text(), 20, site.tails)


def _metrics(site: Site) -> str:
    from urllib.request import urlopen

    with urlopen(f"http://{site.store.host}:9464/metrics", timeout=10) as page:
        return str(page.read().decode())


def test_row_14_exceptions_for_peers(cleaned: Cleaned) -> None:
    """Row 14: the other side is not grey-listed and not rate-limited, a stranger is."""
    site = Site(cleaned, destination={"peers": '["127.77.7.0/24"]'})
    site.mta.set(
        smtpd_client_restrictions=f"check_client_access cidr:{site.maps}/peers_access, "
        "check_client_access inline:{{127.78=450 4.7.1 grey-listed}}",
        smtpd_client_message_rate_limit="2",
    )
    site.install()

    assert site.send("ann@example.com", client=STRANGER).texts["ann@example.com"].endswith("grey-listed")
    for _ in range(4):
        sent = site.send("ann@example.com", client=CLOUD)
        assert sent.data == 250
        site.store.wait(sent.subject, "ann@example.com")
    senders = [site.send("ann@example.com", client="127.79.1.1").sender[0] for _ in range(4)]
    assert senders == [250, 250, 450, 450]
    assert site.check() == []


def test_row_82_what_listener_and_certificate_need(cleaned: Cleaned) -> None:
    """Row 82: for a peer with a certificate smtpd asks for one, by the right digest; a listener has to be there."""
    door, digest = new_address(), ":".join(["AB"] * 32)
    site = Site(cleaned, destination={"peers": f'["listener:{door}:25", "cert:{digest}"]'})
    site.mta.set(smtpd_tls_fingerprint_digest="md5")
    site.splitmx.start()
    site.build()
    site.mta.apply(site.show())

    assert site.mta.get("smtpd_tls_ask_ccert") == "yes"
    assert site.mta.get("smtpd_tls_fingerprint_digest") == "sha256"
    found = "\n".join(site.check())
    assert f"no smtpd of master.cf listens at {door}:25" in found
    assert "smtpd offers no TLS" in found

    site.mta.command("postconf", "-Me", f"{door}:25/inet={door}:25 inet n - n - - smtpd")
    site.mta.set(smtpd_tls_security_level="may")
    site.mta.apply(site.show())
    assert site.check() == []


def test_row_14_postscreen(cleaned: Cleaned) -> None:
    """Row 14: where postscreen runs, it passes the other side on without any test."""
    ip = new_address()
    door = f"{ip}:25"
    site = Site(cleaned, ip=ip, destination={"peers": f'["127.77.7.0/24", "listener:{door}"]'})
    site.mta.command("postconf", "-MX", f"{door}/inet")
    for entry in (
        f"{door} inet n - n - 1 postscreen",
        "smtpd pass - - n - - smtpd",
        "dnsblog unix - - n - 0 dnsblog",
        "tlsproxy unix - - n - 0 tlsproxy",
    ):
        name, kind = entry.split()[:2]
        site.mta.command("postconf", "-Me", f"{name}/{kind}={entry}")
    site.mta.set(postscreen_greet_wait="1s")
    site.install()

    for client in (CLOUD, STRANGER):
        site.send("bob@example.com", client=client)

    wait_for(lambda: f"LISTED [{CLOUD}]" in site.mta.text(), 10, site.tails)
    wait_for(lambda: f"PASS NEW [{STRANGER}]" in site.mta.text(), 10, site.tails)
    assert site.check() == []
