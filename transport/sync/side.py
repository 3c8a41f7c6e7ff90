# SPDX-License-Identifier: Apache-2.0
"""On which side of a domain an address stands by its rows: what the guard against mass moves counts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from transport.config.settings import Domain, Settings, Unknown
from transport.names import open_parent
from transport.record import Kind

HERE = "local"
THERE = "relay"
NOWHERE = "temp"  # a location word that nobody explained
TARGETS = "targets"  # an alias or group here: its targets decide
NONE = ""  # not listed


class Place(NamedTuple):
    """What counts of a row: its kind (`record.Kind` as int) and its location."""

    kind: int
    location: str | None


def domain_of(settings: Settings, name: str) -> Domain | None:
    """The split domain that decides for addresses at this name, itself or by `subdomains = "match"`; None: not ours."""
    found = settings.domains.get(name)
    if found is None:
        parent = open_parent(settings.domains, name)
        if parent and settings.domains[parent].subdomains == "match":
            found = settings.domains[parent]
    if found is None or found.enabled == "no" or found.alias_of:
        return None
    return found


def side(domain: Domain, rows: Mapping[str, Place]) -> str:
    """The side by these rows (directory name -> row): an explicit location first, then `local`, then `remote`."""
    for name in (*domain.local, *domain.remote):
        row = rows.get(name)
        if row is not None and row.location:
            place = domain.locations.get(row.location)
            if place is None:
                return THERE if row.location.startswith("@") else NOWHERE
            return THERE if place.destination else HERE
    for name in domain.local:
        row = rows.get(name)
        if row is not None:
            return HERE if row.kind == Kind.MAILBOX else TARGETS
    for name in domain.remote:
        if name in rows:
            return THERE
    return NONE


def moves(before: str, after: str) -> bool:
    """Whether this is a change of side. A location that nobody explained counts: it stops mail that flowed.

    An alias that becomes a mailbox here is none: what it loses of its targets is judged by itself.
    """
    if before == TARGETS:
        return after in (THERE, NOWHERE)
    return before in (HERE, THERE) and after in (HERE, THERE, NOWHERE) and before != after


def relays_strangers(domain: Domain) -> bool:
    """Whether an unlisted address of this domain goes to the other side."""
    return domain.unknown in (Unknown.RELAY, Unknown.VERIFY)
