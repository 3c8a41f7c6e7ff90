# SPDX-License-Identifier: Apache-2.0
"""The site of the drills: one split domain whose people stand in SQLite, OpenLDAP and PostgreSQL, unknown = reject."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.chaos.flow import FOREIGN, HERE, NOWHERE, THERE
from tests.e2e.site import Site
from tests.mta.waiting import wait_for
from tests.servers.postgres import Postgres
from tests.servers.slapd import Slapd

CROWD = 40  # people in each directory; 40 % of them are more than shrink_floor

PEOPLE = [
    ("ann@example.com", HERE),
    ("bob@example.com", THERE),
    ("x#@elsewhere.test", FOREIGN),
    ("person1@example.com", HERE),
    ("zed#@example.com", NOWHERE),
    ("y#@elsewhere.test", FOREIGN),
    ("office1@example.com", HERE),
    ("a.smith@example.com", HERE),
    ("office30@example.com", HERE),
    ("person30+tag@example.com", HERE),
    ("bea+tag@example.com", THERE),
]


class ChaosSite(Site):
    """A Site with two more directories, and ways to break all of them."""

    def __init__(self, cleaned: Callable[[Callable[[], object]], None], *, workers: int = 1) -> None:
        self.slapd = Slapd()
        cleaned(self.slapd.close)
        self.postgres = Postgres()
        cleaned(self.postgres.close)
        for number in range(1, CROWD + 1):
            self.slapd.person(f"p{number}", f"person{number}@example.com")
        rows = ", ".join(f"('office{n}@example.com')" for n in range(1, CROWD + 1))
        self.database = self.postgres.database(
            "chaos", f"CREATE TABLE recipients (address text); INSERT INTO recipients VALUES {rows};"
        )
        tables = (
            f'[directories.corp]\ntype = "ldap"\nurl = ["{self.slapd.url}"]\nbase = "{self.slapd.base}"\n'
            'filter = "(objectClass=inetOrgPerson)"\nfresh_for = "1s"\nsync_every = "1s"\ncompare_every = "2s"\n'
            f'[directories.office]\ntype = "sql"\nurl = "{self.database}"\n'
            'query = "SELECT address FROM recipients"\nfresh_for = "1s"\nsync_every = "1s"\ncompare_every = "2s"\n'
        )
        super().__init__(
            cleaned, local='["here", "corp", "office"]', tables=tables, daemon={"workers": str(workers)}, name="chaos"
        )
        self.add(*((f"crowd{n}@example.com", "mailbox", "", None, 1) for n in range(CROWD)))

    @property
    def state(self) -> Path:
        """The daemon's state folder."""
        return self.folder / "state"

    def install_all(self) -> ChaosSite:
        """Install, and wait until every directory is known."""
        self.install()
        for address in ("person1@example.com", "office1@example.com", "bob@example.com"):
            self.wait_known(address)
        return self

    def pids(self, role: str) -> list[int]:
        """Processes of the daemon by role: supervisor, keeper, worker."""
        return self.splitmx.pids(role)

    def wait_replaced(self, role: str, old: list[int], seconds: float = 20.0) -> None:
        """Wait until others have taken the place of these processes."""
        wait_for(lambda: self.pids(role) and not set(self.pids(role)) & set(old), seconds, self.splitmx.tail)

    def logged(self, word: str) -> bool:
        """Whether the daemon's log names something."""
        return word in self.splitmx.log.read_text(errors="replace")
