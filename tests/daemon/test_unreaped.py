# SPDX-License-Identifier: Apache-2.0
"""A process that SIGKILL does not end: one that waits for a disk uninterruptibly. Here, one whose end is not told."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from collections.abc import Iterator
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
