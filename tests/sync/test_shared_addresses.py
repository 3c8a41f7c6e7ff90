# SPDX-License-Identifier: Apache-2.0
"""Addresses that several entries list: a feed that tells of some of them brings what a compare would."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from transport.directories.base import Changes
from transport.directories.reading import merge
from transport.record import Kind, Record
from transport.sync.feeds import apply_changes

from .conftest import World, people

NAMES = [f"n{number}" for number in range(6)]


class Tree:
    """A few entries that share a few addresses, and change at random."""

    def __init__(self, seed: int, world: World) -> None:
        self.chosen = random.Random(seed)
        self.source = world.sources["here"]
        self.source.cookie = b"c"
        self.others = people(10, entries=True)
        self.entries = {b"e%d" % number: self.entry(b"e%d" % number) for number in range(4)}
        self.publish()

    def entry(self, key: bytes) -> list[Record]:
        chosen = self.chosen
        active, locals_ = chosen.random() < 0.8, chosen.sample(NAMES, chosen.choice([1, 1, 2, 3]))
        return [Record(local, "example.com", active=active, entry=key) for local in locals_]

    def publish(self) -> None:
        records = [record for entry in self.entries.values() for record in entry]
        self.chosen.shuffle(records)  # a server promises no order
        self.source.records = self.others + records

    def people(self) -> set[tuple[str, int]]:
        """Each address, and whether it is active."""
        return {(record.local, int(record.active)) for record in merge(self.source.records)}

    def change(self, step: int) -> Changes:
        """One or two entries come, change or go; told as deletes, or by who is present."""
        told: dict[bytes, list[Record]] = {}
        gone = []
        for key in self.chosen.sample([b"e%d" % number for number in range(7)], self.chosen.choice([1, 1, 2])):
            if key in self.entries and self.chosen.random() < 0.4:
                del self.entries[key]
                gone.append(key)
            else:
                told[key] = self.entries[key] = self.entry(key)
        self.publish()
        cookie = b"c%d" % step
        if self.chosen.random() < 0.3:
            present = frozenset(self.entries) | {record.entry for record in self.others if record.entry}
            return Changes(list(told.items()), (), cookie, present=present)
        return Changes(list(told.items()), gone, cookie)


def contents(world: World) -> set[tuple[str, int]]:
    with world.writer.change() as connection:
        return set(connection.execute("SELECT local, active FROM recipient"))


def test_what_one_of_three_said_goes_with_it(world: World) -> None:
    """Whichever of them the index's row names: a server promises no order, and an answer may name another one."""
    source = world.sources["here"]
    source.cookie = b"c1"
    three = [Record("ann", "example.com", active=key == b"1", entry=key) for key in (b"1", b"2", b"3")]
    source.records = people(10, entries=True) + three
    world.sync()
    for cookie, (left, gone) in enumerate([(three[1::-1], b"3"), (three[1:2], b"1")]):
        source.records = people(10, entries=True) + left
        source.next = Changes([], [gone], b"c2%d" % cookie)
        report = apply_changes(world.writer, world.settings.directories["here"], source, world.settings)
        assert report is not None
        assert report.good, report.line()
        assert ("ann", int(left[-1].entry == b"1")) in contents(world)


@pytest.mark.parametrize("first", range(0, 8, 4))
def test_a_feed_brings_what_a_compare_would(world: World, first: int) -> None:
    """Whoever of them is told of, in whatever order: what one that is gone said of the address goes with it."""
    world.change("here", shrink_floor=1000, max_moved=1.0)
    for seed in range(first, first + 4):
        tree = Tree(seed, world)
        world.sync(accept=())
        for step in range(25):
            tree.source.next = tree.change(step)
            report = None
            if tree.chosen.random() < 0.85:
                report = apply_changes(world.writer, world.settings.directories["here"], tree.source, world.settings)
                assert report is not None
                assert report.good, report.line()
            if report is None or report.full_needed:
                world.sync()
            assert contents(world) == tree.people(), (seed, step)


def test_who_is_present_is_not_read_into_memory(world: World) -> None:
    """A directory of millions names everybody who is present; that the index knows them takes no memory twice."""
    source = world.sources["here"]
    source.cookie = b"c1"
    source.records = people(20_000, entries=True)
    world.sync()
    present = frozenset(record.entry for record in source.records if record.entry)
    source.next = Changes([], (), b"c2", present=present)
    tracemalloc.start()
    try:
        report = apply_changes(world.writer, world.settings.directories["here"], source, world.settings)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report is not None
    assert report.good, report.line()
    assert peak < 1 << 20


def test_only_what_changed_among_them_is_written(world: World) -> None:
    """A compare that finds one change does not write every shared address anew."""
    source = world.sources["here"]
    both = people(5000, entries=True)
    source.records = both + [record._replace(entry=b"second " + record.local.encode()) for record in both]
    world.sync()
    world.writer.checkpoint(always=True)
    source.records.append(Record("new", "example.com", kind=Kind.MAILBOX, entry=b"new"))
    assert world.sync().added == 1
    assert world.writer.wal_size() < 1 << 18
