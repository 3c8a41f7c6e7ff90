# SPDX-License-Identifier: Apache-2.0
"""Copies in unusual company: several stores, a catch-all, a location elsewhere, suspended people."""

from __future__ import annotations

import pytest

from tests.e2e.site import PEOPLE, Cleaned, Site
from tests.mta.recording import RecordingLmtp
from tests.mta.waiting import wait_for

TABLES = """
[domains."dual.test"]
delivery = "dual"
local = ["here"]
remote = ["there"]
destination = "there"
unknown = "catchall:info@dual.test"
postmaster = "ann@dual.test"
local_transport = "{site.store.transport}"
"""
CROWD = [f"somebody-of-the-crowd-{number}@dual.test" for number in range(1500)]
MORE = (
    ("second@example.com", "mailbox", "", "store2", 1),
    ("moved@example.com", "mailbox", "", "cloud", 1),
    ("all@example.com", "group", "ann@example.com, second@example.com, moved@example.com", None, 1),
    ("forward@example.com", "mailbox", "forward@example.com, friend@world.test", None, 1),
    ('"odd name"@example.com', "mailbox", "", None, 1),
    ('"odd name"@dual.test', "mailbox", "", None, 1),
    ("odd@dual.test", "alias", '"odd name"@dual.test', None, 1),
    ("ann@dual.test", "mailbox", "", None, 1),
    ("carl@dual.test", "mailbox", "", None, 1),
    ("info@dual.test", "group", "ann@dual.test, carl@dual.test", None, 1),
    *((address, "mailbox", "", None, 1) for address in CROWD),
    ("crowd@dual.test", "group", ", ".join(CROWD), None, 1),
)


class Stores(Site):
    """A site with a second store."""

    store2: RecordingLmtp


@pytest.fixture(scope="module", params=["live", "both"])
def site(request: pytest.FixtureRequest, kept: Cleaned) -> Stores:
    """example.com sends all there and keeps copies in two stores; dual.test has a catch-all."""
    store2 = RecordingLmtp()
    kept(store2.stop)
    site = Stores(
        kept,
        deploy=request.param,
        domain={
            "delivery": '"all"',
            "locations": f'{{ cloud = "there", store2 = "local:{store2.transport}" }}',
        },
        people=[*PEOPLE, *MORE],
        tables=TABLES,
    )
    site.store2 = store2
    site.install()
    return site


def test_row_25_each_store_keeps_its_copies(site: Stores) -> None:
    """Row 25: all: the copy of who is in another store is kept there, also of a group's members."""
    sent = site.send("second@example.com", "ann@example.com", "moved@example.com")
    site.store2.wait(sent.subject, "second@example.com")
    site.arrives(
        sent, here=["ann@example.com"], there=["ann@example.com", "moved@example.com", "second@example.com"]
    )  # fmt: skip

    sent = site.send("all@example.com")
    site.store2.wait(sent.subject, "second@example.com")
    site.arrives(
        sent, here=["ann@example.com"], there=["ann@example.com", "moved@example.com", "second@example.com"]
    )  # fmt: skip


def test_row_53_who_is_caught_for(site: Stores) -> None:
    """Rows 13, 53: the copy of a catch-all's mail, and of postmaster's, is made for those who get it."""
    sent = site.send("typo@dual.test")
    site.arrives(sent, here=["ann@dual.test", "carl@dual.test"], there=["ann@dual.test", "carl@dual.test"])

    sent = site.send("postmaster@dual.test")
    site.arrives(sent, here=["ann@dual.test"], there=["ann@dual.test"])


def test_row_53_copies_of_a_large_group(site: Stores) -> None:
    """Row 53: a group too large for one answer: everybody here and there, once."""
    sent = site.send("crowd@dual.test")

    assert sent.data == 250, sent.data_text
    site.store.wait(sent.subject, *CROWD, seconds=60)
    site.secondary.wait(sent.subject, *CROWD, seconds=60)


def test_copies_of_a_forwarding_mailbox(site: Stores) -> None:
    """A mailbox that forwards and keeps: there, here, and at the friend's, each once."""
    sent = site.send("forward@example.com")

    site.arrives(sent, here=["forward@example.com"], there=["forward@example.com"], out=["friend@world.test"])


def test_copies_of_quoted_local_parts(site: Stores) -> None:
    """A local part with a blank is the same address in the copy, directly and by an alias, with an extension too."""
    sent = site.send('"odd name"@example.com')
    site.secondary.wait(sent.subject, '"odd name"@example.com')
    site.store.wait(sent.subject, '"odd name"@example.com')
    for name, arrives in (
        ('"odd name"@dual.test', '"odd name"@dual.test'),
        ('"odd name+x"@dual.test', '"odd name+x"@dual.test'),
        ("odd@dual.test", '"odd name"@dual.test'),
    ):
        sent = site.send(name)
        site.store.wait(sent.subject, arrives)
        site.secondary.wait(sent.subject, arrives)


def test_a_store_that_is_down_holds_only_its_copy(site: Stores) -> None:
    """The copy in a store that is down waits by itself; what counts has arrived."""
    site.store2.stop()
    sent = site.send("second@example.com")
    site.secondary.wait(sent.subject, "second@example.com")
    wait_for(lambda: site.mta.delayed(), 20, site.tails)
    assert all("local-" in name for name in site.mta.delayed())

    site.store2.start()
    site.mta.flush()
    site.store2.wait(sent.subject, "second@example.com")
    assert site.check() == []


def test_row_53_files_alone(cleaned: Cleaned) -> None:
    """Row 53: dual delivery and all from static files alone, by alias and group too, without any daemon in the way."""
    site = Site(
        cleaned,
        deploy="static",
        domain={"delivery": '"dual"'},
        people=[*PEOPLE, ("dora@all.test", "mailbox", "", None, 1), ("d@all.test", "alias", "dora@all.test", None, 1)],
        tables=TABLES.replace("dual.test", "all.test")
        .replace('"dual"', '"all"')
        .replace('"catchall:info@all.test"', '"reject"')
        .replace("ann@all.test", "dora@all.test"),
    ).install()
    site.splitmx.stop()

    sent = site.send("sales@example.com", "carl+x@example.com", "zed@example.com")
    assert list(sent.codes.values()) == [250, 250, 550]
    site.arrives(
        sent,
        here=["ann@example.com", "carl+x@example.com"],
        there=["ann@example.com", "bob@example.com", "carl@example.com"],
        out=["outside@world.test"],
    )
    sent = site.send("d@all.test")
    site.arrives(sent, here=["dora@all.test"], there=["dora@all.test"])
    assert site.check() == []
