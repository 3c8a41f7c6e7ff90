# SPDX-License-Identifier: Apache-2.0
"""A full sync brings the index to the directory, writes only differences, and survives whatever happens to either."""

from __future__ import annotations

from transport.directories.base import DirectoryError, DirectoryTimeout
from transport.record import Kind, Record, Row

from .conftest import World, people, refuse


def test_first_load_then_differences(world: World) -> None:
    """What is new, changed and gone arrives; what is the same costs no generation."""
    source = world.sources["here"]
    source.records = [
        Record("ann", "example.com"),
        Record("bob", "example.com", location="onprem"),
        Record("info", "example.com", Kind.ALIAS, targets=("ann@example.com", "x@other.example")),
    ]
    report = world.sync()
    assert (report.added, report.first_load, report.believable) == (3, True, True)
    assert world.reader.loaded("here")
    assert world.reader.rows("example.com", "ann") == (Row("here", Kind.MAILBOX, True, None, 0),)
    assert world.reader.targets("example.com", "info", "here") == ("ann@example.com", "x@other.example")
    generation = world.reader.generation
    for _ in range(3):
        report = world.sync()
        assert (report.unchanged, report.added, report.changed, report.removed) == (3, 0, 0, 0)
    assert world.reader.generation == generation
    source.records = [
        Record("ann", "example.com", active=False),
        Record("new", "example.com"),
        Record("info", "example.com", Kind.ALIAS, targets=("x@other.example", "ann@example.com")),
    ]
    report = world.sync()
    assert (report.added, report.removed, report.changed, report.rows) == (1, 1, 2, 3)
    assert report.first["removed"] == ("bob@example.com",)
    assert world.reader.generation > generation
    assert world.reader.rows("example.com", "bob") == ()
    assert not world.reader.rows("example.com", "ann")[0].active
    assert world.reader.targets("example.com", "info", "here") == ("x@other.example", "ann@example.com")


def test_duplicates_are_merged(world: World) -> None:
    """Of one address a mailbox stands before an alias, targets unite, and a contradiction is counted."""
    world.sources["here"].records = [
        Record("ann", "example.com", Kind.ALIAS, targets=("bob@example.com",)),
        Record("ann", "example.com"),
        Record("all", "example.com", Kind.ALIAS, targets=("ann@example.com", "bob@example.com")),
        Record("all", "example.com", Kind.GROUP, targets=("bob@example.com", "eve@example.com")),
        Record("eve", "example.com", location="cloud"),
        Record("eve", "example.com", location="onprem"),
        Record("bob", "example.com"),
        Record("bob", "example.com"),
    ]
    report = world.sync()
    assert report.rows == 4
    assert report.skipped == 2
    assert world.reader.rows("example.com", "ann")[0].kind is Kind.MAILBOX
    assert world.reader.targets("example.com", "ann", "here") == ()
    assert world.reader.rows("example.com", "all")[0].kind is Kind.GROUP
    found = world.reader.targets("example.com", "all", "here")
    assert found == ("ann@example.com", "bob@example.com", "eve@example.com")
    assert world.reader.rows("example.com", "eve")[0].location == "cloud"
    assert len(world.reader.skipped("here")) == 2
    assert world.sync().unchanged == 4


def test_a_record_that_is_no_text(world: World) -> None:
    """One broken name does not keep a directory out of the index, at the first sync or later."""
    broken = Record("b\udcffb", "example.com")
    world.sources["here"].records = [*people(20), broken]
    report = world.sync()
    assert (report.rows, report.skipped) == (20, 1)
    world.sources["here"].records = [broken, *people(25), Record("ann", "example.com", location="\ud800")]
    report = world.sync()
    assert (report.rows, report.added, report.skipped) == (25, 5, 2)


def test_failed_listing_keeps_the_old_state(world: World) -> None:
    """A directory that breaks off in the middle changes nothing, at any record."""
    world.sources["here"].records = people(40)
    world.sync()
    world.sources["here"].records = people(30, prefix="other")
    for at in (0, 1, 15, 29):
        world.sources["here"].fail = refuse(at)
        report = world.sync(good=False)
        assert report.error == "the connection was lost"
        assert not report.believable
        assert len(world.listed()) == 40
    world.sources["here"].fail = refuse(3, DirectoryTimeout("slow"))
    assert world.sync(good=False).timeout


def test_given_up_while_writing(world: World) -> None:
    """Whoever stops waiting after the listing was read stops the sync as well: nothing is written."""
    world.sources["here"].records = people(40)
    world.sync()
    world.sources["here"].records = people(60_000)
    calls = []

    def progress(count: int) -> None:
        calls.append(count)
        if calls.count(60_000) > 1:
            raise DirectoryError("given up")

    report = world.sync(good=False, progress=progress)
    assert (report.error, report.broken) == ("the sync was given up", False)
    assert len(world.listed()) == 40
    assert world.sync(progress=calls.append).rows == 60_000


def test_empty_first_load_is_not_believed(world: World) -> None:
    """A directory that lists nobody at first is not loaded, until it does, may be empty, or a human says so."""
    report = world.sync()
    assert not report.believable
    assert "lists nobody" in report.why
    assert not world.reader.loaded("here")
    world.sources["here"].records = people(1)
    assert world.sync().first_load
    assert world.reader.loaded("here")


def test_empty_on_purpose(world: World) -> None:
    """may_be_empty and --accept make an empty directory believable; accepted emptiness ends with its first row."""
    world.change("there", may_be_empty=True)
    assert world.sync("there").believable
    assert world.reader.loaded("there")
    assert world.sync(accept=()).believable
    assert world.reader.loaded("here")
    assert world.sync().believable
    world.sources["here"].records = people(3)
    world.sync()
    assert not next(s for s in world.reader.directories() if s.name == "here").emptied_on_purpose


def test_another_fingerprint_is_another_directory(world: World) -> None:
    """Rows of an old query do not count, the first load of the new one is taken whole, and an empty one is not."""
    world.sources["here"].records = people(100)
    world.sync()
    world.change("here", fingerprint=b"another.........")
    world.reader.renew()
    assert world.reader.rows("example.com", "user00001") == ()
    assert not world.reader.loaded("here")
    world.sources["here"].records = []
    assert not world.sync().believable
    assert not world.reader.loaded("here")
    world.sources["here"].records = people(5, prefix="new")
    report = world.sync()
    assert report.first_load
    assert world.listed() == {f"new{n:05d}" for n in range(5)}


def test_dry_run_writes_nothing(world: World) -> None:
    """A dry run says what would happen and leaves the index, its generation and its held list as they were."""
    world.sources["here"].records = people(50)
    report = world.sync(dry_run=True)
    assert report.added == 50
    assert report.first["added"][0] == "user00000@example.com"
    assert world.listed() == set()
    world.sync()
    generation = world.reader.generation
    world.sources["here"].records = people(20) + people(3, prefix="new")
    report = world.sync(dry_run=True)
    assert (report.added, report.held) == (3, 30)
    assert len(report.first["held"]) == 20
    assert (world.reader.generation, world.reader.held(), len(world.listed())) == (generation, (), 50)


def test_entries_are_kept_and_swept(world: World) -> None:
    """Addresses of one entry are found together; an entry that has none left is forgotten."""
    world.sources["here"].records = [
        Record("ann", "example.com", entry=b"1"),
        Record("ann.smith", "example.com", entry=b"1"),
        Record("bob", "example.com", entry=b"2"),
    ]
    world.sync()
    entry = world.reader.rows("example.com", "ann")[0].entry
    assert entry is not None
    assert set(world.reader.addresses_of_entry("here", entry)) == {
        ("ann", "example.com"),
        ("ann.smith", "example.com"),
    }
    world.sources["here"].records = world.sources["here"].records[:2]
    assert world.sync().removed == 1
    with world.writer.change() as connection:
        assert [key for (key,) in connection.execute("SELECT key FROM entry")] == [b"1"]


def test_canaries_come_from_different_entries(world: World) -> None:
    """Up to five listed addresses a domain, no two of one entry, chosen anew when one is gone."""
    world.sources["here"].records = [
        Record(f"p{n}.{m}", "example.com", entry=str(n).encode()) for n in range(9) for m in range(3)
    ] + people(2, "two.example")
    world.sync()
    chosen = world.reader.canaries("here", "example.com")
    assert len(chosen) == 5
    assert len({canary.entry for canary in chosen}) == 5
    assert len(world.reader.canaries("here", "two.example")) == 2
    gone = {canary.local for canary in chosen}
    world.sources["here"].records = [r for r in world.sources["here"].records if r.local not in gone]
    world.sync()
    assert gone.isdisjoint({canary.local for canary in world.reader.canaries("here", "example.com")})
