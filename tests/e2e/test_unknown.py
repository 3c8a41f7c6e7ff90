# SPDX-License-Identifier: Apache-2.0
"""What becomes of an address that nobody lists: reject, relay, verify, catch-all."""

from __future__ import annotations

import pytest

from tests.e2e.site import PEOPLE, Cleaned, Site
from tests.mta.waiting import wait_for


def test_row_11_relay(cleaned: Cleaned) -> None:
    """Row 11, case 5: unknown = "relay" sends every stranger to the other side."""
    site = Site(cleaned, domain={"unknown": '"relay"'}).install()

    sent = site.send("zed@example.com", "ann@example.com")

    site.arrives(sent, here=["ann@example.com"], there=["zed@example.com"])


def test_row_12_verify(cleaned: Cleaned) -> None:
    """Row 12, cases 6, 7, 8: a stranger is probed: 550 and 250 as the other side says, 450 when it is down."""
    site = Site(cleaned, domain={"unknown": '"verify"'}).install()
    site.secondary.replies["no@example.com"] = "550 5.1.1 inner-host.corp: no such user"

    def code(name: str) -> tuple[int, str]:
        sent = site.send(name, probe=True)
        return sent.codes[name], sent.texts[name]

    wait_for(lambda: code("no@example.com")[0] == 550, 30, site.tails)
    assert "inner-host" not in code("no@example.com")[1]
    wait_for(lambda: code("zed@example.com")[0] == 250, 30, site.tails)
    sent = site.send("zed@example.com")
    site.arrives(sent, there=["zed@example.com"])

    site.secondary.stop()
    assert code("other@example.com")[0] == 450
    # who is listed is accepted, and waits
    assert code("bob@example.com")[0] == 250
    assert site.check() == []


def test_row_13_catch_all(cleaned: Cleaned) -> None:
    """Rows 13, 13a, cases 10, 11, 12: strangers go to the catch-all; not for the null sender, never listed people."""
    site = Site(cleaned, domain={"unknown": '"catchall:carl@example.com"'}).install()

    sent = site.send("typo@example.com", "bob@example.com", "ann@example.com")
    assert set(sent.codes.values()) == {250}
    site.arrives(sent, here=["ann@example.com", "carl@example.com"], there=["bob@example.com"])

    sent = site.send("typo@example.com", "bob@example.com", sender="")
    assert sent.codes == {"typo@example.com": 550, "bob@example.com": 250}
    assert sent.texts["typo@example.com"].startswith("5.1.1")
    site.arrives(sent, there=["bob@example.com"])


def test_row_13_catch_all_of_the_secondary(cleaned: Cleaned) -> None:
    """Row 13 (ii): mail for a typo that the primary hands over goes to the secondary's catch-all."""
    from tests.mta.places import new_address

    peer = new_address()
    site = Site(
        cleaned,
        domain={"role": '"secondary"', "unknown": '"catchall:carl@example.com"', "outsiders": '"reject"'},
        destination={"peers": f'["{peer}/32"]'},
    ).install()

    sent = site.send("typo@example.com", client=peer)

    assert sent.codes == {"typo@example.com": 250}
    site.arrives(sent, here=["carl@example.com"])


@pytest.mark.parametrize("sender", ["", "me@away.test"])
def test_cases_55_56_null_sender(cleaned: Cleaned, sender: str) -> None:
    """Cases 55, 56, 4: reports pass to remote people with <> kept; a stranger is refused either way."""
    site = Site(cleaned).install()

    sent = site.send("bob@example.com", "zed@example.com", sender=sender)

    assert sent.codes == {"bob@example.com": 250, "zed@example.com": 550}
    (mail,) = site.secondary.wait(sent.subject, "bob@example.com")
    assert mail.sender == sender


def test_files_alone_put_off_who_cannot_be_decided(cleaned: Cleaned) -> None:
    """Deployed static, somebody listed at a place that nobody knows, and a group with such a member, are put off (450,
    and in the queue for local senders), as live; only strangers are refused."""
    lost = ("odd@example.com", "mailbox", "", "mars", 1)
    team = ("team@example.com", "group", "ann@example.com odd@example.com", None, 1)
    site = Site(cleaned, deploy="static", people=(*PEOPLE, lost, team)).install()

    sent = site.send("odd@example.com", "Odd+x@example.com", "team@example.com", "zed@example.com", "ann@example.com")

    assert list(sent.codes.values()) == [450, 450, 450, 550, 250]
    site.arrives(sent, here=["ann@example.com"])
    site.mta.sendmail("me@away.test", ["odd@example.com"])
    wait_for(lambda: "4.3.0" in str(site.mta.delayed()) or "do not say" in str(site.mta.delayed()), 20, site.tails)
