# SPDX-License-Identifier: Apache-2.0
"""Odd local parts under every kind of delivery: live and static maps bring the same mail to the same ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.site import PEOPLE, Cleaned, Site
from tests.mta.waiting import wait_for
from transport.address import external, parse

ODD = ('"a b"', '"com, ma"', '"q\\"q"', '"back\\\\slash"', '"<x>"', "jörg", "{x}|y")
DOMAINS = {
    "dual.example": 'destination = "there"\ndelivery = "dual"',
    "all.example": 'destination = "there"\ndelivery = "all"',
    "tenant-users.example": 'destination = "tenant"\ndelivery = "dual"',
}
TABLES = '[destinations.tenant]\nhosts = ["{site.secondary.host}"]\nenvelope = "tenant.example"\n' + "".join(
    f'[domains."{name}"]\nlocal = ["here"]\nremote = ["there"]\nunknown = "reject"\n'
    f'local_transport = "{{site.store.transport}}"\n{keys}\n'
    for name, keys in DOMAINS.items()
)


def _rows() -> Iterator[tuple[str, str, str, str | None, int]]:
    for domain in ("example.com", *DOMAINS):
        everybody = ", ".join(f"{name}@{domain}" for name in ODD)
        yield f'"all of them"@{domain}', "group", f'{everybody}, "far, out"@world.test', None, 1
        for n, name in enumerate(ODD):
            yield f"{name}@{domain}", "mailbox", "", None, 1
            yield f'"alias {n}"@{domain}', "alias", f"{name}@{domain}", None, 1


def _ends(name: str, domain: str) -> set[tuple[str, tuple[str, str]]]:
    """Where mail for a mailbox of `_rows` has to arrive."""
    address = parse(f"{name}@{domain}")
    assert address is not None
    ends = {("store", address[:2])}
    if domain in DOMAINS:
        ends.add(("there", (address.local, "tenant.example" if domain == "tenant-users.example" else domain)))
    return ends


@pytest.mark.parametrize("deploy", ["live", "static"])
def test_odd_names_arrive_everywhere(cleaned: Cleaned, deploy: str) -> None:
    """Mailboxes, aliases and groups with quoted and UTF-8 names: each copy arrives once, under the name it has."""
    site = Site(cleaned, deploy=deploy, tables=TABLES, people=(*PEOPLE, *_rows())).install()
    wanted: dict[str, set[tuple[str, tuple[str, str]]]] = {}
    for domain in ("example.com", *DOMAINS):
        group = {("world", ("far, out", "world.test"))}
        for n, name in enumerate(ODD):
            sent = site.send(f"{name}@{domain}")
            again = site.send(f'"alias {n}"@{domain}', options=["SMTPUTF8"])
            assert (sent.data, again.data) == (250, 250), (sent.texts, again.texts)
            wanted[sent.subject] = wanted[again.subject] = _ends(name, domain)
            group |= _ends(name, domain)
        sent = site.send(f'"all of them"@{domain}', options=["SMTPUTF8"])
        assert sent.data == 250, sent.texts
        wanted[sent.subject] = group
    site.mta.wait_empty(60)

    def differ() -> dict[str, object]:
        return {subject: ends ^ got for subject, ends in wanted.items() if (got := _arrived(site, subject)) != ends}

    wait_for(lambda: not differ(), 10, lambda: str(differ())[:1000])
    assert "duplicate entry" not in site.mta.text()
    assert site.query("recipient_bcc", external("a b", "dual.example")) == "a b@dual.example.there.splitmx.invalid"


def _arrived(site: Site, subject: str) -> set[tuple[str, tuple[str, str]]]:
    found = set()
    for place, server in (("store", site.store), ("there", site.secondary), ("world", site.world)):
        for text in server.recipients(subject):
            address = parse(text)
            assert address is not None, text
            assert (place, address[:2]) not in found, f"{subject}: {text} twice"
            found.add((place, address[:2]))
    return found
