# SPDX-License-Identifier: Apache-2.0
"""An SQLite file as a directory: gone, exchanged, copied over, locked, damaged."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.directories.databases import QUERY, names, open_database, pair
from transport.config.settings import SqlOptions
from transport.directories.base import DirectoryError, DirectoryTimeout
from transport.directories.sql import SqlSource

pytestmark = pytest.mark.directory


def test_a_missing_sqlite_file_is_a_fault_and_stays_missing(tmp_path: Path) -> None:
    """The path is named; no empty database is made of it."""
    path = tmp_path / "absent.db"
    with pytest.raises(DirectoryError, match="does not exist"):
        list(SqlSource("here", SqlOptions(f"sqlite:///{path}", QUERY)).list().records)
    assert not path.exists()


def test_a_swapped_sqlite_file_is_read_anew(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """After a rename over it the answer is the new file's."""
    old = open_database("sqlite", request, tmp_path)
    new = open_database("sqlite", request, tmp_path)
    old.people("ann@example.com")
    new.people("bob@example.com")
    source = old.source()
    asked = [pair("ann@example.com"), pair("bob@example.com")]
    assert names(source.ask(asked, 1)) == {"ann@example.com"}
    Path(new.url.removeprefix("sqlite:///")).rename(old.url.removeprefix("sqlite:///"))
    assert names(source.ask(asked, 1)) == {"bob@example.com"}


def test_a_sqlite_file_that_is_copied_over_is_read_anew(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A database made anew by the same script and copied into the old one's place denies nobody: SQLite itself takes it
    for the old one, by its change counter."""
    old, new = (open_database("sqlite", request, tmp_path) for _ in range(2))
    old.people("ann@example.com", "bob@example.com")
    new.people("ann@example.com", "eve@example.com")
    source = old.source()
    asked = [pair(f"{name}@example.com") for name in ("ann", "bob", "eve")]
    assert names(source.ask(asked, 1)) == {"ann@example.com", "bob@example.com"}
    content = Path(new.url.removeprefix("sqlite:///")).read_bytes()
    with Path(old.url.removeprefix("sqlite:///")).open("r+b") as file:
        file.write(content)
    assert names(source.ask(asked, 1)) == {"ann@example.com", "eve@example.com"}


@pytest.mark.parametrize("how", ["copied", "renamed", "wal"])
def test_a_sqlite_file_that_is_exchanged_while_it_is_listed(
    request: pytest.FixtureRequest, tmp_path: Path, how: str
) -> None:
    """Half of the old and half of the new database is no listing; a rename, and what SQLite does, is no fault."""
    journal = "wal" if how == "wal" else "delete"
    old, new = (open_database("sqlite", request, tmp_path) for _ in range(2))
    for database, word in ((old, "old"), (new, "new")):
        database.run(
            f"PRAGMA journal_mode = {journal}; WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
            f" WHERE i < 9000) INSERT INTO recipients (address) SELECT '{word}' || i || '@example.com' FROM n"
        )
    listing = old.source().list()
    first = next(listing.records)
    assert first.local == "old1"
    if journal == "wal":
        old.run("INSERT INTO recipients (address) VALUES ('eve@example.com'); PRAGMA wal_checkpoint")
        assert {record.local[:3] for record in listing.records} == {"old"}
        return
    there, here = (Path(database.url.removeprefix("sqlite:///")) for database in (new, old))
    if how == "renamed":
        there.rename(here)
        assert {record.local[:3] for record in listing.records} == {"old"}
        return
    with here.open("r+b") as file:
        file.write(there.read_bytes())
    with pytest.raises(DirectoryError, match="written to"):
        list(listing.records)
    assert "new1" in {record.local for record in old.source().list().records}


def test_a_sqlite_log_that_was_removed_is_not_read_on(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A clean-up takes -wal and -shm away while nobody writes: who is created since is found."""
    database = open_database("sqlite", request, tmp_path)
    path = database.url.removeprefix("sqlite:///")

    def write(address: str) -> None:
        """As a program that is killed: what it wrote stays in the log."""
        script = (
            f"import sqlite3, os; c = sqlite3.connect({path!r}); c.execute('PRAGMA journal_mode=WAL');"
            f"c.execute('INSERT INTO recipients (address) VALUES (?)', [{address!r}]); c.commit(); os._exit(0)"
        )
        subprocess.run([sys.executable, "-c", script], check=True)

    write("ann@example.com")
    source = database.source()
    asked = [pair("ann@example.com"), pair("eve@example.com")]
    assert names(source.ask(asked, 1)) == {"ann@example.com"}
    for end in ("-wal", "-shm"):
        Path(path + end).unlink()
    write("eve@example.com")
    assert names(source.ask(asked, 1)) == {"eve@example.com"}


def test_sqlite_text_that_is_not_utf8_harms_only_itself(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """One poisoned row is skipped and counted, all others are listed and found."""
    database = open_database("sqlite", request, tmp_path)
    database.people("ann@example.com")
    database.run("INSERT INTO recipients (address) VALUES (CAST(X'E9406578616D706C652E636F6D' AS TEXT))")
    source = database.source()
    listing = source.list()
    assert "ann@example.com" in {f"{r.local}@{r.domain}" for r in listing.records}
    assert listing.skipped.count == 1
    assert names(source.ask([pair("ann@example.com")], 1)) == {"ann@example.com"}


def test_a_locked_sqlite_database_times_out(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A writer that holds the file makes a time-out, in time."""
    database = open_database("sqlite", request, tmp_path)
    database.people("ann@example.com")
    writer = sqlite3.connect(database.url.removeprefix("sqlite:///"), isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    source = database.source()
    with pytest.raises(DirectoryTimeout):
        source.ask([pair("ann@example.com")], 0.2)
    writer.execute("ROLLBACK")
    writer.close()
    assert names(source.ask([pair("ann@example.com")], 1)) == {"ann@example.com"}


def test_a_damaged_sqlite_file_is_a_fault_with_its_cure(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A page full of something else in the midst of it: it is no shorter list."""
    database = open_database("sqlite", request, tmp_path)
    database.people(*(f"p{n}{'x' * 50}@example.com" for n in range(500)))
    path = Path(database.url.removeprefix("sqlite:///"))
    content = bytearray(path.read_bytes())
    content[4 * 4096 : 5 * 4096] = b"\xff" * 4096
    path.write_bytes(content)
    with pytest.raises(DirectoryError, match="malformed") as caught:
        list(database.source().list().records)
    assert "backup" in caught.value.hint


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_a_fault_at_once(tmp_path: Path, kind: str) -> None:
    """SQLite would wait for somebody to write into the pipe, for ever."""
    path = tmp_path / "odd.db"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    source = SqlSource("here", SqlOptions(f"sqlite:///{path}", QUERY))
    for attempt in (lambda: list(source.list().records), lambda: source.ask([pair("ann@example.com")], 1)):
        with pytest.raises(DirectoryError, match="no file"):
            attempt()


def test_a_missing_file_in_sqlites_own_form_stays_missing(tmp_path: Path) -> None:
    """`file:` in the URL, too: an empty database that we made would be in the way of the real one."""
    path = tmp_path / "absent.db"
    with pytest.raises(DirectoryError, match="unable to open"):
        list(SqlSource("here", SqlOptions(f"sqlite:///file:{path}?uri=true", QUERY)).list().records)
    assert not path.exists()
