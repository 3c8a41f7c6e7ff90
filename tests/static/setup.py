# SPDX-License-Identifier: Apache-2.0
"""A folder to build static maps in."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.servers.sqlite import SqliteTable

Run = Callable[..., subprocess.CompletedProcess[str]]


CONFIGURATION = """
[daemon]
{live}state = "{folder}/state"
[directories.here]
type = "sql"
url = "sqlite:///{folder}/here.db"
query = "SELECT address, kind, targets, location, active FROM recipients"
[directories.there]
type = "file"
path = "{folder}/there.txt"
format = "list"
[destinations.m365]
hosts = ["mx1.example.org", "mx2.example.org"]
tls = "encrypt"
peers = ["203.0.113.0/24", "listener:192.0.2.1:25"]
[destinations.tenant]
domain = "cloud.example.org"
port = 2525
envelope = "tenant.example.org"
[domains."example.com"]
local = ["here"]
remote = ["there"]
destination = "m365"
unknown = "{unknown}"
local_transport = "lmtp:unix:private/lmtp"
[domains."bücher.example"]
local = ["here"]
remote = ["there"]
destination = "tenant"
unknown = "{unknown}"
local_transport = "lmtp:unix:private/lmtp"
{more}
"""


class Setup:
    """A folder with a configuration and its directories."""

    def __init__(self, folder: Path, splitmx: Run) -> None:
        self.folder = folder
        self.maps = folder / "maps"
        self.splitmx = splitmx
        self.configure()
        self.directory = SqliteTable(folder / "here.db")
        self.people = self.directory.become
        self.people([f"u{n}@example.com" for n in range(40)] + [f"b{n}@bücher.example" for n in range(3)])
        (folder / "there.txt").write_text("cloudy@example.com\ncloudy@bücher.example\n")

    def configure(self, *, live: bool = True, unknown: str = "verify", more: str = "") -> None:
        """Write the configuration. live: with a socketmap listener."""
        listener = f'socketmap = ["unix:{self.folder}/s.sock"]\n' if live else ""
        text = CONFIGURATION.format(folder=self.folder, live=listener, unknown=unknown, more=more)
        (self.folder / "splitmx.toml").write_text(text)

    def build(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`splitmx build` into `maps`, as lmdb unless a type is given."""
        types = () if any(word.startswith("--type") for word in words) else ("--type=lmdb",)
        return self.splitmx("build", "--output", str(self.maps), *types, *words, check=check)

    def report(self, *words: str) -> Mapping[str, Any]:
        """The same with --json."""
        found: Mapping[str, Any] = json.loads(self.build("--json", *words, check=False).stdout)
        return found

    def stamps(self) -> dict[str, tuple[int, int]]:
        """(inode, change time) of every file."""
        return {
            path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in self.maps.iterdir()
            if not path.name.startswith(".")
        }

    def look_up(self, table: str, key: str) -> str:
        """`postmap -q`; table as TYPE:NAME."""
        kind, _, name = table.partition(":")
        done = subprocess.run(
            ["postmap", "-q", key, f"{kind}:{self.maps / name}"],
            capture_output=True,
            text=True,
            env=os.environ | {"MAIL_CONFIG": str(self.mail_config)},
        )
        assert done.returncode in (0, 1), done.stderr
        assert "warning" not in done.stderr
        return done.stdout.rstrip("\n")

    mail_config: Path
