# SPDX-License-Identifier: Apache-2.0
"""What a worker holds for true: the index, what was learned live, and for how long; by a clock that a test sets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from policyd import clock
from policyd.link import Age, Live
from policyd.worker import knowledge as knowing
from policyd.worker.knowledge import LiveKnowledge
from tests.sync.conftest import World
from transport.config.settings import Wave
from transport.record import Kind, Record

D = "example.com"
ANN, AL = Record("ann", D), Record("al", D, Kind.ALIAS, targets=("ann@example.com",))


class Worker:
    """A worker's knowledge of an index in which `here` (live, fresh for 5 s) lists ann and al, `there` (a file) bob."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        world.sources["here"].records = [ANN, AL]
        world.sources["there"].records = [Record("bob", D)]
        world.sync("here")
        world.sync("there")
        self.now = 1000.0
        monkeypatch.setattr(clock, "now", lambda: self.now)
        self.world = world
        self.knowledge = LiveKnowledge(world.settings, world.state)
        self.knowledge.keeper = True
        self.knowledge.renew()

    def read(self, at: float | None, *, closed: bool = False, content: float | None = None) -> None:
        """Both directories were read then."""
        self.knowledge.ages = {name: Age(at, content, closed) for name in ("here", "there")}

    def no(self, directory: str = "here", local: str = "zed") -> bool | None:
        return self.knowledge.no(directory, D, local)

    def learn(
        self, local: str, *records: Record, asked: float = 1000.0, lasts: float = 5.0, name: str = "here"
    ) -> None:
        self.knowledge.learn((name, local, D), Live(records, asked, asked + lasts))

    def rows(self, local: str) -> list[tuple[str, bool]]:
        """Who lists it: (directory, whether that was learned live)."""
        return [(row.directory, row.live) for row in self.knowledge.rows(D, local)]


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    world = World(tmp_path)
    made = Worker(world, monkeypatch)
    yield made
    made.knowledge.reader.close()
    world.close()


def test_a_no_is_as_old_as_its_reading(worker: Worker) -> None:
    """Believed for `fresh_for` after the directory was read, then asked; never believed of one whose circuit is open,
    that was never read, or that the index does not hold."""
    assert worker.no() is None
    worker.read(995.1)
    assert worker.no() is True
    worker.read(995.0)
    assert worker.no() is None
    worker.knowledge.keeper = False
    assert worker.no() is False
    worker.read(999.0)
    assert worker.no() is True, "the keeper is gone, what it told is fresh all the same"
    worker.read(999.0, closed=True)
    assert worker.no() is False
    worker.knowledge.keeper = True
    worker.read(None)
    assert worker.no() is None
    worker.read(999.0)
    worker.world.change("here", fingerprint=b"changed.........")
    worker.knowledge.configure(worker.world.settings)
    assert worker.no() is None


def test_a_files_no_is_as_old_as_its_content(worker: Worker) -> None:
    """It counts for `max_age` after what the file holds was written, once it was read, and is never asked for."""
    assert worker.no("there") is False
    worker.read(None)
    assert worker.no("there") is False, "not read since the start"
    worker.read(1.0)
    assert worker.no("there") is True, "without max_age it does not grow old"
    for max_age, written, counts in ((0.0, 2.0, False), (3600.0, None, False), (1e12, 2.0, True), (60.0, 2.0, False)):
        worker.world.change("there", max_age=max_age)
        worker.knowledge.settings = worker.world.settings
        worker.read(1.0, content=written)
        assert worker.no("there") is counts
    worker.world.change("there", max_age=None, fingerprint=b"changed.........")
    worker.knowledge.configure(worker.world.settings)
    assert worker.no("there") is False


def test_what_was_learned_outranks_the_index(worker: Worker) -> None:
    """Of the same directory alone: a live yes is the row, a live no takes it away; a failure is neither."""
    assert (worker.rows("ann"), worker.rows("bob")) == ([("here", False)], [("there", False)])
    worker.learn("ann", Record("ann", D, location="cloud"))
    assert worker.rows("ann") == [("here", True)]
    assert [row.location for row in worker.knowledge.rows(D, "ann")] == ["cloud"]
    worker.learn("bob")
    assert worker.rows("bob") == [("there", False)]
    worker.learn("al")
    assert worker.rows("al") == []
    worker.knowledge.learn(("here", "ann", D), Live(None, 1000.0, 1005.0))
    assert worker.rows("ann") == [("here", False)]
    assert worker.no(local="ann") is False


def test_what_was_read_later_outranks_what_was_learned(worker: Worker) -> None:
    """An answer counts until its end, and no longer than until a reading that began after it was asked for."""
    for read, now, counts in (
        (999.0, 1004.9, True),
        (1000.0, 1004.9, True),
        (1000.1, 1004.9, False),
        (999.0, 1005.0, False),
    ):
        worker.now = 1000.0
        worker.knowledge.forget(None, None)
        worker.learn("ann")
        worker.read(read)
        worker.now = now
        assert worker.rows("ann") == ([] if counts else [("here", False)])


def test_targets_are_those_of_the_row(worker: Worker) -> None:
    """An alias that was learned live has the targets that were learned, any other those of the index."""
    assert list(worker.knowledge.targets(D, "al", "here")) == ["ann@example.com"]
    worker.learn("al", AL._replace(targets=("eve@example.com",)))
    assert list(worker.knowledge.targets(D, "al", "here")) == ["eve@example.com"]
    assert list(worker.knowledge.targets(D, "al", "there")) == []
    worker.now += 5
    assert list(worker.knowledge.targets(D, "al", "here")) == ["ann@example.com"]


def test_what_a_request_was_told_counts_for_it(worker: Worker) -> None:
    """However late it goes on, and for that very address alone."""
    other = ("here", "zed", "two.example")
    worker.knowledge.overlay = {("here", "zed", D): Live((), 1.0, 2.0), other: Live((Record(*other[1:]),), 1.0, 2.0)}
    worker.read(999.0, closed=True)
    assert (worker.no(), worker.no(local="eve")) == (True, False)
    assert (worker.rows("zed"), worker.rows("ann")) == ([], [("here", False)])
    worker.knowledge.overlay = {("here", "zed", D): Live((Record("zed", D),), 1.0, 2.0)}
    assert worker.rows("zed") == [("here", True)]


def test_answers_of_a_flush_last_until_a_newer_one(worker: Worker) -> None:
    """They stand beside those that soon end, are told to new workers, and give way to what is asked later."""
    person = (("ann", D), ("ann2", D))
    worker.knowledge.learn(("here", "ann", D), Live((ANN,), 1000.0, 1600.0, person))
    worker.learn("zed", lasts=600.0)
    assert [told[:3] for told in worker.knowledge.lasting()] == [("here", "ann", D), ("here", "zed", D)]
    worker.now = 1300.0
    worker.knowledge.expire()
    worker.knowledge.expire()
    assert [row.beside for row in worker.knowledge.rows(D, "ann")] == [person]
    assert worker.no() is True
    worker.learn("zed", Record("zed", D), asked=1300.0)
    assert worker.rows("zed") == [("here", True)]
    assert [told[1] for told in worker.knowledge.lasting()] == ["ann"]
    worker.now = 1600.0
    worker.knowledge.expire()
    assert worker.knowledge.lasting() == []
    assert worker.rows("ann") == [("here", False)]


def test_forgetting_one_is_forgetting_nobody_else(worker: Worker) -> None:
    """An address, a domain, or all."""
    worker.learn("ann", lasts=600.0)
    for local in ("zed", "eve"):
        worker.learn(local, Record(local, D))
    worker.knowledge.learn(("here", "zed", "two.example"), Live((), 1000.0, 1005.0))
    worker.knowledge.forget("zed", D)
    assert (worker.rows("zed"), worker.rows("eve"), worker.rows("ann")) == ([], [("here", True)], [])
    assert worker.knowledge.no("here", "two.example", "zed") is True
    worker.knowledge.forget(None, D)
    assert (worker.rows("eve"), worker.rows("ann")) == ([], [("here", False)])
    assert worker.knowledge.no("here", "two.example", "zed") is True
    worker.knowledge.forget(None, None)
    assert worker.knowledge.no("here", "two.example", "zed") is None


def test_what_is_learned_is_bounded(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest are known, the oldest are forgotten, whether they last or not."""
    monkeypatch.setattr(knowing, "_LIVE", 3)
    for number in range(10):
        worker.learn(f"short{number}", Record(f"short{number}", D))
        worker.learn(f"long{number}", Record(f"long{number}", D), lasts=600.0)
        worker.knowledge.loop_seen(f"loop{number}", D, 1000.0)
    for kind in ("short", "long"):
        known = [bool(worker.rows(f"{kind}{number}")) for number in range(10)]
        assert known[-3:] == [True] * 3
        assert 3 <= sum(known) <= 6
    assert len(worker.knowledge.loops) <= 3
    assert worker.knowledge.loop_first_seen("loop9", D) is not None


def test_a_loop_is_remembered_for_a_day(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock that nobody sets, told in unix time."""
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
    worker.knowledge.loop_seen("ann", D, 400.0)
    assert worker.knowledge.loop_first_seen("ann", D) == 1_800_000_000.0 - 600
    assert worker.knowledge.loop_first_seen("bob", D) is None
    worker.now = 400.0 + 86_400
    assert worker.knowledge.loop_first_seen("ann", D) is None
    worker.now = 399.0
    assert worker.knowledge.loop_first_seen("ann", D) is None


def test_entries_are_read_where_waves_need_them(worker: Worker) -> None:
    """All addresses of a person, by the entry that the index names."""
    worker.world.sources["here"].records = [Record(local, D, entry=b"1") for local in ("ann", "ann2")]
    worker.world.sync()
    waves = replace(worker.world.settings, waves=(Wave("w", 0.0, D, "cloud", frozenset()),))
    for settings, found in ((worker.world.settings, False), (waves, True)):
        worker.knowledge.configure(settings)
        worker.knowledge.renew(at_once=True)
        (row,) = worker.knowledge.rows(D, "ann")
        assert (row.entry is not None) == found
        if row.entry is not None:
            assert set(worker.knowledge.same_entry("here", row.entry)) == {("ann", D), ("ann2", D)}
            assert worker.knowledge.same_entry("there", row.entry) == ()
