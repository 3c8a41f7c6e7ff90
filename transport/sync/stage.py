# SPDX-License-Identifier: Apache-2.0
"""A listing on its way into the index: sorted and merged in temporary tables, beside everything else."""

from __future__ import annotations

import hashlib
import marshal
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO

from transport.address import external
from transport.directories.base import DirectoryError, Skipped
from transport.index.writer import Writer
from transport.record import Kind, Record

CHUNK = 5000
DIGEST = 16
"""Octets of `Stage.digest`."""

_Line = tuple[int, str, int, int, str | None, int, str | None, bytes | None]
"""domain, local, kind, active, location, number of targets, targets (a line each), entry."""

_INSERT = "INSERT INTO temp.incoming VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_INTS = (0, 1, 2)  # an exact int binds four times as fast as an IntEnum


class Stage:
    """The temporary tables `incoming`, `staged`, `claims`, `diff`, `waved` and `unread` of one connection.

    count: records seen. digest: DIGEST bytes over all of them in the order in which they came.
    """

    def __init__(self, connection: sqlite3.Connection, writer: Writer) -> None:
        self.connection = connection
        self.count = 0
        self._hash = hashlib.blake2b(digest_size=DIGEST)
        self._writer = writer
        self._spool: IO[bytes] | None = None
        line = (
            "domain INTEGER NOT NULL, local TEXT NOT NULL, kind INTEGER NOT NULL, active INTEGER NOT NULL,"
            " location TEXT, n INTEGER NOT NULL, targets TEXT, entry BLOB"
        )
        connection.execute(f"CREATE TEMP TABLE incoming ({line})")
        connection.execute(f"CREATE TEMP TABLE staged ({line}, PRIMARY KEY (domain, local)) WITHOUT ROWID")
        connection.execute(
            "CREATE TEMP TABLE claims (domain INTEGER NOT NULL, local TEXT NOT NULL, key BLOB NOT NULL,"
            " PRIMARY KEY (domain, local, key)) WITHOUT ROWID"
        )
        connection.execute(
            "CREATE TEMP TABLE diff (domain INTEGER NOT NULL, local TEXT NOT NULL, what TEXT NOT NULL,"
            " hold INTEGER NOT NULL DEFAULT 0, moves INTEGER NOT NULL DEFAULT 0,"
            " PRIMARY KEY (domain, local)) WITHOUT ROWID"
        )
        connection.execute(
            "CREATE TEMP TABLE waved (domain INTEGER NOT NULL, local TEXT NOT NULL, PRIMARY KEY (domain, local))"
            " WITHOUT ROWID"
        )
        connection.execute("CREATE TEMP TABLE unread (domain INTEGER PRIMARY KEY)")

    @property
    def digest(self) -> bytes:
        """What was read, as one value: the same again means that nothing has changed."""
        return self._hash.digest()

    def lines(self, records: Iterable[Record]) -> Iterator[list[_Line]]:
        """Records as rows, a chunk at a time. New domains get their numbers."""
        ids = self._writer.domain_ids(())
        pending = iter(records)
        while batch := list(islice(pending, CHUNK)):
            try:
                yield _lines(batch, ids)
            except KeyError:
                ids = self._writer.domain_ids({record.domain for record in batch})
                yield _lines(batch, ids)

    def read(
        self, records: Iterable[Record], skipped: Skipped, *, spool: bool, progress: Callable[[int], None] | None
    ) -> None:
        """Take the whole listing. spool: only put it by, since it will most likely turn out to be known.

        Raises what the listing raises, and OSError or sqlite3.Error when there is no room.
        """
        if spool:
            self._spool = tempfile.SpooledTemporaryFile(  # noqa: SIM115  closed in `close`
                max_size=4 << 20, dir=str(Path(self._writer.path).parent), prefix=".listing-"
            )
        if not spool:
            self.connection.execute("BEGIN")
        try:
            for chunk in self.lines(records):
                self.count += len(chunk)
                data = marshal.dumps(chunk, 2)  # later versions of the format tell equal objects from the same
                self._hash.update(data)
                if self._spool is not None:
                    self._spool.write(len(data).to_bytes(8, "little"))
                    self._spool.write(data)
                else:
                    self._insert(chunk, skipped)
                if progress is not None:
                    progress(self.count)
        finally:
            if self.connection.in_transaction:
                self.connection.execute("COMMIT")

    def leave(self, parts: Mapping[str, DirectoryError | None]) -> None:
        """Note which domains' parts of the directory could not be read: what the index has of them stays."""
        unread = sorted(name for name, fault in parts.items() if fault is not None)
        if parts:  # another set of them with the same records is another listing
            self._hash.update(repr((sorted(parts), unread)).encode())
        ids = self._writer.domain_ids(parts)
        self.connection.executemany("INSERT INTO temp.unread VALUES (?)", [(ids[name],) for name in unread])

    def _insert(self, chunk: list[_Line], skipped: Skipped) -> None:
        """Put a chunk in; a record that is no Unicode text (a lone surrogate out of some export) is left out."""
        self.connection.execute("SAVEPOINT chunk")
        try:
            self.connection.executemany(_INSERT, chunk)
        except UnicodeError:
            self.connection.execute("ROLLBACK TO chunk")
            for line in chunk:
                try:
                    self.connection.execute(_INSERT, line)
                except UnicodeError:
                    self.count -= 1
                    skipped.add(ascii(line[1]), "it is no Unicode text")
        self.connection.execute("RELEASE chunk")

    def sort(self, skipped: Skipped, name_of: Callable[[int], str]) -> int:
        """Bring what was read into order, one row an address; how many addresses there are."""
        connection = self.connection
        connection.execute("BEGIN")
        if self._spool is not None:
            self._spool.seek(0)
            while head := self._spool.read(8):
                self._insert(marshal.loads(self._spool.read(int.from_bytes(head, "little"))), skipped)  # noqa: S302  our own file
        # Mailboxes first: of several records of one address the mailbox stands.
        connection.execute("INSERT OR IGNORE INTO temp.staged SELECT * FROM temp.incoming ORDER BY domain, local, kind")
        addresses = int(connection.execute("SELECT count(*) FROM temp.staged").fetchone()[0])
        if addresses != self.count:
            self._merge(skipped, name_of)
        connection.execute("DELETE FROM temp.incoming")
        connection.execute("COMMIT")
        return addresses

    def _merge(self, skipped: Skipped, name_of: Callable[[int], str]) -> None:
        """Make one of the records that name the same address twice or more."""
        doubles = self.connection.execute(
            "SELECT i.domain, i.local, i.kind, i.active, i.location, i.targets, i.entry FROM temp.incoming i JOIN"
            " (SELECT domain, local FROM temp.incoming GROUP BY domain, local HAVING count(*) > 1) t"
            " ON t.domain = i.domain AND t.local = i.local ORDER BY i.domain, i.local, i.kind, i.rowid"
        )
        group: list[tuple[int, str, int, int, str | None, str | None, bytes | None]] = []
        merged: list[tuple[int, int, str | None, int, str | None, int, str]] = []
        for line in doubles:
            if group and group[0][:2] != line[:2]:
                merged.append(_one(group, skipped, name_of))
                group = []
            group.append(line)
        if group:
            merged.append(_one(group, skipped, name_of))
        self.connection.execute(
            "INSERT OR IGNORE INTO temp.claims SELECT i.domain, i.local, i.entry FROM temp.incoming i"
            " JOIN temp.staged s ON s.domain = i.domain AND s.local = i.local"
            " WHERE i.entry IS NOT NULL AND i.entry IS NOT s.entry"
        )
        # its own too: a feed may give the row another one's name
        self.connection.execute(
            "INSERT OR IGNORE INTO temp.claims SELECT s.domain, s.local, s.entry FROM"
            " (SELECT DISTINCT domain, local FROM temp.claims) c CROSS JOIN temp.staged s"
            " ON s.domain = c.domain AND s.local = c.local WHERE s.entry IS NOT NULL"
        )
        self.connection.executemany(
            "UPDATE temp.staged SET kind = ?, active = ?, location = ?, n = ?, targets = ?"
            " WHERE domain = ? AND local = ?",
            merged,
        )

    def close(self) -> None:
        """Let go of what was put by; the tables go with their connection."""
        if self._spool is not None:
            self._spool.close()


def _lines(batch: list[Record], number: Mapping[str, int]) -> list[_Line]:
    return [
        (
            number[domain],
            local,
            _INTS[kind],
            1 if active else 0,
            location,
            len(targets),
            "\n".join(targets) if targets else None,
            entry,
        )
        for local, domain, kind, active, location, targets, entry in batch
    ]


def _one(
    group: list[tuple[int, str, int, int, str | None, str | None, bytes | None]],
    skipped: Skipped,
    name_of: Callable[[int], str],
) -> tuple[int, int, str | None, int, str | None, int, str]:
    """One record of several: a mailbox beats an alias, targets are united, an explicit location beats none.

    Who is active in one is active. Two different locations contradict each other: the first listed stands.
    """
    domain, local = group[0][:2]
    best = group[0][2]
    same = [line for line in group if line[2] == best or best != Kind.MAILBOX]
    address = external(local, name_of(domain))
    if len(same) < len(group):
        skipped.add(address, "listed as a mailbox and as an alias: the mailbox stands")
    locations = list(dict.fromkeys(line[4] for line in same if line[4] is not None))
    if len(locations) > 1:
        skipped.add(address, f"listed with two locations, {locations[0]} and {locations[1]}: the first stands")
    targets = list(dict.fromkeys(t for line in same if line[5] for t in line[5].split("\n")))
    kind = max(line[2] for line in same)
    active = max(line[3] for line in same)
    location = locations[0] if locations else None
    return kind, active, location, len(targets), "\n".join(targets) or None, domain, local
