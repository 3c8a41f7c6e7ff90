# SPDX-License-Identifier: Apache-2.0
"""`[static]`: the daemon keeps the files up to date by the same code."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Site
from tests.mta.waiting import wait_for


@pytest.mark.e2e
def test_files_follow_the_directories(
    folder: Path, mail_config: Path, cleaned: Callable[[Callable[[], object]], None]
) -> None:
    """A newcomer appears in the files; a big loss only after one `sync --accept`, never a second one for the files."""
    site = Site(folder)
    cleaned(site.daemon.stop)
    site.daemon.environment = {**site.daemon.environment, "MAIL_CONFIG": str(mail_config)}
    text = site.daemon.config.read_text().replace('type = "sql"', 'type = "sql"\nsync_every = "1s"')
    site.daemon.write(text + f'[static]\ndirectory = "{folder}/maps"\ntypes = ["lmdb"]\n')
    site.start()

    def look_up(key: str) -> str:
        done = subprocess.run(
            ["postmap", "-q", key, f"lmdb:{folder}/maps/relay_recipients"],
            env=os.environ | {"MAIL_CONFIG": str(mail_config)},
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    wait_for(lambda: look_up("u1@example.com") == "LOCAL", 60, site.daemon.tail)
    site.execute("INSERT INTO recipients VALUES ('new@example.com', 'mailbox', '', NULL, 1)")
    wait_for(lambda: look_up("new@example.com") == "LOCAL", 60, site.daemon.tail)
    site.execute("DELETE FROM recipients WHERE address LIKE 'u1_@example.com' OR address LIKE 'u2_@example.com'")
    wait_for(lambda: "held back" in site.run("status").stdout, 60, site.daemon.tail)
    assert look_up("u15@example.com") == "LOCAL"
    assert site.run("sync", "--accept").returncode == 0
    wait_for(lambda: look_up("u15@example.com") == "", 60, site.daemon.tail)
    assert look_up("u1@example.com") == "LOCAL"
