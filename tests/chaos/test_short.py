# SPDX-License-Identifier: Apache-2.0
"""The short form of the drills: nothing lost, misrouted, wrongly rejected or duplicated; foreign mail never waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.chaos.drills import DRILLS, Drill
from tests.chaos.more import MORE
from tests.chaos.run import run
from tests.chaos.site import ChaosSite

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def site() -> Iterator[ChaosSite]:
    """One site for all drills."""
    todo: list[Callable[[], object]] = []
    try:
        yield ChaosSite(todo.append).install_all()
    finally:
        for action in reversed(todo):
            action()


@pytest.mark.parametrize("drill", [d for d in (*DRILLS, *MORE) if d.short], ids=lambda d: d.name)
def test_drill(site: ChaosSite, drill: Drill) -> None:
    """Whatever breaks, every mail ends where it belongs, once."""
    report = run(site, drill)
    assert report.wrong == [], report.line() + "\n" + site.splitmx.tail(30)
