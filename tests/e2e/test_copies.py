# SPDX-License-Identifier: Apache-2.0
"""Dual delivery and all: one copy for each, under the real name, and no bounce for a copy."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tests.e2e.site import PEOPLE, US, Cleaned, Site
from tests.mta.waiting import wait_for

Kept = Callable[[Callable[[], object]], None]

SECOND = """
[domains."example.net"]
local = ["here"]
remote = ["there"]
destination = "there"
unknown = "reject"
delivery = "{delivery}"
local_transport = "{{site.store.transport}}"
"""
MORE = (
    *PEOPLE,
    ("ann@example.net", "mailbox", "", None, 1),
    ("both@example.com", "group", "ann@example.com, carl@example.com, ann@example.net", None, 1),
    ("nested@example.com", "group", "both@example.com, a.smith@example.com, bob@example.com", None, 1),
)


@pytest.fixture(scope="module", params=["live", "both"])
def dual(request: pytest.FixtureRequest, kept: Kept) -> Site:
    """Two domains with dual delivery to one destination."""
    tables = SECOND.format(delivery="dual")
    return Site(kept, deploy=request.param, domain={"delivery": '"dual"'}, tables=tables, people=MORE).install()


def no_trace(site: Site, subject: str) -> None:
    """No shadow name on the wire, in headers or in ORCPT."""
    for server in (site.store, site.secondary, site.world):
        for mail in server.of(subject):
            everything = " ".join([mail.sender, *mail.recipients, *mail.recipient_parameters, str(mail.content)])
            assert "splitmx" not in everything


def test_row_53_dual(dual: Site) -> None:
    """Row 53, case 75, 76: who is here gets it here and at the other side; a stranger is refused, not tried there."""
    sent = dual.send("ann@example.com", "zed@example.com", rcpt_options=["NOTIFY=SUCCESS,FAILURE"])

    assert sent.codes == {"ann@example.com": 250, "zed@example.com": 550}
    dual.store.wait(sent.subject, "ann@example.com")
    dual.secondary.wait(sent.subject, "ann@example.com")
    no_trace(dual, sent.subject)
    assert [address for address in dual.secondary.asked if address.startswith("zed")] == []


def test_row_53_remote_people_are_relayed_once(dual: Site) -> None:
    """Row 53: bob is at the other side alone: one mail there, none here."""
    sent = dual.send("bob@example.com")

    dual.arrives(sent, there=["bob@example.com"])


def test_row_53_members_by_alias_and_group(dual: Site) -> None:
    """Members reached by alias and nested group get their copy too, each once, with nothing of ours in it."""
    sent = dual.send("nested@example.com")

    dual.arrives(
        sent,
        here=["ann@example.com", "carl@example.com", "ann@example.net"],
        there=["ann@example.com", "carl@example.com", "ann@example.net", "bob@example.com"],
    )
    no_trace(dual, sent.subject)

    sent = dual.send("a.smith@example.com")
    dual.arrives(sent, here=["ann@example.com"], there=["ann@example.com"])


def test_row_42_two_domains_never_cross(dual: Site) -> None:
    """Row 42: two domains with one destination: each copy under its own domain, in one message too."""
    sent = dual.send("ann@example.com", "ann@example.net")

    dual.arrives(sent, here=["ann@example.com", "ann@example.net"], there=["ann@example.com", "ann@example.net"])
    no_trace(dual, sent.subject)


def test_case_77_copy_that_fails_is_silent(dual: Site) -> None:
    """Case 77: the other side refuses the copy: delivered here, and no report to the sender."""
    dual.secondary.replies["carl@example.com"] = "550 5.1.1 no such user"
    try:
        sent = dual.send("carl@example.com", sender="quiet@away.test")
        dual.arrives(sent, here=["carl@example.com"])
        assert "status=bounced" in dual.mta.text()
        assert [m for m in dual.world.mails if "quiet@away.test" in m.recipients] == []
    finally:
        dual.secondary.replies.clear()


def test_copy_waits_by_itself(dual: Site) -> None:
    """With the other side down who is here has the mail at once; the copy follows later, even with splitmx stopped."""
    dual.secondary.stop()
    sent = dual.send("ann@example.com")
    dual.store.wait(sent.subject, "ann@example.com")
    wait_for(lambda: dual.mta.delayed(), 20, dual.tails)
    dual.splitmx.stop()
    dual.secondary.start()
    dual.mta.flush()

    dual.secondary.wait(sent.subject, "ann@example.com")
    no_trace(dual, sent.subject)
    dual.splitmx.start()
    dual.wait_known("ann@example.com")


def test_local_users_and_cron_get_copies(dual: Site) -> None:
    """Mail of our own users and of cron is copied as well."""
    sent = dual.send("ann@example.com", sender="carl@example.com", client=US)
    dual.arrives(sent, here=["ann@example.com"], there=["ann@example.com"])

    dual.mta.sendmail("root@primary.test", ["ann@example.com"], "Subject: dual cron\n\nHello\n")
    dual.store.wait("dual cron", "ann@example.com")
    dual.secondary.wait("dual cron", "ann@example.com")


def test_dual_check(dual: Site) -> None:
    """`postfix check` has nothing to say."""
    assert dual.check() == []


def test_row_25_all(cleaned: Cleaned) -> None:
    """Row 25, case 79: delivery = "all": everything goes there, who is here has a copy; no crossing."""
    site = Site(cleaned, domain={"delivery": '"all"'}, tables=SECOND.format(delivery="all"), people=MORE).install()

    sent = site.send("ann@example.com", "ann@example.net", "bob@example.com", "zed@example.com")
    assert list(sent.codes.values()) == [250, 250, 250, 550]
    site.arrives(
        sent,
        here=["ann@example.com", "ann@example.net"],
        there=["ann@example.com", "ann@example.net", "bob@example.com"],
    )
    no_trace(site, sent.subject)

    sent = site.send("both@example.com", "a.smith@example.com")
    site.arrives(
        sent,
        here=["ann@example.com", "carl@example.com", "ann@example.net"],
        there=["ann@example.com", "carl@example.com", "ann@example.net"],
    )
    # the delivery that counts is the one there: its failure is reported, the local copy's is not
    site.secondary.replies["carl@example.com"] = "550 5.1.1 no such user"
    sent = site.send("carl@example.com", sender="told@away.test")
    site.store.wait(sent.subject, "carl@example.com")
    wait_for(lambda: any("told@away.test" in m.recipients for m in site.world.mails), 20, site.tails)
    assert site.check() == []


def test_delivery_until_ends_by_itself(cleaned: Cleaned) -> None:
    """After delivery_until dual delivery is split delivery again, without anybody's doing."""
    until = datetime.now(UTC) + timedelta(seconds=25)
    site = Site(cleaned, domain={"delivery": '"dual"', "delivery_until": f'"{until:%Y-%m-%dT%H:%M:%SZ}"'}).install()
    sent = site.send("ann@example.com")
    site.arrives(sent, here=["ann@example.com"], there=["ann@example.com"])

    wait_for(lambda: not site.query("recipient_bcc", "ann@example.com"), 60)
    sent = site.send("ann@example.com")

    site.arrives(sent, here=["ann@example.com"])


@pytest.mark.parametrize("deploy", ["live", "both"])
def test_a_name_with_the_delimiter_in_it_is_nobody_elses(cleaned: Cleaned, deploy: str) -> None:
    """With recipient_delimiter = "-" anna-maria, listed by herself, gives no copy of her mail to anna, nor any mail to
    those for whom anna is an alias, also where `identity` is false."""
    people = (
        ("anna@example.com", "mailbox", "", None, 1),
        ("anna-maria@example.com", "mailbox", "", "cloud", 1),
        ("anna-off@example.com", "alias", "outside@world.test", None, 1),
        ("eva@example.com", "alias", "outside@world.test", None, 1),
        ("eva-maria@example.com", "mailbox", "", "cloud", 1),
    )
    site = Site(
        cleaned,
        deploy=deploy,
        people=(*PEOPLE, *people),
        remote=("bob@example.com", "anna-lena@example.com"),
        settings={"recipient_delimiter": "-"},
        daemon={"recipient_delimiter": '"-"'},
        domain={"delivery": '"dual"', "identity": "false", "locations": '{ cloud = "there" }'},
    ).install()
    assert site.check() == []

    hers = [site.send(f"{name}@example.com") for name in ("anna-maria", "anna-lena", "eva-maria")]
    off, anna = site.send("anna-off@example.com"), site.send("anna-x@example.com")

    for sent in hers:
        site.arrives(sent, there=list(sent.codes))
    site.arrives(off, out=["outside@world.test"])
    site.arrives(anna, here=["anna-x@example.com"], there=["anna-x@example.com"])
