# SPDX-License-Identifier: Apache-2.0
"""The index's only writer: creates, checks, repairs and changes `index.sqlite`. Only the keeper opens it."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from transport.index import file, schema
from transport.index.faults import IndexFault, fault_of

CHECKPOINT_AT = 32 * 1024 * 1024
"""Bytes of write-ahead log beyond which it is written back: readers' held snapshots keep it from restarting."""

CHECKPOINT_WAIT_MS = 70
CHECKPOINT_TRIES = 8
"""Readers renew every 50 ms. One try looks at their marks once and then waits for a reader that may have gone on to a
newer one under the same lock: several short tries succeed where one long one does not."""

WRITE_WAIT_S = 30.0


class Opened(sqlite3.Connection):
    """A connection that knows which file it has open: SQLite opens the log and the shared memory beside it by their
    names, so that one to a file that was deleted may write into those of its successor."""

    inode = (0, 0)


class Writer:
    """The open index. Threads share it: each takes its own connection, and changes one at a time.

    state: the directory of `index.sqlite`. `said` is what had to be done at the opening, one line, or "". `mark` is
    (instance, generation) as last committed: a file that is another one, or behind it, is not what we wrote.
    Raises IndexBusy when another process writes it, IndexFault when it can be neither opened nor made.
    """

    def __init__(self, state: Path) -> None:
        self.path = state / schema.FILE
        self.said = ""
        self._lock = threading.RLock()
        self._owner = file.own(state / "index.lock")
        # Sorting ten million rows takes a gigabyte for a while: /tmp is often memory.
        os.environ["SQLITE_TMPDIR"] = str(state)
        self._domains: dict[str, int] = {}
        self._inode = (0, 0)
        self._instance = ""
        self.mark = self._bumped = ("", 0)
        self._written = (0, 0)
        self._wal = 0  # bytes that the log had: only our checkpoint cuts it
        self._connection: sqlite3.Connection
        try:
            self._open()
        except BaseException:
            os.close(self._owner)
            raise

    # --- opening, checking, rebuilding

    def _open(self) -> None:
        reason = file.fault(self.path)
        if reason == "":
            try:
                self._start()
                return
            except IndexFault as fault:
                if not fault.broken:
                    raise
                reason = fault.what  # of a kind that SQLite's own check does not see
        if reason:
            file.set_aside(self.path)
            self.said = f"{self.path} is rebuilt from the directories: {reason}"
        else:
            file.remove_logs(self.path)
            self.said = f"{self.path} is new: nothing is loaded yet"
        self._start(new=True)

    def _start(self, *, new: bool = False) -> None:
        """Open the file, with tables where it is new. Raises IndexFault."""
        file.make_private(self.path)
        connection = None
        try:
            connection = self._connection = self.connect()
            if new:
                self._create(connection)
            self._remember()
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            raise fault_of(error, self.path) from error

    @staticmethod
    def _create(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for statement in schema.DDL.split(";"):
            if statement.strip():
                connection.execute(statement)
        # The first generation differs from one rebuild to the next, so that no worker takes a new file for the old.
        connection.executemany(
            "INSERT INTO state VALUES (?, ?)",
            [("generation", 1), ("instance", secrets.token_hex(8)), ("settings", b""), ("size", 0)],
        )
        connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {schema.VERSION}")
        connection.execute("COMMIT")

    def _remember(self) -> None:
        # Whatever is in the log enters the file now, so that from here on only we change it.
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        info = self.path.stat()
        self._inode = (info.st_dev, info.st_ino)
        self._written = (info.st_mtime_ns, info.st_size)
        self._wal = 0
        rows = dict(self._connection.execute("SELECT key, value FROM state"))
        self._instance = str(rows["instance"])
        self.mark = (self._instance, int(rows["generation"]))
        self._domains = {name: number for number, name in self._connection.execute("SELECT id, name FROM domain")}

    def connect(self) -> Opened:
        """A connection of the caller's own, for one thread at a time. Raises sqlite3.Error."""
        before = self._present()
        connection = sqlite3.connect(
            f"file:{file.quoted(self.path)}?mode=rwc",
            uri=True,
            isolation_level=None,
            timeout=WRITE_WAIT_S,
            check_same_thread=False,
            factory=Opened,
        )
        if not connection.execute("PRAGMA application_id").fetchone()[0]:
            connection.execute(f"PRAGMA page_size = {schema.PAGE}")
        with schema.as_damage():
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA mmap_size = 0")
        # We say ourselves when the log is written back: a commit must not wait for it.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.inode = before if before == self._present() else (0, 0)
        return connection

    def _present(self) -> tuple[int, int]:
        try:
            info = self.path.stat()
        except OSError:
            return (0, 0)
        return info.st_dev, info.st_ino

    def check(self, *, deep: bool = False) -> str:
        """Why the file can no longer be used (gone, replaced, damaged), or "". deep: SQLite's own quick_check."""
        try:
            info = self.path.stat()
        except OSError:
            return "it was deleted"
        if (info.st_dev, info.st_ino) != self._inode:
            return "another file was put in its place"
        for end in ("-wal", "-shm"):
            if not self.path.with_name(schema.FILE + end).exists():
                return f"its {schema.FILE}{end} was deleted"
        with self._lock:
            # Only a checkpoint writes into the file itself; commits go to the log.
            info = self.path.stat()
            if info.st_size < self._written[1]:
                return "it was truncated"
            if info.st_mtime_ns != self._written[0]:
                return "something else wrote into it"
            before, self._wal = self._wal, self.wal_size()
            if self._wal < before:
                return "its log was cut"
            try:
                row = self._connection.execute("SELECT value FROM state WHERE key = 'instance'").fetchone()
                if row is None or row[0] != self._instance:
                    return "it was overwritten"
                if found := schema.astray(self._connection):
                    return found
                if deep:
                    # A fresh connection: this one might answer out of its page cache.
                    with contextlib.closing(self.connect()) as fresh:
                        if found := schema.fault(fresh):
                            return found
                        answer = fresh.execute("PRAGMA quick_check(1)").fetchone()[0]
                        if answer != "ok":
                            return f"damaged: {str(answer).splitlines()[0]}"
            except sqlite3.DatabaseError as error:
                if "locked" in str(error):
                    return ""
                return f"damaged: {error}"
        return ""

    def recover(self, reason: str) -> None:
        """Make a new, empty index in place of a broken one. Raises IndexFault."""
        with self._lock:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            if os.path.lexists(self.path):
                file.set_aside(self.path)
            file.remove_logs(self.path)
            with contextlib.suppress(OSError):  # the whole folder may be gone; x: Postfix reaches the maps below it
                self.path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            self._start(new=True)
            self.said = f"{self.path} is rebuilt from the directories: {reason}"

    # --- changing

    @contextlib.contextmanager
    def change(self, connection: sqlite3.Connection | None = None) -> Iterator[sqlite3.Connection]:
        """One transaction, alone among our threads; rolled back whole on any error. Raises IndexFault."""
        with self._lock:
            at = connection if connection is not None else self._connection
            self._bumped = ("", 0)
            try:
                at.execute("BEGIN IMMEDIATE")
                try:
                    if connection is not None:
                        self._same_file(at)
                    yield at
                    if at.in_transaction:
                        at.execute("COMMIT")
                        if self._bumped[0] == self._instance:  # else it went into a file that was replaced meanwhile
                            self.mark = self._bumped
                except BaseException:
                    if at.in_transaction:
                        with contextlib.suppress(sqlite3.Error):
                            at.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise fault_of(error, self.path) from error

    def _same_file(self, connection: sqlite3.Connection) -> None:
        """A connection from before a rebuild would write into a file that nobody reads any more."""
        row = connection.execute("SELECT value FROM state WHERE key = 'instance'").fetchone()
        other = isinstance(connection, Opened) and connection.inode != self._inode
        if other or row is None or row[0] != self._instance:
            raise IndexFault(f"{self.path} was rebuilt meanwhile", "the directory is read again")

    def bump(self, connection: sqlite3.Connection) -> int:
        """Count a new generation inside a transaction: some answer may differ from now on."""
        # The file never shrinks: a reader that finds less than this has a cut one before it.
        connection.execute("UPDATE state SET value = ? WHERE key = 'size'", (self._written[1],))
        row = connection.execute(
            "UPDATE state SET value = value + 1 WHERE key = 'generation' RETURNING value"
        ).fetchone()
        instance = connection.execute("SELECT value FROM state WHERE key = 'instance'").fetchone()
        self._bumped = (str(instance[0]), int(row[0]))
        return self._bumped[1]

    def new_generation(self) -> int:
        """A new generation without a change of rows: a wave's moment has come, a held set was let go."""
        with self.change() as connection:
            return self.bump(connection)

    def settings(self, digest: bytes, names: Iterable[str] = ()) -> bool:
        """Note the configuration's digest; a new one is a new generation. True when it was new.

        names: the directories there are now; rows of any other one are removed.
        """
        with self.change() as connection:
            old = connection.execute("SELECT value FROM state WHERE key = 'settings'").fetchone()
            kept = set(names)
            if kept:
                for number, name in connection.execute("SELECT id, name FROM directory").fetchall():
                    if name not in kept:
                        forget(connection, number)
                        connection.execute("DELETE FROM directory WHERE id = ?", (number,))
            if old is not None and old[0] == digest:
                return False
            connection.execute("INSERT OR REPLACE INTO state VALUES ('settings', ?)", (digest,))
            self.bump(connection)
            return True

    def domain_ids(self, names: Iterable[str]) -> Mapping[str, int]:
        """Numbers of domains, given to those that have none yet. The mapping is shared: do not change it."""
        missing = [name for name in names if name not in self._domains]
        if missing:
            with self.change() as connection:
                added = {}
                for name in missing:
                    connection.execute("INSERT OR IGNORE INTO domain (name) VALUES (?)", (name,))
                    row = connection.execute("SELECT id FROM domain WHERE name = ?", (name,)).fetchone()
                    added[name] = int(row[0])
            self._domains.update(added)
        return self._domains

    @property
    def instance(self) -> str:
        """Names this very file: another one after each rebuild."""
        return self._instance

    def generation(self) -> int:
        """The generation as last committed. Raises IndexFault."""
        with self._lock:
            try:
                row = self._connection.execute("SELECT value FROM state WHERE key = 'generation'").fetchone()
            except sqlite3.Error as error:
                raise fault_of(error, self.path) from error
            return int(row[0])

    def wal_size(self) -> int:
        """Bytes of write-ahead log."""
        try:
            return self.path.with_name(schema.FILE + "-wal").stat().st_size
        except OSError:
            return 0

    def checkpoint(self, *, always: bool = False) -> bool:
        """Write the log back when it has grown past 32 MB (or always). False: readers were in the way, again later."""
        if not always and self.wal_size() < CHECKPOINT_AT:
            return True
        with self._lock:
            try:
                self._connection.execute(f"PRAGMA busy_timeout = {CHECKPOINT_WAIT_MS}")
                try:
                    for _ in range(CHECKPOINT_TRIES):
                        row = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                        if not row[0]:
                            break
                finally:
                    info = self.path.stat()
                    if (info.st_dev, info.st_ino) == self._inode:
                        self._written = (info.st_mtime_ns, info.st_size)
                    self._wal = 0
                    self._connection.execute(f"PRAGMA busy_timeout = {int(WRITE_WAIT_S * 1000)}")
            except sqlite3.OperationalError as error:
                if "locked" in str(error) or "busy" in str(error):
                    return False
                raise fault_of(error, self.path) from error
            except (sqlite3.Error, OSError) as error:
                if isinstance(error, OSError):
                    raise IndexFault(f"{self.path} was deleted", "it is rebuilt", broken=True) from error
                raise fault_of(error, self.path) from error
            return not row[0]

    def close(self) -> None:
        """Write back, close, give up the ownership. Never raises."""
        with self._lock:
            with contextlib.suppress(IndexFault):
                self.checkpoint(always=True)
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            with contextlib.suppress(OSError):
                os.close(self._owner)
            self._owner = -1


def forget(connection: sqlite3.Connection, directory: int) -> None:
    """Remove all that is known of a directory but its own row, inside a transaction."""
    for table in ("recipient", "target", "entry", "claim", "canary", "held", "part", "skipped"):
        connection.execute(f"DELETE FROM {table} WHERE directory = ?", (directory,))  # noqa: S608  fixed names
