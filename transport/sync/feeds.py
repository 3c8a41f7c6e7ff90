# SPDX-License-Identifier: Apache-2.0
"""What a directory says has changed, taken into the index behind the same guards as a full compare.

A feed is an accelerator, never the truth: whatever it cannot say for sure (an address that several entries or rows
claim, a removal) is asked of the directory itself, and what is in doubt ends in a compare.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from transport.config.settings import Directory, Settings
from transport.directories.base import Changes, DirectoryError, DirectoryTimeout, Skipped, Source
from transport.index.faults import IndexFault, fault_of
from transport.index.writer import Writer
from transport.record import Record
from transport.sync import claims, write
from transport.sync.guards import Case, judge
from transport.sync.report import SyncReport
from transport.sync.stage import Stage
from transport.sync.told import DoubtError, Told

LEAST = 1000
"""So many changed entries are always taken; a tenth of the rows where that is more. Beyond: compare."""

Progress = Callable[[int], None]
_Key = tuple[str, str]


def apply_changes(
    writer: Writer,
    directory: Directory,
    source: Source,
    settings: Settings,
    *,
    progress: Progress | None = None,
    now: float | None = None,
) -> SyncReport | None:
    """Ask the directory for its changes since the last reading and take them.

    progress: called with the number of records once they are read and when they are to be written; when it raises
    DirectoryError, nothing is.

    None: it has no feed, or nothing was read yet. `full_needed` in the report: compare soon, `why` says why; the
    cookie stays where it was. Never raises for a fault of the directory or the index.
    """
    changes_of = getattr(source, "changes", None)
    if changes_of is None:
        return None

    def changes(cookie: bytes, server: str, rows: int) -> Changes | None:
        return changes_of(cookie, max(LEAST, rows // 10)) if cookie else None

    return _apply(writer, directory, source, settings, progress, now, changes, ())


def apply_named(
    writer: Writer,
    directory: Directory,
    source: Source,
    settings: Settings,
    addresses: Iterable[_Key],
    *,
    progress: Progress | None = None,
    now: float | None = None,
) -> SyncReport | None:
    """Ask the directory about these addresses, of which something said that they changed, and take its answers.

    They may be there, changed or gone. None: nothing was read yet. The rest as `apply_changes`; the cookie stays.
    """

    def changes(cookie: bytes, server: str, rows: int) -> Changes:
        return Changes(cookie=cookie, server=server, additions=False)

    return _apply(writer, directory, source, settings, progress, now, changes, addresses)


def _apply(
    writer: Writer,
    directory: Directory,
    source: Source,
    settings: Settings,
    progress: Progress | None,
    now: float | None,
    changes_of: Callable[[bytes, str, int], Changes | None],
    addresses: Iterable[_Key],
) -> SyncReport | None:
    began = time.monotonic()
    report = SyncReport(directory.name)
    try:
        with contextlib.closing(writer.connect()) as connection:
            found = connection.execute(
                "SELECT id, rows, cookie, server FROM directory WHERE name = ? AND fingerprint = ?"
                " AND loaded_at IS NOT NULL",
                (directory.name, directory.fingerprint),
            ).fetchone()
            if found is None:
                return None
            number, rows, cookie, server = found
            changes = changes_of(bytes(cookie), server, rows)
            if changes is None:
                return None
            report.removals = changes.removals
            report.listing = time.monotonic() - began
            report.server = changes.server or server
            report.cookie = bytes(cookie)
            if changes.full_needed:
                raise DoubtError(changes.why or "the directory cannot tell what changed")
            if changes.server and server and changes.server != server:
                raise DoubtError(f"{changes.server} answered, the index was read from {server}")
            work = Told(connection, directory, source, int(number), changes, server)
            records, gone = work.resolve(addresses)
            moment = time.time() if now is None else now

            def wanted() -> None:
                if progress is not None:
                    progress(len(records) + len(gone))

            wanted()
            _take(writer, connection, directory, settings, work, records, gone, changes, report, moment, wanted)
        if report.generation is not None:
            writer.checkpoint()
    except DoubtError as doubt:
        report.full_needed, report.why = True, str(doubt)
    except DirectoryError as error:
        report.error, report.hint = error.what, error.hint
        report.timeout = isinstance(error, DirectoryTimeout)
    except IndexFault as error:
        report.fail(error.what, error.hint, broken=error.broken, unwritten=error.unwritten)
    except sqlite3.Error as error:
        fault = fault_of(error, writer.path)
        report.fail(fault.what, fault.hint, broken=fault.broken, unwritten=fault.unwritten)
    finally:
        report.duration = time.monotonic() - began
    return report


def _take(
    writer: Writer,
    connection: sqlite3.Connection,
    directory: Directory,
    settings: Settings,
    work: Told,
    records: Mapping[_Key, Record],
    gone: Sequence[_Key],
    changes: Changes,
    report: SyncReport,
    now: float,
    wanted: Callable[[], None],
) -> None:
    """Judge and write, in one transaction. A feed with nothing in it writes nothing but a new cookie.

    wanted: raises DirectoryError once somebody gave up on us: a later reading may have been taken.
    """
    number = work.number
    stage = Stage(connection, writer)
    writer.domain_ids({record.domain for record in records.values()})
    stage.read(records.values(), Skipped(), spool=False, progress=None)
    ids = writer.domain_ids(())
    names = {found: name for name, found in ids.items()}
    stage.sort(Skipped(), names.__getitem__)
    with writer.change(connection):
        wanted()
        again = connection.execute(
            "SELECT rows, cookie, believable FROM directory WHERE id = ? AND fingerprint = ?",
            (number, directory.fingerprint),
        ).fetchone()
        if again is None or bytes(again[1]) != report.cookie:
            raise DoubtError("the directory was read anew meanwhile")
        rows = int(again[0])
        connection.execute(
            "INSERT INTO temp.diff (domain, local, what)"  # noqa: S608  fixed text
            " SELECT s.domain, s.local, CASE WHEN r.kind IS NULL THEN 'A' ELSE 'C' END FROM temp.staged s"
            " LEFT JOIN recipient r ON r.domain = s.domain AND r.local = s.local AND r.directory = ?1"
            f" WHERE r.kind IS NULL OR {write.DIFFERS}",
            (number,),
        )
        connection.executemany(
            "INSERT OR IGNORE INTO temp.diff (domain, local, what) SELECT domain, local, 'D' FROM recipient"
            " WHERE domain = ? AND local = ? AND directory = ?",
            [(ids[domain], local, number) for local, domain in gone],
        )
        report.rows = rows
        report.believable = bool(again[2]) and changes.additions
        if connection.execute("SELECT 1 FROM temp.diff LIMIT 1").fetchone():
            _settle(writer, connection, directory, settings, number, rows, names, changes, report, now)
        if work.told:
            claims.renew(connection, number, work.told, work.claims, ids)
        if write.doubted(connection, number):
            report.believable = False
        # What was just held may be undone: the last listing again would then not come to the same.
        another = report.generation is not None or report.full_needed
        if another or changes.cookie != report.cookie:
            connection.execute(
                "UPDATE directory SET rows = ?1, cookie = ?2, listing = iif(?3, x'', listing) WHERE id = ?4",
                (report.rows, changes.cookie or report.cookie, another, number),
            )
        report.cookie = changes.cookie or report.cookie


def _settle(
    writer: Writer,
    connection: sqlite3.Connection,
    directory: Directory,
    settings: Settings,
    number: int,
    rows: int,
    names: Mapping[int, str],
    changes: Changes,
    report: SyncReport,
    now: float,
) -> None:
    old = connection.execute(
        "SELECT domain, what, count, first, since, why FROM held WHERE directory = ?", (number,)
    ).fetchall()
    # Named deletions come once, so those held before count with them; a present phase shows all that is missing.
    before = {row[0]: int(row[2]) for row in old if row[1] == "removed" and changes.present is None}
    case = Case(connection, number, directory, settings, rows, now, names.__getitem__, None, before)
    judge(case)
    changed = write.settle(connection, case, report, canaries_from="recipient")
    # What a compare held is held until the next compare; what this batch holds is said beside it.
    connection.executemany("INSERT OR IGNORE INTO held VALUES (?, ?, ?, ?, ?, ?, ?)", [(number, *row) for row in old])
    known = {(names.get(row[0], ""), row[1], row[2]) for row in old}
    report.full_needed = any((change.domain, change.what, change.count) not in known for change in case.held)
    if case.lost:
        report.believable = False
    if changed:
        report.generation = writer.bump(connection)
