# SPDX-License-Identifier: Apache-2.0
"""Processes that die, hang, or are started twice."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from policyd import children
from tests.daemon.site import LOCAL, REMOTE, Site
from tests.mta.daemon import AS_ROOT, COMMAND
from tests.mta.waiting import wait_for


def test_killed_worker_is_replaced(site: Site) -> None:
    """After a worker's death another one answers."""
    (worker,) = site.pids("worker")
    os.kill(worker, signal.SIGKILL)
    site.answers("ann@example.com", LOCAL)
    assert site.pids("worker") != [worker]


def test_keeper_preempts_no_worker(site: Site) -> None:
    """The keeper has the scheduling policy of batch work, with its full share; workers have the ordinary one."""
    (worker,), (keeper,) = site.pids("worker"), site.pids("keeper")
    assert os.sched_getscheduler(worker) == os.SCHED_OTHER
    assert os.sched_getscheduler(keeper) == os.SCHED_BATCH


@pytest.mark.skipif(os.geteuid() != 0, reason="others may not raise a priority")
@pytest.mark.parametrize(("given", "worker", "keeper"), [(0, -10, 0), (-10, -10, 0), (5, 5, 5), (-3, -3, -3)])
def test_workers_come_before_others_and_the_keeper_beside_them(
    sites: Callable[..., Site], given: int, worker: int, keeper: int
) -> None:
    """What root, or the unit, allows is the workers'; a priority that somebody else chose stays everyone's."""
    site = sites("ann@example.com")
    site.splitmx.command = ["nice", "-n", str(given - os.getpriority(os.PRIO_PROCESS, 0)), *site.splitmx.command]
    site.start()
    assert _nice(site, "worker") == worker
    wait_for(lambda: _nice(site, "keeper") == keeper, 10)
    os.kill(site.pids("keeper")[0], signal.SIGKILL)
    os.kill(site.pids("worker")[0], signal.SIGKILL)
    site.answers("ann@example.com", LOCAL)
    assert _nice(site, "worker") == worker
    wait_for(lambda: _nice(site, "keeper") == keeper, 10)


def _nice(site: Site, role: str) -> int | None:
    found = site.pids(role)
    return os.getpriority(os.PRIO_PROCESS, found[0]) if found else None


def test_a_worker_takes_the_processor_from_the_keeper(site: Site) -> None:
    """A worker asks for shorter slices than any other process has, each thread of the keeper for longer ones: a worker
    that wakes up goes first."""
    (worker,), (keeper,) = site.pids("worker"), site.pids("keeper")
    slices = [_slice(int(thread.name)) for thread in Path(f"/proc/{keeper}/task").iterdir()]
    assert len(slices) > 1
    ours = os.uname()
    new = tuple(int(part) for part in ours.release.split("-")[0].split(".")[:2]) >= (6, 12)
    longer = new and ours.machine in ("x86_64", "aarch64")
    anybody = _slice(os.getpid())
    assert all((one > anybody) == longer for one in slices)
    assert (_slice(worker) < anybody) == longer


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or sys.maxsize < 2**32, reason="other libraries have other heaps")
def test_the_keepers_threads_share_their_heaps(site: Site) -> None:
    """Each thread with a heap of its own would keep what a reload of a long configuration once needed there."""
    (keeper,) = site.pids("keeper")
    site.answers("new@example.com", REMOTE)
    wait_for(lambda: len(os.listdir(f"/proc/{keeper}/task")) > 2, 10)
    assert _heaps(keeper) <= 1


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [("keeper", "-900", "0"), ("loader", "-900", "0"), ("worker-2", "-900", "-450"), ("keeper", "300", "300")],
)
def test_the_supervisor_is_the_last_one_that_a_want_of_memory_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, given: str, kept: str
) -> None:
    """What protects it (OOMScoreAdjust=) its children give up, a worker half of it: with it all would end at once."""
    score = tmp_path / "oom_score_adj"
    score.write_text(given)
    monkeypatch.setattr(children, "_OOM_SCORE", score)
    monkeypatch.setattr(children, "_prctl", None)
    children.belong(os.getppid(), name)
    assert score.read_text() == kept


def _heaps(pid: int) -> int:
    """Heaps of glibc beside the first one: 64 MB of which the beginning is in use (arena.c, HEAP_MAX_SIZE)."""
    found, before = 0, ("", 0, 0)
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        place, mode, *_, inode = line.split()[:5]
        start, end = (int(one, 16) for one in place.split("-"))
        if inode != "0":
            mode = "file"
        if mode == "---p" and before[0] == "rw-p" and before[2] == start and end - before[1] == 1 << 26:
            found += 1
        before = (mode, start, end)
    return found


def _slice(thread: int) -> int:
    """The slice in nanoseconds that a thread has asked for, or the kernel's default (sched_getattr(2))."""
    number = 315 if os.uname().machine == "x86_64" else 275
    attributes = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(number, thread, attributes, len(attributes), 0) == 0
    return int(struct.unpack("=IIQiIQQQ", attributes.raw)[5])


def test_socket_files_that_are_removed_are_made_again(site: Site) -> None:
    """A clean-up takes every socket file away: all are back soon, with their modes, and the log says it."""
    paths = sorted(site.folder.glob("*.sock"), key=lambda path: path.name != "map.sock")
    paths[0].unlink()
    wait_for(lambda: 'splitmx_faults_total{kind="listener"} 1.0' in site.metrics(), 10, site.splitmx.tail)
    wait_for(paths[0].exists, 10, site.splitmx.tail)
    modes = [path.stat().st_mode for path in paths]
    assert len(paths) >= 3
    for path in paths:
        path.unlink()
    site.answers("ann@example.com", LOCAL)
    wait_for(lambda: [path.stat().st_mode for path in paths if path.exists()] == modes, 10, site.splitmx.tail)
    site.loaded()
    assert site.splitmx.log.read_text().count("a socket file was gone and is made again") == 1 + len(paths)
    time.sleep(2.5)
    assert site.splitmx.log.read_text().count("a socket file was gone and is made again") == 1 + len(paths)


def test_a_socket_file_that_is_removed_again_and_again_closes_no_other(site: Site) -> None:
    """A worker that we end to renew one has not failed: its successor begins at once, every time, and the others' MTAs
    are not refused meanwhile."""

    def renewed(times: int) -> bool:
        return site.log().count("socket file was gone") == times

    for times in range(1, 5):
        site.map.unlink()
        wait_for(partial(renewed, times), 10, site.splitmx.tail)
        site.answers("ann@example.com", LOCAL)
    assert "listener closed" not in site.log()


def test_a_socket_file_that_somebody_else_took_is_left_alone(site: Site) -> None:
    """Another program listens under our name: it is not taken over, and the log names the listener until it is gone."""
    (site.folder / "policy.sock").unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(site.folder / "policy.sock"))
        other.listen()
        wait_for(
            lambda: "another process listens there; not taken over" in site.splitmx.log.read_text(),
            10,
            site.splitmx.tail,
        )
        assert site.ask("ann@example.com") == ("OK", LOCAL)
    wait_for(lambda: "is made again" in site.splitmx.log.read_text(), 10, site.splitmx.tail)
    site.answers("ann@example.com", LOCAL)


def test_hung_worker_is_killed_and_replaced(site: Site) -> None:
    """A worker that stands still is killed; who waited for it is answered by the next one."""
    (worker,) = site.pids("worker")
    os.kill(worker, signal.SIGSTOP)
    client = site.client()
    client.send("transport", "ann@example.com")
    wait_for(lambda: worker not in site.pids("worker"), 15, site.splitmx.tail)
    assert client.receive() == ("OK", LOCAL)
    assert "silent" in site.log()


def test_one_of_two_workers_hangs(sites: Callable[..., Site]) -> None:
    """While one of two workers hangs the other one answers new connections."""
    site = sites("ann@example.com", workers=2).start()
    wait_for(lambda: len(site.pids("worker")) == 2, 10)
    first, second = site.pids("worker")
    os.kill(first, signal.SIGSTOP)
    for _ in range(20):
        assert site.ask("ann@example.com") == ("OK", LOCAL)
    wait_for(lambda: first not in site.pids("worker") and len(site.pids("worker")) == 2, 15, site.splitmx.tail)
    assert second in site.pids("worker")


def test_keeper_death_does_not_touch_listed_recipients(site: Site) -> None:
    """Listed recipients are answered on an open connection while the keeper is replaced; strangers afterwards."""
    client = site.client()
    assert client.ask("transport", "ann@example.com") == ("OK", LOCAL)
    (keeper,) = site.pids("keeper")
    os.kill(keeper, signal.SIGKILL)
    assert client.ask("transport", "sales@example.com")[0] == "OK"
    wait_for(lambda: site.pids("keeper") not in ([], [keeper]), 10, site.splitmx.tail)
    site.answers("new@example.com", REMOTE)
    assert client.ask("transport", "ann@example.com") == ("OK", LOCAL)


@pytest.mark.slow
def test_hung_keeper_is_replaced(sites: Callable[..., Site]) -> None:
    """With the keeper hung listed recipients flow, a stale "no" is TEMP, and another keeper takes over."""
    site = sites("ann@example.com", fresh_for="1s").start()
    (keeper,) = site.pids("keeper")
    os.kill(keeper, signal.SIGSTOP)
    wait_for(lambda: site.ask("who@example.com")[0] == "TEMP", 20, site.splitmx.tail)
    assert site.ask("ann@example.com") == ("OK", LOCAL)
    wait_for(lambda: "keeper is silent" in site.log(), 10, site.splitmx.tail)  # from here on nobody waits for it
    assert site.ask("another@example.com")[0] == "TEMP"
    wait_for(lambda: site.pids("keeper") not in ([], [keeper]), 20, site.splitmx.tail)
    site.answers("who@example.com", REMOTE)


def _kill(site: Site, role: str) -> None:
    """Kill one process of this role and wait until it is gone."""
    pid = wait_for(lambda: site.pids(role), 20, site.splitmx.tail)[0]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: pid not in site.pids(role), 10)


def test_keeper_that_dies_again_and_again(site: Site) -> None:
    """Workers serve on while every keeper dies."""
    client = site.client()
    for _ in range(4):
        _kill(site, "keeper")
        assert client.ask("transport", "ann@example.com") == ("OK", LOCAL)
    site.answers("new@example.com", REMOTE, 30)


def test_without_workers_the_sockets_are_closed(site: Site) -> None:
    """When workers die faster than they are started, an MTA is refused at once; later they answer again."""

    def kill_and_look() -> bool:
        for worker in site.pids("worker"):
            os.kill(worker, signal.SIGKILL)
        return site.refused()

    wait_for(kill_and_look, 20, site.splitmx.tail)
    assert "listener closed" in site.log()
    site.answers("ann@example.com", LOCAL)


def test_supervisor_killed_takes_its_children_along(site: Site) -> None:
    """After SIGKILL of the supervisor nothing of the daemon is left, and a new one starts at once."""
    assert site.splitmx.process is not None
    children = [*site.pids("worker"), *site.pids("keeper")]
    site.splitmx.process.kill()
    site.splitmx.process.wait(5)
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}/status") and not _zombie(pid) for pid in children), 10)
    assert site.refused()
    site.start()
    assert site.ask("ann@example.com") == ("OK", LOCAL)


def _zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_signals_without_a_meaning_end_nobody(site: Site) -> None:
    """SIGUSR1, as a logrotate script sends it, and its like neither end the daemon nor a process of it."""
    before = sorted(site.splitmx.processes())
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
        for pid in (*site.pids("worker"), *site.pids("keeper"), site.splitmx.pid):
            os.kill(pid, number)
    assert site.ask("ann@example.com") == ("OK", LOCAL)
    site.splitmx.reload()
    wait_for(lambda: "configuration taken" in site.log(), 20, site.splitmx.tail)
    assert sorted(site.splitmx.processes()) == before


def test_hung_supervisor_resumes_without_killing_anybody(site: Site) -> None:
    """A machine that was suspended must not look like hung workers when it wakes up."""
    assert site.splitmx.process is not None
    worker = site.pids("worker")
    site.splitmx.process.send_signal(signal.SIGSTOP)
    client = site.client()
    for _ in range(40):
        assert client.ask("transport", "ann@example.com") == ("OK", LOCAL)
    os.kill(worker[0], signal.SIGSTOP)
    assert subprocess.run(["sleep", "4"], check=True).returncode == 0  # as long as the machine sleeps
    os.kill(worker[0], signal.SIGCONT)
    site.splitmx.process.send_signal(signal.SIGCONT)
    assert client.ask("transport", "ann@example.com") == ("OK", LOCAL)
    site.answers("ann@example.com", LOCAL)
    assert site.pids("worker") == worker


def test_second_daemon_ends_and_says_who_runs(site: Site) -> None:
    """A second daemon on the same state ends with 75 and names the first; the first does not notice."""
    assert site.splitmx.process is not None
    done = subprocess.run(
        [*COMMAND, "--config", str(site.splitmx.config), "serve", *AS_ROOT], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 75
    assert str(site.splitmx.process.pid) in done.stderr
    assert site.ask("ann@example.com") == ("OK", LOCAL)


def test_socket_of_somebody_else_is_not_taken_over(sites: Callable[..., Site]) -> None:
    """A unix socket on which another process listens is left alone, and the daemon ends with 75, as where a port is in
    use: a process of a killed daemon that waits for its disk may hold it still, and after a 2 nobody tries again."""
    site = sites("ann@example.com")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(site.map))
        other.listen()
        done = subprocess.run(
            [*COMMAND, "--config", str(site.splitmx.config), "serve", *AS_ROOT],
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert done.returncode == 75
        assert "not taken over" in done.stderr
        assert "Traceback" not in done.stderr
    site.start()
    assert site.ask("ann@example.com") == ("OK", LOCAL)


def test_a_listener_that_cannot_be_had_yet_is_no_wrong_configuration(sites: Callable[..., Site]) -> None:
    """Where another attempt may succeed, the daemon ends with 75: the service manager tries no more after a 2."""
    site = sites("ann@example.com")
    text = site.config().replace("[daemon]", '[daemon]\nallow = ["192.0.2.0/24"]')
    text = text.replace("exim = [", 'exim = ["inet:192.0.2.77:10460", ')
    site.splitmx.write(text)
    done = subprocess.run(
        [*COMMAND, "--config", str(site.splitmx.config), "serve", *AS_ROOT], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 75, done.stderr
    assert "does not have that address now" in done.stderr
    assert not site.map.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_state_of_another_user_is_named(sites: Callable[..., Site]) -> None:
    """A state directory that root took over ends with 75, the file and the command that mends it."""
    site = sites("ann@example.com")
    site.folder.chmod(0o711)
    site.splitmx.config.chmod(0o644)
    state = site.folder / "state"
    state.mkdir(exist_ok=True)
    (state / "lock").touch(0o600)
    done = subprocess.run(
        [*COMMAND, "--config", str(site.splitmx.config), "serve", "--user", "nobody"],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 75, done.stderr
    assert f"chown -R nobody: {state}" in done.stderr
    assert f"{state}/lock" in done.stderr


def test_stale_socket_is_replaced_and_has_its_mode(sites: Callable[..., Site]) -> None:
    """A socket file that nobody listens on is replaced; mode is as configured."""
    site = sites("ann@example.com")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(site.map))
    site.start()
    assert site.map.stat().st_mode & 0o777 == 0o660
    assert site.control_socket.stat().st_mode & 0o777 == 0o600


def test_bad_configuration_ends_with_2_and_every_mistake(sites: Callable[..., Site]) -> None:
    """A daemon with a bad configuration says each mistake and ends with 2."""
    site = sites()
    site.splitmx.write(site.config().replace("workers = 1", 'workers = "many"\nwhatever = 1'))
    done = subprocess.run(
        [*COMMAND, "--config", str(site.splitmx.config), "serve", *AS_ROOT], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert "workers" in done.stderr
    assert "whatever" in done.stderr
    assert "Traceback" not in done.stderr


def test_socket_activation(sites: Callable[..., Site]) -> None:
    """A listening socket handed over by the service manager is used, and left in place at the end."""
    site = sites("ann@example.com")
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(str(site.map))
        given.listen(16)

        def hand_over() -> None:
            os.dup2(given.fileno(), 3)
            os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}

        with site.splitmx.log.open("ab") as log:
            daemon = subprocess.Popen(
                [*COMMAND, "--config", str(site.splitmx.config), "serve", *AS_ROOT],
                pass_fds=(3,), preexec_fn=hand_over, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        site.splitmx.process = daemon
        site.answers("ann@example.com", LOCAL)
        assert site.control_socket.exists()
        daemon.terminate()
        assert daemon.wait(10) == 0
        assert site.map.exists()
        assert not site.control_socket.exists()


def test_missing_group_is_named(sites: Callable[..., Site]) -> None:
    """A group that does not exist is named at start, with 2; nothing is left behind."""
    site = sites("ann@example.com")
    site.splitmx.write(site.config().replace("map.sock?mode=0660", "map.sock?mode=0660&group=nosuchgroup"))
    done = subprocess.run(
        [*COMMAND, "--config", str(site.splitmx.config), "serve", *AS_ROOT], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert "nosuchgroup" in done.stderr
    assert not site.map.exists()
