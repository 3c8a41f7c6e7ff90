# SPDX-License-Identifier: Apache-2.0
"""Where a guard begins to hold: at its bound everything is still taken, one more is held, whatever is counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from transport.config.settings import Domain, Wave
from transport.record import Kind, Record

from .conftest import World, people

Change = Callable[[list[Record]], list[Record]]

BOUNDS = [(20, 10, True), (20, 11, False), (100, 20, True), (100, 21, False)]
"""Of so many, so many at once: are they taken? shrink_floor is 10, max_shrink 20 %."""


def aliases(count: int, domain: str = "example.com") -> list[Record]:
    """Aliases of somebody elsewhere."""
    return [one._replace(kind=Kind.ALIAS, targets=("x@other.example",)) for one in people(count, domain)]


CHANGES: dict[str, tuple[Callable[[int], list[Record]], Change]] = {
    "removed": (people, lambda _: []),
    "suspended": (people, lambda records: [one._replace(active=False) for one in records]),
    "targets": (aliases, lambda records: [one._replace(targets=()) for one in records]),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize(("rows", "count", "taken"), BOUNDS)
def test_changes_of_one_domain(world: World, what: str, rows: int, count: int, taken: bool) -> None:
    """Ten at once, and a fifth, are ordinary; more are not."""
    make, change = CHANGES[what]
    source = world.sources["here"]
    source.records = make(rows)
    world.sync()
    source.records = change(make(rows)[:count]) + make(rows)[count:]
    report = world.sync()
    assert (report.held, report.removed + report.changed) == ((0, count) if taken else (count, 0))


@pytest.mark.parametrize(
    ("rows", "count", "taken"), [(50, 10, True), (109, 11, False), (110, 11, True), (200, 21, False)]
)
@pytest.mark.parametrize("way", [("onprem", "cloud"), ("cloud", "onprem")])
def test_moves_of_one_domain(world: World, way: tuple[str, str], rows: int, count: int, taken: bool) -> None:
    """Ten moves at once, and a tenth of the domain, are ordinary; more are not."""
    source = world.sources["here"]
    source.records = people(rows, location=way[0])
    world.sync()
    source.records = people(count, location=way[1]) + people(rows, location=way[0])[count:]
    report = world.sync()
    assert (report.held, report.moved) == ((0, count) if taken else (count, 0))


@pytest.mark.parametrize("what", ["removed", "suspended"])
@pytest.mark.parametrize(
    ("closing", "others", "taken"),
    [([12, 12], 96, True), ([12, 13], 96, False), ([60], 40, True), ([12], 0, False)],
)
def test_tenants_that_close(world: World, what: str, closing: list[int], others: int, taken: bool) -> None:
    """One whole domain, whatever its size, and several of a fifth of all, while somebody else is there; else held."""
    names = [f"tenant{number}.example" for number in range(len(closing))]
    entry = Domain("", local=("here",), destination="cloud")
    world.settings = replace(
        world.settings, domains={name: replace(entry, name=name) for name in (*names, "o.example")}
    )
    source = world.sources["here"]
    staying = people(others, "o.example")
    leaving = [one for name, count in zip(names, closing, strict=True) for one in people(count, name)]
    source.records = leaving + staying
    world.sync()
    source.records = CHANGES[what][1](leaving) + staying
    report = world.sync()
    total = sum(closing)
    assert (report.held, report.removed + report.changed) == ((0, total) if taken else (total, 0))


def test_small_tenants_that_close_together(world: World) -> None:
    """Several domains with ten people in all are no part of the directory that is missing, however small it is."""
    source = world.sources["here"]
    staying = people(5, "o.example")
    source.records = people(5, "one.example") + people(5, "two.example") + staying
    world.sync()
    source.records = staying
    assert (world.sync().removed, world.reader.held()) == (10, ())


def test_changes_of_a_domain_are_not_its_neighbours(world: World) -> None:
    """What a large domain is allowed to change a small one of the same directory is not."""
    source = world.sources["here"]
    source.records = people(400) + people(40, "two.example")
    world.sync()
    source.records = people(340) + people(28, "two.example")
    report = world.sync()
    assert (report.removed, report.held) == (60, 12)
    assert [(one.domain, one.count) for one in world.reader.held()] == [("two.example", 12)]


def wave(world: World, names: list[str]) -> None:
    """These people of example.com moved in a passed wave."""
    moved = Wave("w", time.time() - 60, "example.com", "cloud", frozenset(f"{name}@example.com" for name in names))
    world.settings = replace(world.settings, waves=(moved,))


def test_small_domains_that_vanish_without_a_witness(world: World) -> None:
    """However few they are: with nobody left whom the directory knew, who came since proves nothing."""
    source = world.sources["here"]
    source.records = people(5, "one.example") + people(5, "two.example")
    world.sync()
    source.records = people(1, "three.example")
    report = world.sync()
    assert (report.added, report.removed, report.held) == (1, 0, 10)


def test_people_who_are_exchanged(world: World) -> None:
    """A few for a few others are ordinary; most of a larger domain for others are held: no tenant closed."""
    source = world.sources["here"]
    staying = people(40, "o.example")
    source.records = people(5) + staying
    world.sync()
    source.records = people(3, prefix="new") + staying
    report = world.sync()
    assert (report.added, report.removed, report.held) == (3, 5, 0)
    source.records = people(12) + staying
    world.sync()
    source.records = people(5, prefix="other") + staying
    assert world.sync().held == 12


def test_canaries_that_left_are_no_witnesses(world: World) -> None:
    """A domain whose known people are all gone says nothing for another one that is gone as a whole."""
    source = world.sources["here"]
    source.records = people(30) + people(40, "two.example")
    world.sync()
    known = {one.local for one in world.reader.canaries("here", "two.example")}
    source.records = [one for one in people(40, "two.example") if one.local not in known]
    report = world.sync()
    assert (report.removed, report.held) == (5, 30)


def test_an_empty_directory_is_accepted_as_a_whole(world: World) -> None:
    """By all of its domains, not by one of them; by `may_be_empty` at once. Until then nothing of it is believed."""
    source = world.sources["here"]
    source.records, source.server = people(30) + people(30, "two.example"), "a"
    world.sync()
    source.records, source.server = [], "b"
    assert world.sync().held == 60
    assert world.sync(accept=["example.com"]).held == 60
    assert {state.server for state in world.reader.directories() if state.name == "here"} == {"a"}
    assert world.sync(accept=["example.com", "two.example"]).removed == 60
    source.records = people(30)
    world.sync()
    world.change("here", may_be_empty=True)
    source.records = []
    report = world.sync()
    assert (report.removed, report.held, report.believable) == (30, 0, True)


def test_who_moved_in_a_wave_does_not_count(world: World) -> None:
    """Neither among the others who left, nor as the last of a domain."""
    source = world.sources["here"]
    source.records = people(40)
    world.sync()
    wave(world, [f"user{number:05d}" for number in range(6)])
    source.records = people(40)[12:]
    assert (world.sync().removed, world.reader.held()) == (12, ())
    source.records = people(5)
    world.sync(accept=[])
    source.records = people(1, "two.example")
    assert (world.sync().removed, world.reader.held()) == (5, ())


def test_people_of_two_lists_count_once(world: World) -> None:
    """A tenth of a domain is a tenth of its people, not of the rows of all directories."""
    for name in ("here", "there"):
        world.sources[name].records = people(100)
        world.sync(name)
    world.sources["here"].records = people(15, location="cloud") + people(100)[15:]
    assert world.sync().held == 15


def test_rows_of_another_configuration_place_nobody(world: World) -> None:
    """People whom a directory listed under settings that are no more were on no side."""
    world.sources["here"].records = people(40, prefix="own")
    world.sources["there"].records = people(100)
    world.sync()
    world.sync("there")
    world.change("there", fingerprint=b"changed.........")
    world.sources["here"].records = people(40, prefix="own") + people(100)
    report = world.sync()
    assert (report.added, report.held) == (100, 0)


def test_who_was_suspended_before_is_no_witness(world: World) -> None:
    """A domain that is suspended as a whole is believed while somebody else is active, not while others are listed."""
    source = world.sources["here"]
    off = [one._replace(active=False) for one in people(20, "o.example")]
    source.records = people(12) + off
    world.sync()
    source.records = [one._replace(active=False) for one in people(12)] + off
    assert world.sync().held == 12
