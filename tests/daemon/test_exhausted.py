# SPDX-License-Identifier: Apache-2.0
"""The host has no more of something: descriptors, room on a disk, an address. The daemon waits for it, and goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from policyd.keeper import control, files
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


def test_a_state_directory_that_is_gone_is_made_again(sites: Callable[..., Site]) -> None:
    """Somebody removes the whole of it, and the maps are elsewhere: the index is built anew, who is listed is answered
    all the while, and Postfix may pass through the new one."""
    site = sites("ann@example.com")
    site.splitmx.write(site.config() + f'[static]\ndirectory = "{site.folder}/maps"\n')
    site.start()
    shutil.rmtree(site.folder / "state")
    client = site.client()
    wait_for(lambda: (site.folder / "state" / "index.sqlite").exists(), 10, site.splitmx.tail)
    assert client.ask("transport", "ann@example.com") == ("OK", LOCAL)
    site.add("bob@example.com")
    site.answers("bob@example.com", LOCAL)
    wait_for(lambda: site.status()["index"]["error"] == "", 10, site.splitmx.tail)
    assert (site.folder / "state").stat().st_mode & 0o777 == 0o711
    assert client.ask("transport", "ann@example.com") == ("OK", LOCAL)


def test_a_state_file_makes_its_folder_for_others_to_pass(tmp_path: Path) -> None:
    """Whatever the keeper writes first into a state directory that is gone: Postfix reaches the maps below it."""
    assert files.replace(tmp_path / "state" / "loops.json", "{}")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o711
    assert (tmp_path / "state" / "loops.json").stat().st_mode & 0o777 == 0o600


def _signalled_during_the_start(site: Site, number: signal.Signals) -> None:
    """Send this while the configuration is read for the first time (a FIFO, so that it takes until we write)."""
    text = site.splitmx.config.read_text()
    site.splitmx.config.unlink()
    os.mkfifo(site.splitmx.config)
    with site.splitmx.log.open("ab") as log:
        site.splitmx.process = subprocess.Popen(
            [*COMMAND, "--config", str(site.splitmx.config), "serve", *AS_ROOT],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    unread = wait_for(lambda: _writer(site.splitmx.config), 10, site.splitmx.tail)
    site.splitmx.process.send_signal(number)
    site.splitmx.config.unlink()
    site.splitmx.write(text)
    with open(unread, "w", encoding="utf-8") as fifo:
        fifo.write(text)


def test_a_reload_asked_for_during_the_start_follows_it(sites: Callable[..., Site]) -> None:
    """SIGHUP does not end a daemon that starts: it starts, and reloads."""
    site = sites("ann@example.com")
    _signalled_during_the_start(site, signal.SIGHUP)
    wait_for(lambda: "configuration taken" in site.log(), 20, site.splitmx.tail)
    site.answers("ann@example.com", LOCAL)


def test_a_signal_without_a_meaning_does_not_end_the_start(sites: Callable[..., Site]) -> None:
    """SIGUSR1 of a logrotate that comes while the daemon starts ends it as little as later on."""
    site = sites("ann@example.com")
    _signalled_during_the_start(site, signal.SIGUSR1)
    site.answers("ann@example.com", LOCAL)


def test_a_configuration_of_this_process_alone_is_named(sites: Callable[..., Site]) -> None:
    """`serve --config <(generate)`: it says that the daemon needs a file which is there at the next reload, too."""
    site = sites("ann@example.com")
    read, write = os.pipe()
    with os.fdopen(write, "w") as text:
        text.write(site.config())
    done = subprocess.run(
        [*COMMAND, "--config", f"/dev/fd/{read}", "serve", *AS_ROOT], capture_output=True, text=True, timeout=30,
        pass_fds=[read],
    )  # fmt: skip
    os.close(read)
    assert done.returncode == 2
    assert "reload" in done.stderr
    assert "No such file" not in done.stderr


def test_an_index_that_cannot_be_written_is_called_so(sites: Callable[..., Site]) -> None:
    """No file of the keeper may grow (as on a full disk) when a reading has something to write: metric and status say
    so until it is written."""
    site = sites("ann@example.com").start()
    (keeper,) = site.pids("keeper")
    resource.prlimit(keeper, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    site.add("late@example.com")
    wait_for(lambda: 'splitmx_unwritten{file="index.sqlite"} 1.0' in site.metrics(), 15, site.splitmx.tail)
    assert "cannot write" in site.status()["index"]["error"]
    assert site.ask("ann@example.com") == ("OK", LOCAL)
    resource.prlimit(keeper, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_for(lambda: 'splitmx_unwritten{file="index.sqlite"} 0.0' in site.metrics(), 15, site.splitmx.tail)
    assert site.status()["index"]["error"] == ""
    site.answers("late@example.com", LOCAL)


def test_whoever_asks_for_the_metrics_leaves_descriptors_for_directories(sites: Callable[..., Site]) -> None:
    """Hundreds of connections to the metrics that ask nothing: strangers are asked live, and `status` answers."""
    site = sites("ann@example.com", fresh_for="100ms", sync_every="300s").start()
    (keeper,) = site.pids("keeper")
    room = len(os.listdir(f"/proc/{keeper}/fd")) + 80
    resource.prlimit(keeper, resource.RLIMIT_NOFILE, (room, resource.prlimit(keeper, resource.RLIMIT_NOFILE)[1]))
    with contextlib.ExitStack() as held:
        for _ in range(300):
            held.enter_context(socket.create_connection(("127.0.0.1", site.port), 10))
        wait_for(lambda: "too many ask for the metrics" in site.log(), 10, site.splitmx.tail)
        for number in range(20):
            assert site.ask(f"new{number}@example.com") == ("OK", REMOTE)
        assert site.control("ping")["ok"]
    wait_for(lambda: _metrics_answer(site), 15, site.splitmx.tail)
    assert site.pids("keeper") == [keeper]


def _metrics_answer(site: Site) -> bool:
    try:
        return "splitmx_processes" in site.metrics()
    except OSError:
        return False


def test_clients_of_the_control_socket_that_hang_keep_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that sends half a request, and one that never reads its answer, are let go after a while."""
    monkeypatch.setattr(control, "_PATIENCE", 0.1)

    async def life() -> None:
        nobody: Any = SimpleNamespace()  # neither keeper nor listener is asked
        served = control.Control(nobody, nobody)

        async def answer(line: bytes, writer: asyncio.StreamWriter) -> dict[str, str]:
            return {"status": "x" * 50_000_000}

        monkeypatch.setattr(served, "_answer", answer)
        path = str(tmp_path / "control.sock")
        server = await asyncio.start_unix_server(served._client, path, limit=1 << 20)
        _, half = await asyncio.open_unix_connection(path)
        half.write(b'{"do":')
        unread = socket.socket(socket.AF_UNIX)
        unread.connect(path)
        unread.sendall(b"{}\n")
        async with asyncio.timeout(10):
            while served.clients != 2:
                await asyncio.sleep(0.01)
            while served.clients:
                await asyncio.sleep(0.01)
        half.close()
        unread.close()
        server.close()

    asyncio.run(life())
