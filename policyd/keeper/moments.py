# SPDX-License-Identifier: Apache-2.0
"""Moments of the configuration at which answers change by themselves: a wave's, the end of a dual delivery."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from policyd import log
from transport.config.settings import Settings

_LONGEST = 600.0  # seconds until the clock is looked at again: it may have been set


class Moments:
    """Calls `come` when a moment of the settings has come."""

    def __init__(self, loop: asyncio.AbstractEventLoop, come: Callable[[], object]) -> None:
        self.loop = loop
        self.come = come
        self._moments: list[float] = []  # unix times
        self._timer: asyncio.TimerHandle | None = None

    def use(self, settings: Settings) -> None:
        """Follow these settings."""
        self._moments = [wave.at for wave in settings.waves]
        self._moments += [one.delivery_until for one in settings.domains.values() if one.delivery_until is not None]
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.time()
        moment = min((one for one in self._moments if one > now), default=None)
        if moment is not None:
            self._timer = self.loop.call_later(min(_LONGEST, max(0.05, moment - now + 0.05)), self._look, moment)

    def _look(self, moment: float) -> None:
        self._schedule()
        if time.time() >= moment:
            log.say(log.INFO, "a moment of the configuration has come", moment=int(moment))
            self.come()
