# SPDX-License-Identifier: Apache-2.0
"""A process that SIGKILL does not end: one that waits for a disk uninterruptibly. Here, one whose end is not told."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from policyd import notify
from policyd.children import Child
from policyd.link import Channel
from policyd.listeners import Listeners
from policyd.loader import Loaded
from policyd.supervisor import Supervisor
from tests.daemon.site import LOCAL, Site
from tests.mta.daemon import COMMAND
from tests.mta.waiting import wait_for
from transport.config.settings import Daemon, Listener, Settings

_SEIZE = 0x4206  # ptrace(2): the death of a process is told to who traces it, and to its parent only after that
_WALL = 0x40000000  # waitpid(2)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


@contextmanager
def unreaped(pid: int) -> Iterator[None]:
    """Nobody sees this process end while this lasts."""
    if _libc.ptrace(_SEIZE, pid, None, None):
        pytest.skip(f"ptrace: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: os.waitpid(pid, os.WNOHANG | _WALL)[0] == pid, 10)


@pytest.mark.parametrize("role", ["worker", "keeper"])
def test_a_process_that_does_not_end_is_replaced(site: Site, role: str) -> None:
    """A killed process that does not end is replaced all the same, and seen off when it has ended."""
    (old,) = site.pids(role)
    with unreaped(old):
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: set(site.pids(role)) - {old}, 15, site.splitmx.tail)
        site.answers("ann@example.com", LOCAL)
        site.loaded()
        assert "does not end" in site.log()
    wait_for(lambda: old not in site.splitmx.processes(), 10)


def test_a_stop_does_not_wait_for_a_process_that_does_not_end(site: Site) -> None:
    """SIGTERM ends the daemon, and removes its sockets, whatever became of a worker."""
    with unreaped(site.pids("worker")[0]):
        assert site.splitmx.process is not None
        site.splitmx.process.terminate()
        assert site.splitmx.process.wait(15) == 0
        assert site.refused()


def test_sign_of_life_while_one_worker_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that hangs is no reason for systemd to end those that answer; when all hang, it is."""
    said: list[str] = []
    monkeypatch.setattr(notify, "notify", lambda *lines: said.extend(lines))
    supervisor = Supervisor(Path("x"), Loaded(replace(Settings(), daemon=Daemon(workers=2)), "", ()))
    ends = [socket.socketpair() for _ in supervisor.workers]
    for slot, (one, _) in zip(supervisor.workers, ends, strict=True):
        slot.started(Child(os.getpid(), Channel(one)))
    hangs, answers = (slot.child for slot in supervisor.workers)
    assert hangs is not None
    assert answers is not None
    now = time.monotonic()
    hangs.beat = now - 60
    supervisor._watchdog(now)
    assert "WATCHDOG=1" in said
    answers.beat = now - 60
    said.clear()
    supervisor._watchdog(now + 2)
    assert said == []
    for pair in ends:
        for one in pair:
            one.close()


def test_nobody_waits_behind_processes_that_do_not_end(site: Site) -> None:
    """The successor of a killed worker that does not end waits for the same disk, and is killed: an MTA is refused at
    once until one of them has ended."""
    (old,) = site.pids("worker")
    with unreaped(old):
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: set(site.pids("worker")) - {old}, 15, site.splitmx.tail)
        site.answers("ann@example.com", LOCAL)
        (second,) = set(site.pids("worker")) - {old}
        with unreaped(second):
            os.kill(second, signal.SIGSTOP)
            wait_for(site.refused, 20, site.splitmx.tail)
        site.answers("ann@example.com", LOCAL)


@pytest.mark.parametrize("kind", ["unix", "inet"])
def test_a_listener_is_closed_though_somebody_keeps_a_copy(kind: str, tmp_path: Path) -> None:
    """Who connects, or waits to be accepted, is refused where a process that does not end has the socket too; and it
    can be opened again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = (
        Listener("unix", f"{tmp_path}/map.sock") if kind == "unix" else Listener("inet", host="127.0.0.1", port=port)
    )
    control = Listener("unix", f"{tmp_path}/control.sock")

    def connected() -> socket.socket:
        one = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
        one.settimeout(5)
        one.connect(where.path if kind == "unix" else (where.host, where.port))
        return one

    listeners = Listeners()
    listeners.open(Daemon(socketmap=(where,), control=control, metrics=None), ())
    with socket.socket(fileno=os.dup(listeners.of(keeper=False)[0].sock.fileno())):
        connected().close()
        listeners.close_idle(keeper=False)
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            connected()
        listeners.reopen(keeper=False)
        connected().close()
    listeners.close()
    assert not list(tmp_path.iterdir())


def _inside(outside: int) -> int:
    """The process that unshare(1) started."""
    found = subprocess.run(["pgrep", "-P", str(outside)], capture_output=True, text=True, check=False).stdout.split()
    return int(found[0]) if found else 0


def _children(parent: int, name: str) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(parent), "-x", name], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a container")
def test_the_first_process_of_a_container_sees_off_orphans(sites: Callable[..., Site]) -> None:
    """Started without an init, the daemon is who inherits what others leave behind (a health check that was cut off):
    they do not heap up until no process can be started."""
    site = sites("ann@example.com")
    site.splitmx.command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *COMMAND]
    site.start()
    first = _inside(site.splitmx.pid)
    try:
        for _ in range(3):
            subprocess.run(["nsenter", "-t", str(first), "--pid", "sh", "-c", "sleep 600 & exit 0"], check=True)
        orphans = wait_for(lambda: _children(first, "sleep"), 10)
        assert len(orphans) == 3
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not _children(first, "sleep"), 10)
        site.answers("ann@example.com", LOCAL)
        (keeper,) = _children(first, "splitmx-keeper")  # its own it still sees off, and replaces
        os.kill(keeper, signal.SIGKILL)
        wait_for(lambda: _children(first, "splitmx-keeper") not in ([], [keeper]), 10, site.splitmx.tail)
    finally:
        os.kill(first, signal.SIGTERM)
        assert site.splitmx.process is not None
        site.splitmx.process.wait(15)
