# SPDX-License-Identifier: Apache-2.0
"""From what a feed tells of entries to addresses: who is listed now, who is gone, and whom to ask the directory about.

An address may be several entries' or rows', and a removal may be none: whatever the feed alone cannot settle is asked.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from transport.address import external
from transport.config.settings import Directory
from transport.directories.base import LIVE_MEMBERS, Changes, DirectoryError, DirectoryTimeout, Source
from transport.lookup import one
from transport.record import Record
from transport.sync import claims

_ASK = 48
_FEW_TARGETS = 100
_ASK_AT_MOST = 2000
_ASK_TIMEOUT = 10.0

_Key = tuple[str, str]


class DoubtError(Exception):
    """The feed cannot be followed from here: compare instead."""


class Told:
    """Turns entries into addresses: what is listed now, and what is gone."""

    def __init__(
        self,
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
                elif self._loses(record):
                    losing.add(address)
                records[address] = record
        for key in self._gone_entries():
            self.told.add(key)
            gone |= set(self._of_entry(key))
        doubtful |= self._groups_of(gone) - records.keys()
        gone -= records.keys()
        ask = sorted(doubtful | gone)
        if len(ask) > _ASK_AT_MOST:
            raise DoubtError(f"{len(gone)} addresses are gone and {len(doubtful)} are claimed by several entries")
        try:
            confirmed = self._ask(ask)
        except DirectoryTimeout:
            raise
        except DirectoryError as error:  # of one of them, perhaps for good: a group too large to be asked for
            raise DoubtError(error.what) from None
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
            raise DoubtError("addresses are gone, and so are all others that were asked for: is the directory empty?")

    def _gone_entries(self) -> Iterable[bytes]:
        yield from self.changes.deletes
        present = self.changes.present
        if present is not None:
            changed = {key for key, _ in self.changes.upserts if key is not None}
            for (key,) in self.connection.execute(claims.EVERY_ENTRY, (self.number,)):
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

    def _loses(self, record: Record) -> bool:
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
        return bool(kind != record.kind or len(record.targets) < targets <= _FEW_TARGETS)

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
                    raise DoubtError(f"a member of {external(local, domain)} has another address")
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
                raise DoubtError(f"{answer.server} answered, the index was read from {self.server}")
            for record in answer.records:
                if (record.local, record.domain) in wanted:
                    found.setdefault((record.local, record.domain), []).append(record)
        return {address: one(several) for address, several in found.items()}
