# SPDX-License-Identifier: Apache-2.0
"""Directories of the site with Exim, and who is listed in them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.exim.configuration import HOPS, TLS

if TYPE_CHECKING:
    from tests.exim.site import Site

COLUMNS = "address TEXT PRIMARY KEY, kind TEXT, targets TEXT, location TEXT, active INTEGER"


class Directory:
    """An SQLite database of recipients."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as database:
            database.execute(f"CREATE TABLE recipients ({COLUMNS})")

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.path)) as database, database:
            yield database

    def add(self, address: str, *, kind: str = "", targets: str = "", location: str = "", active: int = 1) -> None:
        """List one address, or change it."""
        row = (address, kind or None, targets or None, location or None, active)
        with self._open() as database:
            database.execute("INSERT OR REPLACE INTO recipients VALUES (?, ?, ?, ?, ?)", row)

    def remove(self, address: str) -> None:
        """List it no more."""
        with self._open() as database:
            database.execute("DELETE FROM recipients WHERE address = ?", (address,))

    @property
    def toml(self) -> str:
        """Its keys in the configuration."""
        query = "SELECT address, kind, targets, location, active FROM recipients"
        return f'type = "sql"\nurl = "sqlite:///{self.path}"\nquery = "{query}"\nsync_every = "1s"\nfresh_for = "1s"\n'


def people(site: Site) -> None:
    """Who is where."""
    here, there = site.here, site.there
    for domain in (
        "example.com", "shared.example", "relay.example", "verify.example", "verifydead.example", "catchall.example",
        "dual.example", "dualtenant.example", "dualstrip.example", "dualboth.example", "dualquiet.example",
        "all.example", "tenant-users.example", "strip.example", "quiet.example",
        "several.example", "subs.example", "match.example", "few.example", "off.example", "observed.example",
        "xn--bcher-kva.example",
    ):  # fmt: skip
        here.add(f"ann@{domain}")
        here.add(f"carl@{domain}")
        here.add(f"sales@{domain}", kind="group", targets=f"ann@{domain} bob@{domain} ann@{domain}")
        there.add(f"bob@{domain}")
    for domain in ("secondary.example", "peeronly.example"):
        here.add(f"carl@{domain}")
        there.add(f"ann@{domain}")
    here.add("info@catchall.example")
    d = "@example.com"
    here.add(f"a.smith{d}", kind="alias", targets=f"ann{d}")
    here.add(f"b.jones{d}", kind="alias", targets=f"bob{d}")
    here.add(f"x.loop{d}", kind="alias", targets=f"y.loop{d}")
    here.add(f"y.loop{d}", kind="alias", targets=f"x.loop{d}")
    here.add(f"out{d}", kind="alias", targets="friend@foreign.example")
    here.add(f"keeps{d}", targets=f"keeps{d} friend@foreign.example")
    here.add(f"nested{d}", kind="group", targets=f"sales{d} carl{d} keeps{d}")
    here.add(f"off{d}", active=0)
    here.add(f"withoff{d}", kind="alias", targets=f"off{d}")
    here.add(f"moved{d}", location="moved")
    here.add(f"stay{d}", location="stay")
    there.add(f"stay{d}")
    here.add(f"two{d}", location="store2")
    here.add(f"odd{d}", location="nobody-knows")
    here.add(f"wave.past{d}")
    here.add(f"wave.future{d}")
    here.add(f"nobody{d}")  # a system user, for Debian's own routers
    here.add(f'"john doe"{d}')
    there.add(f'"jane doe"{d}')
    there.add(f"o'brien{d}")
    there.add(f"a$b{d}")
    here.add(f"money{d}", kind="alias", targets=f'a$b{d} "jane doe"{d}')
    here.add("nobox@dual.example")
    here.add("keeps@dual.example", targets="keeps@dual.example friend@foreign.example")
    here.add("keeps@dualtenant.example", targets="keeps@dualtenant.example friend@foreign.example")
    here.add("keeps@all.example", targets="keeps@all.example friend@foreign.example")
    for name in TLS:
        there.add(f"{name}{d}", location=f"tls-{name}")
    for name in HOPS:
        there.add(f"{name}{d}", location=name)
    here.add(f"everyone{d}", kind="group", targets=" ".join(f"member{n}@foreign.example" for n in range(2300)))
    _folder_rights(site.folder)


def _folder_rights(folder: Path) -> None:
    for path in folder.iterdir():
        os.chmod(path, 0o644 if path.is_file() else 0o755)
