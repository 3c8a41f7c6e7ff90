# SPDX-License-Identifier: Apache-2.0
"""Plain integers that a worker counts and sends to the keeper once a second, as what was added since."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds in seconds of the latency histogram; one more bucket stands for what took longer.

An answer out of the cache is counted in the first bucket without looking at a clock: it is made in the same call
that read the request, in a few microseconds.
"""


class Counts(NamedTuple):
    """What was added since the last time.

    decisions: (map, domain, verdict) to number; map is "policy" or "exim" for those.
    cached: how many of them came out of the cache. latency: per bucket. seconds: their sum, cached ones as 0.
    faults: kind to number. connections: open now. waiting: requests that wait for a live answer now.
    """

    decisions: dict[tuple[str, str, str], int]
    cached: int
    latency: list[int]
    seconds: float
    faults: dict[str, int]
    connections: int
    waiting: int
    accepted: int
    rss: int


class Counters:
    """The worker's own counters. A cell is a list of one integer that a cached reply keeps beside itself."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str, str], list[int]] = {}
        self.computed = 0
        self.latency = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.faults: dict[str, int] = {}
        self.accepted = 0

    def cell(self, map_name: str, domain: str, verdict: str) -> list[int]:
        """The counter for this kind of decision."""
        key = (map_name, domain, verdict)
        cell = self.cells.get(key)
        if cell is None:
            cell = self.cells[key] = [0]
        return cell

    def took(self, seconds: float) -> None:
        """One answer that was not cached took so long."""
        self.computed += 1
        self.seconds += seconds
        for at, bound in enumerate(BUCKETS):
            if seconds <= bound:
                self.latency[at] += 1
                return
        self.latency[-1] += 1

    def fault(self, kind: str) -> None:
        """Something of ours went wrong."""
        self.faults[kind] = self.faults.get(kind, 0) + 1

    def take(self, connections: int, waiting: int) -> Counts:
        """What was added since the last call; everything begins at zero again."""
        decisions = {}
        for key, cell in self.cells.items():
            if cell[0]:
                decisions[key] = cell[0]
                cell[0] = 0
        cached = max(0, sum(decisions.values()) - self.computed)
        self.latency[0] += cached
        counts = Counts(
            decisions, cached, self.latency, self.seconds, self.faults, connections, waiting, self.accepted, resident()
        )
        self.computed = 0
        self.latency = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.faults = {}
        self.accepted = 0
        return counts


_STATM = Path("/proc/self/statm")


def resident() -> int:
    """Resident memory of this process in bytes (proc(5), statm), 0 where there is no /proc."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
