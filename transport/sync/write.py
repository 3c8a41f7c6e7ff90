# SPDX-License-Identifier: Apache-2.0
"""Puts judged differences into the index, inside the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence

from transport.address import external
from transport.config.settings import Directory
from transport.directories.base import Listing, Skipped
from transport.index.writer import forget
from transport.sync import canaries
from transport.sync.guards import Case, examples
from transport.sync.report import EXAMPLES, HeldChange, SyncReport


def row_of(connection: sqlite3.Connection, name: str, fingerprint: bytes) -> tuple[int, int, bool]:
    """(id, rows, first load) of a directory; made when it is new. First: nothing was loaded under this fingerprint."""
    found = connection.execute(
        "SELECT id, rows, fingerprint, loaded_at FROM directory WHERE name = ?", (name,)
    ).fetchone()
    if found is None:
        number = connection.execute(
            "INSERT INTO directory (name, fingerprint) VALUES (?, ?)", (name, fingerprint)
        ).lastrowid
        return int(number or 0), 0, True
    first = found[2] != fingerprint or found[3] is None
    return int(found[0]), int(found[1]), first


def load_all(connection: sqlite3.Connection, number: int) -> None:
    """A first load: whatever was there of another fingerprint goes, everything staged comes."""
    forget(connection, number)
    connection.execute(
        "INSERT INTO entry (directory, key) SELECT DISTINCT ?, entry FROM temp.staged WHERE entry IS NOT NULL",
        (number,),
    )
    connection.execute(
        "INSERT INTO recipient SELECT s.domain, s.local, ?1, s.kind, s.active, s.location, s.n, e.id FROM temp.staged s"
        " LEFT JOIN entry e ON e.directory = ?1 AND e.key = s.entry",
        (number,),
    )
    _targets(
        connection,
        number,
        connection.execute("SELECT domain, local, targets FROM temp.staged WHERE targets IS NOT NULL"),
    )


def find_differences(connection: sqlite3.Connection, number: int, rows: int, addresses: int) -> None:
    """Fill `diff` with what stands otherwise in `staged` (a whole listing) and in the index."""
    connection.execute(
        "INSERT INTO temp.diff (domain, local, what)"  # noqa: S608  fixed text
        " SELECT s.domain, s.local, CASE WHEN r.kind IS NULL THEN 'A' ELSE 'C' END FROM temp.staged s"
        " LEFT JOIN recipient r ON r.domain = s.domain AND r.local = s.local AND r.directory = ?1"
        f" WHERE r.kind IS NULL OR {DIFFERS}",
        (number,),
    )
    new = connection.execute("SELECT count(*) FROM temp.diff").fetchone()[0]
    if new:
        new = connection.execute("SELECT count(*) FROM temp.diff WHERE what = 'A'").fetchone()[0]
    if addresses - new != rows:
        connection.execute(
            "INSERT INTO temp.diff (domain, local, what) SELECT r.domain, r.local, 'D' FROM recipient r"
            " WHERE r.directory = ? AND r.domain NOT IN (SELECT domain FROM temp.unread) AND NOT EXISTS"
            " (SELECT 1 FROM temp.staged s WHERE s.domain = r.domain AND s.local = r.local)",
            (number,),
        )


DIFFERS = (
    "r.kind <> s.kind OR r.active <> s.active OR r.location IS NOT s.location OR r.targets <> s.n"
    " OR (r.entry IS NOT NULL OR s.entry IS NOT NULL) AND s.entry IS NOT (SELECT key FROM entry WHERE id = r.entry)"
    " OR (s.n > 0 AND s.targets IS NOT (SELECT group_concat(address, char(10)) FROM (SELECT address FROM target t"
    " WHERE t.domain = s.domain AND t.local = s.local AND t.directory = r.directory ORDER BY t.n)))"
)
"""SQL: a staged row `s` and the index's row `r` of the same address are not the same."""


def take(connection: sqlite3.Connection, number: int) -> None:
    """Write every difference that no guard holds."""
    execute = connection.execute
    execute("CREATE TEMP TABLE IF NOT EXISTS loose (id INTEGER PRIMARY KEY)")
    execute(
        "INSERT OR IGNORE INTO temp.loose SELECT r.entry FROM temp.diff x CROSS JOIN recipient r ON r.domain = x.domain"
        " AND r.local = x.local AND r.directory = ?1 WHERE x.hold = 0 AND x.what <> 'A' AND r.entry IS NOT NULL",
        (number,),
    )
    old = (
        "SELECT x.domain, x.local, ?1 FROM temp.diff x CROSS JOIN recipient r ON r.domain = x.domain AND"
        " r.local = x.local AND r.directory = ?1 WHERE x.hold = 0 AND x.what <> 'A' AND r.targets > 0"
    )
    connection.executemany(
        "DELETE FROM target WHERE domain = ? AND local = ? AND directory = ?", execute(old, (number,)).fetchall()
    )
    gone = "SELECT domain, local, ?1 FROM temp.diff WHERE hold = 0 AND what = 'D'"
    connection.executemany(
        "DELETE FROM recipient WHERE domain = ? AND local = ? AND directory = ?", execute(gone, (number,))
    )
    execute(
        "INSERT OR IGNORE INTO entry (directory, key) SELECT ?1, s.entry FROM temp.diff x CROSS JOIN temp.staged s"
        " ON s.domain = x.domain AND s.local = x.local"
        " WHERE x.hold = 0 AND x.what <> 'D' AND s.entry IS NOT NULL",
        (number,),
    )
    execute(
        "INSERT OR REPLACE INTO recipient"
        " SELECT s.domain, s.local, ?1, s.kind, s.active, s.location, s.n, e.id FROM temp.diff x"
        " CROSS JOIN temp.staged s ON s.domain = x.domain AND s.local = x.local"
        " LEFT JOIN entry e ON e.directory = ?1 AND e.key = s.entry WHERE x.hold = 0 AND x.what <> 'D'",
        (number,),
    )
    _targets(
        connection,
        number,
        execute(
            "SELECT s.domain, s.local, s.targets FROM temp.diff x CROSS JOIN temp.staged s ON s.domain = x.domain"
            " AND s.local = x.local WHERE x.hold = 0 AND x.what <> 'D' AND s.targets IS NOT NULL"
        ),
    )
    execute(
        "DELETE FROM entry WHERE id IN (SELECT id FROM temp.loose) AND NOT EXISTS"
        " (SELECT 1 FROM recipient r WHERE r.directory = ?1 AND r.entry = entry.id)",
        (number,),
    )
    execute("DELETE FROM temp.loose")


def settle(connection: sqlite3.Connection, case: Case, report: SyncReport, *, canaries_from: str) -> bool:
    """Count what was judged into the report and, unless it is a dry run, write it. True when rows changed."""
    execute = connection.execute
    counts = {
        (what, hold > 0, moved > 0): count
        for what, hold, moved, count in execute(
            "SELECT what, hold > 0, moves, count(*) FROM temp.diff GROUP BY what, hold > 0, moves"
        )
    }
    report.added = counts.get(("A", False, False), 0)
    report.removed = counts.get(("D", False, False), 0)
    report.changed = counts.get(("C", False, False), 0)
    report.moved = sum(count for (_, held, moved), count in counts.items() if moved and not held)
    report.held = sum(change.count for change in case.held)
    gone = sum(count for (what, held, _), count in counts.items() if what == "D" and not held)
    come = sum(count for (what, held, _), count in counts.items() if what == "A" and not held)
    report.rows = case.rows + come - gone
    report.unchanged = case.rows - sum(count for (what, _, _), count in counts.items() if what != "A")
    report.held_changes = tuple(case.held)
    report.first = {
        word: found
        for word, where in (
            ("added", "hold = 0 AND moves = 0 AND what = 'A'"),
            ("removed", "hold = 0 AND moves = 0 AND what = 'D'"),
            ("changed", "hold = 0 AND moves = 0 AND what = 'C'"),
            ("moved", "hold = 0 AND moves = 1"),
            ("held", "hold > 0"),
        )
        if (found := examples(case, where))
    }
    report.why = _why(case.held)
    if report.dry_run:
        return False
    changed = report.added + report.removed + report.changed + report.moved > 0
    if not case.lost:
        if changed:
            take(connection, case.number)
        touched = canaries.with_others(connection, case.number, canaries_from)
        canaries.choose(connection, case.number, touched, canaries_from)
    ids = {case.name_of(domain): domain for (domain,) in execute("SELECT DISTINCT domain FROM temp.diff")}
    note_held(connection, case.number, case.held, ids.__getitem__, case.now)
    return changed


def _why(held: Sequence[HeldChange]) -> str:
    if not held:
        return ""
    return "held back: " + "; ".join(
        f"{change.domain}: {change.why}" if change.domain else change.why for change in held[:5]
    )


def doubted(connection: sqlite3.Connection, number: int) -> bool:
    """Whether all of a domain, or of the directory, is held as removed: live its "no" there would not be believed, so
    a reading's is not either."""
    return (
        connection.execute(
            "SELECT 1 FROM held h WHERE h.directory = ?1 AND h.what = 'removed' AND (h.domain = 0 OR h.count >="
            " (SELECT count(*) FROM recipient r WHERE r.domain = h.domain AND r.directory = ?1)) LIMIT 1",
            (number,),
        ).fetchone()
        is not None
    )


def recall_held(connection: sqlite3.Connection, number: int, report: SyncReport) -> None:
    """What was held the last time, into the report."""
    report.held_changes = tuple(
        HeldChange(domain or "", what, count, tuple(first.split("\n")) if first else (), why)
        for domain, what, count, first, why in connection.execute(
            "SELECT d.name, h.what, h.count, h.first, h.why FROM held h LEFT JOIN domain d ON d.id = h.domain"
            " WHERE h.directory = ? ORDER BY h.domain, h.what",
            (number,),
        )
    )
    report.held = sum(change.count for change in report.held_changes)
    report.why = _why(report.held_changes)
    if report.held:
        report.first = {"held": tuple(a for change in report.held_changes for a in change.first)[:EXAMPLES]}


def note_listing(connection: sqlite3.Connection, number: int, digest: bytes, waves: int | None) -> None:
    """Remember what was listed: the same again comes to the same.

    waves: with something held, the number of passed waves; another generation or wave may then come to something else.
    """
    if waves is not None:
        generation = connection.execute("SELECT value FROM state WHERE key = 'generation'").fetchone()[0]
        digest += state_of(int(generation), waves)
    connection.execute("UPDATE directory SET listing = ? WHERE id = ?", (digest, number))


def state_of(generation: int, waves: int) -> bytes:
    """What a held change depends on besides the listing, as bytes behind the listing's digest."""
    return generation.to_bytes(8, "big") + waves.to_bytes(4, "big")


def was_emptied(connection: sqlite3.Connection, number: int) -> bool:
    """Whether this directory was emptied on purpose."""
    return bool(connection.execute("SELECT emptied_on_purpose FROM directory WHERE id = ?", (number,)).fetchone()[0])


def note_directory(
    connection: sqlite3.Connection,
    number: int,
    directory: Directory,
    listing: Listing,
    report: SyncReport,
    emptied: bool,
    now: float,
) -> bool:
    """Write how the directory stands after a good listing. True when it counts now and did not before, or reverse."""
    old = connection.execute(
        "SELECT fingerprint, loaded_at IS NOT NULL, believable FROM directory WHERE id = ?", (number,)
    ).fetchone()
    believable = int(report.believable) if not report.held_changes else old[2]
    connection.execute(
        "UPDATE directory SET fingerprint = ?, rows = ?, loaded_at = ?, content_time = ?, server = ?, took = ?,"
        " cookie = ?, skipped = ?, believable = ?, emptied_on_purpose = ? WHERE id = ?",
        (
            directory.fingerprint,
            report.rows,
            now,
            listing.content_time,
            listing.server,
            report.listing,
            listing.cookie,
            listing.skipped.count,
            believable,
            int(emptied and not report.rows),
            number,
        ),
    )
    return (directory.fingerprint, 1, believable) != tuple(old)


def staged_examples(connection: sqlite3.Connection) -> list[str]:
    """The first staged addresses."""
    return [
        external(local, name)
        for local, name in connection.execute(
            "SELECT s.local, d.name FROM temp.staged s JOIN domain d ON d.id = s.domain"
            " ORDER BY s.domain, s.local LIMIT ?",
            (EXAMPLES,),
        )
    ]


def _targets(connection: sqlite3.Connection, number: int, found: Iterable[tuple[int, str, str]]) -> None:
    connection.executemany(
        "INSERT INTO target VALUES (?, ?, ?, ?, ?)",
        (
            (domain, local, number, n, address)
            for domain, local, targets in found
            for n, address in enumerate(targets.split("\n"))
        ),
    )


def note_held(
    connection: sqlite3.Connection, number: int, held: Sequence[HeldChange], ids: Callable[[str], int], now: float
) -> None:
    """Write what is held now; what was held and is no more is simply gone. An unchanged state writes nothing."""
    old = {
        (domain, what): (count, first, since, why)
        for domain, what, count, first, since, why in connection.execute(
            "SELECT domain, what, count, first, since, why FROM held WHERE directory = ?", (number,)
        )
    }
    new = {
        (ids(change.domain) if change.domain else 0, change.what): (
            change.count,
            "\n".join(change.first),
            change.why,
        )
        for change in held
    }
    for domain, what in old.keys() - new.keys():
        connection.execute("DELETE FROM held WHERE directory = ? AND domain = ? AND what = ?", (number, domain, what))
    for (domain, what), (count, first, why) in new.items():
        before = old.get((domain, what))
        since = before[2] if before else now
        if before != (count, first, since, why):
            connection.execute(
                "INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?, ?, ?, ?)",
                (number, domain, what, count, first, since, why),
            )


def note_skipped(connection: sqlite3.Connection, number: int, skipped: Skipped) -> None:
    """Write what was nonsense, when it is not what stands there."""
    old = connection.execute("SELECT what, why FROM skipped WHERE directory = ?", (number,)).fetchall()
    if old != skipped.first:
        connection.execute("DELETE FROM skipped WHERE directory = ?", (number,))
        connection.executemany(
            "INSERT INTO skipped VALUES (?, ?, ?)", [(number, what, why) for what, why in skipped.first]
        )
