# SPDX-License-Identifier: Apache-2.0
"""A column that was broken for everybody: mass suspensions are held like removals and moves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from transport.config.settings import Domain
from transport.record import Kind, Record

from .conftest import World, people


def suspended(records: list[Record], count: int | None = None) -> list[Record]:
    return [record._replace(active=False) for record in records[:count]] + (records[count:] if count else [])


def active(world: World, domain: str = "example.com") -> int:
    """How many active people the index has of a domain."""
    with world.writer.change() as connection:
        return int(
            connection.execute(
                "SELECT count(*) FROM recipient r JOIN domain d ON d.id = r.domain WHERE d.name = ? AND r.active",
                (domain,),
            ).fetchone()[0]
        )


@pytest.mark.parametrize("count", [200, 60])
def test_everybody_is_suspended_at_once(world: World, count: int) -> None:
    """A default of 0 in a new `active` column refuses nobody's mail: it is held, said, and let go when it is mended."""
    before = people(200)
    world.sources["here"].records = before
    world.sync()
    world.sources["here"].records = [*suspended(before, count), Record("new", "example.com")]
    report = world.sync()
    assert (report.added, report.changed, report.held) == (1, 0, count)
    assert [(one.what, one.count) for one in world.reader.held()] == [("suspended", count)]
    assert active(world) == 201
    assert world.sync().held == count
    world.sources["here"].records = before
    assert world.sync().held == 0
    assert world.reader.held() == ()


def test_accepted_suspensions_are_taken(world: World) -> None:
    """What a human accepts is believed."""
    world.sources["here"].records = people(200)
    world.sync()
    world.sources["here"].records = suspended(people(200))
    assert world.sync(accept=["example.com"]).changed == 200
    assert active(world) == 0
    assert world.sync().held == 0


def test_ordinary_suspensions_are_taken_at_once(world: World) -> None:
    """Ten of a small office, a fifth of a large one, and one tenant of many that did not pay, wait for nobody."""
    world.sources["here"].records = people(10)
    world.sync()
    world.sources["here"].records = suspended(people(10))
    assert world.sync().changed == 10
    world.sources["here"].records = people(100, prefix="x") + suspended(people(10))
    world.sync()
    world.sources["here"].records = suspended(people(100, prefix="x"), 20) + suspended(people(10))
    assert world.sync().changed == 20


def test_one_tenant_is_suspended(world: World) -> None:
    """A whole domain that is suspended is believed while others are active; many of them at once are not."""
    names = [f"tenant{n}.example" for n in range(20)]
    world.settings = replace(
        world.settings, domains={name: Domain(name, local=("here",), destination="cloud") for name in names}
    )
    tenants = {name: people(30, name) for name in names}

    def now() -> list[Record]:
        return [record for records in tenants.values() for record in records]

    world.sources["here"].records = now()
    world.sync()
    tenants[names[3]] = suspended(tenants[names[3]])
    world.sources["here"].records = now()
    assert world.sync().changed == 30
    for name in names[5:12]:
        tenants[name] = suspended(tenants[name])
    world.sources["here"].records = now()
    assert world.sync().held == 210
    assert active(world, names[6]) == 30
    assert active(world, names[3]) == 0


def aliases(count: int, *, kind: Kind = Kind.ALIAS, targets: tuple[str, ...] = ("ann@o.example",)) -> list[Record]:
    return [record._replace(kind=kind, targets=targets) for record in people(count, prefix="alias")]


@pytest.mark.parametrize("kind", [Kind.ALIAS, Kind.GROUP, Kind.MAILBOX])
def test_everybody_loses_the_targets_at_once(world: World, kind: Kind) -> None:
    """A column or attribute that reads empty of a sudden: aliases and groups without targets would be local people whom
    no store knows. They are held, said, and let go when it is mended."""
    before = [*people(200), *aliases(30, kind=Kind.GROUP if kind is Kind.GROUP else Kind.ALIAS)]
    world.sources["here"].records = before
    world.sync()
    world.sources["here"].records = [*people(200), *aliases(30, kind=kind, targets=()), Record("new", "example.com")]
    report = world.sync()
    assert (report.added, report.changed, report.held) == (1, 0, 30)
    assert [(one.what, one.count) for one in world.reader.held()] == [("targets", 30)]
    assert world.reader.targets("example.com", "alias00007", "here") == ("ann@o.example",)
    assert world.sync().held == 30
    world.sources["here"].records = before
    assert world.sync().held == 0
    assert world.reader.held() == ()


def test_ordinary_losses_of_targets_are_taken_at_once(world: World) -> None:
    """Ten of a small office, a fifth of many, and what a human accepts."""
    world.sources["here"].records = aliases(60)
    world.sync()
    world.sources["here"].records = [*aliases(10, targets=()), *aliases(60)[10:]]
    assert (world.sync().changed, world.reader.held()) == (10, ())
    world.sources["here"].records = aliases(60)
    world.sync()
    world.sources["here"].records = [*aliases(12, targets=()), *aliases(60)[12:]]
    assert (world.sync().changed, world.reader.held()) == (12, ())
    world.sources["here"].records = aliases(60)
    world.sync()
    world.sources["here"].records = aliases(60, targets=())
    assert world.sync().held == 60
    assert world.sync(accept=["example.com"]).changed == 60
    assert world.sync().held == 0


@pytest.mark.parametrize("word", ["cloud", "nobody-knows"])
def test_aliases_do_not_go_to_the_other_side_together(world: World, word: str) -> None:
    """A location column that is suddenly filled is held for aliases as for mailboxes: their targets go on to decide."""
    world.sources["here"].records = aliases(60)
    world.sync()
    world.sources["here"].records = [record._replace(location=word) for record in aliases(60)]
    report = world.sync()
    assert (report.changed, report.moved, report.held) == (0, 0, 60)
    assert world.sync(accept=["example.com"]).held == 0
