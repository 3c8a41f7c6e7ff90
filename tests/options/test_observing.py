# SPDX-License-Identifier: Apache-2.0
"""Observing: a living Postfix goes on as it is, what splitmx would have done is logged and compared."""

from __future__ import annotations

import json

import pytest

from tests.e2e.site import PEOPLE, Cleaned, Site
from tests.mta.waiting import wait_for


@pytest.fixture(scope="module")
def site(kept: Cleaned) -> Site:
    """Postfix has its own maps for example.com: ann and carl here, bob wrongly here too, old there; zed unknown."""
    site = Site(
        kept,
        domain={"enabled": '"observe"'},
        people=[*PEOPLE, ("new@example.com", "mailbox", "", None, 1)],
        remote=["bob@example.com", "bea@example.com"],
    )
    names = ("ann", "carl", "bob", "old", "sales")
    recipients = site.mta.file("recipients", "".join(f"{name}@example.com x\n" for name in names))
    routes = site.mta.file("routes", f"old@example.com smtp:{site.secondary.nexthop}\n"
                                     f"example.com {site.store.transport}\n")  # fmt: skip
    site.mta.set(
        relay_domains="example.com",
        relay_recipient_maps=f"texthash:{recipients}",
        transport_maps=f"texthash:{routes}",
    )
    site.splitmx.start()
    wait_for(lambda: '"rows": 7' in site.splitmx.run("status", "--json").stdout.replace("  ", " "), 20,
             lambda: site.splitmx.run("status", "--json").stdout)  # fmt: skip
    site.build()
    site.mta.apply(site.show())
    site.mta.start()
    return site


def test_runbook_9_nothing_changes(site: Site) -> None:
    """No map of ours stands for an observed domain, and mail goes as Postfix's own tables say."""
    for name in ("transport_maps", "virtual_alias_maps", "relay_recipient_maps", "recipient_bcc_maps"):
        assert "splitmx" not in site.mta.get(name)

    sent = site.send(*(f"{name}@example.com" for name in ("ann", "bob", "old", "new", "zed", "gone", "sales")))

    assert list(sent.codes.values()) == [250, 250, 250, 550, 550, 550, 250]
    site.arrives(sent, here=["ann@example.com", "bob@example.com", "sales@example.com"], there=["old@example.com"])
    assert site.check() == []


def test_runbook_9_report(site: Site) -> None:
    """The report lists each difference between our decision and Postfix's deed, and everybody unknown."""
    site.send("ann@example.com", "bob@example.com", "new@example.com", "zed@example.com", "old@example.com")
    site.mta.wait_empty()
    words = ["observe", "report", "--domain", "example.com", "--log", str(site.mta.log), "--json"]

    def report() -> dict[str, list[dict[str, str]]]:
        found: dict[str, list[dict[str, str]]] = json.loads(site.splitmx.run(*words).stdout)
        return found

    wait_for(lambda: {one["recipient"] for one in report()["differences"]} >= {"bob@example.com", "new@example.com"},
             20, lambda: f"{report()}\n{site.tails()}")  # fmt: skip
    found = report()
    differing = {one["recipient"]: (one["would"], one["did"]) for one in found["differences"]}
    assert differing["bob@example.com"][0] == "relayed to there"
    assert "lmtp" in differing["bob@example.com"][1]
    assert differing["new@example.com"][0] == "delivered here"
    assert "550" in differing["new@example.com"][1]
    assert "ann@example.com" not in differing
    assert "zed@example.com" not in differing
    assert {"zed@example.com", "old@example.com"} <= {one["recipient"] for one in found["unknown"]}

    text = site.splitmx.run(*words[:-1])
    assert text.returncode == 1
    assert "Postfix did otherwise" in text.stdout
    assert "bob@example.com: relayed to there" in text.stdout


@pytest.mark.parametrize("how", ["hung", "stopped"])
def test_nothing_waits_for_an_observer(site: Site, how: str) -> None:
    """With the daemon hung or stopped an observed domain's mail is taken all the same."""
    if how == "hung":
        site.splitmx.freeze()
    else:
        site.splitmx.stop()
    try:
        sent = site.send("ann@example.com", "zed@example.com", sender=f"{how}@away.test")
        assert sent.codes == {"ann@example.com": 250, "zed@example.com": 550}
        site.arrives(sent, here=["ann@example.com"])
    finally:
        if how == "hung":
            site.splitmx.thaw()
        else:
            site.splitmx.start()


def test_from_observing_to_enabled(site: Site) -> None:
    """Row 29: one word in the configuration and the lines of `postfix show`, and the domain is split."""
    site.configure('enabled = "observe"', "enabled = true")
    site.mta.set(relay_recipient_maps="", transport_maps="")
    wait_for(lambda: site.query("relay_recipients", "new@example.com"), 20, site.tails)
    wait_for(lambda: site.splitmx.run("query", "here", "zed@example.com").returncode == 1, 20, site.tails)
    site.build()
    site.mta.apply(site.show())
    site.mta.reload()

    sent = site.send("ann@example.com", "bob@example.com", "new@example.com", "zed@example.com")

    assert list(sent.codes.values()) == [250, 250, 250, 550]
    site.arrives(sent, here=["ann@example.com", "new@example.com"], there=["bob@example.com"])
    # relay_domains stays as the site wrote it, and a plain name there takes subdomains too
    assert [line for line in site.check() if "takes every subdomain" not in line] == []
