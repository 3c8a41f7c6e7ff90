# SPDX-License-Identifier: Apache-2.0
"""Moments of the configuration at which answers change by themselves: a wave's, the end of a dual delivery."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from policyd import log
from transport.config.settings import Settings

_LONGEST = 600.0  # seconds that one timer waits


class Moments:
    """Calls `come` when a moment of the settings has come, or when the clock was set over one, forth or back. Call
    `look` each second."""

    def __init__(self, loop: asyncio.AbstractEventLoop, come: Callable[[], object]) -> None:
        self.loop = loop
        self.come = come
        self._moments: list[float] = []  # unix times
        self._timer: asyncio.TimerHandle | None = None
        self._seen = time.time()  # up to which moments have come

    def use(self, settings: Settings) -> None:
        """Follow these settings."""
        self._moments = [wave.at for wave in settings.waves]
        self._moments += [one.delivery_until for one in settings.domains.values() if one.delivery_until is not None]
        self._seen = time.time()
        self._schedule()

    def look(self) -> None:
        """See where the clock stands."""
        before, self._seen = self._seen, time.time()
        first, last = sorted((before, self._seen))
        if any(first < moment <= last for moment in self._moments):
            self._schedule()
            back = self._seen < before
            log.say(log.WARNING if back else log.INFO, "the clock was set back over a moment of the configuration"
                    if back else "a moment of the configuration has come")  # fmt: skip
            self.come()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.time()
        moment = min((one for one in self._moments if one > now), default=None)
        if moment is not None:
            self._timer = self.loop.call_later(min(_LONGEST, max(0.05, moment - now + 0.05)), self._due)

    def _due(self) -> None:
        self._schedule()
        self.look()
