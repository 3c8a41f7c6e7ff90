# SPDX-License-Identifier: Apache-2.0
"""`splitmx check` run by root: what it says holds for the daemon's user."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import CONFIGURATION, Site

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root becomes the daemon's user")


@pytest.fixture
def site(folder: Path) -> Site:
    """A site whose state directory is nobody's, as the daemon's is its user's."""
    found = Site(folder)
    text = CONFIGURATION.format(folder=folder).replace("cloud.example.org", "127.0.0.9")
    found.daemon.write(text.replace("policy.sock", "policy.sock?mode=0660&group=daemon"))
    found.daemon.config.chmod(0o644)
    found.people(["ann@example.com", "postmaster@example.com", "eve@watched.example", "postmaster@watched.example"])
    # a Python below /root cannot be read by nobody: what the command imports later is there already
    code = "import transport.directories.sql, sqlalchemy.dialects.sqlite; from policyd.cli import main; main()"
    found.daemon.command = [sys.executable, "-I", "-c", code]
    (folder / "state").mkdir()
    shutil.chown(folder / "state", "nobody")
    folder.chmod(0o711)
    return found


def test_what_the_daemon_may_not_read_is_an_error_for_root(site: Site) -> None:
    """A database that only root may read is not "all good"."""
    database = site.folder / "here.db"
    database.chmod(0o600)
    done = site.run("check")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "as nobody, the daemon's user" in done.stderr
    assert "error: directory here: unable to open database file" in done.stdout
    assert "all good" not in done.stdout


def test_the_groups_of_listeners_are_the_daemons(site: Site) -> None:
    """What the group of a socket may read, the daemon may: it has to be in that group to give it the socket."""
    database = site.folder / "here.db"
    shutil.chown(database, group="daemon")
    database.chmod(0o640)
    done = site.run("check")
    assert "directory here: unable" not in done.stdout + done.stderr
    assert "\nhere " in done.stdout


def test_a_configuration_that_the_daemon_may_not_read_is_named(site: Site) -> None:
    """Root's check ends with 2, and says what to do."""
    site.daemon.config.chmod(0o600)
    done = site.run("check")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "a file that nobody may read" in done.stderr
    assert "chown root:splitmx" in done.stderr
