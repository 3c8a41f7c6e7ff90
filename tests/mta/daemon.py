# SPDX-License-Identifier: Apache-2.0
"""The daemon as a process: started as a service manager would, stopped, hung, killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.mta.places import new_folder
from tests.mta.waiting import wait_for

AS_ROOT = ["--user", "root"] if os.geteuid() == 0 else []  # as root it warns unless a user is named
COMMAND = [sys.executable, "-I", "-c", "from policyd.cli import main; main()"]


class Splitmx:
    """One `splitmx serve` with its own folder. `text` is the configuration; `{state}` in it: a private folder.

    environment: further variables, for the daemon and for every command.
    """

    def __init__(self, text: str, folder: Path | None = None, **environment: str) -> None:
        self.environment = os.environ | environment
        self.command = COMMAND
        self.folder = folder or new_folder("splitmx")
        self.config = self.folder / "splitmx.toml"
        self.log = self.folder / "splitmx.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.frozen: list[int] = []
        self.write(text)

    def write(self, text: str) -> None:
        """Put a new configuration in place, without telling the daemon."""
        self.config.write_text(text.replace("{state}", str(self.folder / "state")))
        self.config.chmod(0o640)

    def start(self, seconds: float = 20.0) -> Splitmx:
        """Start it and wait until it says READY=1."""
        notify = self.folder / "notify"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, self.log.open("ab") as log:
            ready.bind(str(notify))
            ready.settimeout(0.1)
            self.process = subprocess.Popen(
                [*self.command, "--config", str(self.config), "serve", *AS_ROOT], stdout=log, stderr=log,
                env=self.environment | {"NOTIFY_SOCKET": str(notify)}, start_new_session=True,
            )  # fmt: skip
            wait_for(lambda: self._is_ready(ready), seconds, self.tail)
        return self

    def _is_ready(self, ready: socket.socket) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.tail()}"
        try:
            return b"READY=1" in ready.recv(4096)
        except TimeoutError:
            return False

    @property
    def pid(self) -> int:
        """The supervisor's; 0 when it does not run."""
        return self.process.pid if self.process is not None else 0

    def run(self, *words: str, check: bool = False, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """A `splitmx` command with this configuration."""
        done = subprocess.run(
            [*self.command, "--config", str(self.config), *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment,
        )
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def reload(self) -> None:
        """SIGHUP."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """SIGTERM, and wait for the end of all its processes."""
        self.thaw()
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(5)
            self.process = None

    def kill(self) -> None:
        """SIGKILL for every process of it."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(5)
            self.process = None
            self.frozen = []

    def processes(self) -> list[int]:
        """Supervisor, keeper and workers: the members of its session."""
        assert self.process is not None
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[3]) == self.process.pid:
                    found.append(int(entry.name))
        return found

    def pids(self, role: str) -> list[int]:
        """Processes of a role: supervisor, keeper, worker (their names as ps shows them)."""
        if role == "supervisor":
            return [self.pid] if self.pid else []
        found = []
        for pid in self.processes():
            try:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
            except OSError:
                continue
            if name.startswith(f"splitmx-{role}"[:15]):
                found.append(pid)
        return found

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to one process of it."""
        os.kill(pid, number)

    def freeze(self) -> None:
        """SIGSTOP for every process of it, the supervisor first, so that nothing is replaced."""
        assert self.process is not None
        self.frozen = sorted(self.processes(), key=lambda pid: pid != self.pid)
        for pid in self.frozen:
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT for those that were stopped."""
        for pid in reversed(self.frozen):
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue
        self.frozen = []

    def tail(self, lines: int = 60) -> str:
        """The end of its log, for failures."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])
