# SPDX-License-Identifier: Apache-2.0
"""A daemon with two workers under a steady load for an hour, its directories changing, its settings reloaded.

Fails on any wrong answer, on a process that was replaced, and when memory, descriptors or threads drift after the
warm-up. Ends with a table.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from pathlib import Path

from tests.soak.load import Load, fill
from tests.soak.sampling import HEAD, Process
from tests.soak.site import SoakSite

_EVERY = 5.0  # seconds between samples


def main() -> int:
    """Exit code 0 when nothing was wrong and nothing drifted."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="how long (default 60)")
    parser.add_argument("--rate", type=float, default=200, help="questions a second (default 200)")
    parser.add_argument("--changes", type=float, default=2, help="changes of people a second (default 2)")
    parser.add_argument("--reload", type=float, default=30, help="seconds between two reloads (default 30)")
    parser.add_argument("--fill", type=int, default=60_000, help="strangers of each domain asked first (default 60000)")
    parser.add_argument("--nice", type=int, default=0, help="priority of everything, on a machine that is not idle")
    parser.add_argument("--workers", type=int, default=2, help="workers (default 2)")
    args = parser.parse_args()
    os.nice(args.nice)
    site = SoakSite(args.workers)
    try:
        return soak(site, args)
    finally:
        site.close()


def soak(site: SoakSite, args: argparse.Namespace) -> int:
    """The run itself."""
    site.start()
    if args.nice:
        for pid in (os.getpid(), site.splitmx.pid, site.slapd.process.pid):
            Path(f"/proc/{pid}/autogroup").write_text(str(args.nice))  # sched(7): nice counts within a session
    begun = time.monotonic()
    processes = _processes(site)
    for process in processes:
        process.take(0)
    for domain in ("example.com", "example.org") if args.fill else ():
        fill(site.map, domain, args.fill)
    print(f"filled in {time.monotonic() - begun:.0f} s", flush=True)
    begun = time.monotonic()
    stalls = Stalls()
    load = Load(site, args.rate)
    seconds = args.minutes * 60
    warm = min(300.0, seconds / 4)
    wrong: list[str] = []
    stop = threading.Event()
    changing = threading.Thread(target=_change, args=(site, args.changes, stop, wrong), daemon=True)
    changing.start()
    reloads = 0
    while (now := time.monotonic() - begun) < seconds:
        for process in processes:
            try:
                process.take(now)
            except OSError:
                wrong.append(
                    f"{process.name} was replaced after {now:.0f} s; this machine stalled {stalls.longest:.1f} s"
                )
        if any("was replaced" in line for line in wrong):
            break
        if args.reload and now // args.reload > reloads:
            site.change_settings()
            reloads += 1
        if int(now) % 60 < _EVERY:
            _tell(now, processes, load)
        time.sleep(_EVERY)
    stop.set()
    changing.join()
    load.end()
    print(f"\nlongest stall of this machine: {stalls.longest:.2f} s", end="")
    return _judge(site, processes, load, wrong, warm, reloads)


def _change(site: SoakSite, rate: float, stop: threading.Event, wrong: list[str]) -> None:
    try:
        while not stop.wait(1 / rate):
            site.change()
    except Exception as error:
        wrong.append(f"people cannot be changed any more: {error!r}")


def _tell(now: float, processes: list[Process], load: Load) -> None:
    memory = ", ".join(f"{one.name} {one.samples[-1][1]:.1f}" for one in processes)
    print(f"{now / 60:5.1f} min: {sum(load.asked.values())} asked, {sum(load.temps.values())} put off,"
          f" {len(load.wrong)} wrong; MB: {memory}", flush=True)  # fmt: skip


def _judge(site: SoakSite, processes: list[Process], load: Load, wrong: list[str], warm: float, reloads: int) -> int:
    status = site.status()
    wrong += load.wrong
    log = site.log()
    for word in (" error ", "fault in", "Traceback"):
        lines = [line for line in log.splitlines() if word in line]
        wrong += [f"the log: {line}" for line in lines[:5]]
    if status["held"]:
        wrong.append(f"held: {status['held']}")
    drifts = [line for process in processes for line in process.drift(warm)]
    asked = ", ".join(f"{number} {face}" for face, number in sorted(load.asked.items()))
    print(f"\nasked: {asked}; put off {sum(load.temps.values())}; slowest {load.slowest:.2f} s; {reloads} reloads;"
          f" generation {status['index']['generation']}; index {status['index']['bytes'] / 1e6:.1f} MB")  # fmt: skip
    for name, one in status["directories"].items():
        print(f"directory {name}: readings {one['readings']}, queries {one['queries']}")
    print(f"\n{HEAD}")
    for process in processes:
        print(process.row(warm))
    print()
    for line in (*wrong[:50], *drifts):
        print(f"WRONG {line}")
    if wrong:
        print(f"the log's end:\n{site.splitmx.tail(40)}")
    print(f"{len(wrong)} wrong, {len(drifts)} drifts")
    return 1 if wrong or drifts else 0


def _processes(site: SoakSite) -> list[Process]:
    found = [Process("supervisor", site.splitmx.process.pid)] if site.splitmx.process is not None else []
    found += [Process("keeper", pid) for pid in site.pids("keeper")]
    return found + [Process(f"worker {number}", pid) for number, pid in enumerate(site.pids("worker"), 1)]


class Stalls(threading.Thread):
    """How long this machine let a thread that wanted to run wait, at most: more than 3 s gets a worker killed."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.longest = 0.0
        self.start()

    def run(self) -> None:
        """For ever."""
        while True:
            begun = time.monotonic()
            time.sleep(0.1)
            self.longest = max(self.longest, time.monotonic() - begun - 0.1)


if __name__ == "__main__":
    sys.exit(main())
