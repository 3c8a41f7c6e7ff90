# SPDX-License-Identifier: Apache-2.0
"""`splitmx check` as administrators see it: every part is tried, and what is found is said with what to do."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.mta.places import new_address
from tests.mta.recording import RecordingSmtp

Cleaned = Callable[[Callable[[], object]], None]
Row = tuple[str, str, str, str | None, int]

EVERYONE: list[Row] = [
    ("ann@example.com", "mailbox", "", None, 1),
    ("Carl@Example.com", "mailbox", "", None, 1),
    ("sales@example.com", "group", "ann@example.com,bob@example.com", None, 1),
    ("postmaster@example.com", "alias", "ann@example.com", None, 1),
]


class Site:
    """A folder with a database, a list and a configuration, and a server as destination."""

    def __init__(self, folder: Path, server: RecordingSmtp) -> None:
        self.folder = folder
        self.server = server
        self.file = folder / "splitmx.toml"
        (folder / "there.txt").write_text("bob@example.com\n")
        self.fill(EVERYONE)
        self.write()

    def fill(self, rows: Iterable[Row], *, index: bool = True) -> None:
        """Put these recipients into the database."""
        (self.folder / "here.db").unlink(missing_ok=True)
        with sqlite3.connect(self.folder / "here.db") as database:
            database.execute("CREATE TABLE recipients (address, kind, targets, location, active)")
            database.executemany("INSERT INTO recipients VALUES (?, ?, ?, ?, ?)", rows)
            if index:
                database.execute("CREATE INDEX by_address ON recipients (lower(address))")

    def write(self, domain: str = "", here: str = "") -> None:
        """Write the configuration with these further keys."""
        self.file.write_text(f"""
[directories.here]
type = "sql"
url = "sqlite:///{self.folder}/here.db"
query = "SELECT address, kind, targets, location, active FROM recipients"
{here}
[directories.there]
type = "file"
path = "there.txt"
format = "list"
[destinations.m365]
hosts = ["{self.server.host}"]
port = {self.server.port}
tls = "none"
[domains."example.com"]
local = ["here"]
remote = ["there"]
destination = "m365"
{domain}
""")

    def check(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command."""
        command = [sys.executable, "-m", "policyd.cli", "check", "--config", str(self.file), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def report(self) -> dict[str, Any]:
        """The report as JSON."""
        found = json.loads(self.check("--json").stdout)
        assert isinstance(found, dict)
        return found

    def found(self, level: str) -> str:
        """What is found of a level, as one text."""
        return "\n".join(f["text"] for f in self.report()["findings"] if f["level"] == level)


@pytest.fixture
def site(tmp_path: Path, cleaned: Cleaned) -> Site:
    """A good one."""
    server = RecordingSmtp(port=0)
    cleaned(server.stop)
    return Site(tmp_path, server)


def test_a_good_site(site: Site) -> None:
    """All is reached: how many recipients, how long, and 0 at the end."""
    done = site.check()
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["here", "sql", "4", "0"] in [line[:4] for line in lines]
    assert ["there", "file", "1", "0"] in [line[:4] for line in lines]
    assert ["m365", "yes"] in [line[:2] for line in lines]
    assert done.stdout.endswith("all good\n")


def test_json(site: Site) -> None:
    """--json holds the same: figures of each part, the plan, and findings."""
    report = site.report()
    here = next(d for d in report["directories"] if d["name"] == "here")
    assert report["good"] is True
    assert (here["reached"], here["recipients"], here["skipped"]) == (True, 4, 0)
    assert 0 < here["live"] < here["deadline"] / 4
    assert any("by_address" in line for line in here["plan"])
    assert report["destinations"][0]["reached"] is True


def test_a_configuration_with_mistakes(site: Site) -> None:
    """Each mistake on a line of its own, and 2; as JSON too."""
    site.write(domain='lokal = ["x"]\nunknown = "perhaps"')
    done = site.check()
    assert done.returncode == 2
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == [
        '[domains."example.com"] lokal',
        '[domains."example.com"] unknown',
    ]
    done = site.check("--json")
    assert done.returncode == 2
    assert [error["key"] for error in json.loads(done.stdout)["errors"]] == ["lokal", "unknown"]


def test_offline_asks_nobody(site: Site) -> None:
    """--offline reads the configuration alone."""
    site.server.stop()
    (site.folder / "here.db").unlink()
    assert site.check("--offline").returncode == 0


def test_directories_and_destinations_that_are_not_there(site: Site) -> None:
    """What cannot be reached is an error each, and the rest is tried all the same."""
    site.server.stop()
    (site.folder / "here.db").unlink()
    done = site.check()
    assert done.returncode == 1
    assert "error: directory here: " in done.stdout
    assert "error: destination m365: " in done.stdout
    assert ["there", "file", "1"] in [line.split()[:3] for line in done.stdout.splitlines()]


def test_nonsense_is_counted_and_shown(site: Site) -> None:
    """What is no address is skipped, counted, shown with an example, and no reason to fail."""
    site.fill([*EVERYONE, ("no address", "mailbox", "", None, 1), ("@example.com", "alias", "x", None, 1)])
    assert "2 entries are not used" in site.found("note")
    assert site.check().returncode == 0


def test_a_query_that_scans(site: Site) -> None:
    """A live look-up that reads a large table whole is named, with the index that cures it."""
    site.fill([*EVERYONE, *((f"u{n}@example.com", "mailbox", "", None, 1) for n in range(12_000))], index=False)
    done = site.check("--plan")
    assert done.returncode == 1
    assert "reads whole tables: recipients (more than 10,000 rows)" in done.stdout
    assert "CREATE INDEX" in done.stdout
    assert "SCAN recipients" in done.stdout


def test_a_small_table_without_an_index(site: Site) -> None:
    """A small table may be read whole; the index that it will need is named all the same."""
    site.fill(EVERYONE, index=False)
    done = site.check()
    assert done.returncode == 0
    assert "no matter while they are small: recipients (4 rows)" in done.stdout
    assert "CREATE INDEX" in done.stdout


def test_a_slow_live_lookup(site: Site) -> None:
    """A live look-up beyond a quarter of the deadline is an error: mail of the whole host would wait for it."""
    rows = [*EVERYONE, *((f"u{n}@example.com", "mailbox", "", None, 1) for n in range(200_000))]
    site.fill(rows, index=False)
    site.write(here='deadline = "20ms"')
    assert "quarter of its deadline" in (text := site.found("error")) or "within its deadline" in text


def test_a_lookup_that_finds_nobody(site: Site) -> None:
    """A `lookup` that does not find who is listed is an error."""
    site.write(here='lookup = "SELECT address FROM recipients WHERE address IN :addresses AND 1 = 0"')
    assert "but does not find it when asked" in site.found("error")


def test_location_words_that_nobody_explained(site: Site) -> None:
    """A word that `locations` does not know is an error, with an example; one that it knows is not."""
    site.fill([*EVERYONE, ("dora@example.com", "mailbox", "", "moon", 1), ("eve@example.com", "mailbox", "", "sun", 1)])
    site.write(domain='locations = { sun = "m365" }')
    text = site.found("error")
    assert '"moon"' in text
    assert "dora@example.com" in text
    assert "sun" not in text


def test_people_on_both_sides(site: Site) -> None:
    """Up to a twentieth on both sides is a note; more is a warning, for then a directory lists everybody."""
    everyone: list[Row] = [(f"u{n}@example.com", "mailbox", "", None, 1) for n in range(100)]
    site.fill([*everyone, *EVERYONE])
    for both, level in ((3, "note"), (30, "warning")):
        (site.folder / "there.txt").write_text("".join(f"u{n}@example.com\n" for n in range(both)) + "bob@example.com")
        assert f"{both} of 105 addresses of example.com are listed on both sides" in site.found(level)


def test_alias_loops(site: Site) -> None:
    """Aliases that lead back to themselves are errors, targets that exist nowhere are not fatal."""
    loop: list[Row] = [
        ("a@example.com", "alias", "b@example.com", None, 1),
        ("b@example.com", "alias", "a@example.com", None, 1),
    ]
    site.fill([*EVERYONE, *loop])
    assert "alias loop" in site.found("error")


def test_an_empty_directory(site: Site) -> None:
    """An empty directory is not believed, unless it may be empty."""
    (site.folder / "there.txt").write_text("# nobody yet\n")
    report = site.report()
    (found,) = [f for f in report["findings"] if "is empty" in f["text"]]
    assert "may_be_empty = true" in found["hint"]


def test_a_catch_all_that_nobody_lists(site: Site) -> None:
    """A catch-all address that is unlisted itself would make strangers' mail wait."""
    site.write(domain='unknown = "catchall:nobody@example.com"')
    assert "catch-all address nobody@example.com" in site.found("error")
    site.write(domain='unknown = "catchall:ann@example.com"')
    assert site.found("error") == ""


def test_passwords_are_never_printed(site: Site) -> None:
    """Neither report nor fault shows the password in a URL."""
    text = site.file.read_text().replace(
        f"sqlite:///{site.folder}/here.db", f"postgresql+psycopg://splitmx:geheim@{new_address()}:1/mail"
    )
    site.file.write_text(text)
    for words in ((), ("--json",), ("--offline",)):
        done = site.check(*words)
        assert done.returncode == 1
        assert "geheim" not in done.stdout + done.stderr
        assert "password_file" in done.stdout


def test_control_characters_are_shown(site: Site) -> None:
    """What a directory holds cannot drive the terminal."""
    site.fill([*EVERYONE, ("\x1b[2Jx", "mailbox", "", None, 1)])
    assert "\x1b" not in site.check().stdout


def test_on_a_terminal(site: Site) -> None:
    """On a terminal the tables come by rich, with the same words."""
    import pty

    master, slave = pty.openpty()
    command = [sys.executable, "-m", "policyd.cli", "check", "--config", str(site.file)]
    with subprocess.Popen(command, stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(slave)
        text = b""
        try:
            while piece := os.read(master, 65536):
                text += piece
        except OSError:
            pass
        os.close(master)
    assert process.returncode == 0
    assert b"all good" in text
    assert b"m365" in text
