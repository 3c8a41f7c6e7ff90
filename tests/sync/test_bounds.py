# SPDX-License-Identifier: Apache-2.0
"""Where a guard begins to hold: at its bound everything is still taken, one more is held, whatever is counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from transport.config.settings import Domain
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
