# SPDX-License-Identifier: Apache-2.0
"""`retire` beside a real Postfix: the end of a split costs nobody here their mail."""

from __future__ import annotations

import pytest

from tests.e2e.site import Cleaned, Site
from tests.mta.waiting import wait_for

pytestmark = pytest.mark.e2e


def test_retire_leaves_nobody_without_a_way(cleaned: Cleaned) -> None:
    """A relay domain whose store only splitmx knows: retire says so beforehand; with a way of Postfix's own it says
    nothing, and mail arrives."""
    people = [("ann@example.com", "mailbox", "", None, 1)]
    site = Site(cleaned, people=people, remote=["bea@other.example"]).install()
    told = site.splitmx.run("retire", "example.com", "--dry-run")
    assert told.returncode == 0, told.stderr
    assert "by splitmx alone" in told.stderr

    site.mta.set(relay_domains="", virtual_mailbox_domains="example.com", virtual_transport=site.store.transport)
    done = site.splitmx.run("retire", "example.com")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    wait_for(lambda: "PASS" in site.explain("ann@example.com"), 20, site.tails)
    site.mta.reload()
    sent = site.send("ann@example.com")
    site.arrives(sent, here=["ann@example.com"])
