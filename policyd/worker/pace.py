# SPDX-License-Identifier: Apache-2.0
"""Strangers give way: how live look-ups are spread while recipients who need none are asked about as well.

Unspread, a hundred clients that ask for invented recipients keep worker, keeper and directory busy all the time, and
whoever is listed waits for a core. Spread, the keeper asks few large questions with idle time between them.
"""

from __future__ import annotations

import time

INTERVAL = 0.002
"""Seconds between two messages to the keeper at least, while others are asked about."""

TURN = 0.001
"""Seconds between two handfuls of live answers, while others are asked about."""

LEAST = 2
"""Addresses of one message at least: 1,000 a second."""

_PART = 50  # of what waits, a fiftieth goes at once: of 1,000 that wait the last one goes within 0.4 s
_HANDFUL, _HANDFULS = 1, 10  # answers handed out at once: one, or a tenth of what is there
_LINGER = 0.1  # seconds since somebody was answered at once, until strangers have the worker for themselves


class Pace:
    """Whether strangers give way now, and how many go on at once.

    at_once: holds one number, raised elsewhere with each request that was answered in the call that read it.
    """

    __slots__ = ("_counted", "_until", "at_once")

    def __init__(self) -> None:
        self.at_once = [0]
        self._counted = 0
        self._until = 0.0

    def give_way(self) -> bool:
        """Whether somebody who needs no live look-up was answered a moment ago."""
        now = time.monotonic()
        if self.at_once[0] != self._counted:
            self._counted = self.at_once[0]
            self._until = now + _LINGER
        return now < self._until

    @staticmethod
    def questions(waiting: int) -> int:
        """How many of so many addresses go into one message."""
        return max(LEAST, waiting // _PART)

    @staticmethod
    def answers(waiting: int) -> int:
        """How many of so many requests go on in one turn."""
        return max(_HANDFUL, waiting // _HANDFULS)
