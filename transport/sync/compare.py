# SPDX-License-Identifier: Apache-2.0
"""The full sync of one directory: everything it lists against everything the index has of it."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from transport.config.settings import Directory, Settings
from transport.directories.base import DirectoryError, DirectoryTimeout, Listing, PartsError, Source
from transport.index.faults import IndexFault, fault_of
from transport.index.writer import Writer
from transport.sync import canaries, claims, parts, write
from transport.sync.guards import Case, judge
from transport.sync.report import SyncReport
from transport.sync.stage import DIGEST, Stage


def compare(
    writer: Writer,
    directory: Directory,
    source: Source,
    settings: Settings,
    *,
    accept: Sequence[str] | None = None,
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
    now: float | None = None,
) -> SyncReport:
    """List the whole directory and bring the index to it: only differences are written, in one transaction.

    accept: None, or directories and domains whose held changes a human takes; empty: all of this directory.
    dry_run: find and judge everything, write nothing. progress: called with the number of records read so far, also
    while they are sorted and written; when it raises DirectoryError, the sync ends and the old state stays.
    Never raises for a fault of the directory or of the index: the report says it, and the old state stays.
    """
    began = time.monotonic()
    report = SyncReport(directory.name, dry_run=dry_run)
    instance = writer.instance
    try:
        connection = writer.connect()
    except sqlite3.Error as error:
        _failed(report, fault_of(error, writer.path))
        return report
    stage: Stage | None = None
    try:
        stage = Stage(connection, writer)
        moment = time.time() if now is None else now
        listing = _listed(writer, connection, directory, source, report, moment)
        waves = sum(wave.at <= moment for wave in settings.waves)
        known = _known(connection, directory, waves) if accept is None and not dry_run else b""
        with contextlib.closing(listing):
            stage.read(listing.records, listing.skipped, spool=bool(known), progress=progress)
        stage.leave(listing.parts)
        if writer.instance != instance:  # the domains have other numbers in the new file
            raise IndexFault(f"{writer.path} was rebuilt meanwhile", "the directory is read again")
        report.listing = time.monotonic() - began
        report.server, report.content_time, report.cookie = listing.server, listing.content_time, listing.cookie
        report.unread = parts.unread(listing.parts)
        if progress is not None:
            connection.set_progress_handler(partial(_alive, progress, stage), 1_000_000)
        if known != stage.digest:
            names = {number: name for name, number in writer.domain_ids(()).items()}
            addresses = stage.sort(listing.skipped, names.__getitem__)
            with writer.change(connection):
                _still_wanted(progress, stage)
                _settle(writer, directory, settings, stage, addresses, listing, report, accept, names, moment)
        else:
            with writer.change(connection):
                _still_wanted(progress, stage)
                if _known(connection, directory, waves) != known:
                    raise IndexFault("it was changed by another sync meanwhile", "it is tried again")
                _same(writer, connection, directory, listing, report, moment)
        report.skipped = listing.skipped.count
        if report.generation is not None or report.first_load:
            writer.checkpoint(always=report.first_load)
        if not dry_run and (damage := writer.check(deep=True)):
            raise IndexFault(
                f"{writer.path} cannot be used: {damage}", "it is rebuilt from the directories", broken=True
            )
    except DirectoryError as error:
        report.error, report.hint = error.what, error.hint
        report.timeout = isinstance(error, DirectoryTimeout)
    except IndexFault as error:
        _failed(report, error)
    except sqlite3.Error as error:
        _failed(report, fault_of(error, writer.path))
    except OSError as error:
        report.error = f"cannot put the listing by in {writer.path.parent}: {error.strerror or error}"
        report.hint = "make room on its disk"
        report.unwritten = True
    finally:
        if stage is not None:
            stage.close()
        with contextlib.suppress(sqlite3.Error):
            connection.close()
        report.duration = time.monotonic() - began
    return report


def _still_wanted(progress: Callable[[int], None] | None, stage: Stage) -> None:
    """Nothing is written once somebody gave up on us: a later reading may have been taken. Raises what it raises."""
    if progress is not None:
        progress(stage.count)


def _alive(progress: Callable[[int], None], stage: Stage) -> int:
    """Say that sorting and writing go on, ten times a second or so; whoever gave up on us ends the statement."""
    try:
        progress(stage.count)
    except DirectoryError:
        return 1
    return 0


def _failed(report: SyncReport, fault: IndexFault) -> None:
    report.fail(fault.what, fault.hint, broken=fault.broken, unwritten=fault.unwritten)
    report.generation = None
    report.believable = False


def _known(connection: sqlite3.Connection, directory: Directory, waves: int) -> bytes:
    """The digest of the last listing, when the same listing again would come to the same; b"" else.

    That is when all of it was taken; and when something was held, as long as nothing else has changed either: then the
    digest is stored with its generation and the number of passed waves.
    """
    row = connection.execute(
        "SELECT d.listing, s.value FROM directory d JOIN state s ON s.key = 'generation'"
        " WHERE d.name = ? AND d.fingerprint = ? AND d.loaded_at IS NOT NULL",
        (directory.name, directory.fingerprint),
    ).fetchone()
    if row is None:
        return b""
    digest, while_ = bytes(row[0][:DIGEST]), bytes(row[0][DIGEST:])
    return digest if not while_ or while_ == write.state_of(int(row[1]), waves) else b""


def _listed(
    writer: Writer,
    connection: sqlite3.Connection,
    directory: Directory,
    source: Source,
    report: SyncReport,
    now: float,
) -> Listing:
    """The listing, begun. Of a directory none of whose domains can be read the "no" of each counts no more."""
    try:
        return source.list()
    except PartsError as fault:
        if not report.dry_run:
            report.generation = parts.none_read(writer, connection, directory, fault.parts, now)
        raise


def _same(
    writer: Writer,
    connection: sqlite3.Connection,
    directory: Directory,
    listing: Listing,
    report: SyncReport,
    now: float,
) -> None:
    """It lists exactly what it listed last time: nothing to take, and what was held is held."""
    number, rows, _ = write.row_of(connection, directory.name, directory.fingerprint)
    report.rows = report.unchanged = rows
    emptied = bool(connection.execute("SELECT emptied_on_purpose FROM directory WHERE id = ?", (number,)).fetchone()[0])
    report.believable = rows > 0 or emptied or directory.may_be_empty
    if len(connection.execute("SELECT listing FROM directory WHERE id = ?", (number,)).fetchone()[0]) <= DIGEST:
        nobody: dict[str, int] = {}
        write.note_held(connection, number, (), nobody.__getitem__, now)  # all of it was taken: it is whole again
    write.recall_held(connection, number, report)
    write.note_skipped(connection, number, listing.skipped)
    write.note_directory(connection, number, directory, listing, report, emptied, now)
    if parts.note(connection, number, listing.parts, writer.domain_ids(listing.parts), now):
        report.generation = writer.bump(connection)
    report.believable = report.believable and not (directory.live and write.doubted(connection, number))


def _settle(
    writer: Writer,
    directory: Directory,
    settings: Settings,
    stage: Stage,
    addresses: int,
    listing: Listing,
    report: SyncReport,
    accept: Sequence[str] | None,
    names: Mapping[int, str],
    now: float,
) -> None:
    """Everything after a listing that is not known already, inside one write transaction."""
    connection = stage.connection
    number, rows, report.first_load = write.row_of(connection, directory.name, directory.fingerprint)
    accepted = accept is not None and (not accept or directory.name in accept)
    if report.first_load:
        changed = _first_load(connection, number, rows, directory, addresses, report, accepted)
        emptied = accepted and not addresses
        if not report.believable:
            if report.dry_run:
                connection.execute("ROLLBACK")
            return
    else:
        write.find_differences(connection, number, rows, addresses)
        new = parts.new(connection, number, listing.parts, writer.domain_ids(listing.parts))
        case = Case(connection, number, directory, settings, rows, now, names.__getitem__, accept, new=new)
        judge(case)
        changed = write.settle(connection, case, report, canaries_from="staged")
        emptied = case.emptied or (write.was_emptied(connection, number) and not report.rows)
        report.believable = (report.rows > 0 or emptied or directory.may_be_empty) and not case.lost
        if case.lost and not report.dry_run:
            return  # nothing of this reading is believed: neither its time nor its server
        if directory.live and write.doubted(connection, number):
            report.believable = False
    if report.dry_run:
        connection.execute("ROLLBACK")
        return
    claims.note_all(connection, number)
    changed |= parts.note(connection, number, listing.parts, writer.domain_ids(listing.parts), now)
    write.note_skipped(connection, number, listing.skipped)
    if write.note_directory(connection, number, directory, listing, report, emptied, now) or changed:
        report.generation = writer.bump(connection)
    waves = sum(wave.at <= now for wave in settings.waves)
    write.note_listing(connection, number, stage.digest, waves if report.held_changes else None)


def _first_load(
    connection: sqlite3.Connection,
    number: int,
    rows: int,
    directory: Directory,
    addresses: int,
    report: SyncReport,
    accepted: bool,
) -> bool:
    """Nothing is known under this fingerprint, so there is nothing to compare with: everything is taken.

    An empty directory is not: neither its absence nor that of its people means anything yet.
    """
    if not addresses and not (directory.may_be_empty or accepted):
        report.why = (
            'it lists nobody: its "no" is not believed until it does; if it is to be empty: may_be_empty = true,'
            f" or sync --accept {directory.name}"
        )
        return False
    report.added = report.rows = addresses
    report.believable = True
    report.first = {"added": tuple(write.staged_examples(connection))}
    if not report.dry_run:
        write.load_all(connection, number)
        canaries.choose(connection, number, None, "staged")
    return True
