# SPDX-License-Identifier: Apache-2.0
"""The clock by which what was read of a directory grows old.

CLOCK_MONOTONIC stands still while a machine is suspended: a "no" of the evening would count in the morning. Patience
with processes, clients and queries stays on CLOCK_MONOTONIC: nobody was silent while nobody ran.
"""

from __future__ import annotations

import time
from functools import partial

_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)

now = time.monotonic if _BOOTTIME is None else partial(time.clock_gettime, _BOOTTIME)
"""Seconds since the start of the system, those in which it was suspended too; one clock for all processes
(clock_gettime(2), CLOCK_BOOTTIME)."""


class Sleep:
    """Notices that the machine was suspended."""

    def __init__(self) -> None:
        self._asleep = now() - time.monotonic()

    def ended(self) -> float:
        """Seconds that it was suspended since the last call; 0.0 when it was not."""
        before, self._asleep = self._asleep, now() - time.monotonic()
        slept = self._asleep - before
        return slept if slept > _NOTICED else 0.0


_NOTICED = 1.0  # seconds; less is the moment between two readings of two clocks
