# SPDX-License-Identifier: Apache-2.0
"""A recipient as a directory lists it: the one shape that every directory, the index and the router share."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """What a directory entry is. The numbers stand in the index: never renumber."""

    MAILBOX = 0
    ALIAS = 1
    GROUP = 2


class Record(NamedTuple):
    """One address as one directory lists it; addresses are folded (`transport.address`).

    local, domain: folded local part in internal (unquoted) form, and lower-case A-label domain.
    location: an explicit word saying which system holds the mailbox, or None. A word that begins with `@` is a
        routing domain out of a directory preset (targetAddress) and means "the other side" unless `locations`
        names it.
    targets: what an alias, forward or group expands to, as addresses in external form, folded.
    entry: the directory's own stable key of the entry (entryUUID, objectGUID), or None where it has none. Several
        addresses of one person share it.
    """

    local: str
    domain: str
    kind: Kind = Kind.MAILBOX
    active: bool = True
    location: str | None = None
    targets: tuple[str, ...] = ()
    entry: bytes | None = None


class Row(NamedTuple):
    """A record as the router sees it: what the index (or a live answer) says of one address in one directory.

    `targets` of an index row is only their number; the router asks `Knowledge.targets` for them when it expands.
    live: out of a live look-up, not the index: true for a while only, so no answer that rests on it is kept.
    beside: of a live row, all (local, domain) of its person where there are several; of others `entry` leads to them.
    """

    directory: str
    kind: Kind
    active: bool
    location: str | None
    targets: int
    entry: int | None = None
    live: bool = False
    beside: tuple[tuple[str, str], ...] = ()
