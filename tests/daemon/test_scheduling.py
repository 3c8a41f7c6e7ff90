# SPDX-License-Identifier: Apache-2.0
"""How a worker asks for the processor."""

from __future__ import annotations

import os
import subprocess
import sys

ASK = """
import os
from policyd.worker import scheduling
before = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)
{first}
taken = scheduling.short_slices()
assert (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)) == before
print(taken, scheduling.slice_now())
"""


def _asked(first: str = "", **environment: str) -> list[str]:
    words = [sys.executable, "-c", ASK.format(first=first)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | environment)
    return done.stdout.split()


def test_short_slices_and_nothing_else() -> None:
    """The slice becomes the shortest where the kernel has such a thing; priority and policy stay what they are."""
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    taken, slice_now = _asked()
    if release >= (6, 12) and slice_now != "0":  # "0": no real Linux below (a sandbox), or its own idea of time
        assert (taken, slice_now) == ("True", "100000")


def test_where_it_cannot_be_had() -> None:
    """An unknown machine is no fault: nothing is asked for."""
    assert _asked("scheduling._CALLS = {}") == ["False", "0"]
