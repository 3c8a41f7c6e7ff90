# SPDX-License-Identifier: Apache-2.0
"""The host has no more of something: descriptors, room on a disk, an address. The daemon waits for it, and goes on."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.daemon.site import LOCAL, REMOTE, Site
from tests.mta.daemon import AS_ROOT, COMMAND
from tests.mta.waiting import wait_for


def _others(site: Site, role: str) -> str:
    return "keeper" if role == "worker" else "worker"


@pytest.mark.parametrize("role", ["worker", "keeper"])
def test_a_link_lost_for_want_of_descriptors_is_made_again(site: Site, role: str) -> None:
    """A process is out of descriptors when its link to a new one comes: the log and a metric say so, and strangers are
    asked for again once there is room."""
    (full,) = site.pids(role)
    limits = resource.prlimit(full, resource.RLIMIT_NOFILE)
    resource.prlimit(full, resource.RLIMIT_NOFILE, (3, limits[1]))
    (old,) = site.pids(_others(site, role))
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: "out of descriptors" in site.log(), 15, site.splitmx.tail)
    assert site.pids(role) == [full]
    resource.prlimit(full, resource.RLIMIT_NOFILE, limits)
    site.answers("new@example.com", REMOTE)
    wait_for(lambda: 'splitmx_faults_total{kind="descriptors"}' in site.metrics(), 5, site.splitmx.tail)
    assert len(site.status()["workers"]["running"]) == 1
    assert site.ask("ann@example.com") == ("OK", LOCAL)
    assert site.pids(role) == [full]


def _serve(site: Site) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "--config", str(site.splitmx.config), "serve", *AS_ROOT], capture_output=True, text=True, timeout=30
    )


def test_an_address_that_is_not_up_yet_is_no_mistake(sites: Callable[..., Site]) -> None:
    """A listener's address that the host does not have (before its network is up, at boot): 75, so that the service
    manager starts it again; not 2, which would be for good."""
    site = sites("ann@example.com")
    there = f'"inet:192.0.2.77:{site.port}"\nallow = ["192.0.2.0/24"]'
    site.splitmx.write(site.config().replace(f'"inet:127.0.0.1:{site.port}"', there))
    done = _serve(site)
    assert "192.0.2.77" in done.stderr
    assert done.returncode == 75
    assert not site.map.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_disk_that_takes_no_file_is_no_mistake(sites: Callable[..., Site], tmp_path: Path) -> None:
    """No inode is left where a socket is to be (the mail spool), or the state directory is read-only for the moment:
    75, and once there is room it starts."""
    site = sites("ann@example.com")
    spool = tmp_path / "spool"
    spool.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=2", "tmpfs", str(spool)], check=True)
    try:
        (spool / "queued").touch()
        text = site.config()
        site.splitmx.write(text.replace(f"unix:{site.folder}/policy.sock", f"unix:{spool}/policy.sock"))
        done = _serve(site)
        assert "No space left" in done.stderr
        assert done.returncode == 75
        (spool / "queued").unlink()
        site.start().stop()
        site.splitmx.write(text.replace(f"{site.folder}/state", f"{spool}/state"))
        subprocess.run(["mount", "-o", "remount,ro", str(spool)], check=True)
        assert _serve(site).returncode == 75
    finally:
        subprocess.run(["umount", "-l", str(spool)], check=True)


def test_a_loading_that_hangs_outlives_nobody(site: Site) -> None:
    """The configuration is on a disk that does not answer (a FIFO) when it is reloaded, and the daemon ends or is
    killed meanwhile: nothing of it holds the lock or a listener, so the next one starts at once."""
    good = site.splitmx.config.read_text()
    for number in (signal.SIGTERM, signal.SIGKILL):
        site.splitmx.config.unlink()
        os.mkfifo(site.splitmx.config)
        site.splitmx.reload()
        unread = wait_for(lambda: _writer(site.splitmx.config), 10, site.splitmx.tail)
        with open(unread, "w", encoding="ascii"):
            assert site.splitmx.process is not None
            site.splitmx.process.send_signal(number)
            site.splitmx.process.wait(10)
            site.splitmx.config.unlink()
            site.splitmx.write(good)
            site.start()
            assert site.ask("ann@example.com") == ("OK", LOCAL)


def _writer(fifo: Path) -> int:
    """A descriptor through which nothing is ever written, once somebody reads the FIFO; 0 before."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return 0


def _refused(site: Site, times: int) -> bool:
    return site.log().count("the old one stays") >= times


def test_refused_reloads_leave_no_process_behind(site: Site) -> None:
    """However often a broken configuration is loaded, no dead child stays in the table of processes."""
    before = len(site.splitmx.processes())
    site.splitmx.write("nonsense")
    for number in range(1, 16):
        site.splitmx.reload()
        wait_for(partial(_refused, site, number), 10, site.splitmx.tail)
    assert len(site.splitmx.processes()) == before
