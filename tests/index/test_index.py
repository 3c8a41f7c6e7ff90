# SPDX-License-Identifier: Apache-2.0
"""The index file: what stands in it, who may write it, and what a reader sees of changes."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sync.conftest import ListSource, World, people
from transport.index import schema
from transport.index import writer as writing
from transport.index.faults import IndexBusy, IndexFault
from transport.index.reader import Reader
from transport.index.writer import Writer
from transport.record import Kind, Record, Row
from transport.sync import compare


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.sources["here"].records = people(50)
    made.sync()
    yield made
    made.close()


def test_second_writer_is_refused(world: World) -> None:
    """One process writes an index; a second one is told so and changes nothing."""
    with pytest.raises(IndexBusy):
        Writer(world.state)
    assert world.writer.check(deep=True) == ""


def test_warm_start(world: World) -> None:
    """What was loaded is there after a restart, without a word."""
    world.writer.close()
    world.writer = Writer(world.state)
    assert world.writer.said == ""
    world.reader.renew()
    assert world.reader.loaded("here")
    assert world.sync().unchanged == 50


def test_reader_holds_one_state(world: World) -> None:
    """Between two renewals a reader sees one state, whatever is written; then it is told of the change once."""
    assert not world.reader.renew()
    here = world.settings.directories["here"]
    compare(world.writer, here, ListSource([*people(45), Record("new", "example.com")]), world.settings)
    assert world.reader.rows("example.com", "user00049")
    assert world.reader.rows("example.com", "new") == ()
    assert world.reader.renew()
    assert world.reader.rows("example.com", "user00049") == ()
    assert world.reader.rows("example.com", "new")
    assert not world.reader.renew()


def test_row_without_entries_is_shared(world: World) -> None:
    """Addresses in the same situation share their row, which costs a reader nothing."""
    assert world.reader.rows("example.com", "user00001") is world.reader.rows("example.com", "user00002")
    assert world.reader.rows("example.com", "user00001") == (Row("here", Kind.MAILBOX, True, None, 0),)


@pytest.mark.parametrize("local", ["", "a\x00b", "\udcff", "x" * 5000, "user00001\n", "ÜSER"])
def test_hopeless_keys_are_listed_nowhere(world: World, local: str) -> None:
    """Whatever the key, an answer: nobody."""
    assert world.reader.rows("example.com", local) == ()
    assert world.reader.targets("example.com", local, "here") == ()
    assert world.reader.loaded("here")


def test_settings_and_waves_make_generations(world: World) -> None:
    """A new digest and a wave's moment are a new generation, the same digest is not; dropped directories go."""
    assert world.writer.settings(b"one")
    assert not world.writer.settings(b"one")
    before = world.writer.generation()
    assert world.writer.new_generation() == before + 1
    world.writer.settings(b"two", ["there"])
    world.reader.renew()
    assert not world.reader.loaded("here")
    assert world.reader.directories() == ()


def test_log_stays_bounded_under_a_held_snapshot(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that hold a snapshot let the log grow; it is written back when it is large, while they renew."""
    source, here = world.sources["here"], world.settings.directories["here"]
    ended = threading.Event()

    def read() -> None:
        other = Reader(world.state)
        while not ended.wait(0.02):
            other.renew()
        other.close()

    monkeypatch.setattr(writing, "CHECKPOINT_AT", 1_000_000)
    world.reader.close()
    thread = threading.Thread(target=read)
    thread.start()
    try:
        largest = 0
        for n in range(30):
            source.records = people(6000, location="onprem" if n % 2 else "store2")
            assert compare(world.writer, here, source, world.settings).good
            largest = max(largest, world.writer.wal_size())
        assert 500_000 < largest < 3_000_000
        assert any(world.writer.checkpoint(always=True) for _ in range(20))
        assert world.writer.wal_size() == 0
    finally:
        ended.set()
        thread.join()


def test_reader_in_the_way_of_a_checkpoint(world: World) -> None:
    """A reader that does not renew delays the writing back, and neither fails."""
    other = Reader(world.state)
    other.use({"here": world.settings.directories["here"].fingerprint})
    other.renew()
    world.sources["here"].records = people(49)
    world.sync()
    assert not world.writer.checkpoint(always=True)
    assert world.writer.check() == ""
    assert other.rows("example.com", "user00049")
    # The first round writes everything back, the second finds nobody reading from the log any more.
    for _ in range(2):
        other.renew()
        world.reader.renew()
        done = world.writer.checkpoint(always=True)
    assert done
    assert world.writer.check() == ""
    other.close()


def test_sizes_of_a_row(world: World) -> None:
    """A plain mailbox costs about thirty bytes on disk."""
    world.sources["here"].records = people(20_000)
    world.sync(accept=())
    world.writer.checkpoint(always=True)
    assert world.writer.path.stat().st_size < 20_000 * 45


def test_a_path_with_odd_characters(tmp_path: Path) -> None:
    """A state directory may be called anything."""
    state = tmp_path / "a %20?b#c é"
    state.mkdir()
    writer = Writer(state)
    reader = Reader(state)
    assert reader.renew()
    assert reader.reason == ""
    reader.close()
    writer.close()
    assert (state / schema.FILE).exists()


def test_state_that_cannot_be_written(tmp_path: Path) -> None:
    """A missing state directory is said with what to do, not raised as a traceback."""
    with pytest.raises(IndexFault) as fault:
        Writer(tmp_path / "missing")
    assert "daemon.state" in fault.value.hint


def test_index_is_private_by_umask_of_others(world: World) -> None:
    """The lock is nobody else's business."""
    assert os.stat(world.state / "index.lock").st_mode & 0o077 == 0


def test_audit_is_a_join(world: World) -> None:
    """Who stands on both sides is one query over the index."""
    world.sources["there"].records = people(7)
    world.sync("there")
    with sqlite3.connect(f"file:{world.writer.path}?mode=ro", uri=True) as connection:
        found = connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM recipient GROUP BY domain, local HAVING count(*) > 1)"
        ).fetchone()
    connection.close()
    assert found == (7,)
