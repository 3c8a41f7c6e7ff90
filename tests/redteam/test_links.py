# SPDX-License-Identifier: Apache-2.0
"""Links that the daemon's user leaves in its state directory, and a command that root runs there."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from pathlib import Path

import pytest

from policyd import sockets
from policyd.cli import index
from policyd.keeper import files
from policyd.keeper.observe import Observations
from transport.index.faults import IndexFault
from transport.index.writer import Writer

NOBODY = 65534
TEXT = "root's own\n"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory, beside it a file of root's."""
    (tmp_path / "precious").write_text(TEXT)
    (tmp_path / "precious").chmod(0o644)
    made = tmp_path / "state"
    made.mkdir()
    return made


def _untouched(state: Path) -> None:
    file = state.parent / "precious"
    status = file.stat()
    assert (file.read_text(), status.st_mode & 0o777, status.st_uid) == (TEXT, 0o644, os.geteuid())


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_nothing_is_given_away_through_a_link(state: Path) -> None:
    """`build`, `audit` and others give the index they made to the daemon's user: no file of root's elsewhere."""
    (state / "index-of-mine").symlink_to("../precious")
    (state / "index.sqlite").write_text("")
    shutil.chown(state, NOBODY, NOBODY)
    index._give_back(state)
    _untouched(state)
    assert (state / "index.sqlite").stat().st_uid == NOBODY


def test_the_daemons_lock_is_no_link(state: Path) -> None:
    """The lock file is emptied and gets a number: a file elsewhere would be lost."""
    (state / "lock").symlink_to("../precious")
    with pytest.raises(OSError, match="symbolic link"):
        sockets.take_lock(state)
    _untouched(state)


def test_the_indexs_lock_is_no_link(state: Path) -> None:
    """Nor is a file made where a link points to (/etc/nologin would keep everybody out)."""
    (state / "index.lock").symlink_to("../made")
    with pytest.raises(IndexFault):
        Writer(state)
    assert not (state.parent / "made").exists()


def test_what_is_remembered_is_written_through_no_link(state: Path) -> None:
    (state / ".loops.json.new").symlink_to("../precious")
    assert not files.replace(state / "loops.json", "{}")
    _untouched(state)


@pytest.mark.parametrize("put", ["link", "fifo"])
def test_observed_decisions_are_written_into_no_other_file(state: Path, put: str) -> None:
    """Nothing is added to a file elsewhere, and a FIFO that nobody reads holds up no thread: they count as dropped."""
    day = state / "observe" / time.strftime("%Y-%m-%d.jsonl", time.gmtime())
    day.parent.mkdir()
    if put == "link":
        day.symlink_to("../../precious")
    else:
        os.mkfifo(day)

    async def life() -> Observations:
        observations = Observations(state)
        observations.add([{"recipient": "ann@example.com"}])
        await observations.finish(5)
        return observations

    observations = asyncio.run(life())
    assert (observations.written, observations.dropped) == (0, 1)
    _untouched(state)
