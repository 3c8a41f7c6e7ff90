# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the daemon's tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.site import Site
from tests.mta.places import new_folder


@pytest.fixture
def sites() -> Iterator[Callable[..., Site]]:
    """Makes sites; all are stopped at the end."""
    made: list[Site] = []
    folders: list[Path] = []

    def make(*people: str, **options: Any) -> Site:
        folder = new_folder("d")
        folders.append(folder)
        made.append(Site(folder, *people, **options))
        return made[-1]

    yield make
    for site in made:
        site.stop()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def site(sites: Callable[..., Site]) -> Site:
    """A running daemon with one worker: ann and the alias sales are listed in example.com."""
    made = sites("ann@example.com")
    made.add("sales@example.com", "alias", "ann@example.com, out@example.net")
    return made.start()
