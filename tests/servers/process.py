# SPDX-License-Identifier: Apache-2.0
"""A real server as a private child process: started, hung, killed, and gone with the test run."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class ServerError(RuntimeError):
    """The server did not come up; the text ends with its log."""


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def scratch(name: str, user: str = "") -> Path:
    """A new folder in memory (/dev/shm) where there is one, that `user` owns and everybody may enter."""
    shm = Path("/dev/shm")
    roomy = shm.is_dir() and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > 1 << 30
    path = Path(tempfile.mkdtemp(prefix=f"splitmx-{name}-", dir=shm if roomy else None))
    path.chmod(0o755)
    if user and os.geteuid() == 0:
        shutil.chown(path, user, pwd.getpwnam(user).pw_gid)
    return path


def wait_until(what: Callable[[], bool], seconds: float = 30.0, step: float = 0.02) -> bool:
    """Whether `what` became true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(step)
    return what()


def accepts(host: str, port: int) -> bool:
    """Whether a TCP connection is accepted."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def stopped(pid: int) -> bool:
    """Whether every thread of a process is stopped; a process that is gone is."""
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[0] not in "TtZX":
                return False
    return True


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """One server process, in a process group of its own."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; only while it runs."""
        assert self._child is not None, f"{self.name} is not running"
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    def launch(
        self,
        words: Sequence[str],
        ready: Callable[[], bool],
        *,
        user: str = "",
        env: Mapping[str, str] | None = None,
        seconds: float = 60.0,
    ) -> None:
        """Start `words` and wait until `ready()`; raises ServerError with the log's end."""
        assert not self.running, f"{self.name} runs already"
        other = user if user and os.geteuid() == 0 else None
        group = pwd.getpwnam(user).pw_gid if other else None
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                list(words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=other,
                group=group,
                extra_groups=[] if other else None,
                env=None if env is None else dict(env),
                cwd="/",
                process_group=0,
                preexec_fn=_die_with_parent,
            )

        def settled() -> bool:
            return not self.running or ready()

        if not wait_until(settled, seconds) or not self.running:
            self.kill()
            raise ServerError(f"{self.name} did not start: {self.log.read_text(errors='replace')[-2000:]}")

    def send(self, number: int) -> None:
        """Send a signal to the whole group."""
        if self.running:
            os.killpg(self.pid, number)

    def hang(self) -> None:
        """Stop it in its tracks, every thread: connections stay open, nothing is answered."""
        self.send(signal.SIGSTOP)
        assert wait_until(lambda: stopped(self.pid)), f"{self.name} does not stop"

    def cont(self) -> None:
        """Let a hung one go on."""
        self.send(signal.SIGCONT)

    def stop(self, number: int = signal.SIGTERM, seconds: float = 20.0) -> None:
        """End it in good order; kill it when it does not."""
        if self._child is None:
            return
        self.cont()
        self.send(number)
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        self._child = None

    def kill(self) -> None:
        """End it at once, children too."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
            self._child = None


def run(words: Sequence[str], *, user: str = "", stdin: str = "", env: Mapping[str, str] | None = None) -> str:
    """Run a tool to its end and give its output; raises ServerError with what it said."""
    other = user if user and os.geteuid() == 0 else None
    done = subprocess.run(
        list(words),
        input=stdin,
        text=True,
        capture_output=True,
        user=other,
        group=pwd.getpwnam(user).pw_gid if other else None,
        extra_groups=[] if other else None,
        env=None if env is None else dict(env),
        cwd="/",
        check=False,
    )
    if done.returncode:
        raise ServerError(f"{words[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def tool(name: str, *folders: str) -> str:
    """The path of a program, or "" when it is not installed; sbin folders are searched too."""
    path = os.pathsep.join([*folders, os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin"])
    return shutil.which(name, path=path) or ""
