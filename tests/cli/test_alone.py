# SPDX-License-Identifier: Apache-2.0
"""`query` and `explain` without a daemon: from what the last one left and the directories, as carefully as a daemon."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from policyd.cli.alone import Alone
from tests.servers.sqlite import SqliteTable
from transport.config.load import load
from transport.directories import open_source
from transport.index.writer import Writer
from transport.sync import compare

HERE, AWAY = "lmtp:unix:private/lmtp", "relay:[192.0.2.9]"

CONFIG = """
[daemon]
state = "{folder}/state"
[directories.here]
type = "sql"
url = "sqlite:///{folder}/here.db"
query = "SELECT address, kind, targets, location, active FROM recipients{where}"
[directories.list]
type = "file"
path = "{folder}/people"
format = "csv"
max_age = "24h"
[destinations.m365]
hosts = ["192.0.2.9"]
[domains."example.com"]
local = ["here"]
destination = "m365"
unknown = "relay"
local_transport = "lmtp:unix:private/lmtp"
[domains."watched.example"]
enabled = "observe"
local = ["here"]
destination = "m365"
unknown = "relay"
[domains."file.example"]
local = ["list"]
destination = "m365"
unknown = "relay"
local_transport = "lmtp:unix:private/lmtp"
"""


class Left:
    """A configuration, its directories, and the index that a daemon left behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "splitmx.toml"
        self.write()
        self.here = SqliteTable(folder / "here.db")
        for name in ("ann", "bob", "eve", "joe"):
            self.here.add(f"{name}@example.com")
        self.here.add("sales@example.com", "alias", "ann@example.com")
        self.file("team@file.example,alias,ann@file.example", "ann@file.example,,", "old@file.example,,")

    def write(self, where: str = "") -> None:
        self.config.write_text(CONFIG.format(folder=self.folder, where=where))

    def file(self, *rows: str) -> None:
        people = self.folder / "people"
        people.write_text("\n".join(["address,kind,targets", *rows]) + "\n")
        os.utime(people, (time.time() - 60,) * 2)  # nobody is writing it

    def index(self) -> None:
        """Read every directory, as a daemon does, and end."""
        settings = load(self.config)
        (self.folder / "state").mkdir(exist_ok=True)
        writer = Writer(self.folder / "state")
        writer.settings(settings.digest, settings.directories)
        for directory in settings.directories.values():
            source = open_source(directory)
            assert compare(writer, directory, source, settings).good
            source.close()
        writer.close()

    def ask(self, key: str, name: str = "transport") -> tuple[str, str]:
        with Alone(self.config) as here:
            found = here.map(name, key)
            return found.status, found.value if found.status == "OK" else ""

    def explain(self, address: str, **client: str) -> dict[str, Any]:
        with Alone(self.config) as here:
            return here.explain(address, client, None)


@pytest.fixture
def left(tmp_path: Path) -> Left:
    """Directories without an index."""
    return Left(tmp_path)


@pytest.mark.parametrize("indexed", [False, True])
def test_who_is_listed_is_found_in_index_and_directories(left: Left, indexed: bool) -> None:
    """With an index and without one; a stranger is at the other side, once the directory has said no."""
    if indexed:
        left.index()
    assert left.ask("ann@example.com") == ("OK", HERE)
    assert left.ask("zed@example.com") == ("OK", AWAY)
    assert left.ask("sales@example.com", "virtual_alias") == ("OK", "ann@example.com")
    assert left.ask("zed@file.example") == ("OK", AWAY)


@pytest.mark.parametrize("indexed", [False, True])
def test_a_directory_that_suddenly_lists_nobody_proves_nothing(left: Left, indexed: bool) -> None:
    """Its no relays nobody: strangers are TEMP; who is in the index stays here."""
    if indexed:
        left.index()
    left.here.execute("DELETE FROM recipients")
    left.file()
    with Alone(left.config) as here:
        assert here.map("transport", "zed@example.com").status == "TEMP"
        assert here.faults
    assert left.ask("zed@file.example") == ("TEMP", "")
    assert left.explain("zed@example.com")["decision"] == "TEMP"
    if indexed:
        assert left.ask("ann@example.com") == ("OK", HERE)


@pytest.mark.parametrize("indexed", [False, True])
def test_a_directory_that_is_gone_relays_nobody(left: Left, indexed: bool) -> None:
    """A database or a file that cannot be read: strangers are TEMP, and the fault is named."""
    if indexed:
        left.index()
    (left.folder / "here.db").unlink()
    (left.folder / "people").unlink()
    for stranger in ("zed@example.com", "zed@file.example"):
        with Alone(left.config) as here:
            assert here.map("transport", stranger).status == "TEMP"
            assert here.faults
    if indexed:
        assert left.ask("ann@example.com") == ("OK", HERE)


def test_a_file_is_read_as_it_is_now(left: Left) -> None:
    """Who was taken out of it since is nobody any more, whatever the index says; an alias goes where it goes now."""
    left.index()
    left.file("team@file.example,alias,other@example.net", "ann@file.example,,")
    assert left.ask("old@file.example") == ("OK", AWAY)
    assert left.ask("team@file.example", "virtual_alias") == ("OK", "other@example.net")


def test_rows_of_another_query_count_for_nothing(left: Left) -> None:
    """The query was changed since the index was written: bob, whom it no longer lists, is not here."""
    left.index()
    left.write(" WHERE address <> 'bob@example.com'")
    assert left.ask("bob@example.com") == ("OK", AWAY)
    assert left.ask("ann@example.com") == ("OK", HERE)


def test_a_report_is_final(left: Left) -> None:
    """`explain` has asked for all that the decision, each map and the policy service need, each form of an address
    included."""
    left.here.execute("UPDATE recipients SET targets = 'new@example.com' WHERE kind = 'alias'")
    left.here.add("new@example.com", "mailbox", active=0)
    report = left.explain("sales@example.com")
    assert report["ask"] == []
    assert report["decision"] == "EXPAND"
    assert report["policy"].startswith("550 5.2.1")
    assert report["maps"]["virtual_alias"] == {"status": "OK", "value": "new@example.com"}
    assert all(one["status"] != "TEMP" for one in report["maps"].values())
    report = left.explain("ann+news@example.com")
    assert [one["address"] for one in report["records"]] == ["ann@example.com"]


def test_what_is_only_observed_is_explained(left: Left) -> None:
    """The maps know nothing of it; the report says what would be decided."""
    left.here.add("ann@watched.example")
    report = left.explain("ann@watched.example")
    assert (report["decision"], report["observed"]) == ("LOCAL", True)
    assert left.ask("ann@watched.example") == ("NOTFOUND", "")
