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

from transport.address import external
from transport.config.settings import Directory, Settings
from transport.directories.base import LIVE_MEMBERS, Changes, DirectoryError, DirectoryTimeout, Skipped, Source
from transport.index.writer import IndexFault, Writer, fault_of
from transport.lookup import one
from transport.record import Record
from transport.sync import claims, write
from transport.sync.guards import Case, judge
from transport.sync.report import SyncReport
from transport.sync.stage import Stage

LEAST = 1000
"""So many changed entries are always taken; a tenth of the rows where that is more. Beyond: compare."""

_ASK = 48
_FEW_TARGETS = 100
_ASK_AT_MOST = 2000
_ASK_TIMEOUT = 10.0

Progress = Callable[[int], None]
_Key = tuple[str, str]


class _Doubt(Exception):  # noqa: N818  control flow: compare instead
    """The feed cannot be followed from here."""


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
                raise _Doubt(changes.why or "the directory cannot tell what changed")
            if changes.server and server and changes.server != server:
                raise _Doubt(f"{changes.server} answered, the index was read from {server}")
            work = _Work(writer, connection, directory, source, int(number), changes, server)
            records, gone = work.resolve(addresses)
            moment = time.time() if now is None else now

            def wanted() -> None:
                if progress is not None:
                    progress(len(records) + len(gone))

            wanted()
            _take(writer, connection, directory, settings, work, records, gone, changes, report, moment, wanted)
        if report.generation is not None:
            writer.checkpoint()
    except _Doubt as doubt:
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


class _Work:
    """Turns entries into addresses: what is listed now, and what is gone."""

    def __init__(
        self,
        writer: Writer,
        connection: sqlite3.Connection,
        directory: Directory,
        source: Source,
        number: int,
        changes: Changes,
        server: str,
    ) -> None:
        self.connection, self.directory, self.source, self.number = connection, directory, source, number
        self.changes = changes
        self.server = server
        self.told: set[bytes] = set()  # keys of entries that changed or are gone
        self.claims: set[tuple[bytes, _Key]] = set()  # of these: with the addresses that other entries list too
        self.ids = writer.domain_ids({r.domain for _, records in changes.upserts for r in records})

    def resolve(self, asked: Iterable[_Key]) -> tuple[dict[_Key, Record], list[_Key]]:
        """(records by address, addresses that are gone). Asks the directory about what is not plain, and `asked`."""
        records: dict[_Key, Record] = {}
        doubtful = set(asked)
        losing: set[_Key] = set()
        gone: set[_Key] = set()
        for key, listed in self.changes.upserts:
            if key is not None:
                self.told.add(key)
            mine: dict[_Key, list[Record]] = {}
            for record in listed:
                mine.setdefault((record.local, record.domain), []).append(record)
            if key is not None:
                gone |= {old for old in self._of_entry(key) if old not in mine}
            for address, several in mine.items():
                record = one(several)
                if address in records or len(several) > 1 or self._contested(record, key):
                    doubtful.add(address)
                    for claimant in (key, records.get(address, record).entry, (self._row(address) or (0, 0, None))[2]):
                        if key is not None and claimant is not None:
                            self.claims.add((claimant, address))
                elif self._loses(record, key):
                    losing.add(address)
                records[address] = record
        for key in self._gone_entries():
            self.told.add(key)
            gone |= set(self._of_entry(key))
        doubtful |= self._groups_of(gone) - records.keys()
        gone -= records.keys()
        ask = sorted(doubtful | gone)
        if len(ask) > _ASK_AT_MOST:
            raise _Doubt(f"{len(gone)} addresses are gone and {len(doubtful)} are claimed by several entries")
        try:
            confirmed = self._ask(ask)
        except DirectoryTimeout:
            raise
        except DirectoryError as error:  # of one of them, perhaps for good: a group too large to be asked for
            raise _Doubt(error.what) from None
        for address in ask:
            if address in confirmed:
                records[address] = confirmed[address]
                gone.discard(address)
            else:
                records.pop(address, None)
                if self._row(address) is not None:
                    gone.add(address)
        if gone:
            self._need_witness(set(ask))
        records.update(self._both_rows(losing - doubtful))
        return records, sorted(gone)

    def _both_rows(self, losing: set[_Key]) -> Mapping[_Key, Record]:
        """What the directory says of addresses of which one row lost something; nothing when it cannot tell now: then
        the row is taken as it was told."""
        if len(losing) > _ASK_AT_MOST:
            return {}
        try:
            return self._ask(sorted(losing))
        except DirectoryError:
            return {}

    def _need_witness(self, asked: set[_Key]) -> None:
        """A directory that has lost everybody denies these too: somebody else who is listed must still be there."""
        known = [
            (local, domain)
            for local, domain in self.connection.execute(
                "SELECT c.local, d.name FROM canary c JOIN domain d ON d.id = c.domain WHERE c.directory = ? LIMIT ?",
                (self.number, _ASK + len(asked)),
            )
            if (local, domain) not in asked
        ]
        if known and not self._ask(known[:_ASK]):
            raise _Doubt("addresses are gone, and so are all others that were asked for: is the directory empty?")

    def _gone_entries(self) -> Iterable[bytes]:
        yield from self.changes.deletes
        present = self.changes.present
        if present is not None:
            changed = {key for key, _ in self.changes.upserts if key is not None}
            known = self.connection.execute("SELECT key FROM entry WHERE directory = ?", (self.number,)).fetchall()
            for key in {*(key for (key,) in known), *claims.keys(self.connection, self.number)}:
                if key not in present and key not in changed:
                    yield key

    def _of_entry(self, key: bytes) -> list[_Key]:
        return [
            (local, domain)
            for local, domain in self.connection.execute(
                "SELECT r.local, d.name FROM entry e JOIN recipient r ON r.directory = e.directory AND r.entry = e.id"
                " JOIN domain d ON d.id = r.domain WHERE e.directory = ? AND e.key = ?",
                (self.number, key),
            )
        ] + claims.of_entry(self.connection, self.number, key)

    def _row(self, address: _Key) -> tuple[int, int, bytes | None] | None:
        """(kind, targets, entry key) of the index's row."""
        row: tuple[int, int, bytes | None] | None = self.connection.execute(
            "SELECT r.kind, r.targets, e.key FROM recipient r LEFT JOIN entry e ON e.id = r.entry"
            " JOIN domain d ON d.id = r.domain WHERE d.name = ? AND r.local = ? AND r.directory = ?",
            (address[1], address[0], self.number),
        ).fetchone()
        return row

    def _loses(self, record: Record, key: bytes | None) -> bool:
        """Whether a changed row or entry takes away what the index has: another one of the same address, of which the
        index has only what both come to, may still say it."""
        row = self.connection.execute(
            "SELECT r.active, r.location, r.kind, r.targets FROM recipient r JOIN domain d ON d.id = r.domain"
            " WHERE d.name = ? AND r.local = ? AND r.directory = ?",
            (record.domain, record.local, self.number),
        ).fetchone()
        if row is None:
            return False
        active, location, kind, targets = row
        if active > record.active or (location is not None and location != record.location):
            return True
        return key is not None and (kind != record.kind or len(record.targets) < targets <= _FEW_TARGETS)

    def _groups_of(self, left: Iterable[_Key]) -> set[_Key]:
        """Groups with a member, named by DN, whose address this was: their own entries tell nothing of it."""
        if self.directory.type != "ldap":
            return set()
        groups: set[_Key] = set()
        for address in left:
            found = self.connection.execute(
                "SELECT t.local, d.name, (SELECT count(*) FROM target o WHERE o.domain = t.domain AND o.local = t.local"
                " AND o.directory = t.directory) FROM target t JOIN domain d ON d.id = t.domain"
                " WHERE t.address = ? AND t.directory = ?",
                (external(*address), self.number),
            )
            for local, domain, members in found:
                if members > LIVE_MEMBERS:
                    raise _Doubt(f"a member of {external(local, domain)} has another address")
                groups.add((local, domain))
        return groups

    def _contested(self, record: Record, key: bytes | None) -> bool:
        """Whether another row or entry may have a say in this address."""
        row = self._row((record.local, record.domain))
        if row is None:
            return False
        if key is None:
            return row[0] != record.kind or row[1] > 0 or bool(record.targets)
        return row[2] != key or claims.is_shared(self.connection, self.number, (record.local, record.domain))

    def _ask(self, addresses: Sequence[_Key]) -> Mapping[_Key, Record]:
        """What the directory itself says of these addresses now."""
        found: dict[_Key, list[Record]] = {}
        for start in range(0, len(addresses), _ASK):
            wanted = addresses[start : start + _ASK]
            answer = self.source.ask(wanted, _ASK_TIMEOUT)
            if answer.doubt:
                raise DirectoryError(answer.doubt)
            if self.server and answer.server not in ("", self.server):
                raise _Doubt(f"{answer.server} answered, the index was read from {self.server}")
            for record in answer.records:
                if (record.local, record.domain) in wanted:
                    found.setdefault((record.local, record.domain), []).append(record)
        return {address: one(several) for address, several in found.items()}


def _take(
    writer: Writer,
    connection: sqlite3.Connection,
    directory: Directory,
    settings: Settings,
    work: _Work,
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
            raise _Doubt("the directory was read anew meanwhile")
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
