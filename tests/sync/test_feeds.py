# SPDX-License-Identifier: Apache-2.0
"""A feed of changes brings the same as a compare, sooner, behind the same guards."""

from __future__ import annotations

import pytest

from transport.directories.base import Changes, DirectoryError
from transport.record import Kind, Record
from transport.sync import SyncReport
from transport.sync.feeds import apply_changes, apply_named

from .conftest import World, people


@pytest.fixture(autouse=True)
def cookies(world: World) -> None:
    """Give the source's listings a cookie."""
    world.sources["here"].cookie = b"c1"


def feed(world: World, changes: Changes) -> SyncReport:
    source = world.sources["here"]
    source.next = changes
    report = apply_changes(world.writer, world.settings.directories["here"], source, world.settings)
    assert report is not None
    assert report.good, report.line()
    world.reader.renew()
    return report


def entry(n: int, *locals_: str) -> tuple[bytes, list[Record]]:
    key = str(n).encode()
    return key, [Record(local, "example.com", entry=key) for local in locals_]


def test_nothing_read_yet_is_no_feed(world: World) -> None:
    """Before the first compare there is nothing to go on from."""
    here = world.settings.directories["here"]
    assert apply_changes(world.writer, here, world.sources["here"], world.settings) is None


def test_upserts_and_deletes_by_entry(world: World) -> None:
    """An entry's addresses come, change and go with it; the cookie moves on; a compare then finds no difference."""
    source = world.sources["here"]
    source.records = [r for n in range(30) for r in entry(n, f"user{n}", f"user{n}.alias")[1]]
    world.sync()
    key, records = entry(3, "user3", "user3.new")
    source.records = [r for r in source.records if r.entry not in (b"3", b"7")] + records + entry(99, "ninety")[1]
    report = feed(world, Changes([(key, records), entry(99, "ninety")], [b"7"], b"c2"))
    assert (report.added, report.removed, report.rows) == (2, 3, 59)
    assert report.generation == world.reader.generation
    assert world.reader.rows("example.com", "user7") == ()
    assert world.reader.rows("example.com", "user3.alias") == ()
    assert world.reader.rows("example.com", "user3.new")
    generation = world.reader.generation
    assert world.sync().unchanged == 59
    assert world.reader.generation == generation


def test_present_phase(world: World) -> None:
    """Whoever is neither present nor changed is gone."""
    source = world.sources["here"]
    source.records = [r for n in range(30) for r in entry(n, f"user{n}")[1]]
    world.sync()
    source.records = source.records[:27]
    keys = frozenset(str(n).encode() for n in range(27))
    assert feed(world, Changes(cookie=b"c2", present=keys)).removed == 3


def test_unchanged_feed_costs_no_generation(world: World) -> None:
    """The overlap of a watermark brings the same rows again and again: nothing is written for them."""
    source = world.sources["here"]
    source.records = people(30)
    world.sync()
    generation = world.reader.generation
    report = feed(world, Changes([(None, [r]) for r in people(30)], cookie=b"c1"))
    assert (report.generation, world.reader.generation) == (None, generation)


def test_removal_is_confirmed(world: World) -> None:
    """What a feed says is gone but the directory still lists stays."""
    source = world.sources["here"]
    source.records = [r for n in range(30) for r in entry(n, f"user{n}")[1]]
    world.sync()
    report = feed(world, Changes(deletes=[b"5"], cookie=b"c2"))
    assert report.removed == 0
    assert world.reader.rows("example.com", "user5")


def test_rows_that_share_an_address(world: World) -> None:
    """A changed row of an alias that stands in several rows does not hide its other targets."""
    source = world.sources["here"]
    rows = [Record("all", "example.com", Kind.ALIAS, targets=(f"{t}@example.com",)) for t in ("ann", "bob")]
    source.records = [*rows, *people(5)]
    world.sync()
    new = Record("all", "example.com", Kind.ALIAS, targets=("eve@example.com",))
    source.records = [rows[0], new, *people(5)]
    feed(world, Changes([(None, [new])], cookie=b"c2"))
    assert world.reader.targets("example.com", "all", "here") == ("ann@example.com", "eve@example.com")


def test_half_gone_by_a_feed_is_held(world: World) -> None:
    """Guards hold for feeds, also in small steps, and ask for a compare."""
    source = world.sources["here"]
    source.records = [r for n in range(100) for r in entry(n, f"user{n}")[1]]
    world.sync()
    everyone = list(source.records)
    source.records = everyone[:60]
    report = feed(world, Changes(deletes=[str(n).encode() for n in range(60, 100)], cookie=b"c2"))
    assert (report.held, report.removed, report.full_needed) == (40, 0, True)
    source.records = everyone[:50]
    report = feed(world, Changes(deletes=[str(n).encode() for n in range(50, 60)], cookie=b"c3"))
    assert report.removed == 0, "ten more of a domain whose removals are held are held too"
    assert world.sync().held == 50


def test_held_by_a_feed_and_undone(world: World) -> None:
    """Who was missing in a feed and is back before the compare was never gone: nothing is held any more."""
    source = world.sources["here"]
    source.records = [r for n in range(100) for r in entry(n, f"user{n}")[1]]
    world.sync()
    everyone = list(source.records)
    source.records = everyone[:60]
    gone = [str(n).encode() for n in range(60, 100)]
    assert feed(world, Changes(deletes=gone, cookie=b"c2")).held == 40
    source.records = everyone
    assert world.sync().held == 0
    assert not world.reader.held()
    assert world.sync().held == 0


def test_flip_by_a_feed_is_held(world: World) -> None:
    """A location column that turns over row by row in one batch moves nobody."""
    source = world.sources["here"]
    source.records = people(100, location="onprem")
    world.sync()
    source.records = people(100, location="cloud")
    report = feed(world, Changes([(None, [r]) for r in source.records], cookie=b"c2"))
    assert (report.moved, report.held, report.full_needed) == (0, 100, True)
    assert world.sync().held == 100
    assert world.sync(accept=()).moved == 100


def test_doubt_asks_for_a_compare(world: World) -> None:
    """Another server, or a source that says so: nothing is taken, the cookie stays."""
    source = world.sources["here"]
    source.server = "ldap1"
    source.records = people(30)
    world.sync()
    new = [(None, [Record("new", "example.com")])]
    assert feed(world, Changes(new, cookie=b"c2", server="ldap2")).full_needed
    report = feed(world, Changes(full_needed=True, why="too many changes", cookie=b"c2"))
    assert (report.full_needed, report.why) == (True, "too many changes")
    assert world.reader.rows("example.com", "new") == ()
    assert feed(world, Changes(new, cookie=b"c2", server="ldap1")).added == 1


def test_what_cannot_be_asked_for_is_compared(world: World) -> None:
    """A large group that was deleted and made anew cannot be looked up by its address: no feed fails for ever by it."""
    source = world.sources["here"]
    source.records = entry(1, "all")[1] + entry(2, "ann")[1]
    world.sync()

    def too_many(_addresses: object) -> None:
        raise DirectoryError("all@example.com is a new group of 600 members")

    source.on_ask = too_many
    report = feed(world, Changes([entry(3, "all")], [b"1"], b"c2"))
    assert (report.full_needed, report.cookie) == (True, b"c1")
    assert "600 members" in report.why


def test_named_addresses_are_asked_for(world: World) -> None:
    """Who is named is taken as the directory has it now: new, moved, gone; the cookie and everybody else stay."""
    source, here = world.sources["here"], world.settings.directories["here"]
    assert apply_named(world.writer, here, source, world.settings, [("new", "example.com")]) is None
    source.records = people(30)
    world.sync()
    source.records = [
        *people(28)[1:],
        Record("new", "example.com"),
        Record("user00029", "example.com", location="cloud"),
    ]
    names = [(local, "example.com") for local in ("new", "user00000", "user00029", "nobody", "user00005")]
    report = apply_named(world.writer, here, source, world.settings, names)
    assert report is not None
    world.reader.renew()
    assert (report.added, report.removed, report.moved, report.changed, report.held) == (1, 1, 1, 0, 0)
    assert world.reader.rows("example.com", "user00028"), "nobody named this one"
    assert feed(world, Changes([(None, [Record("later", "example.com")])], cookie=b"c2")).added == 1


def test_removals_need_a_witness(world: World) -> None:
    """A directory that denies everybody removes nobody, however few were named: a compare judges it."""
    source, here = world.sources["here"], world.settings.directories["here"]
    source.records = people(30)
    world.sync()
    source.records = []
    report = apply_named(world.writer, here, source, world.settings, [("user00003", "example.com")])
    assert report is not None
    assert (report.full_needed, report.removed) == (True, 0)
    assert feed(world, Changes(deletes=[b"3"], cookie=b"c2")).removed == 0
    world.reader.renew()
    assert world.reader.rows("example.com", "user00003")
    source.records = people(29)[1:]
    report = apply_named(world.writer, here, source, world.settings, [("user00000", "example.com")])
    assert report is not None
    assert report.removed == 1
