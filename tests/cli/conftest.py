# SPDX-License-Identifier: Apache-2.0
"""A small site and its daemon for the command line's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from policyd.control_client import ControlError, request
from tests.mta.daemon import Splitmx
from tests.mta.places import new_folder
from tests.mta.waiting import wait_for
from tests.servers.sqlite import SqliteTable

CONFIGURATION = """
[daemon]
socketmap = ["unix:{folder}/socketmap.sock"]
policy = ["unix:{folder}/policy.sock"]
control = "unix:{folder}/control.sock"
metrics = "unix:{folder}/metrics.sock"
state = "{folder}/state"
[directories.here]
type = "sql"
url = "sqlite:///{folder}/here.db"
query = "SELECT address, kind, targets, location, active FROM recipients"
[destinations.cloud]
hosts = ["cloud.example.org"]
[domains."example.com"]
local = ["here"]
destination = "cloud"
unknown = "verify"
local_transport = "lmtp:unix:private/lmtp"
locations = {{ cloud = "cloud" }}
[domains."watched.example"]
enabled = "observe"
local = ["here"]
destination = "cloud"
unknown = "relay"
[waves.pilot]
at = "2100-01-01T00:00:00Z"
domain = "example.com"
to = "cloud"
addresses = ["u1@example.com"]
"""


class Site:
    """A folder with a directory of 30 people in example.com and one watched one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemon = Splitmx(CONFIGURATION.format(folder=folder), folder)
        self.directory = SqliteTable(folder / "here.db")
        self.execute = self.directory.execute
        self.people = self.directory.become
        self.people([f"u{n}@example.com" for n in range(30)] + ["eve@watched.example"])
        self.directory.add("far@example.com", "mailbox", location="cloud")
        self.directory.add("lost@example.com", "mailbox", location="mars")
        self.run = self.daemon.run

    def start(self) -> Site:
        """Start the daemon, and wait until it has read everything."""
        self.daemon.start()
        wait_for(self.loaded, 30, self.daemon.tail)
        return self

    def loaded(self) -> bool:
        """Whether the daemon has read every directory."""
        try:
            found = request(f"{self.folder}/control.sock", {"do": "status"})["status"]["directories"]
        except ControlError:
            return False
        return all(one["loaded"] and one["age"] is not None for one in found.values())


@pytest.fixture(scope="module")
def running() -> Iterator[Site]:
    """One daemon for the tests of a file that change nothing."""
    found = Site(new_folder("cli")).start()
    yield found
    found.daemon.stop()


@pytest.fixture
def site(folder: Path, cleaned: Callable[[Callable[[], object]], None]) -> Site:
    """A site of the test's own, its daemon not started."""
    found = Site(folder)
    cleaned(found.daemon.stop)
    return found
