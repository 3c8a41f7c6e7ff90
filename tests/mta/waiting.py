# SPDX-License-Identifier: Apache-2.0
"""Wait for something to become true, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(condition: Callable[[], T], seconds: float = 15.0, what: object = None, step: float = 0.02) -> T:
    """Poll `condition` until it is true and give its value back; AssertionError with `what` after `seconds`.

    `what` may be a function, called only when it failed: for a log's tail. step: seconds between two looks.
    """
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            text = what() if callable(what) else what
            raise AssertionError(f"not true after {seconds} s: {text or condition}")
        time.sleep(step)
