# SPDX-License-Identifier: Apache-2.0
"""One big site for most tests: an Exim, a daemon, recorders around them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exim.site import Site
from tests.mta.exim import missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip by name what needs an Exim, where there is none."""
    why = missing()
    here = Path(__file__).parent
    for item in items:
        if why and here in item.path.parents and "e2e" in item.keywords:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """Started once; tests use addresses and subjects of their own."""
    why = missing()
    if why:
        pytest.skip(why)
    built = Site()
    try:
        built.start()
        yield built
    finally:
        built.stop()
