# SPDX-License-Identifier: Apache-2.0
"""The index's format: tables, version, and how to tell an index of ours from any other file."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

FILE = "index.sqlite"
"""The index's name in the state directory."""

APPLICATION_ID = 0x53504D58
VERSION = 3
"""A file with another application id or version is not read but rebuilt: the directories are the truth."""

PAGE = 4096

DDL = """
CREATE TABLE state (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE directory (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, fingerprint BLOB NOT NULL,
    rows INTEGER NOT NULL DEFAULT 0, loaded_at REAL, content_time REAL, server TEXT NOT NULL DEFAULT '',
    took REAL NOT NULL DEFAULT 0, cookie BLOB NOT NULL DEFAULT x'', skipped INTEGER NOT NULL DEFAULT 0,
    listing BLOB NOT NULL DEFAULT x'', believable INTEGER NOT NULL DEFAULT 0,
    emptied_on_purpose INTEGER NOT NULL DEFAULT 0);
CREATE TABLE domain (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL);
CREATE TABLE recipient (
    domain INTEGER NOT NULL, local TEXT NOT NULL, directory INTEGER NOT NULL, kind INTEGER NOT NULL,
    active INTEGER NOT NULL, location TEXT, targets INTEGER NOT NULL DEFAULT 0, entry INTEGER,
    PRIMARY KEY (domain, local, directory)) WITHOUT ROWID;
CREATE TABLE target (
    domain INTEGER NOT NULL, local TEXT NOT NULL, directory INTEGER NOT NULL, n INTEGER NOT NULL,
    address TEXT NOT NULL, PRIMARY KEY (domain, local, directory, n)) WITHOUT ROWID;
CREATE TABLE entry (
    id INTEGER PRIMARY KEY, directory INTEGER NOT NULL, key BLOB NOT NULL, UNIQUE (directory, key));
CREATE TABLE claim (
    directory INTEGER NOT NULL, domain INTEGER NOT NULL, local TEXT NOT NULL, key BLOB NOT NULL,
    PRIMARY KEY (directory, domain, local, key)) WITHOUT ROWID;
CREATE TABLE canary (
    directory INTEGER NOT NULL, domain INTEGER NOT NULL, local TEXT NOT NULL, entry BLOB,
    PRIMARY KEY (directory, domain, local)) WITHOUT ROWID;
CREATE TABLE held (
    directory INTEGER NOT NULL, domain INTEGER NOT NULL, what TEXT NOT NULL, count INTEGER NOT NULL,
    first TEXT NOT NULL, since REAL NOT NULL, why TEXT NOT NULL,
    PRIMARY KEY (directory, domain, what)) WITHOUT ROWID;
CREATE TABLE part (
    directory INTEGER NOT NULL, domain INTEGER NOT NULL, known INTEGER NOT NULL, why TEXT NOT NULL, hint TEXT NOT NULL,
    since REAL NOT NULL, PRIMARY KEY (directory, domain)) WITHOUT ROWID;
CREATE TABLE skipped (directory INTEGER NOT NULL, what TEXT NOT NULL, why TEXT NOT NULL);
CREATE INDEX recipient_entry ON recipient (directory, entry) WHERE entry IS NOT NULL;
CREATE INDEX claim_key ON claim (directory, key);
CREATE INDEX part_unread ON part (directory) WHERE why <> '';
CREATE INDEX target_address ON target (address);
"""

TABLES = frozenset(
    ("state", "directory", "domain", "recipient", "target", "entry", "claim", "canary", "held", "part", "skipped")
)

STATE = frozenset(("generation", "instance", "settings", "size"))
"""The keys of `state`."""


@contextlib.contextmanager
def as_damage() -> Iterator[None]:
    """Where tables are first looked for. SQLite's message about a damaged one quotes its name, and Python finds that
    the message is no text: sqlite3.DatabaseError here, too."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise sqlite3.DatabaseError("its tables have names that are no text") from error


def fault(connection: sqlite3.Connection) -> str:
    """Why this open database is not an index that we can use, or "". Raises sqlite3.DatabaseError on damage."""
    with as_damage():
        return _fault(connection)


def astray(connection: sqlite3.Connection) -> str:
    """Why rows and domains are not of one index (files of two that were mixed), or "". Only the first and the last
    row are looked at. Raises sqlite3.DatabaseError on damage."""
    stray = connection.execute(
        "SELECT 1 FROM (SELECT (SELECT domain FROM recipient ORDER BY domain LIMIT 1) AS id"
        " UNION ALL SELECT (SELECT domain FROM recipient ORDER BY domain DESC LIMIT 1))"
        " WHERE id IS NOT NULL AND id NOT IN (SELECT id FROM domain)"
    ).fetchone()
    return "it has rows of a domain that it does not know" if stray else ""


def _fault(connection: sqlite3.Connection) -> str:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION_ID:
        return "it is not an index of splitmx"
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        return f"its format is {version}, this program's is {VERSION}"
    present = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if missing := TABLES - present:
        return f"tables are missing: {', '.join(sorted(missing))}"
    known = {key for (key,) in connection.execute("SELECT key FROM state")}
    if missing := STATE - known:
        return f"it has no {', '.join(sorted(missing))}"
    return ""
