# SPDX-License-Identifier: Apache-2.0
"""Changing settings: logged, taken back, and the end of a split."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.site import Cleaned, Site
from tests.mta.waiting import wait_for


@pytest.fixture(scope="module")
def site(kept: Cleaned) -> Site:
    """A plain one, with a second domain that stays as it is."""
    site = Site(kept, tables="""
[domains."still.test"]
local = ["here"]
remote = ["there"]
destination = "there"
unknown = "reject"
local_transport = "{site.store.transport}"
""", remote=["bob@example.com", "rest@still.test"])  # fmt: skip
    return site.install()


def test_row_36_59_change_log(site: Site) -> None:
    """Rows 36, 59: each change of the settings is logged: when, how, and what was before and after."""
    site.configure('unknown = "reject"\npostmaster', 'unknown = "relay"\npostmaster')
    wait_for(lambda: site.query("relay_recipients", "zed@example.com") == "RELAY", 20, site.tails)

    def logged() -> list[Any]:  # a thread of the keeper writes it
        entries: list[Any] = json.loads(site.splitmx.run("rollback", "--log", "--json").stdout)
        return entries if len(entries) > 1 else []

    entries = wait_for(logged, 20, site.tails)
    assert [entry["by"] for entry in entries] == ["start", "reload"]
    assert entries[-1]["differs"] == ['domains."example.com".unknown: "reject" -> "relay"']
    assert entries[-1]["time"] > 1_700_000_000


def test_row_69_rollback(site: Site) -> None:
    """Row 69: rollback brings the settings before the last change back, to the file and to all answers."""
    done = site.splitmx.run("rollback")

    assert done.returncode == 0, done.stdout + done.stderr
    assert 'domains."example.com".unknown: "relay" -> "reject"' in done.stdout
    wait_for(lambda: site.query("relay_recipients", "zed@example.com") == "", 10, site.tails)
    assert 'unknown = "relay"\npostmaster' not in site.splitmx.config.read_text()
    site.text = site.splitmx.config.read_text()
    sent = site.send("bob@example.com", "zed@example.com")
    assert list(sent.codes.values()) == [250, 550]
    site.arrives(sent, there=["bob@example.com"])


def test_row_46_bad_settings_change_nothing(site: Site) -> None:
    """Row 46: half an entry is refused with its line, and the old settings go on."""
    bad = site.text.replace('destination = "there"', "destination =", 1)
    site.splitmx.write(bad)
    checked = site.splitmx.run("check", "--offline")
    site.splitmx.reload()
    wait_for(lambda: "refused" in site.splitmx.tail(10), 20, site.tails)

    assert checked.returncode == 2
    assert "splitmx.toml:" in checked.stdout + checked.stderr
    sent = site.send("ann@example.com", "bob@example.com")
    site.arrives(sent, here=["ann@example.com"], there=["bob@example.com"])
    site.splitmx.write(site.text)


def test_row_60_relay_without_destination(site: Site) -> None:
    """Row 60: unknown = "relay" without a destination is fatal."""
    bad = site.text.replace('destination = "there"\nunknown = "reject"', 'unknown = "relay"', 1)
    site.splitmx.write(bad)
    checked = site.splitmx.run("check", "--offline")

    assert checked.returncode == 2
    assert 'nothing, beside unknown = "relay"' in checked.stdout + checked.stderr
    site.splitmx.write(site.text)


def test_row_22_this_host_is_no_destination(site: Site) -> None:
    """Rows 22, 82: a destination that is this host, by interface or by Postfix's own name, is refused and found."""
    for own in ("127.0.0.1", "localhost"):
        site.splitmx.write(site.text.replace(site.secondary.host, own))
        checked = site.splitmx.run("check", "--offline")
        assert checked.returncode == 2
        assert "which is this host" in checked.stdout + checked.stderr
    site.splitmx.write(site.text.replace(site.secondary.host, site.mta.ip))  # proxy_interfaces names it
    assert "is this host" in site.splitmx.run("check").stdout
    site.splitmx.write(site.text)


def test_case_74_domain_that_is_switched_off(site: Site) -> None:
    """Row 29, case 73, 74: a domain that is off is the MTA's own business; mail that still waits for it is told of."""
    site.secondary.stop()
    sent = site.send("rest@still.test")
    wait_for(lambda: site.mta.delayed(), 20, site.tails)
    site.configure('[domains."still.test"]\n', '[domains."still.test"]\nenabled = false\n')
    wait_for(lambda: site.query("transport", "rest@still.test") == "", 20, site.tails)

    assert any("queued recipients belong to domains that are not enabled" in line for line in site.check())

    site.configure('[domains."still.test"]\nenabled = false\n', '[domains."still.test"]\n')
    wait_for(lambda: site.query("transport", "rest@still.test"), 20, site.tails)
    site.secondary.start()
    site.mta.flush()
    site.secondary.wait(sent.subject, "rest@still.test")


def test_runbook_19_retire(site: Site) -> None:
    """Runbook 19: retire refuses while somebody is at the other side, and names them; then the domain is off."""
    refused = site.splitmx.run("retire", "still.test")
    assert refused.returncode == 1
    assert "1 recipients are at the other side" in refused.stderr + refused.stdout
    assert "rest@still.test" in refused.stderr + refused.stdout

    site.list_remote("bob@example.com")
    wait_for(lambda: site.query("relay_recipients", "rest@still.test") == "", 20, site.tails)
    done = site.splitmx.run("retire", "still.test")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "enabled = false" in site.splitmx.config.read_text()
    site.text = site.splitmx.config.read_text()
    wait_for(lambda: "PASS" in site.explain("rest@still.test"), 20, site.tails)
    sent = site.send("ann@example.com", "bob@example.com")
    site.arrives(sent, here=["ann@example.com"], there=["bob@example.com"])
