# SPDX-License-Identifier: Apache-2.0
"""Addresses that several entries of a directory list: the index's row holds what they come to and names one of them.

All of them are remembered here, so that a feed that tells of one of them, its end above all, asks about the address.
Too many of them do no harm: somebody is asked about in vain.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

_Key = tuple[str, str]


EVERY_ENTRY = (
    "SELECT key FROM entry WHERE directory = ?1 UNION ALL SELECT DISTINCT key FROM claim c WHERE directory = ?1"
    " AND NOT EXISTS (SELECT 1 FROM entry e WHERE e.directory = ?1 AND e.key = c.key)"
)
"""SQL: the keys of all entries of a directory (?1), each once, also of those that no row names."""


def note_all(connection: sqlite3.Connection, number: int) -> None:
    """After a whole listing: those that it shows (`temp.claims`), and no others."""
    connection.execute(
        "DELETE FROM claim WHERE directory = ? AND NOT EXISTS (SELECT 1 FROM temp.claims t"
        " WHERE t.domain = claim.domain AND t.local = claim.local AND t.key = claim.key)",
        (number,),
    )
    connection.execute("INSERT OR IGNORE INTO claim SELECT ?1, domain, local, key FROM temp.claims", (number,))


def of_entry(connection: sqlite3.Connection, number: int, key: bytes) -> list[_Key]:
    """The addresses that this entry lists beside another one."""
    return [
        (local, domain)
        for local, domain in connection.execute(
            "SELECT c.local, d.name FROM claim c JOIN domain d ON d.id = c.domain WHERE c.directory = ? AND c.key = ?",
            (number, key),
        )
    ]


def is_shared(connection: sqlite3.Connection, number: int, address: _Key) -> bool:
    """Whether several entries list this address."""
    return (
        connection.execute(
            "SELECT 1 FROM claim c JOIN domain d ON d.id = c.domain"
            " WHERE c.directory = ? AND d.name = ? AND c.local = ? LIMIT 1",
            (number, address[1], address[0]),
        ).fetchone()
        is not None
    )


def renew(
    connection: sqlite3.Connection,
    number: int,
    told: Iterable[bytes],
    found: Iterable[tuple[bytes, _Key]],
    ids: Mapping[str, int],
) -> None:
    """After a feed: of the entries that it `told` of, those of `found` alone. ids: of the domains, by name."""
    connection.executemany("DELETE FROM claim WHERE directory = ? AND key = ?", [(number, key) for key in told])
    connection.executemany(
        "INSERT OR IGNORE INTO claim VALUES (?, ?, ?, ?)",
        [(number, ids[domain], local, key) for key, (local, domain) in found],
    )
