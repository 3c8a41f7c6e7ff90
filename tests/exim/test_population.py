# SPDX-License-Identifier: Apache-2.0
"""A Postfix and an Exim beside one daemon: thousands of addresses are told the same and end in the same places."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.e2e.site import PEOPLE, Cleaned
from tests.e2e.site import Site as PostfixSite
from tests.exim.site import exim_conf
from tests.mta.exim import EximInstance
from tests.mta.sending import send
from tests.mta.waiting import wait_for
from transport.config.load import load

pytestmark = pytest.mark.e2e

MANY = 3000
AT_ONCE = 60
SIDES = 60  # people on each side of each domain

DOMAINS = {
    "relay.example": 'destination = "there"\nunknown = "relay"',
    "catch.example": 'destination = "there"\nunknown = "catchall:here1@catch.example"',
    "tenant-users.example": 'destination = "tenant"\nunknown = "reject"',
    "plus.example": 'destination = "plus"\nunknown = "reject"',
    "dual.example": 'destination = "there"\nunknown = "reject"\ndelivery = "dual"',
    "dualtenant.example": 'destination = "tenant"\nunknown = "reject"\ndelivery = "dual"',
    "dualplus.example": 'destination = "plus"\nunknown = "reject"\ndelivery = "dual"',
    "all.example": 'destination = "there"\nunknown = "reject"\ndelivery = "all"',
    "subs.example": 'destination = "there"\nunknown = "reject"\nsubdomains = "strip"',
    "match.example": 'destination = "there"\nunknown = "reject"\nsubdomains = "match"',
    "second.example": 'destination = "there"\nunknown = "relay"\nrole = "secondary"\noutsiders = "relay"',
    "xn--bcher-kva.example": 'destination = "there"\nunknown = "reject"',
}
TABLES = """
[destinations.tenant]
hosts = ["{site.secondary.host}"]
envelope = "tenant.example"
[destinations.plus]
hosts = ["{site.secondary.host}"]
plus = "strip"
[domains."alias.example"]
alias_of = "example.com"
local_transport = "{site.store.transport}"
"""


def _rows() -> Iterator[tuple[str, str, str, str | None, int]]:
    """Who is here: mailboxes, aliases, groups, forwards that keep, suspended ones, moved ones."""
    for domain in ("example.com", *DOMAINS):
        for n in range(SIDES):
            here, there, d = f"here{n}@{domain}", f"there{n}@{domain}", f"@{domain}"
            yield here, "mailbox", "", None, 1
            if n % 6 == 0:
                yield f"alias.h{n}{d}", "alias", here, None, 1
                yield f"alias.t{n}{d}", "alias", there, None, 1
                yield f"alias.o{n}{d}", "alias", f"friend{n}@world.test", None, 1
                yield f"group{n}{d}", "group", f"{here}, {there}, here{n // 2}{d}, friend{n}@world.test", None, 1
                yield f"nested{n}{d}", "group", f"group{n}{d}, alias.h{n}{d}", None, 1
                yield f"keeps{n}{d}", "mailbox", f"keeps{n}{d}, friend{n}@world.test", None, 1
                yield f"off{n}{d}", "mailbox", "", None, 0
                yield f"moved{n}{d}", "mailbox", "", "gone", 1
                yield f'"odd {n}"{d}', "mailbox", "", None, 1


def _addresses() -> list[str]:
    """Listed addresses in all their spellings, and strangers."""
    chosen = random.Random(7)
    found: dict[str, None] = {}
    domains = ("example.com", "alias.example", *DOMAINS)
    kinds = ("here", "there", "alias.h", "alias.t", "alias.o", "group", "nested", "keeps", "off", "moved", "odd")
    while len(found) < MANY:
        domain = chosen.choice(domains)
        if chosen.random() < 0.15:
            name = chosen.choice(
                ("zed", "nobody.at.all", "x-y", "here", "o'neil", "a_b", "postmaster")
            ) + chosen.choice(("", str(chosen.randrange(900))))
        else:
            kind = chosen.choice(kinds)
            number = chosen.randrange(SIDES) if kind in ("here", "there") else chosen.randrange(0, SIDES, 6)
            name = f'"odd {number}"' if kind == "odd" else f"{kind}{number}"
        if chosen.random() < 0.25 and not name.startswith('"'):
            name += chosen.choice(("+news", "+a+b", "+", "+x-y", "-z"))
        if chosen.random() < 0.2:
            name = name.title() if chosen.random() < 0.5 else name.upper()
        if chosen.random() < 0.1:
            domain = domain.upper()
        if domain in ("subs.example", "match.example") and chosen.random() < 0.3:
            domain = f"deep.{domain}"
        found[f"{name}@{domain}"] = None
    return list(found)


def _ends(site: PostfixSite, subject: str) -> set[tuple[str, str]]:
    """Where a message's recipients have arrived: (place, address)."""
    places = {"here": site.store, "there": site.secondary, "world": site.world}
    return {(place, name.lower()) for place, server in places.items() for name in server.recipients(subject)}


def _end_alike(site: PostfixSite, first: str, second: str) -> None:
    """Wait until a message has the ends of another one, and no others."""
    wanted = _ends(site, first)
    assert wanted
    wait_for(lambda: _ends(site, second) == wanted, 5, lambda: wanted ^ _ends(site, second))


@pytest.fixture
def sites(cleaned: Cleaned) -> tuple[PostfixSite, EximInstance]:
    """Both MTAs, one daemon."""
    site = PostfixSite(
        cleaned,
        domain={"locations": '{ gone = "there" }'},
        settings={
            "smtpd_error_sleep_time": "0", "smtpd_hard_error_limit": "5000", "smtpd_soft_error_limit": "5000",
            "smtpd_junk_command_limit": "5000",
        },
        people=(*PEOPLE, *_rows()),
        remote=[f"there{n}@{domain}" for domain in ("example.com", *DOMAINS) for n in range(SIDES)],
    )  # fmt: skip
    own = f'local = ["here"]\nremote = ["there"]\nlocal_transport = "{site.store.transport}"\nlocations = '
    tables = [TABLES.format(site=site)]
    for domain, keys in DOMAINS.items():
        target = keys.partition('destination = "')[2].partition('"')[0]
        tables.append(f'[domains."{domain}"]\n{own}{{ gone = "{target}" }}\n{keys}\n')
    listener = site.folder / "exim.sock"
    site.text = site.text.replace("[daemon]\n", f'[daemon]\nexim = ["unix:{listener}?mode=0666"]\n', 1)
    site.text += "".join(tables)
    site.splitmx.write(site.text)
    site.install()
    exim = EximInstance(exim_conf(load(site.splitmx.config), store=site.store, outside=site.world), name="beside")
    cleaned(exim.stop)
    return site, exim.start()


def test_exim_and_postfix_decide_the_same(sites: tuple[PostfixSite, EximInstance]) -> None:
    """Each of thousands of recipients gets the same reply code from both, and the mail the same ends."""
    site, exim = sites
    addresses = _addresses()
    differ: list[object] = []
    accepted = 0
    pairs = []
    for at in range(0, len(addresses), AT_ONCE):
        names = addresses[at : at + AT_ONCE]
        postfix = send(site.mta.ip, "me@away.test", names, subject=f"postfix {at}")
        other = send(exim.ip, "me@away.test", names, subject=f"exim {at}")
        differ += [
            (name, postfix.texts[name], other.texts[name]) for name in names if postfix.codes[name] != other.codes[name]
        ]
        accepted += sum(code == 250 for code in postfix.codes.values())
        pairs.append((postfix.subject, other.subject))
    assert not differ, (len(differ), differ[:8])
    assert MANY * 0.5 < accepted < MANY * 0.95
    site.mta.wait_empty(120)
    exim.wait_empty(120)
    for first, second in pairs:
        _end_alike(site, first, second)
