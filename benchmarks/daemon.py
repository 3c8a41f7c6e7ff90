# SPDX-License-Identifier: Apache-2.0
"""splitmx as it would run: its own folder, a directory full of recipients, started with `serve`."""

from __future__ import annotations

import itertools
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from benchmarks.tools import ROOT, SERVER_CORE, connects, cpu_seconds, netstring, pinned, stop, tree, wait

COMMAND = [sys.executable, "-P", "-c", "from policyd.cli import main; main()"]
DOMAIN = "example.com"

CONFIG = """\
[daemon]
socketmap = ["unix:{work}/socketmap.sock?mode=0666"]
policy = ["unix:{work}/policy.sock?mode=0666"]
exim = ["unix:{work}/exim.sock?mode=0666"]
control = "unix:{work}/control.sock"
metrics = "inet:127.0.0.1:0"
state = "{work}/state"
workers = {workers}

{directories}

[destinations.other]
hosts = ["mx.other.example"]

[domains."{domain}"]
local = ["here"]
destination = "other"
unknown = "{unknown}"
local_transport = "lmtp:unix:private/lmtp"
locations = {{ there = "other" }}
"""


def users(count: int) -> Iterable[str]:
    """Local parts as people have them: about 14 octets."""
    for number in range(count):
        yield f"first.last{number:07d}"


def sqlite_directory(path: Path, count: int) -> str:
    """A table of `count` mailboxes, every second one at the other side; the `[directories.here]` that reads it."""
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE recipients (address TEXT PRIMARY KEY, location TEXT)")
        sides = itertools.cycle((None, "there"))
        rows = ((f"{user}@{DOMAIN}", side) for user, side in zip(users(count), sides, strict=False))
        db.executemany("INSERT INTO recipients VALUES (?, ?)", rows)
    db.close()
    return sqlite_table(path)


def sqlite_table(path: Path, more: str = "") -> str:
    """The `[directories.here]` of such a table."""
    return (
        f'[directories.here]\ntype = "sql"\nurl = "sqlite:///{path}"\n'
        f'query = "SELECT address, location FROM recipients"\n{more}'
    )


class Daemon:
    """One splitmx. `pid` is the supervisor's; all its processes are held to the server's core."""

    def __init__(self, work: Path, directories: str, *, workers: int = 1, unknown: str = "reject", extra: str = "",
                 pin: bool = True) -> None:  # fmt: skip
        work.mkdir(exist_ok=True)
        self.work = work
        self.socketmap = work / "socketmap.sock"
        self.policy = work / "policy.sock"
        self.exim = work / "exim.sock"
        self.config = work / "splitmx.toml"
        self.log = work / "splitmx.log"
        self.pin = pin
        text = CONFIG.format(work=work, directories=directories, domain=DOMAIN, workers=workers, unknown=unknown)
        text = text.replace('metrics = "inet:127.0.0.1:0"\n', "")
        self.config.write_text(text + extra)
        self.config.chmod(0o640)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The supervisor."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> Daemon:
        """Start it and wait until it accepts connections."""
        words = [*COMMAND, "--config", str(self.config), "serve"]
        if os.geteuid() == 0:
            words += ["--user", "root"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                pinned(SERVER_CORE, words) if self.pin else words, stdout=log, stderr=log, cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        wait("splitmx", lambda: self._alive() and connects(self.socketmap))
        return self

    def _alive(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"splitmx ended:\n{self.log.read_text()[-3000:]}")
        return True

    def start_loaded(self, seconds: float = 300) -> Daemon:
        """Start it and wait until the last user of the directory is answered from the index."""
        self.start()
        wait("the first listing", self._loaded, seconds)
        return self.quiet()

    def _loaded(self) -> bool:
        time.sleep(0.2)
        try:
            with closing(sqlite3.connect(f"file:{self.work}/state/index.sqlite?mode=ro", uri=True)) as db:
                found = db.execute("SELECT loaded_at FROM directory").fetchall()
        except sqlite3.Error:
            return False
        return bool(found) and all(loaded is not None for (loaded,) in found)

    def quiet(self) -> Daemon:
        """Wait until the listing that follows a start is over: a second with hardly any CPU time."""

        def idle() -> bool:
            before = self.cpu()
            time.sleep(1)
            return self.cpu() - before < 0.03

        wait("the keeper to be idle", idle, 120)
        return self

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            stop(self.process)
            self.process = None

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A `splitmx` command with this configuration."""
        return subprocess.run(
            [*COMMAND, "--config", str(self.config), *words], capture_output=True, text=True, cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def cpu(self) -> float:
        """CPU seconds of all its processes so far."""
        return cpu_seconds(self.pid)

    def children(self) -> dict[str, list[int]]:
        """Its processes by role, once it is quiet: the keeper has threads, a worker never has any."""
        below = tree(self.pid)[1:]
        threads = {pid: len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in below}
        keepers = [pid for pid in below if threads[pid] > 1]
        if len(keepers) != 1:
            raise RuntimeError(f"one process with threads was expected, of {threads}")
        return {"keeper": keepers, "workers": [pid for pid in below if pid not in keepers]}


def resident(pid: int, what: str = "VmRSS") -> float:
    """Megabytes of a process: VmRSS, RssAnon, RssFile."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


def proportional(pid: int) -> float:
    """Megabytes with what is shared counted by its share (Pss)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def transport_frame(user: str) -> bytes:
    """What trivial-rewrite(8) asks about a recipient."""
    return netstring(f"transport {user}@{DOMAIN}")
