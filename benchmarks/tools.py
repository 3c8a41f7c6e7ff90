# SPDX-License-Identifier: Apache-2.0
"""Building and running the C parts, pinning to cores, counting a process tree's CPU time."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
LOAD_CORE, SERVER_CORE, ANY_CORE = "0", "1", "0-1"


@dataclass
class Result:
    """One row of the table. `ours` and `beside` are written as they are to be read; met: None where there is
    no goal."""

    name: str
    ours: str
    beside: str
    ratio: str
    goal: str
    met: bool | None = None


def build(work: Path) -> None:
    """Compile load, floor and spin into `work`."""
    for name in ("load", "floor", "spin"):
        subprocess.run(["cc", "-O2", "-o", str(work / name), str(HERE / f"{name}.c")], check=True)


def pinned(core: str, words: Sequence[str]) -> list[str]:
    """The command, held to one core (all cores on a machine with one)."""
    return ["taskset", "-c", core, *words] if (os.cpu_count() or 1) > 1 else list(words)


def wait(what: str, condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait for a condition to become true and return it; a RuntimeError names what did not come."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.01)
    raise RuntimeError(f"{what}: not within {seconds:.0f} s")


def connects(path: Path) -> bool:
    """Whether something listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
    return True


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of a process tree so far, user and system, threads that ended included, in steps of 10 ms a process."""
    total = 0
    for one in tree(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])  # proc(5): utime, stime
    return total / os.sysconf("SC_CLK_TCK")


def stop(process: subprocess.Popen[Any]) -> None:
    """End one process of ours and wait for it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def write_frames(path: Path, frames: Iterable[bytes]) -> Path:
    """Requests for `load`, each behind its length."""
    with path.open("wb") as out:
        for frame in frames:
            out.write(struct.pack("=I", len(frame)) + frame)
    return path


def netstring(text: str) -> bytes:
    """One socketmap request frame."""
    data = text.encode()
    return b"%d:%b," % (len(data), data)


class Bench:
    """A working folder with the C parts, and how long and often to measure."""

    def __init__(self, work: Path, size: int, seconds: float, rounds: int) -> None:
        self.work = work
        self.size = size
        self.seconds = seconds
        self.rounds = rounds
        build(work)
        postfix = work / "postfix-defaults"
        postfix.mkdir()
        (postfix / "main.cf").write_text("compatibility_level = 3.6\n")
        os.environ["MAIL_CONFIG"] = str(postfix)  # the host's own, if it has one, is not read

    def load(
        self,
        target: Path,
        frames: Path,
        connections: int,
        *,
        kind: str = "netstring",
        seconds: float | None = None,
        rate: float = 0,
        offset: int = 0,
        pid: int = 0,
        core: str = LOAD_CORE,
        spins: bool = False,
    ) -> dict[str, float]:
        """Run the generator once. With `pid`, `cpu` is that process tree's CPU per answer in microseconds."""
        process = self.start_load(target, frames, connections, kind=kind, seconds=seconds, rate=rate,
                                  offset=offset, core=core, spins=spins)  # fmt: skip
        before = cpu_seconds(pid) if pid else 0.0
        out = finish(process)
        if pid:
            out["cpu"] = (cpu_seconds(pid) - before) / max(1, out["answers"]) * 1e6
        return out

    def start_load(
        self,
        target: Path,
        frames: Path,
        connections: int,
        *,
        kind: str = "netstring",
        seconds: float | None = None,
        rate: float = 0,
        offset: int = 0,
        core: str = LOAD_CORE,
        spins: bool = False,
    ) -> subprocess.Popen[str]:
        """The generator beside something else; read it with `finish`."""
        words = [
            str(self.work / "load"), str(target), kind, str(frames), str(connections),
            str(seconds or self.seconds), str(rate), str(offset),
        ]  # fmt: skip
        env = {**os.environ, "LOAD_SPINS": "1"} if spins else None
        if os.sched_getscheduler(0) == os.SCHED_RR:
            words = ["chrt", "-r", "2", *words]  # who measures waits for nobody
        return subprocess.Popen(pinned(core, words), stdout=subprocess.PIPE, text=True, env=env)

    def floor(self, reply: str, *, kind: str = "netstring") -> tuple[subprocess.Popen[bytes], Path]:
        """The constant server; end it with `stop`."""
        path = self.work / "floor.sock"
        path.unlink(missing_ok=True)
        words = [str(self.work / "floor"), str(path), kind, reply]
        process = subprocess.Popen(pinned(SERVER_CORE, words))
        wait("the floor server", lambda: connects(path))
        return process, path

    def beside_floor(
        self,
        target: Path,
        frames: Path,
        connections: int,
        pid: int,
        *,
        reply: str = "OK relay:[mx.example.net]",
        kind: str = "netstring",
        span: int = 0,
    ) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
        """Rounds of ours and the floor, taking turns. span: how many frames the file has, to begin
        anywhere."""
        process, path = self.floor(reply, kind=kind)
        ours, floor = [], []
        try:
            spins = connections > 1  # with one the generator sleeps, as an MTA does
            self.load(target, frames, connections, kind=kind, seconds=1, offset=span // 3)  # warm
            for number in range(self.rounds):
                offset = number * span // max(1, self.rounds)
                floor.append(
                    self.load(path, frames, connections, kind=kind, pid=process.pid, offset=offset, spins=spins)
                )
                ours.append(self.load(target, frames, connections, kind=kind, pid=pid, offset=offset, spins=spins))
        finally:
            stop(process)
        return ours, floor


def finish(process: subprocess.Popen[str]) -> dict[str, float]:
    """What the generator measured; a RuntimeError when it failed."""
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError("the load generator failed")
    result: dict[str, float] = json.loads(out)
    if result["errors"]:
        print(f"  {result['errors']:.0f} connections were closed by the server", file=sys.stderr)
    return result


def fastest(rounds: Sequence[dict[str, float]]) -> float:
    """The best round's rate: whatever else the machine does only takes away."""
    return max(one["rate"] for one in rounds)


def least(rounds: Sequence[dict[str, float]], key: str) -> float:
    """The best round's latency or CPU time."""
    return min(one[key] for one in rounds)
