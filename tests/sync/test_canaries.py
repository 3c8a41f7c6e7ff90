# SPDX-License-Identifier: Apache-2.0
"""Canaries stay people who are listed, while a guard keeps others in the index who are not."""

from __future__ import annotations

from collections.abc import Iterable

from transport.record import Record
from transport.sync import SyncReport, apply_named

from .conftest import World, people


def named(world: World, names: Iterable[tuple[str, str]]) -> SyncReport:
    """The directory names these addresses."""
    directory, source = world.settings.directories["here"], world.sources["here"]
    report = apply_named(world.writer, directory, source, world.settings, names)
    assert report is not None
    assert report.good, report.line()
    world.reader.renew()
    return report


def canaries(world: World) -> set[str]:
    return {canary.local for canary in world.reader.canaries("here", "example.com")}


def test_a_change_beside_held_removals(world: World) -> None:
    """One new person after a loss that is held does not make those who are gone the witnesses of every "no"."""
    everybody = people(150)
    world.sources["here"].records = everybody
    world.sync()
    world.sources["here"].records = everybody[70:]
    assert world.sync().held == 70
    world.sources["here"].records = [*everybody[70:], Record("zoe", "example.com")]
    assert named(world, [("zoe", "example.com")]).added == 1
    assert canaries(world) <= {record.local for record in world.sources["here"].records}
    assert len(canaries(world)) == 5


def test_removals_that_a_feed_holds(world: World) -> None:
    """Nor does the feed that finds the loss."""
    everybody = people(150)
    world.sources["here"].records = everybody
    world.sync()
    world.sources["here"].records = everybody[70:]
    assert named(world, [(one.local, one.domain) for one in everybody[:70]]).held == 70
    assert canaries(world) <= {record.local for record in world.sources["here"].records}
    assert len(canaries(world)) == 5


def test_a_domain_that_a_feed_empties(world: World) -> None:
    """Whoever is missed in a domain that is held as a whole goes on proving that something is wrong."""
    there = people(60, "three.example")
    world.sources["here"].records = people(30) + people(30, "two.example") + there
    world.sync()
    before = canaries(world)
    world.sources["here"].records = there
    names = [(one.local, domain) for domain in ("example.com", "two.example") for one in people(30)]
    assert named(world, names).held == 60
    assert canaries(world) == before
