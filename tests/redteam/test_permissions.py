# SPDX-License-Identifier: Apache-2.0
"""What the daemon leaves on disk is readable by whom it should be, whatever the umask."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon.site import Site
from tests.mta.daemon import COMMAND
from tests.mta.waiting import wait_for
from transport.index.writer import Writer


@pytest.fixture(params=[0o022, 0o000, 0o077])
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    """A umask that the administrator's shell may have."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _readable(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.stat().st_mode & 0o007)


def test_index_and_its_log_are_private_from_the_first_byte(folder: Path, mask: int) -> None:
    """The state directory lets everybody pass to the maps: the index's files are for their owner alone."""
    for _ in range(2):
        writer = Writer(folder)
        assert (folder / "index.sqlite-wal").exists()
        assert not _readable(folder)
        writer.close()
        for end in ("", "-wal", "-shm"):  # as an older splitmx or another umask left them
            path = folder / f"index.sqlite{end}"
            if path.exists():
                path.chmod(0o644)


def test_state_of_a_running_daemon_is_private(folder: Path, cleaned: Callable[[Callable[[], object]], None]) -> None:
    """With the usual umask nothing in the state directory can be read by others."""
    site = Site(folder, "ann@example.com")
    cleaned(site.stop)
    site.start()
    assert not _readable(folder / "state")


def test_postfix_reaches_its_table_whatever_the_umask(
    folder: Path, mask: int, cleaned: Callable[[Callable[[], object]], None]
) -> None:
    """Where others could not pass, Postfix would take no mail for anybody; where all may write, anybody could put
    another table there."""
    site = Site(folder, "ann@example.com")
    cleaned(site.stop)
    site.start()
    table = folder / "state" / "maps" / "domains.sqlite"
    wait_for(table.exists, 20, site.splitmx.tail)
    found = [path.stat().st_mode & 0o777 for path in (table.parent.parent, table.parent, table)]
    assert found == [0o711, 0o755, 0o644]


def test_what_a_command_writes_has_its_mode_whatever_the_umask(folder: Path, mask: int) -> None:
    """`init` by a root whose umask is 077: the daemon's group may read it; files of `build` may be reached."""
    people = folder / "people"
    people.write_text("ann@example.com\n")
    config = folder / "etc" / "splitmx.toml"
    words = ["--host", "mx.example.org", "--domain", "example.com", "--file", str(people)]
    subprocess.run([*COMMAND, "-c", str(config), "init", *words], check=True, capture_output=True)
    assert config.stat().st_mode & 0o777 == 0o640
    built = folder / "built"
    words = ["--for", "exim", "--output", str(built)]
    subprocess.run([*COMMAND, "-c", str(config), "build", *words], check=False, capture_output=True)
    assert built.stat().st_mode & 0o777 == 0o755
