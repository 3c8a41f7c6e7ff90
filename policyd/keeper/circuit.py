# SPDX-License-Identifier: Apache-2.0
"""The circuit of one directory: after deadlines missed, nobody waits for it until a probe has come back. Pure."""

from __future__ import annotations

import random
from collections import deque

WINDOW = 10
MISSES = 2
"""So many of the last WINDOW deadlines missed open the circuit: one slow query is an accident."""

FIRST_PROBE, LAST_PROBE = 0.25, 5.0
"""Seconds between probes: the first after 250 ms, then ever less often, each with jitter."""


def spread(seconds: float, chance: random.Random | None = None) -> float:
    """Up to a quarter more or less, so that many hosts do not come back to one server at the same moment."""
    return seconds * (chance or random.SystemRandom()).uniform(0.75, 1.25)


class Circuit:
    """open: each question is answered "could not be asked" at once. why: for logs and `status`."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self.open = False
        self.why = ""
        self.opened = 0  # how often
        self.since = 0.0
        self._window: deque[bool] = deque(maxlen=WINDOW)
        self._wait = FIRST_PROBE
        self._chance = chance

    def answered(self) -> None:
        """A query came back in time, with whatever answer."""
        if not self.open:
            self._window.append(False)

    def missed(self, now: float, why: str) -> bool:
        """A deadline passed. True when that opens the circuit."""
        if self.open:
            return False
        self._window.append(True)
        return sum(self._window) >= MISSES and self.trip(now, why)

    def trip(self, now: float, why: str) -> bool:
        """Open it now: two things at once say that the directory hangs, or it denies its own canaries."""
        if self.open:
            return False
        self.open, self.why, self.since = True, why, now
        self.opened += 1
        self._wait = FIRST_PROBE
        return True

    def next_probe(self) -> float:
        """Seconds until the next probe."""
        wait = self._wait
        self._wait = min(LAST_PROBE, self._wait * 2)
        return spread(wait, self._chance)

    def close(self) -> None:
        """A probe came back as it should."""
        self.open = False
        self.why = ""
        self._window.clear()
