# SPDX-License-Identifier: Apache-2.0
"""What all directories together say of a domain: words nobody explained, people on both sides, alias loops."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing

from transport.address import Address, external, parse
from transport.checks.finding import Finding, error, note, warning
from transport.config.settings import Domain, Settings, Unknown
from transport.decision import Verdict
from transport.index.reader import Reader
from transport.maps.snapshot import Snapshot
from transport.record import Kind
from transport.router import Router

SHOWN = 20
"""Findings of one sort that are shown; the rest is counted."""

BOTH_SIDES = 0.05
"""The part of a domain's addresses on both sides, without a location, from which a directory probably is wrong."""

_WORDS = (
    "SELECT n.name, d.name, r.location, count(*), min(r.local) FROM recipient r JOIN domain d ON d.id = r.domain"
    " JOIN directory n ON n.id = r.directory WHERE r.location IS NOT NULL AND r.location != '' GROUP BY 1, 2, 3"
)
_OWNERS = "SELECT DISTINCT d.name, r.local FROM recipient r JOIN domain d ON d.id = r.domain WHERE r.targets > 0"


def findings(settings: Settings, reader: Reader) -> list[Finding]:
    """Everything that the loaded index shows. reader: with all directories that could be read."""
    with closing(sqlite3.connect(f"{reader.path.absolute().as_uri()}?mode=ro", uri=True)) as index:
        return [
            *_capped(_words(settings, index)),
            *_capped(_both_sides(settings, index)),
            *_capped(_aliases(settings, index, reader)),
            *_capped(_configured(settings, reader)),
        ]


def _capped(found: Iterable[Finding]) -> Iterator[Finding]:
    """The first of them, and how many more there are."""
    left = Counter[str]()
    for number, finding in enumerate(dict.fromkeys(found)):
        if number < SHOWN:
            yield finding
        else:
            left[finding.level] += 1
    for level, count in left.items():
        yield Finding(level, f"and {count} more like these")


def _used(settings: Settings) -> Iterator[Domain]:
    return (d for d in settings.domains.values() if d.enabled != "no" and not d.alias_of)


def _words(settings: Settings, index: sqlite3.Connection) -> Iterator[Finding]:
    """Location words that `locations` does not know: their recipients are TEMP."""
    for directory, name, word, count, local in index.execute(_WORDS):
        domain = settings.domains.get(name)
        if domain is None or domain.enabled == "no" or directory not in (*domain.local, *domain.remote):
            continue
        bare = word.removeprefix("@")
        if word in domain.locations or (word != bare and (bare in domain.locations or domain.destination)):
            continue
        yield error(
            f'{count} recipients of {name} in directory {directory} have the location "{word}", which locations does '
            f"not know: their mail waits (for example {external(local, name)})",
            f'add it to locations of [domains."{name}"]: a destination, or "local"',
        )


def _both_sides(settings: Settings, index: sqlite3.Connection) -> Iterator[Finding]:
    """Mailboxes that a local and a remote directory list, and no location decides."""
    numbers = {name: number for number, name in index.execute("SELECT id, name FROM directory")}
    domains = {name: number for number, name in index.execute("SELECT id, name FROM domain")}
    for domain in _used(settings):
        here = [numbers[name] for name in domain.local if name in numbers]
        there = [numbers[name] for name in domain.remote if name in numbers]
        if not here or not there or domain.name not in domains:
            continue
        plain = "FROM recipient WHERE domain = ? AND coalesce(location, '') = '' AND kind = ? AND directory IN"
        one = f"SELECT local {plain} ({','.join(map(str, here))})"  # numbers of our own
        other = f"SELECT local {plain} ({','.join(map(str, there))})"
        values = (domains[domain.name], int(Kind.MAILBOX))
        both, first = index.execute(
            f"SELECT count(*), min(local) FROM ({one} INTERSECT {other})",  # noqa: S608  both made above
            (*values, *values),
        ).fetchone()
        if not both:
            continue
        everyone = index.execute(
            "SELECT count(DISTINCT local) FROM recipient WHERE domain = ?", (domains[domain.name],)
        ).fetchone()[0]
        text = (
            f"{both} of {everyone} addresses of {domain.name} are listed on both sides without a location; they count "
            f"as here (for example {external(first, domain.name)})"
        )
        if both > everyone * BOTH_SIDES:
            yield warning(
                text,
                "a leftover account, or a directory that lists everybody (an Active Directory in sync with a cloud "
                "does): it needs locations",
            )
        else:
            yield note(text, "delete what is left over, or give it a location")


def _aliases(settings: Settings, index: sqlite3.Connection, reader: Reader) -> Iterator[Finding]:
    """Each alias and group decided as mail for it would be: loops, targets that exist nowhere, empty groups."""
    router, knowledge = Router(settings), Snapshot(settings, reader, time.time())
    names = {domain.name for domain in _used(settings)}
    now = time.time()
    for name, local in index.execute(_OWNERS):
        if name not in names:
            continue
        decision = router.decide(knowledge, Address(local, name, local), now, observing=True)
        for finding in decision.findings:
            if finding.startswith("alias loop"):
                yield error(finding, "take one of them out; the others still get their mail")
            else:
                yield warning(f"{external(local, name)}: {finding}")
        if decision.dropped:
            who = ", ".join(decision.dropped[:3]) + (" …" if len(decision.dropped) > 3 else "")
            yield note(
                f"group {external(local, name)}: group_members = false leaves out {len(decision.dropped)} members at "
                f"the other side ({who})"
            )


def _configured(settings: Settings, reader: Reader) -> Iterator[Finding]:
    """Addresses that the configuration itself names: catch-all, postmaster, abuse."""
    router, knowledge = Router(settings), Snapshot(settings, reader, time.time())
    now = time.time()
    for domain in _used(settings):
        for key, text in (("unknown", domain.catchall), ("postmaster", domain.postmaster), ("abuse", domain.abuse)):
            address = parse(text) if text else None
            if address is None or address.domain not in settings.domains:
                continue
            decision = router.decide(knowledge, address, now, observing=True)
            if decision.listed or decision.verdict is Verdict.PASS:
                continue
            if key == "unknown" and domain.unknown is Unknown.CATCHALL:
                yield error(
                    f"the catch-all address {text} of {domain.name} is not listed itself: strangers' mail waits",
                    "list it in a directory, or name another",
                )
            elif decision.verdict is Verdict.UNKNOWN:
                yield error(f"{key} of {domain.name} is {text}, which exists nowhere", "name another address")
        if not domain.postmaster:
            decision = router.decide(knowledge, Address("postmaster", domain.name, "postmaster"), now, observing=True)
            for finding in decision.findings:
                yield note(f"{domain.name}: {finding}")
