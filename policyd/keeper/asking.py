# SPDX-License-Identifier: Apache-2.0
"""One live query, in a thread of a directory's crew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from transport.config.settings import Directory
from transport.directories.base import Source
from transport.record import Record

Address = tuple[str, str]

Canaries = Callable[[str, set[str]], Sequence[Address]]
"""Canaries of a directory (name) for some domains; of any domain when there are none."""


@dataclass(slots=True)
class Answered:
    """What one query brought.

    records: of those found. failed: addresses for which it ended in an error, `error` says which. lying: every
    canary that was asked is missing. server: which one answered.
    """

    records: Mapping[Address, tuple[Record, ...]]
    failed: frozenset[Address] = field(default_factory=frozenset)
    lying: bool = False
    server: str = ""
    error: str = ""


def ask(
    source: Source, directory: Directory, addresses: Sequence[Address], canaries: Sequence[Address], limit: float
) -> Answered:
    """stand-in"""
    chosen = [one for one in canaries if one not in addresses][:2]
    found = source.ask([*addresses, *chosen], limit)
    records: dict[Address, tuple[Record, ...]] = {}
    for record in found.records:
        records[record.local, record.domain] = (*records.get((record.local, record.domain), ()), record)
    lying = bool(chosen) and not any(one in records for one in chosen)
    return Answered(records, lying=lying, server=found.server)


def probe(source: Source, directory: Directory, canaries: Sequence[Address], limit: float) -> bool:
    """stand-in"""
    found = source.ask(list(canaries) or [("splitmx-probe", "invalid")], limit)
    return bool(found.records) or not canaries
