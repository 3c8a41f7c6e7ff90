# SPDX-License-Identifier: Apache-2.0
"""The "no" of a file rests on the age of its content; content from the future has no age that anybody knows."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from policyd import clock
from policyd.link import Age
from policyd.worker.knowledge import LiveKnowledge
from transport.config.load import load_text
from transport.config.settings import Settings
from transport.offline import OfflineKnowledge

HOUR = 3600.0


def settings_of(folder: Path, max_age: str, mtime: float) -> Settings:
    """One csv whose content is of that time."""
    path = folder / "there.csv"
    path.write_text("address\nann@example.com\n")
    os.utime(path, (mtime, mtime))
    return load_text(
        f'[directories.there]\ntype = "file"\npath = "{path}"\nformat = "csv"\nmax_age = "{max_age}"\n', "x"
    )


@pytest.mark.parametrize(
    ("max_age", "age", "believed"),
    [
        ("1h", 0.5 * HOUR, True),
        ("1h", 2 * HOUR, False),
        ("1h", -5.0, True),
        ("1h", -HOUR, False),
        ("0s", 0.0, False),
        ("0s", -5.0, False),
        ("0s", -HOUR, False),
    ],
)
def test_content_from_the_future_is_not_young(tmp_path: Path, max_age: str, age: float, believed: bool) -> None:
    """A clock that is wrong (of the host that exports, or set back here), or a time zone left out of `exported_at`: for
    so long nobody would notice that the export stands still, and the "no" of one that never counts would count."""
    now = time.time()
    settings = settings_of(tmp_path, max_age, now - age)
    offline = OfflineKnowledge(settings)
    assert offline.no("there", "example.com", "eve") is believed
    knowledge = LiveKnowledge(settings, tmp_path)
    knowledge.reader.loaded = lambda directory, domain="": True  # type: ignore[method-assign]
    knowledge.ages = {"there": Age(clock.now(), now - age)}
    assert knowledge.no("there", "example.com", "eve") is believed
