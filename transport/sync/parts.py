# SPDX-License-Identifier: Apache-2.0
"""Directories that are read domain by domain: which of them could be read last, kept in the index.

One tenant's broken files must not hold up the others: what the index has of his domain goes on counting, its "no" does
not, and everything else of the same reading is taken.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from transport.config.settings import Directory
from transport.directories.base import DirectoryError
from transport.index.writer import Writer
from transport.sync.report import UnreadPart

Parts = Mapping[str, DirectoryError | None]
"""As in `Listing`: domain -> why it could not be read, None when it was."""


def unread(parts: Parts) -> tuple[UnreadPart, ...]:
    """Those that could not be read, for people."""
    return tuple(UnreadPart(name, fault.what, fault.hint) for name, fault in parts.items() if fault is not None)


def note(connection: sqlite3.Connection, number: int, parts: Parts, ids: Mapping[str, int], now: float) -> bool:
    """Write what is not there already, inside a transaction; True when answers may differ.

    A domain that was never read under this fingerprint stays so until it is. ids: the numbers of all these domains.
    """
    old = {
        int(domain): (bool(known), str(why), str(hint), float(since))
        for domain, known, why, hint, since in connection.execute(
            "SELECT domain, known, why, hint, since FROM part WHERE directory = ?", (number,)
        )
    }
    new: dict[int, tuple[bool, str, str, float]] = {}
    for name, fault in parts.items():
        known, why, _, since = old.get(ids[name], (False, "", "", now))
        if fault is None:
            new[ids[name]] = (True, "", "", 0.0)
        else:
            new[ids[name]] = (known, fault.what, fault.hint, since if why else now)
    if new == old:
        return False
    connection.executemany(
        "DELETE FROM part WHERE directory = ? AND domain = ?", [(number, domain) for domain in old.keys() - new.keys()]
    )
    connection.executemany(
        "INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?, ?, ?)",
        [(number, domain, *row) for domain, row in new.items() if old.get(domain) != row],
    )
    return _counting(old) != _counting(new)


def new(connection: sqlite3.Connection, number: int, parts: Parts, ids: Mapping[str, int]) -> frozenset[int]:
    """Domains that could be read now, and never before under this fingerprint."""
    known = {
        int(domain)
        for (domain,) in connection.execute("SELECT domain FROM part WHERE directory = ? AND known", (number,))
    }
    return frozenset(ids[name] for name, fault in parts.items() if fault is None) - known


def _counting(rows: Mapping[int, tuple[bool, str, str, float]]) -> dict[int, tuple[bool, bool]]:
    """What answers depend on."""
    return {domain: (known, not why) for domain, (known, why, _, _) in rows.items()}


def none_read(
    writer: Writer, connection: sqlite3.Connection, directory: Directory, parts: Parts, now: float
) -> int | None:
    """None of its domains could be read: note that, where the directory was ever read; the new generation, if any.

    Raises IndexFault.
    """
    ids = writer.domain_ids(parts)
    with writer.change(connection):
        found = connection.execute(
            "SELECT id FROM directory WHERE name = ? AND fingerprint = ? AND loaded_at IS NOT NULL",
            (directory.name, directory.fingerprint),
        ).fetchone()
        if found is None or not note(connection, int(found[0]), parts, ids, now):
            return None
        return writer.bump(connection)
