# SPDX-License-Identifier: Apache-2.0
"""What a reading is worth: whose "no" counts after it, and that one which was given up writes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from transport.directories.base import Changes, DirectoryError, Listing
from transport.index.faults import IndexFault
from transport.record import Kind, Record
from transport.sync import SyncReport, apply_changes, apply_named

from .conftest import ListSource, World, people

NEW = Record("new", "example.com")


@pytest.fixture(autouse=True)
def thirty(world: World) -> None:
    """Thirty people, read once, with a feed."""
    source = world.sources["here"]
    source.cookie = b"c1"
    source.records = people(30)
    world.sync()


def feed(world: World, changes: Changes, progress: Callable[[int], None] | None = None) -> SyncReport:
    source = world.sources["here"]
    source.next = changes
    here = world.settings.directories["here"]
    report = apply_changes(world.writer, here, source, world.settings, progress=progress)
    assert report is not None
    world.reader.renew()
    return report


def test_a_feed_that_tells_of_everybody_who_came_makes_an_absence_count(world: World) -> None:
    """Only where newcomers would be among the changes does "not listed" mean something after them."""
    assert feed(world, Changes([(None, [NEW])], cookie=b"c2")).believable
    assert feed(world, Changes(cookie=b"c3")).believable
    assert not feed(world, Changes([(None, [NEW])], cookie=b"c4", additions=False)).believable


def test_after_a_reading_by_name_no_absence_counts(world: World) -> None:
    """Whoever was not named may have come meanwhile."""
    here = world.settings.directories["here"]
    world.sources["here"].records.append(NEW)
    report = apply_named(world.writer, here, world.sources["here"], world.settings, [("new", "example.com")])
    assert report is not None
    assert (report.added, report.believable) == (1, False)


def test_no_absence_counts_while_everybody_is_held(world: World) -> None:
    """A directory that lists nobody is not believed by its feed either, until a compare is."""
    world.sources["here"].records = []
    assert world.sync().held == 30
    report = feed(world, Changes(cookie=b"c2"))
    assert (report.good, report.believable) == (True, False)


def test_nothing_is_written_by_a_feed_that_was_given_up(world: World) -> None:
    """Whoever gives up while it waits for the index has begun another reading, which is the newer one."""
    told: list[int] = []

    def give_up(count: int) -> None:
        told.append(count)
        if len(told) > 1:  # the first time is before it asks for the index
            raise DirectoryError("given up")

    report = feed(world, Changes([(None, [NEW])], cookie=b"c2"), give_up)
    assert (report.good, report.error, told) == (False, "given up", [1, 1])
    assert not world.reader.rows("example.com", "new")
    assert feed(world, Changes([(None, [NEW])], cookie=b"c2")).added == 1


class Left(ListSource):
    """A directory whose reader gives up when the listing has been read, and before it is written."""

    given_up = False

    def list(self) -> Listing:
        source, found = self, super().list()

        class Closing(Listing):
            def close(self) -> None:
                super().close()
                source.given_up = True

        return Closing(found.records, found.skipped, cookie=found.cookie)

    def progress(self, _count: int) -> None:
        if self.given_up:
            raise DirectoryError("given up")


def test_nothing_is_written_by_a_compare_that_was_given_up(world: World) -> None:
    """The same for a whole listing, be it another one or the same as last time."""
    for listed in (people(29), people(30)):
        source = world.sources["here"] = Left(listed)
        source.cookie = b"c2"
        report = world.sync(good=False, progress=source.progress)
        assert (report.good, report.error, report.rows) == (False, "given up", 0)
        assert world.reader.rows("example.com", "user00029")
        assert feed(world, Changes(cookie=b"c1")).cookie == b"c1", "the last good reading is the first one"


def test_a_fault_of_the_index_ends_a_feed_and_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A feed never raises: a directory or an index that fails is told, each with what it is."""
    changes = Changes([(None, [NEW])], cookie=b"c2")

    def full(*_: object, **__: object) -> None:
        raise IndexFault("cannot write the index", "make room", unwritten=True)

    with monkeypatch.context() as patched:
        patched.setattr(world.writer, "change", full)
        report = feed(world, changes)
        assert (report.good, report.unwritten, report.hint) == (False, True, "make room")
    with world.writer.change() as connection:
        connection.execute("ALTER TABLE claim RENAME TO lost")
    report = feed(world, Changes([(b"1", [NEW])], cookie=b"c2"))
    assert (report.good, report.broken) == (False, True)


def alias(entry: bytes, target: str) -> Record:
    return Record("all", "example.com", Kind.ALIAS, targets=(f"{target}@example.com",), entry=entry)


@pytest.mark.parametrize("by_listing", [True, False])
def test_what_was_told_of_a_shared_address_is_remembered(world: World, by_listing: bool) -> None:
    """Two entries list an address, in a whole listing or one after the other: when either ends, only its share goes."""
    source = world.sources["here"]
    everybody = people(30)
    ann, bob = alias(b"A", "ann"), alias(b"B", "bob")
    for gone, left in ((ann, bob), (bob, ann)):
        if by_listing:
            source.records = [*everybody, ann, bob]
            world.sync()
        else:
            source.records = [*everybody, ann]
            assert feed(world, Changes([(b"A", [ann])], cookie=b"c2")).good
            source.records = [*everybody, ann, bob]
            assert feed(world, Changes([(b"B", [bob])], cookie=b"c2")).good
        assert set(world.reader.targets("example.com", "all", "here")) == {*ann.targets, *bob.targets}
        for ended, targets in ((gone, left.targets), (left, ())):
            source.records.remove(ended)
            assert ended.entry is not None
            assert feed(world, Changes(deletes=[ended.entry], cookie=b"c3")).good
            assert world.reader.targets("example.com", "all", "here") == targets
