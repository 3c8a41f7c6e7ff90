# SPDX-License-Identifier: Apache-2.0
"""Groups and aliases on a real Postfix: large ones, nested ones, members on both sides."""

from __future__ import annotations

import pytest

from tests.e2e.site import PEOPLE, Cleaned, Site
from tests.mta.waiting import wait_for


def test_row_30_group_members_off(cleaned: Cleaned) -> None:
    """Row 30, cases 37, 38: group_members = false leaves members at the other side out, and explain names them."""
    site = Site(cleaned, domain={"group_members": "false"}).install()

    sent = site.send("sales@example.com")

    site.arrives(sent, here=["ann@example.com"], out=["outside@world.test"])
    assert "bob@example.com" in site.explain("sales@example.com")


@pytest.mark.parametrize("deploy", ["live", "both"])
@pytest.mark.parametrize("size", [1500, 10_000])
def test_large_group(cleaned: Cleaned, deploy: str, size: int) -> None:
    """A group of 1,500 and of 10,000 members: everybody gets it, each once, on the right side."""
    half = size // 2
    here = [f"person-with-a-long-name-{n}@example.com" for n in range(half)]
    there = [f"member-with-a-long-name-{n}@example.com" for n in range(size - half)]
    site = Site(
        cleaned,
        deploy=deploy,
        people=[
            *PEOPLE,
            *((address, "mailbox", "", None, 1) for address in here),
            ("everybody@example.com", "group", ",".join(here + there), None, 1),
        ],
        remote=there,
        settings={"lmtp_destination_recipient_limit": "2000", "relay_destination_recipient_limit": "2000"},
    ).install()

    # On a busy machine the first one may be told to come again; nobody is ever refused.
    sent = wait_for(lambda: one if (one := site.send("everybody@example.com")).data == 250 else None, 60, site.tails)

    assert sent is not None
    site.store.wait(sent.subject, *here, seconds=90)
    site.secondary.wait(sent.subject, *there, seconds=90)
    assert site.check() == []


def test_row_37a_groups_inside_groups_across_directories(cleaned: Cleaned) -> None:
    """Row 7: a group that holds a group of another directory, an alias of somebody there, and a cycle: each once."""
    site = Site(
        cleaned,
        people=[
            *PEOPLE,
            ("top@example.com", "group", "inner@example.com, carl@example.com, b.jones@example.com", None, 1),
            ("loop1@example.com", "group", "loop2@example.com, ann@example.com", None, 1),
            ("loop2@example.com", "group", "loop1@example.com, carl@example.com", None, 1),
            ("x@example.com", "alias", "y@example.com", None, 1),
            ("y@example.com", "alias", "x@example.com", None, 1),
        ],
        local='["here", "lists"]',
        tables="""
[directories.lists]
type = "file"
path = "{site.folder}/lists.csv"
format = "csv"
max_age = "24h"
""",
    )
    (site.folder / "lists.csv").write_text(
        'address,kind,targets\ninner@example.com,group,"ann@example.com sales@example.com bob@example.com"\n'
    )
    site.install()

    sent = site.send("top@example.com")
    site.arrives(
        sent,
        here=["ann@example.com", "carl@example.com"],
        there=["bob@example.com"],
        out=["outside@world.test"],
    )
    sent = site.send("loop1@example.com")
    site.arrives(sent, here=["ann@example.com", "carl@example.com"])
    # an alias that only leads to itself is unknown
    assert site.send("x@example.com", "y@example.com").codes == {"x@example.com": 550, "y@example.com": 550}


def test_cases_33_35_aliases(cleaned: Cleaned) -> None:
    """Cases 33, 34, 35: aliases owned here for people on either side, and owned there; chains are followed."""
    site = Site(
        cleaned,
        people=[*PEOPLE, ("chain@example.com", "alias", "a.smith@example.com", None, 1)],
        remote=["bob@example.com", "bobby@example.com"],
    ).install()

    sent = site.send("a.smith@example.com", "b.jones+x@example.com", "bobby@example.com", "chain+y@example.com")

    site.arrives(
        sent,
        here=["ann@example.com", "ann+y@example.com"],
        there=["bob+x@example.com", "bobby@example.com"],
    )


def test_domain_alias_and_subdomains(cleaned: Cleaned) -> None:
    """alias_of: everybody at the other name too; cases 31, 32: subdomains strip and match; the rest is not ours."""
    site = Site(
        cleaned,
        domain={"subdomains": '"strip"'},
        tables="""
[domains."example.org"]
alias_of = "example.com"
local_transport = "{site.store.transport}"
[domains."match.test"]
local = ["here"]
remote = ["there"]
destination = "there"
unknown = "relay"
subdomains = "match"
local_transport = "{site.store.transport}"
""",
    ).install()

    sent = site.send(
        "ann@example.org", "bob@example.org", "zed@example.org", "carl@mail.example.com", "any@sub.match.test"
    )
    assert list(sent.codes.values()) == [250, 250, 550, 250, 250]
    site.arrives(
        sent,
        here=["ann@example.com", "carl@example.com"],
        there=["bob@example.com", "any@sub.match.test"],
    )
    assert site.send("zed@mail.example.com").codes == {"zed@mail.example.com": 550}
    assert site.send("ann@mail.example.org").codes["ann@mail.example.org"] in (454, 554)


def test_cases_27_28_idn(cleaned: Cleaned) -> None:
    """Cases 27, 28: a domain is one in U-label and A-label form, with and without SMTPUTF8."""
    site = Site(
        cleaned,
        tables="""
[domains."bücher.example"]
local = ["here"]
remote = ["there"]
destination = "there"
unknown = "reject"
local_transport = "{site.store.transport}"
""",
        people=[*PEOPLE, ("ann@xn--bcher-kva.example", "mailbox", "", None, 1)],
        remote=["bob@example.com", "bob@bücher.example"],
    ).install()

    plain = site.send("ann@xn--bcher-kva.example", "bob@xn--bcher-kva.example", "zed@xn--bcher-kva.example")
    assert list(plain.codes.values()) == [250, 250, 550]
    utf8 = site.send("ann@bücher.example", "bob@bücher.example", "zed@bücher.example")
    assert list(utf8.codes.values()) == [250, 250, 550]
    site.mta.wait_empty()
    assert len(site.store.recipients(utf8.subject)) == 1
    assert len(site.secondary.recipients(utf8.subject)) == 1
