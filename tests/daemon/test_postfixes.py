# SPDX-License-Identifier: Apache-2.0
"""Which running Postfix is reloaded by a daemon that is root: only one whose configuration is root's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from policyd.keeper import postfixes
from tests.mta.waiting import wait_for

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration that names our tables."""
    folder = tmp_path / "postfix"
    folder.mkdir()
    (folder / "main.cf").write_text(f"transport_maps = lmdb:{tmp_path}/maps/transport\n")
    for one in (folder, *folder.parents):
        if one.stat().st_uid != 0:
            pytest.skip("root's temporary folder is not root's")
    return folder


def process(proc: Path, config: Path, root: Path = Path("/")) -> None:
    """What proc(5) shows of a master(8)."""
    folder = proc / "123"
    folder.mkdir(parents=True)
    (folder / "comm").write_text("master\n")
    (folder / "environ").write_bytes(b"PATH=/usr/bin\0MAIL_CONFIG=" + os.fsencode(config) + b"\0")
    (folder / "root").symlink_to(root)


def test_configuration_of_root(tmp_path: Path, config: Path) -> None:
    """A master(8) of root's whose main.cf names our tables is found."""
    process(tmp_path / "proc", config)

    assert postfixes.configurations(tmp_path / "maps", tmp_path / "proc") == [config]


@pytest.mark.parametrize("whose", ["folder", "main.cf", "parent", "process", "0777", "1777"])
def test_what_another_user_writes_is_not_run(tmp_path: Path, config: Path, whose: str) -> None:
    """No user becomes root by a process called master: postfix(1) runs programs that main.cf names."""
    process(tmp_path / "proc", config)
    if whose.isdigit():
        config.chmod(int(whose, 8))
    else:
        places = {"folder": config, "main.cf": config / "main.cf", "parent": tmp_path, "process": tmp_path / "proc/123"}
        os.chown(places[whose], NOBODY, NOBODY)

    left: list[None] = []
    assert postfixes.configurations(tmp_path / "maps", tmp_path / "proc", lambda: left.append(None)) == []
    assert bool(left) == (whose != "process")  # a user's process is no Postfix; root's is counted


def test_container_of_the_same_path(tmp_path: Path, config: Path) -> None:
    """A master(8) in a container has another /etc/postfix than ours: that one need not run."""
    elsewhere = tmp_path / "container" / config.relative_to("/")
    elsewhere.mkdir(parents=True)
    (elsewhere / "main.cf").write_text("")
    process(tmp_path / "proc", config, tmp_path / "container")

    assert postfixes.configurations(tmp_path / "maps", tmp_path / "proc") == []


def test_environment_that_leads_nowhere(tmp_path: Path, config: Path) -> None:
    """A folder that is a link to itself, or a name that no file can have, ends nothing."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    process(tmp_path / "proc", tmp_path / "loop")
    process(tmp_path / "other", tmp_path / ("x" * 5000))

    assert postfixes.configurations(tmp_path / "maps", tmp_path / "proc") == []
    assert postfixes.configurations(tmp_path / "maps", tmp_path / "other") == []


def test_process_of_a_user_for_real(tmp_path: Path, config: Path) -> None:
    """A user's own process called master, with an environment of the user's, is passed over."""
    environment = {"MAIL_CONFIG": str(config)}
    with TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        program = Path(place) / "master"
        program.symlink_to("/bin/sleep")
        with subprocess.Popen([program, "60"], user=NOBODY, group=NOBODY, extra_groups=[], env=environment) as running:
            wait_for(lambda: Path(f"/proc/{running.pid}/comm").read_text() == "master\n", 5)

            found = postfixes.configurations(tmp_path / "maps")
            running.kill()

    assert found == []
