# SPDX-License-Identifier: Apache-2.0
"""What every private server can do, and what those that speak SQL or LDAP can."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from tests.servers.process import Process, accepts, run


class Server(ABC):
    """One process with a folder of its own."""

    process: Process
    folder: Path

    @abstractmethod
    def start(self) -> None:
        """Start on the data that is there."""

    def hang(self) -> None:
        """SIGSTOP."""
        self.process.hang()

    def cont(self) -> None:
        """SIGCONT."""
        self.process.cont()

    def stop(self) -> None:
        """End the server; its data stays."""
        self.process.stop()

    def restart(self) -> None:
        """Stop and start with the same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End the server and remove its data."""
        self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class DatabaseServer(Server):
    """Takes SQL at a TCP port."""

    host: str
    port: int

    @abstractmethod
    def sql(self, script: str) -> str:
        """Run statements as the administrator; gives the rows."""

    def _ready(self) -> bool:
        if not accepts(self.host, self.port):
            return False
        try:
            self.sql("SELECT 1")
        except RuntimeError:
            return False
        return True


class LdapServer(Server):
    """Written to with ldapmodify(1); people and groups are in an OU each."""

    url: str
    suffix: ClassVar[str]
    admin: ClassVar[str]
    password: ClassVar[str]
    _search_options: ClassVar[tuple[str, ...]] = ()

    def ldif(self, text: str) -> None:
        """Apply LDIF: entries to add, or `changetype:` records."""
        self._run("ldapmodify", "-a", stdin=text)

    def delete(self, dn: str) -> None:
        """Remove one entry."""
        self._run("ldapdelete", dn)

    def clear(self) -> None:
        """Remove everybody: groups and people."""
        for ou in ("groups", "people"):
            names = self._run(
                "ldapsearch", "-LLL", "-o", "ldif-wrap=no", *self._search_options,
                "-b", f"ou={ou},{self.suffix}", "-s", "one", "1.1",
            ).splitlines()  # fmt: skip
            found = [line for line in names if line.startswith("dn")]
            if found:
                self.ldif("".join(f"{name}\nchangetype: delete\n\n" for name in found))

    def secret_file(self, folder: Path) -> Path:
        """A file with the administrator's password, mode 0600."""
        path = folder / "ldap.secret"
        path.write_text(self.password + "\n")
        path.chmod(0o600)
        return path

    def _run(self, program: str, *words: str, stdin: str = "") -> str:
        who = ["-x", "-H", self.url, "-D", self.admin, "-w", self.password]
        return run([program, *who, *words], stdin=stdin)
