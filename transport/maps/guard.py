# SPDX-License-Identifier: Apache-2.0
"""`domains.sqlite`: the table by which Postfix knows, without the daemon, whether a key is ours at all.

Every live map stands behind it in a `pipemap` (pipemap in postmap(1), sqlite_table(5)). Two tables:

- `domain(name, sub)`: the enabled domains in U- and A-form, the domains of copies and groups, and envelope domains;
- `policy(name, sub)`: enabled and observed domains, for the class table of the policy service.

`sub` = 1 stands for everything below the name too. A running Postfix holds the file open and would die on a locked
one: it is never written in place and never WAL; a new one is renamed over it, only when the lists change.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import struct
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from transport.address import fold_domain
from transport.config.settings import Domain, Settings
from transport.maps.write import create, give_to_owner
from transport.names import SHADOW_SUFFIX, local_stores

NAME = "domains.sqlite"

Rows = frozenset[tuple[str, int]]

_WAL = b"\2\2"  # versions of the format to write and to read (sqlite.org/fileformat2.html, 1.3): readers have to write

_FLOCK = "hhqqi4x"  # struct flock of Linux on 64 bits: type, whence, start, length, process
# the octets that keep readers out while somebody else has a write lock on them (os.h of SQLite: PENDING and SHARED)
_KEPT_OUT = ((0x40000000, 1), (0x40000002, 510))

# the indexes make both halves of the guard's OR a search, whatever the number of domains
_SCHEMA = """
CREATE TABLE domain (name TEXT PRIMARY KEY NOT NULL, sub INTEGER NOT NULL DEFAULT 0);
CREATE TABLE policy (name TEXT PRIMARY KEY NOT NULL, sub INTEGER NOT NULL DEFAULT 0);
CREATE INDEX domain_sub ON domain (sub, name) WHERE sub = 1;
CREATE INDEX policy_sub ON policy (sub, name) WHERE sub = 1;
"""


def spellings(name: str) -> tuple[str, ...]:
    """A domain as Postfix may give it: the A-label form, and the U-label form where it differs.

    Postfix converts neither into the other, so a table needs both.
    """
    if "xn--" not in name:
        return (name,)
    labels = []
    for label in name.split("."):
        try:
            labels.append(label.encode("ascii").decode("idna") if label.startswith("xn--") else label)
        except UnicodeError:
            return (name,)
    readable = ".".join(labels).lower()
    return (name, readable) if fold_domain(readable) == name else (name,)


def domain_rows(settings: Settings) -> Rows:
    """What the live maps answer for: (name, sub)."""
    rows = dict(_split(d for d in settings.domains.values() if d.enabled == "yes"))
    # copies and groups may wait in the queue whatever the domains' settings are by now
    stores = dict.fromkeys(store for domain in settings.domains.values() for store in local_stores(domain))
    for store in ("local", "group", *stores, *settings.destinations):
        rows[store + SHADOW_SUFFIX] = 1
    for destination in settings.destinations.values():
        if destination.envelope:
            for name in spellings(destination.envelope):
                rows.setdefault(name, 0)
    return frozenset(rows.items())


def policy_rows(settings: Settings) -> Rows:
    """Which domains' recipients the policy service is asked about: (name, sub)."""
    return frozenset(_split(d for d in settings.domains.values() if d.enabled != "no"))


def _split(domains: Iterable[Domain]) -> Iterator[tuple[str, int]]:
    for domain in domains:
        for name in spellings(domain.name):
            yield name, int(domain.subdomains != "exact")


def read(path: Path) -> tuple[Rows, Rows] | None:
    """Both tables of an existing file; None when it is missing, damaged, not ours, WAL, locked or being written to."""
    if companions(path) or locked_by(path) is not None:
        return None
    try:
        if not path.is_file():
            return None  # a FIFO would be waited for
        with path.open("rb") as file:
            if file.read(20)[18:] == _WAL:
                return None
        # immutable: takes no lock, so that a reader of ours can never be in Postfix's way
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as old:
            domain = frozenset((str(n), int(s)) for n, s in old.execute("SELECT name, sub FROM domain"))
            policy = frozenset((str(n), int(s)) for n, s in old.execute("SELECT name, sub FROM policy"))
    except (OSError, sqlite3.Error, TypeError, ValueError):
        return None
    return domain, policy


def locked_by(path: Path) -> int | None:
    """The process that keeps readers of the file out (0: one that cannot be named), None when nobody does.

    Postfix's look-ups fail then, for every domain, and what has it open dies. Only looks: takes no lock itself.
    """
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            for start, length in _KEPT_OUT:
                asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, start, length, 0)
                kind, _, _, _, holder = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
                if kind != fcntl.F_UNLCK:
                    return max(0, int(holder))
    except OSError:
        pass  # a file system without locks
    return None


def companions(path: Path) -> list[Path]:
    """Logs and journals beside the file: SQLite would read them into it, or have each reader of it do so."""
    return [found for end in ("-wal", "-shm", "-journal") if (found := path.with_name(path.name + end)).exists()]


def write(settings: Settings, path: Path, *, check: bool = False) -> tuple[bool, Rows]:
    """Bring the file up to date; return (whether it changed or would, the names that are new in `domain`).

    check: only compare. Raises OSError or sqlite3.Error, and the old file stays.
    """
    wanted = domain_rows(settings), policy_rows(settings)
    old = read(path)
    new_names = wanted[0] - old[0] if old is not None else wanted[0]
    if old == wanted:
        return False, frozenset()
    if not check:
        _replace(path, wanted)
    return True, new_names


def _replace(path: Path, wanted: tuple[Rows, Rows]) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")  # a build by hand may be at it, too
    with closing(sqlite3.connect(":memory:")) as new:
        new.executescript(_SCHEMA)
        new.executemany("INSERT INTO domain VALUES (?, ?)", sorted(wanted[0]))
        new.executemany("INSERT INTO policy VALUES (?, ?)", sorted(wanted[1]))
        new.commit()
        data = new.serialize()
    try:
        with os.fdopen(create(aside), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), path.stat().st_mode & 0o777 if path.is_file() else 0o644)
        give_to_owner(aside)
        for other in companions(path):
            other.unlink(missing_ok=True)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
