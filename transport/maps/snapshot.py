# SPDX-License-Identifier: Apache-2.0
"""The index as `build` reads it: every listed address in key order, and a `Knowledge` over the same rows.

A build decides from what was last read of the directories: an address without a row is not there. That is what a
static file can say at all; where a live map stands behind it, whoever is new is found there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from transport.config.settings import Settings
from transport.index.reader import Reader
from transport.record import Kind, Row

CHUNK = 20_000
"""Rows that are held in memory at once."""

Situation = tuple[Row, ...]

_EVERYONE = (
    "SELECT local, directory, kind, active, location, targets != 0 FROM recipient WHERE domain = ?"
    " ORDER BY local, directory"
)
_SITUATIONS = "SELECT DISTINCT directory, kind, active, location, targets != 0 FROM recipient WHERE domain = ?"
_TWICE = "SELECT 1 FROM recipient WHERE domain = ? GROUP BY local HAVING count(*) > 1 LIMIT 1"
_RANGE = "SELECT local FROM recipient WHERE domain = ? AND local > ? ORDER BY local LIMIT 1 OFFSET ?"
_TOGETHER = (
    "SELECT group_concat(local, char(10)) FROM recipient WHERE domain = ?1 AND local > ?2"
    " AND local <= ?3 AND directory = ?4 AND kind = ?5 AND active = ?6 AND location IS ?7"
    " AND (targets != 0) = ?8"
)
_END = "\U0010ffff" * 2  # behind every local part
_FEW = 8
"""Situations up to which the rows are gone through once for each."""

_first = itemgetter(0)

_Raw = tuple[str, int, int, int, str | None, int]
_Key = tuple[Any, ...]  # a row without its local part, or several such rows


def never_read(settings: Settings, reader: Reader) -> tuple[list[str], bool]:
    """Directories of enabled domains without a listing, by name (`NAME (DOMAIN)` where others of it were read), and
    whether there is no other."""
    used = [
        (name, domain.name)
        for domain in settings.domains.values()
        if domain.enabled == "yes"
        for name in (*domain.local, *domain.remote)
    ]
    found = {
        f"{name} ({domain})" if reader.loaded(name) else name: None
        for name, domain in used
        if not reader.loaded(name, domain)
    }
    return sorted(found), not any(reader.loaded(name) for name, _ in used)


class Snapshot:
    """What the index holds, for one build. Implements `Knowledge`; raises nothing that the reader does not."""

    def __init__(self, settings: Settings, reader: Reader, now: float) -> None:
        self.reader = reader
        self._connection: sqlite3.Connection | None = None  # one for all domains: one state of the index
        self._names: Mapping[int, str] = {}
        self._no = {name: self._counts(settings, name, reader, now) for name in settings.directories}

    @staticmethod
    def _counts(settings: Settings, name: str, reader: Reader, now: float) -> bool:
        """Whether the absence of a row means something: loaded, and a file not older than its `max_age`."""
        if not reader.loaded(name):
            return False
        directory = settings.directories[name]
        if directory.live or directory.max_age is None:
            return True
        state = next((s for s in reader.directories() if s.name == name), None)
        return state is not None and directory.young(state.content_time, now)

    def close(self) -> None:
        """Let go of the index."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # Knowledge

    def rows(self, domain: str, local: str) -> Sequence[Row]:
        return self.reader.rows(domain, local)

    def targets(self, domain: str, local: str, directory: str) -> Sequence[str]:
        return self.reader.targets(domain, local, directory)

    def loaded(self, directory: str, domain: str) -> bool:
        return self.reader.loaded(directory, domain)

    def no(self, directory: str, domain: str, local: str) -> bool | None:
        return self._no.get(directory, False) and not self.reader.never_read(directory, domain)

    def same_entry(self, directory: str, entry: int) -> Sequence[tuple[str, str]]:
        return self.reader.addresses_of_entry(directory, entry)

    def spf_networks(self, name: str) -> Sequence[str]:
        return ()

    def loop_first_seen(self, local: str, domain: str) -> float | None:
        return None

    # everyone

    def everyone(self, domain: str) -> Iterator[dict[Situation, list[str]]]:
        """All folded local parts that are listed in a domain, in runs of about CHUNK rows.

        Each run maps a situation to its local parts. Rows are those of directories in use; `Row.targets` is 1 for
        any number of targets, and `Row.entry` None.
        """
        if self._connection is None:
            self._connection = self._connect()
            self._names = self._current(self._connection)
        connection, names = self._connection, self._names
        number = connection.execute("SELECT id FROM domain WHERE name = ?", (domain,)).fetchone()
        if number is None:
            return
        situations = connection.execute(_SITUATIONS, number).fetchall()
        several = len({row[0] for row in situations}) > 1
        if len(situations) <= _FEW and not (several and connection.execute(_TWICE, number).fetchone()):
            yield from self._by_situation(connection, number[0], situations, names)
        else:
            yield from self._by_row(connection.execute(_EVERYONE, number), names, several)

    @staticmethod
    def _by_situation(
        connection: sqlite3.Connection, domain: int, situations: Sequence[_Key], names: Mapping[int, str]
    ) -> Iterator[dict[Situation, list[str]]]:
        """Everybody has one row, and there are few situations: SQLite puts the local parts together, which is several
        times as fast as taking row after row."""
        after = ""
        while True:
            last = connection.execute(_RANGE, (domain, after, CHUNK - 1)).fetchone()
            run: dict[Situation, list[str]] = {}
            for key in situations:
                found = connection.execute(_TOGETHER, (domain, after, last[0] if last else _END, *key)).fetchone()
                situation = tuple(_rows((key,), names))
                if found[0] is not None and situation:
                    run[situation] = found[0].split("\n")
            yield run
            if last is None:
                return
            after = last[0]

    def _by_row(
        self, cursor: sqlite3.Cursor, names: Mapping[int, str], several: bool
    ) -> Iterator[dict[Situation, list[str]]]:
        known: dict[_Key, Situation] = {}
        rest: list[_Raw] = []
        while chunk := cursor.fetchmany(CHUNK):
            chunk = rest + chunk if rest else chunk
            rest = []
            if several and len(chunk) >= CHUNK:  # an address must not be cut in two
                last = chunk[-1][0]
                at = next((n for n in range(len(chunk) - 1, -1, -1) if chunk[n][0] != last), -1)
                chunk, rest = chunk[: at + 1], chunk[at + 1 :]
            yield self._sorted_out(chunk, names, known, several)
        if rest:
            yield self._sorted_out(rest, names, known, several)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.reader.path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=5
        )
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute("BEGIN")
        return connection

    def _current(self, connection: sqlite3.Connection) -> dict[int, str]:
        current = {state.name for state in self.reader.directories() if state.current}
        found = connection.execute("SELECT id, name FROM directory").fetchall()
        return {int(number): str(name) for number, name in found if name in current}

    @staticmethod
    def _sorted_out(
        chunk: Sequence[_Raw],
        names: Mapping[int, str],
        known: dict[_Key, Situation],
        several: bool,
    ) -> dict[Situation, list[str]]:
        buckets: dict[_Key, list[str]] = {}
        if several:
            for local, group in groupby(chunk, key=_first):
                key: _Key = tuple([row[1:] for row in group])
                bucket = buckets.get(key)
                if bucket is None:
                    bucket = buckets[key] = []
                bucket.append(local)
        else:
            for row in chunk:
                key = row[1:]
                bucket = buckets.get(key)
                if bucket is None:
                    bucket = buckets[key] = []
                bucket.append(row[0])
        result: dict[Situation, list[str]] = {}
        for key, locals_ in buckets.items():
            situation = known.get(key)
            if situation is None:
                raw = key if several else (key,)
                situation = known[key] = tuple(_rows(raw, names))
            if situation:
                result.setdefault(situation, []).extend(locals_)
        return result


def _rows(raw: Sequence[_Key], names: Mapping[int, str]) -> Iterator[Row]:
    for number, kind, active, location, targets in raw:
        if number in names:
            yield Row(names[number], Kind(kind), bool(active), location, targets)
