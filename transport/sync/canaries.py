# SPDX-License-Identifier: Apache-2.0
"""Canaries: a few listed addresses of each directory and domain, by which a lying directory is known."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

CANARIES = 5
"""Listed addresses per directory and domain that a live query must find."""

_LOOK_AT = 40  # rows of a domain among which its canaries are chosen

_NOT_GONE = "NOT EXISTS (SELECT 1 FROM temp.diff x WHERE x.domain = r.domain AND x.local = r.local AND x.what = 'D')"
"""SQL: the row `r` is listed: it may be in the index only because its removal is held."""


def choose(connection: sqlite3.Connection, number: int, domains: Iterable[int] | None, table: str) -> None:
    """Choose canaries anew for these domains (None: all) out of `temp.staged` or `recipient`: listed at this moment.

    They come from different entries, so that one leaver takes one canary.
    """
    execute = connection.execute
    if table == "recipient":
        query = (
            "SELECT r.local, r.kind, r.active, e.key FROM recipient r LEFT JOIN entry e ON e.id = r.entry"  # noqa: S608
            f" WHERE r.domain = ?1 AND r.directory = ?2 AND {_NOT_GONE} LIMIT ?3"
        )
    else:
        query = "SELECT local, kind, active, entry FROM temp.staged WHERE domain = ?1 AND ?2 > 0 LIMIT ?3"
    if domains is None:
        execute("DELETE FROM canary WHERE directory = ?", (number,))
        # Skips from domain to domain in the key's order: no scan of all rows.
        domains = [
            domain
            for (domain,) in execute(
                "WITH RECURSIVE d(last) AS (SELECT min(domain) FROM temp.staged UNION ALL"
                " SELECT (SELECT min(s.domain) FROM temp.staged s WHERE s.domain > last) FROM d"
                " WHERE last IS NOT NULL) SELECT last FROM d WHERE last IS NOT NULL"
            )
        ]
    for domain in domains:
        chosen: list[tuple[str, bytes | None]] = []
        entries: set[bytes] = set()
        for local, _kind, _active, entry in sorted(
            execute(query, (domain, number, _LOOK_AT)).fetchall(), key=lambda row: (row[1], -row[2])
        ):
            if entry is None or entry not in entries:
                chosen.append((local, entry))
                if entry is not None:
                    entries.add(entry)
                if len(chosen) == CANARIES:
                    break
        old = execute("SELECT local, entry FROM canary WHERE directory = ? AND domain = ?", (number, domain)).fetchall()
        if sorted(old, key=lambda row: row[0]) != sorted(chosen, key=lambda row: row[0]):
            execute("DELETE FROM canary WHERE directory = ? AND domain = ?", (number, domain))
            connection.executemany(
                "INSERT INTO canary VALUES (?, ?, ?, ?)",
                [(number, domain, local, entry) for local, entry in chosen],
            )


def with_others(connection: sqlite3.Connection, number: int, table: str) -> list[int]:
    """The domains of `diff` whose canaries are chosen anew, out of `temp.staged` (everybody) or `recipient`.

    A domain of which nobody is listed but which is held keeps its canaries: they prove that something is wrong. After a
    feed so does one of which removals were held before: the index has people who are not there, and who they are is
    not known.
    """
    listed = "temp.staged r WHERE ?2 > 0 AND" if table == "staged" else "recipient r WHERE r.directory = ?2 AND"
    held = {
        domain
        for (domain,) in connection.execute(
            "SELECT domain FROM held WHERE directory = ? AND what = 'removed'", (number,)
        )
        if table == "recipient"
    }
    return [
        domain
        for domain, holds in connection.execute("SELECT domain, max(hold) FROM temp.diff GROUP BY domain").fetchall()
        if held.isdisjoint((0, domain))
        and (
            not holds
            or connection.execute(
                f"SELECT 1 FROM {listed} r.domain = ?1 AND {_NOT_GONE} LIMIT 1",  # noqa: S608  fixed text
                (domain, number),
            ).fetchone()
        )
    ]
