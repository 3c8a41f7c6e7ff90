# SPDX-License-Identifier: Apache-2.0
"""Directories of the site with Exim, and who is listed in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.exim.configuration import HOPS, TLS
from tests.servers.sqlite import QUERY, SqliteTable

if TYPE_CHECKING:
    from tests.exim.site import Site


class Directory(SqliteTable):
    """An SQLite database of recipients, with its part of the configuration."""

    @property
    def toml(self) -> str:
        """Its keys in the configuration."""
        return f'type = "sql"\nurl = "{self.url}"\nquery = "{QUERY}"\nsync_every = "1s"\nfresh_for = "1s"\n'


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
