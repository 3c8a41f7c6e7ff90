# SPDX-License-Identifier: Apache-2.0
"""Domains and people that change side while mail flows: waves, observing, switching on and off."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from tests.e2e.site import PEOPLE, Cleaned, Site
from tests.mta.places import new_address
from tests.mta.postfix import PostfixInstance
from tests.mta.sending import send
from tests.mta.waiting import wait_for


def test_case_90_wave(cleaned: Cleaned) -> None:
    """Case 90: from its moment on a wave's people are at the other side, plus forms too; undone by removal."""
    at = datetime.now(UTC) + timedelta(seconds=20)
    wave = (
        f'\n[waves.pilot]\nat = "{at:%Y-%m-%dT%H:%M:%SZ}"\ndomain = "example.com"\n'
        'to = "there"\naddresses = ["carl@example.com"]\n'
    )
    site = Site(cleaned, tables=wave).install()

    sent = site.send("carl@example.com")
    site.arrives(sent, here=["carl@example.com"])
    before = site.splitmx.run(
        "explain", "--json", "--at", f"{at - timedelta(seconds=5):%Y-%m-%dT%H:%M:%SZ}", "carl@example.com"
    )
    after = site.splitmx.run(
        "explain", "--json", "--at", f"{at + timedelta(seconds=5):%Y-%m-%dT%H:%M:%SZ}", "carl@example.com"
    )
    assert json.loads(before.stdout)["decision"] == "LOCAL"
    assert json.loads(after.stdout)["decision"] == "RELAY"

    wait_for(lambda: "relay" in site.query("transport", "carl@example.com"), 60)
    sent = site.send("carl@example.com", "carl+x@example.com", "ann@example.com")
    site.arrives(sent, here=["ann@example.com"], there=["carl@example.com", "carl+x@example.com"])

    site.configure(wave, "")
    wait_for(lambda: "lmtp" in site.query("transport", "carl@example.com"), 20)
    # qmgr remembers the last route it asked for, for 30 s: let that be another one
    sent = site.send("ann@example.com")
    site.arrives(sent, here=["ann@example.com"])
    sent = site.send("carl@example.com")
    site.arrives(sent, here=["carl@example.com"])


def test_queued_mail_follows_a_move(cleaned: Cleaned) -> None:
    """Rows 16, 90: mail that waits for the other side is delivered here when its recipient has moved here meanwhile."""
    site = Site(cleaned, remote=["bob@example.com"]).install()
    site.secondary.stop()
    sent = site.send("bob@example.com")
    wait_for(lambda: site.mta.delayed(), 20, site.tails)

    site.add(("bob@example.com", "mailbox", "", None, 1))
    site.list_remote("bea@example.com")
    wait_for(lambda: "lmtp" in site.query("transport", "bob@example.com"), 20)

    def delivered() -> bool:
        site.mta.flush()
        return site.store.recipients(sent.subject) == ["bob@example.com"]

    wait_for(delivered, 45, site.tails, step=1)  # qmgr(8) keeps its last route for 30 s


def test_rows_29_73_enabled_false(cleaned: Cleaned) -> None:
    """Row 29, case 73: a domain that is off is nobody's business: Postfix does what it did without us."""
    site = Site(cleaned, domain={"enabled": "false"}, tables="""
[domains."example.net"]
local = ["here"]
destination = "there"
unknown = "relay"
local_transport = "{site.store.transport}"
""", people=[*PEOPLE, ("ann@example.net", "mailbox", "", None, 1)])  # fmt: skip
    site.splitmx.start()
    site.wait_known("ann@example.net")
    site.build()
    site.mta.apply(site.show())
    site.mta.start()

    sent = site.send("ann@example.com", "ann@example.net")

    assert sent.codes["ann@example.com"] in (454, 554)
    assert sent.codes["ann@example.net"] == 250
    site.arrives(sent, here=["ann@example.net"])


def test_row_29_switched_off_while_running(cleaned: Cleaned) -> None:
    """Row 29: a live domain that is switched off is refused by Postfix at RCPT, never taken and bounced; switched on
    again it is there again, as it was."""
    site = Site(cleaned, tables="""
[domains."example.net"]
local = ["here"]
destination = "there"
unknown = "reject"
local_transport = "{site.store.transport}"
locations = {{ local = "local", there = "there" }}
""", people=[*PEOPLE, ("ann@example.net", "mailbox", "", None, 1)])  # fmt: skip
    site.maps = site.folder / "state/maps"  # where a live daemon keeps the guard's table
    site.install()
    table, off = '[domains."example.net"]\n', '[domains."example.net"]\nenabled = false\n'

    def told() -> set[int]:
        return set(site.send("ann@example.net", "zed@example.net", probe=True).codes.values())

    assert told() == {250, 550}
    site.configure(table, off)
    wait_for(lambda: told() == {554}, 20, site.tails)
    assert not [line for line in site.check() if line.startswith("error")]

    site.configure(off, table)
    wait_for(lambda: told() == {250, 550}, 20, site.tails)
    site.arrives(site.send("ann@example.net"), here=["ann@example.net"])


def test_every_instance_hears_of_a_new_domain(cleaned: Cleaned) -> None:
    """A second Postfix that asks the same daemon knows a domain as soon as the first one does: each is reloaded."""
    site = Site(cleaned)
    second = PostfixInstance("second", {"virtual_mailbox_domains": "later.test", "virtual_mailbox_maps": "static:x"})
    cleaned(second.stop)
    site.maps = site.folder / "state/maps"  # where a live daemon keeps the guard's table
    site.install()
    words = ["postfix", "show", "--maps", str(site.maps), "--config-directory", str(second.config)]
    second.apply(site.splitmx.run(*words).stdout)
    second.start()

    site.text += """
[domains."later.test"]
local = ["here"]
destination = "there"
unknown = "relay"
"""
    site.splitmx.write(site.text)
    site.splitmx.reload()

    wait_for(lambda: "reload" in site.mta.text(), 20, site.tails)
    wait_for(lambda: "reload" in second.text(), 20, site.tails)
    sent = send(second.ip, "me@away.test", "zed@later.test")
    site.secondary.wait(sent.subject, "zed@later.test")


def test_row_20_domain_added_while_running(cleaned: Cleaned) -> None:
    """Rows 3, 20: a second domain comes in by SIGHUP, build and `postfix reload`; the first one never stops."""
    site = Site(cleaned).install()
    table = f"""
[domains."later.test"]
local = ["here"]
destination = "there"
unknown = "relay"
local_transport = "{site.store.transport}"
"""
    assert site.send("ann@later.test").codes["ann@later.test"] in (454, 554)
    site.add(("ann@later.test", "mailbox", "", None, 1))
    site.text += table
    site.splitmx.write(site.text)
    site.splitmx.reload()
    site.wait_known("ann@later.test")
    site.build()
    site.mta.apply(site.show())
    site.mta.reload()

    def taken() -> bool:
        return site.send("ann@later.test", "ann@example.com", probe=True).codes == {
            "ann@later.test": 250,
            "ann@example.com": 250,
        }

    wait_for(taken, 20, site.tails)
    sent = site.send("ann@later.test", "zed@later.test", "ann@example.com")
    site.arrives(sent, here=["ann@later.test", "ann@example.com"], there=["zed@later.test"])


def test_observing_end_to_end(cleaned: Cleaned) -> None:
    """An observed domain: Postfix does what it did, with the daemon stopped too; the report names who differs."""
    site = Site(cleaned, domain={"enabled": '"observe"'})
    site.mta.set(
        relay_domains="example.com",
        relay_recipient_maps="inline:{ann@example.com=x, zed@example.com=x, bob@example.com=x}",
        transport_maps=f"inline:{{example.com={site.store.transport}}}",
    )
    site.splitmx.start()
    wait_for(lambda: "LOCAL" in site.splitmx.run("explain", "ann@example.com").stdout, 20, site.splitmx.tail)
    site.build()
    site.mta.apply(site.show())
    site.mta.start()
    assert "splitmx" not in site.mta.get("transport_maps")
    assert "splitmx" not in site.mta.get("virtual_alias_maps")

    sent = site.send("ann@example.com", "zed@example.com", "bob@example.com", "never@example.com")
    assert list(sent.codes.values()) == [250, 250, 250, 550]
    site.arrives(sent, here=["ann@example.com", "zed@example.com", "bob@example.com"])

    def report() -> str:
        return site.splitmx.run("observe", "report").stdout

    wait_for(lambda: "zed@example.com" in report(), 20, report)
    site.splitmx.stop()
    sent = site.send("ann@example.com", "zed@example.com")
    assert set(sent.codes.values()) == {250}
    site.arrives(sent, here=["ann@example.com", "zed@example.com"])
    assert [line for line in site.check() if line.startswith("error")] == []


def test_row_14_peers_access(cleaned: Cleaned) -> None:
    """Rows 14, 35: the other side's networks stand in a cidr table for exceptions, and count as no flood."""
    peer = new_address()
    site = Site(cleaned, destination={"peers": f'["{peer}/32", "203.0.113.0/24"]'}).install()
    table = f"cidr:{site.maps}/peers_access"

    assert site.mta.query(peer, table)
    assert site.mta.query("203.0.113.7", table)
    assert site.mta.query("198.51.100.1", table) is None
    site.mta.set(smtpd_client_message_rate_limit="1", anvil_rate_time_unit="60s")
    site.mta.reload()
    for _ in range(3):
        assert site.send("ann@example.com", client=peer).data == 250
    assert site.send("ann@example.com").data == 250
    assert site.send("ann@example.com").sender[0] == 450
