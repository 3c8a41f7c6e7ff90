# SPDX-License-Identifier: Apache-2.0
"""Reads the index in a held snapshot: the workers' side. Imports nothing but the standard library."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transport.index import file, schema
from transport.index.survey import Survey
from transport.record import Kind, Row

STAT_EVERY = 1.0
"""Seconds between looks at the path: a deleted or replaced file would be read for ever otherwise."""

# by kind and state as `_HOT` packs them; uppermost, so that what nobody wrote there names no other directory
_STATES = {kind << 8 | active: (kind, bool(active)) for kind in Kind for active in (0, 1)}
_CACHE = 6144  # KB: the inner pages of 10 million rows; leaves are had from the kernel for no more than our own cache
# few columns: each one costs 2 % of a look-up
_HOT = (
    "SELECT (kind << 58) | (active << 50) | (targets << 24) | directory, location FROM recipient"
    " WHERE domain = ? AND local = ?"
)
_HOT_ENTRY = _HOT.replace(", location", ", location, entry")
_TARGETS = "SELECT address FROM target WHERE domain = ? AND local = ? AND directory = ? ORDER BY n"

_PARTS = 20_000
"""Domains of which it is remembered whether they were read: names below ours are anybody's."""

_Part = tuple[bool, bool]
"""An earlier reading could read the domain; the last one could."""

_Raw = tuple[int, str | None] | tuple[int, str | None, int | None]
"""directory, kind, active and targets in one number, location, and (with `_HOT_ENTRY`) entry."""


class Reader(Survey):
    """The index for answering. Never raises: what cannot be read is "not loaded", and `reason` says why (but
    `rows` does, of a row that holds what no writer puts there).

    state: the directory of `index.sqlite`. One thread uses one Reader. hold: when the file is deleted or another one
    put in its place, keep the last snapshot of the old one (`gone` is then true) instead of losing it; it is never
    renewed again, and whoever holds it has to look for its successor.
    """

    def __init__(self, state: Path, *, hold: bool = False) -> None:
        self.path = state / schema.FILE
        self.hold = hold
        self.gone = False
        self.reason = "not opened yet"
        self.generation = -1
        self._connection: sqlite3.Connection | None = None
        self._cursor: sqlite3.Cursor | None = None
        self._sql = _HOT_ENTRY
        self._fingerprints: Mapping[str, bytes] = {}
        self._names = {}
        self._loaded: frozenset[str] = frozenset()
        self._parted: dict[str, int] = {}  # directories that are read domain by domain, their numbers
        self._parts: dict[tuple[str, str], _Part | None] = {}  # of these, as far as somebody asked
        self._domains: dict[str, int] = {}
        self._last_domain = 0
        self._single: dict[_Raw, tuple[Row, ...]] = {}
        # the last answer out of this snapshot: a recipient is looked for several times in a row
        self._seen_local = self._seen_domain = ""
        self._seen_rows: tuple[Row, ...] = ()
        self._instance = ""
        self._inode = (0, 0)
        self._size = 0
        self._told: tuple[str, int] | None = None
        self._stat_at = 0.0
        self._open_at = 0.0

    def use(self, fingerprints: Mapping[str, bytes], *, entries: bool = True) -> None:
        """Take rows only of these directories, and only made under these fingerprints.

        entries: fill in `Row.entry` (waves need it); without, a look-up costs less.
        """
        self._fingerprints = dict(fingerprints)
        self._sql = _HOT_ENTRY if entries else _HOT
        self._single.clear()
        self._seen_domain = ""
        if self._connection is not None:
            try:
                self._read_directories()
            except sqlite3.Error as error:
                self._lose(str(error))

    # --- the held snapshot

    def renew(self, *, at_once: bool = False) -> bool:
        """Let go of the snapshot and take the present one: about 7 us. True when answers may differ from before.

        at_once: the writer says that there is something new: a file that could not be opened is tried again at once.
        """
        now = time.monotonic()
        self._seen_domain = ""
        if (at_once or now - self._stat_at >= STAT_EVERY) and self._connection is not None and not self.gone:
            self._stat_at = now
            self._look_at_path()
        if self.gone:
            return False
        if self._connection is None:
            if at_once or now - self._open_at >= STAT_EVERY or not self._open_at:
                self._open_at = now
                self._open()
        else:
            try:
                self._connection.execute("COMMIT")
                self._connection.execute("BEGIN")
                self._read_state()
            except sqlite3.Error as error:
                self._lose(str(error))
        told = None if self._connection is None else (self._instance, self.generation)
        changed = told != self._told
        self._told = told
        return changed

    def _open(self) -> None:
        try:
            info = self.path.stat()
        except OSError as error:
            self.reason = f"{self.path}: {error.strerror}"
            return
        if info.st_size == 0:
            self.reason = f"{self.path} is empty"
            return
        connection = None
        try:
            uri = f"file:{file.quoted(self.path)}?mode=ro"
            connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0.2, check_same_thread=False)
            with schema.as_damage():
                connection.execute("PRAGMA mmap_size = 0")
                connection.execute(f"PRAGMA cache_size = -{_CACHE}")
                connection.execute("PRAGMA query_only = 1")
            if found := schema.fault(connection):
                connection.close()
                self.reason = f"{self.path}: {found}"
                return
            connection.execute("BEGIN")
            self._connection = connection
            self._cursor = connection.cursor()
            self._inode = (info.st_dev, info.st_ino)
            self._size = info.st_size
            self._instance = ""
            self._read_state()
            self._check_size()
            self.reason = ""
        except (sqlite3.Error, OSError) as error:
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
            self._lose(str(error))

    def _read_state(self) -> None:
        """Read generation and instance in this snapshot; when they changed, the names too."""
        assert self._connection is not None
        found = dict(
            self._connection.execute("SELECT key, value FROM state WHERE key IN ('generation', 'instance')").fetchall()
        )
        if len(found) != 2:
            raise sqlite3.DatabaseError("it has no state")
        instance, generation = str(found["instance"]), int(found["generation"])
        if instance == self._instance and generation == self.generation:
            return
        if instance != self._instance:
            self._domains = {}
            self._last_domain = 0
            self._single.clear()
        self._instance, self.generation = instance, generation
        for number, name in self._connection.execute(
            "SELECT id, name FROM domain WHERE id > ? ORDER BY id", (self._last_domain,)
        ):
            self._domains[name] = number
            self._last_domain = number
        if stray := schema.astray(self._connection):
            raise sqlite3.DatabaseError(stray)
        self._read_directories()

    def _check_size(self) -> None:
        """Refuse a file that was cut: SQLite would read what is missing as empty pages."""
        assert self._connection is not None
        (least,) = self._connection.execute("SELECT value FROM state WHERE key = 'size'").fetchone() or (0,)
        try:
            logged = self.path.with_name(schema.FILE + "-wal").stat().st_size
        except OSError:
            logged = 0
        if not logged:
            least = max(least, self._connection.execute("PRAGMA page_count").fetchone()[0] * schema.PAGE)
        if self._size < least:
            raise sqlite3.DatabaseError("it was truncated")

    def _read_directories(self) -> None:
        assert self._connection is not None
        names: dict[int, str] = {}
        loaded = set()
        parted: dict[str, int] = {}
        for number, name, fingerprint, loaded_at, believable, parts in self._connection.execute(
            "SELECT id, name, fingerprint, loaded_at, believable,"
            " EXISTS (SELECT 1 FROM part p WHERE p.directory = d.id) FROM directory d"
        ):
            if self._fingerprints.get(name) == fingerprint and loaded_at is not None:
                names[number] = name
                if believable:
                    loaded.add(name)
                if parts:
                    parted[name] = number
        self._parted = parted
        self._parts = {}
        if names != self._names:
            self._single.clear()
        self._names = names
        self._loaded = frozenset(loaded)

    def _look_at_path(self) -> None:
        try:
            info = self.path.stat()
        except OSError:
            self._leave("it was deleted")
            return
        if (info.st_dev, info.st_ino) != self._inode:
            self._leave("another file was put in its place")
            self._open_at = 0.0
        elif info.st_size < self._size:
            self._lose("it was truncated")
        else:
            self._size = info.st_size

    def _leave(self, why: str) -> None:
        """The name stands for nothing or for another file: ours lives on as long as it is open (unlink(2))."""
        if self.hold:
            self.gone = True
            self.reason = f"{self.path}: {why}; answered from its last state until there is a new one"
        else:
            self._lose(why)

    def _lose(self, why: str) -> None:
        """Not loaded from now on; the next renewal tries again."""
        self.reason = f"{self.path} cannot be read: {why}"
        self.gone = False
        connection, self._connection, self._cursor = self._connection, None, None
        self._names = {}
        self._loaded = frozenset()
        self._parted, self._parts = {}, {}
        self._domains = {}
        self._last_domain = 0
        self._seen_domain = ""
        self._single.clear()
        self._instance = ""
        self.generation = -1
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    # --- answers

    def rows(self, domain: str, local: str) -> tuple[Row, ...]:
        """What each directory lists under this address, in no particular order. The hot path."""
        if local == self._seen_local and domain == self._seen_domain:
            return self._seen_rows
        number = self._domains.get(domain)
        if number is None:
            return ()
        try:
            found: list[_Raw] = self._cursor.execute(self._sql, (number, local)).fetchall()  # type: ignore[union-attr]  # None: caught
        except (sqlite3.Error, UnicodeError, AttributeError) as error:
            return self._failed(error)
        rows = self._single.get(found[0]) if len(found) == 1 else None
        if rows is None:
            rows = self._made(found)
        self._seen_local, self._seen_domain, self._seen_rows = local, domain, rows
        return rows

    def _made(self, found: list[_Raw]) -> tuple[Row, ...]:
        """Rows that are shared by all addresses in the same situation; with an entry they are one address's own."""
        rows = tuple(row for raw in found if (row := self._row(*raw)) is not None)
        if len(found) == 1 and found[0][2:] in ((), (None,)) and len(self._single) < 4096:
            self._single[found[0]] = rows
        return rows

    def _row(self, packed: int, location: str | None, entry: int | None = None) -> Row | None:
        """One row; None when its directory's rows do not count. Raises KeyError for what no writer puts there."""
        name = self._names.get(packed & 0xFFFFFF)
        if name is None:
            return None
        kind, active = _STATES[packed >> 50]
        return Row(name, kind, active, location, packed >> 24 & 0x3FFFFFF, entry)

    def _failed(self, error: Exception) -> tuple[Row, ...]:
        """A read failed: not loaded. A key that is no text (lone surrogates) is merely listed nowhere."""
        if not isinstance(error, UnicodeEncodeError) and self._connection is not None:
            self._lose(str(error))
        return ()

    def targets(self, domain: str, local: str, directory: str) -> tuple[str, ...]:
        """What an alias or group expands to in one directory, in its order. () when the index was lost meanwhile."""
        number = self._domains.get(domain)
        which = next((n for n, name in self._names.items() if name == directory), None)
        if number is None or which is None or self._cursor is None:
            return ()
        try:
            return tuple(row[0] for row in self._cursor.execute(_TARGETS, (number, local, which)).fetchall())
        except (sqlite3.Error, UnicodeError) as error:
            self._failed(error)
            return ()

    def loaded(self, directory: str, domain: str = "") -> bool:
        """Whether this directory's rows are all here, under the fingerprint in use, and an absence means something.

        domain: a split domain whose people are asked for: of a directory that is read domain by domain (cPanel) it has
        to have been read once.
        """
        if directory not in self._loaded:
            return False
        if not domain or directory not in self._parted:
            return True
        part = self._part(directory, domain)
        return part is not None and part[0]

    def never_read(self, directory: str, domain: str) -> bool:
        """Whether the directory was read, and this domain of it never could be."""
        part = self._part(directory, domain)
        return part is not None and not part[0]

    def read_last(self, directory: str, domain: str) -> bool:
        """Whether the last reading of the directory could read this domain of it, too (or the one that it is below)."""
        if directory not in self._parted:
            return True
        while domain:
            part = self._part(directory, domain)
            if part is not None:
                return part[1]
            domain = domain.partition(".")[2]
        return False  # no reading was to read it: it is new in the settings

    def _part(self, directory: str, domain: str) -> _Part | None:
        """What is known of one domain of a directory that is read domain by domain."""
        if directory not in self._parted:
            return None
        key = (directory, domain)
        if key not in self._parts:
            values = (self._parted[directory], self._domains.get(domain))
            found = self._all("SELECT known, why = '' FROM part WHERE directory = ? AND domain = ?", values)
            if len(self._parts) >= _PARTS:
                self._parts.clear()
            self._parts[key] = (bool(found[0][0]), bool(found[0][1])) if found else None
        return self._parts[key]

    def holds(self, mark: tuple[str, int]) -> bool:
        """Whether this snapshot is of that very file (instance) and not older than that generation of it."""
        return self._instance == mark[0] and self.generation >= mark[1]

    def lose(self, why: str) -> None:
        """Not loaded from now on, for a reason that the holder found."""
        if self._connection is not None:
            self._open_at = time.monotonic()
            self._lose(why)

    @property
    def complete(self) -> frozenset[str]:
        """The directories that are `loaded`."""
        return self._loaded

    def covers(self, other: Reader) -> bool:
        """Whether every directory that counts in the other is here, and as complete as there."""
        return set(self._names.values()).issuperset(other._names.values()) and self._loaded >= other._loaded

    def addresses_of_entry(self, directory: str, entry: int) -> tuple[tuple[str, str], ...]:
        """(local, domain) of every address of one entry (`Row.entry`) of a directory."""
        which = next((n for n, name in self._names.items() if name == directory), None)
        found = self._all(
            "SELECT r.local, d.name FROM recipient r JOIN domain d ON d.id = r.domain"
            " WHERE r.directory = ? AND r.entry = ?",
            (which, entry),
        )
        return tuple((str(local), str(domain)) for local, domain in found)

    def _all(self, sql: str, values: tuple[object, ...] = ()) -> list[Any]:
        if self._cursor is None:
            return []
        try:
            return self._cursor.execute(sql, values).fetchall()
        except (sqlite3.Error, UnicodeError) as error:
            self._failed(error)
            return []

    def close(self) -> None:
        """Let go of the file. Never raises."""
        self._lose("closed")
