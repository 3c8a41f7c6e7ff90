# SPDX-License-Identifier: Apache-2.0
"""What a guard holds is no proof: canaries are people who are listed, and absences that are not believed are none."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from transport.directories.base import Changes
from transport.record import Record
from transport.sync import SyncReport, apply_changes, apply_named

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


def feed(world: World) -> SyncReport:
    """The directory says that nothing changed."""
    source = world.sources["here"]
    source.next = Changes(cookie=b"c1")
    report = apply_changes(world.writer, world.settings.directories["here"], source, world.settings)
    assert report is not None
    assert report.good, report.line()
    return report


@pytest.mark.parametrize("left", [0, 60])
def test_absences_of_what_is_held(world: World, left: int) -> None:
    """A reading that misses all of a domain says of nobody that they are not there, as a live "no" would not, until it
    is accepted or mended."""
    source = world.sources["here"]
    source.cookie = b"c1"
    others = people(left, "three.example")
    everybody = people(30) + people(30, "two.example") + others
    source.records = everybody
    world.sync()
    assert feed(world).believable
    source.records = others
    for _ in range(2):
        report = world.sync()
        assert (report.held, report.believable) == (60, False)
        assert not feed(world).believable
    source.records = everybody
    assert world.sync().believable
    assert feed(world).believable
    source.records = others
    assert not world.sync().believable
    assert world.sync(accept=[]).believable
    assert feed(world).believable


def test_absences_beside_what_is_held(world: World) -> None:
    """A loss of some does not make every stranger wait."""
    world.sources["here"].records = people(100)
    world.sync()
    world.sources["here"].records = people(50)
    for _ in range(2):
        report = world.sync()
        assert (report.held, report.believable) == (50, True)


def test_a_directory_that_is_whole_again(world: World) -> None:
    """Who lists exactly the same people as before everybody was missing has nothing held any more."""
    world.sources["here"].records = people(30)
    world.sync()
    world.sources["here"].records = []
    assert world.sync().held == 30
    world.sources["here"].records = people(30)
    assert world.sync().held == 0
    assert world.reader.held() == ()
