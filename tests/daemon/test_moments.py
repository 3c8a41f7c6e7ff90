# SPDX-License-Identifier: Apache-2.0
"""Moments of the configuration, and a clock that is set."""

from __future__ import annotations

import asyncio

import pytest

from policyd.keeper import moments
from policyd.keeper.moments import Moments
from transport.config.settings import Settings, Wave

NOON = 1_800_000_000.0


class Clock:
    """Stands in for the module `time`."""

    now = NOON - 60

    def time(self) -> float:
        return self.now


@pytest.mark.parametrize("steps", [[30, 3600], [3600, -1800, 3600], [7200, -90, -7110]])
def test_a_clock_that_is_set_over_a_moment(monkeypatch: pytest.MonkeyPatch, steps: list[float]) -> None:
    """What rests on a moment is made anew each time that the clock passes it, forth or back, and only then."""
    clock = Clock()
    monkeypatch.setattr(moments, "time", clock)
    come: list[bool] = []

    async def live() -> None:
        watched = Moments(asyncio.get_running_loop(), lambda: come.append(clock.now >= NOON))
        watched.use(Settings(waves=(Wave("pilot", NOON, "example.com", "m365", frozenset()),)))
        expected = []
        for step in steps:
            passed = clock.now >= NOON
            clock.now += step
            if (clock.now >= NOON) is not passed:
                expected.append(not passed)
            watched.look()
            watched.look()
            assert come == expected

    asyncio.run(live())
    assert come
