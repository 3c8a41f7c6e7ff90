# SPDX-License-Identifier: Apache-2.0
"""`splitmx status` asks for a `postfix reload` until there was one, and no longer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from policyd.cli import main, reloaded
from tests.cli.conftest import Site
from tests.mta.waiting import wait_for


def proc(folder: Path, *ages: float) -> Path:
    """A /proc of a host that is up for 1000 s, with queue managers of these ages in seconds."""
    folder.mkdir()
    (folder / "uptime").write_text("1000.00 900.00\n")
    for number, (name, age) in enumerate([("bash", 0.0), *(("qmgr", age) for age in ages)], 1):
        (folder / str(number)).mkdir()
        (folder / str(number) / "comm").write_text(f"{name}\n")
        ticks = int((1000 - age) * os.sysconf("SC_CLK_TCK"))
        (folder / str(number) / "stat").write_text(f"{number} ({name} :)) S {' '.join(['0'] * 18)} {ticks} 0\n")
    return folder


@pytest.mark.parametrize(("ages", "reloaded_since"), [((), False), ((900,), False), ((-5,), True), ((-5, 900), False)])
def test_the_age_of_the_queue_manager_is_that_of_the_reload(
    tmp_path: Path, ages: tuple[float, ...], reloaded_since: bool
) -> None:
    """Only when all of them were started after the file was put there has every Postfix of the host seen it."""
    (tmp_path / "file").touch()
    assert reloaded.since(tmp_path / "file", proc(tmp_path / "proc", *ages)) is reloaded_since
    assert not reloaded.since(tmp_path / "gone", tmp_path / "proc")


def test_status_is_content_after_a_reload(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A domain more: `status` asks for a reload, and is content once Postfix's queue manager is a new one."""
    site.start()
    wait_for((site.folder / "state/maps/domains.sqlite").exists, 20, site.daemon.tail)
    text = site.daemon.config.read_text()
    site.daemon.write(text.replace('[domains."example.com"]', '[domains."more.example"]\nlocal = ["here"]\n'
                                   'destination = "cloud"\nunknown = "verify"\n[domains."example.com"]'))  # fmt: skip
    site.daemon.reload()
    wanted = "the list of domains changed: run postfix reload"
    wait_for(lambda: wanted in site.run("status").stdout, 20, site.daemon.tail)
    monkeypatch.setattr(reloaded.since, "__defaults__", (proc(tmp_path / "proc", -900),))
    done = CliRunner().invoke(main, ["--config", str(site.daemon.config), "status"])
    assert "domains 3" in done.stdout
    assert wanted not in done.stdout
