# SPDX-License-Identifier: Apache-2.0
"""Copies and moves towards a destination with another envelope domain, which also knows no extensions."""

from __future__ import annotations

import pytest

from tests.e2e.site import PEOPLE, Cleaned, Site

TABLES = """
[destinations.tenant]
hosts = ["{site.world.host}"]
envelope = "tenant.test"
plus = "strip"
[domains."dual.test"]
delivery = "dual"
{common}
[domains."all.test"]
delivery = "all"
{common}
[domains."alias.test"]
alias_of = "dual.test"
local_transport = "{site.store.transport}"
"""
COMMON = """local = ["here"]
remote = ["there"]
destination = "tenant"
unknown = "reject"
local_transport = "{site.store.transport}"
"""
MORE = (
    ("ann@dual.test", "mailbox", "", None, 1),
    ("carl@dual.test", "mailbox", "", None, 1),
    ("sales@dual.test", "group", "ann@dual.test, carl@dual.test, bob@dual.test", None, 1),
    ("one@dual.test", "alias", "ann@dual.test", None, 1),
    ("dora@all.test", "mailbox", "", None, 1),
    ("emil@all.test", "mailbox", "", None, 1),
    ("team@all.test", "group", "dora@all.test, emil@all.test", None, 1),
)


@pytest.fixture(scope="module", params=["live", "both"])
def site(request: pytest.FixtureRequest, kept: Cleaned) -> Site:
    """dual.test and all.test share the destination `tenant`, whose host is the recorder `world`."""
    site = Site(kept, deploy=request.param, people=[*PEOPLE, *MORE], remote=["bob@example.com", "bob@dual.test"])
    site.text += TABLES.format(site=site, common=COMMON.format(site=site))
    site.splitmx.write(site.text)
    return site.install()


def test_dual_copy_under_the_envelope_domain(site: Site) -> None:
    """Rows 27, 53: the copy goes to local-part@tenant, without the extension there; here nothing changes."""
    sent = site.send("ann@dual.test", "carl+x@dual.test", "bob+y@dual.test")

    site.arrives(
        sent,
        here=["ann@dual.test", "carl+x@dual.test"],
        out=["ann@tenant.test", "bob@tenant.test", "carl@tenant.test"],
    )
    for mail in site.world.of(sent.subject):
        assert mail.headers["To"] == "ann@dual.test"
        assert b"splitmx" not in mail.content


@pytest.mark.parametrize("name", ["sales@dual.test", "sales@alias.test"])
def test_dual_copies_of_a_group(site: Site, name: str) -> None:
    """Members get their copy under the envelope domain too, also through a domain alias."""
    sent = site.send(name)

    site.arrives(
        sent,
        here=["ann@dual.test", "carl@dual.test"],
        out=["ann@tenant.test", "bob@tenant.test", "carl@tenant.test"],
    )


def test_dual_copy_of_an_alias(site: Site) -> None:
    """An alias with an extension: the extension stays here and is taken off there."""
    sent = site.send("one+z@dual.test")

    site.arrives(sent, here=["ann+z@dual.test"], out=["ann@tenant.test"])


def test_all_under_the_envelope_domain(site: Site) -> None:
    """Rows 25, 27: everything goes to local-part@tenant, the copy here keeps the real address."""
    sent = site.send("dora@all.test", "emil+x@all.test")

    site.arrives(sent, here=["dora@all.test", "emil+x@all.test"], out=["dora@tenant.test", "emil@tenant.test"])

    sent = site.send("team@all.test")
    site.arrives(sent, here=["dora@all.test", "emil@all.test"], out=["dora@tenant.test", "emil@tenant.test"])


def test_all_is_good_by_check(site: Site) -> None:
    """Nothing differs from what `postfix show` prints."""
    assert site.check() == []
