# SPDX-License-Identifier: Apache-2.0
"""An index that is deleted or replaced under a worker: its last snapshot goes on until the new one is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from policyd import clock
from policyd.link import Age
from policyd.worker import knowledge as knowing
from policyd.worker.knowledge import LiveKnowledge
from tests.sync.conftest import World, people
from transport.index.faults import IndexFault
from transport.index.writer import Writer
from transport.record import Record


class Held:
    """A worker's knowledge of an index with both directories of the world loaded."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.sources["here"].records = people(50)
        world.sources["there"].records = [Record("zoe", "example.com")]
        world.sync("here")
        world.sync("there")
        self.knowledge = LiveKnowledge(world.settings, world.state)
        self.knowledge.keeper = True
        self.knowledge.renew()
        self.read_now()

    def read_now(self, *names: str) -> None:
        """What the keeper tells after it has read directories."""
        self.knowledge.mark = self.world.writer.mark
        self.knowledge.renew(at_once=True)
        now = clock.now()
        self.knowledge.ages = self.knowledge.ages | {name: Age(now, now) for name in names or ("here", "there")}

    def listed(self, local: str) -> bool:
        return bool(self.knowledge.rows("example.com", local))

    def no(self, directory: str) -> bool | None:
        return self.knowledge.no(directory, "example.com", "nobody")

    def go(self, breaks: Callable[[Path], None]) -> None:
        """Take the index away, and let the keeper begin a new one."""
        breaks(self.world.writer.path)
        self.knowledge.renew(at_once=True)
        assert self.knowledge.reader.gone
        reason = self.world.writer.check()
        assert reason
        self.world.writer.recover(reason)


def delete(path: Path) -> None:
    for one in path.parent.glob(path.name + "*"):
        one.unlink()


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"not an index " * 1000)
    other.rename(path)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    world = World(tmp_path)
    made = Held(world)
    yield made
    made.knowledge.reader.close()
    world.close()


@pytest.mark.parametrize("breaks", [delete, replace])
def test_who_is_listed_stays_until_all_are_there_again(held: Held, breaks: Callable[[Path], None]) -> None:
    """Neither the empty new index nor one with half of the directories takes the old one's place."""
    assert held.listed("user00007")
    assert held.listed("zoe")
    held.go(breaks)
    assert not held.knowledge.renew(at_once=True), "an empty index is no successor"
    held.world.sources["here"].records = people(40)
    held.world.sync("here")
    assert not held.knowledge.renew(at_once=True), "half of it is no successor"
    assert held.listed("zoe")
    assert held.listed("user00049")
    held.world.sync("there")
    held.read_now()
    assert held.listed("zoe")
    assert not held.listed("user00049")
    assert (held.knowledge.reader.gone, held.knowledge.reader.reason) == (False, "")


def test_a_no_of_the_old_snapshot_counts_only_while_nothing_newer_was_read(held: Held) -> None:
    """Who was added since stands only in the new index: the old one's "no" is TEMP for files, asked live else."""
    held.go(delete)
    assert (held.no("here"), held.no("there")) == (True, True)
    held.read_now("there")
    assert (held.no("here"), held.no("there")) == (True, False)
    held.read_now("here")
    held.world.change("here", fresh_for=0.0)
    held.knowledge.settings = held.world.settings
    assert held.no("here") is None


def test_a_reading_that_came_after_the_loss_does_not_make_a_no_fresh(held: Held) -> None:
    """The age of the snapshot's own reading is what counts, not the age of one that it does not hold."""
    held.world.change("here", fresh_for=5.0)
    held.knowledge.settings = held.world.settings
    held.knowledge.ages = {"here": Age(clock.now() - 60), "there": Age(None)}
    held.go(delete)
    held.read_now("here")
    assert held.no("here") is None


def test_it_is_not_held_for_ever(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the new index never becomes complete, the old one ends all the same: moves have to arrive some day."""
    held.go(delete)
    held.world.sync("here")
    held.knowledge.mark = held.world.writer.mark
    monkeypatch.setattr(knowing, "_HOLD", 0.0)
    assert held.knowledge.renew(at_once=True)
    assert not held.listed("zoe")
    assert not held.knowledge.loaded("there", "example.com")
    assert held.no("there") is False


def test_a_directory_that_is_configured_no_more_is_not_waited_for(held: Held) -> None:
    """New settings while the old snapshot is held: only what they name has to be in the new index."""
    held.go(delete)
    held.world.sync("here")
    settings = held.world.settings
    held.knowledge.configure(type(settings)(directories={"here": settings.directories["here"]}))
    held.knowledge.mark = held.world.writer.mark
    assert held.knowledge.renew(at_once=True)
    assert held.listed("user00007")
    assert not held.listed("zoe")


def test_a_held_snapshot_that_cannot_be_read_is_lost(held: Held) -> None:
    """A read error ends the holding; what comes next is the ordinary way."""
    held.go(delete)
    held.knowledge.reader._lose("disk I/O error")
    assert not held.listed("zoe")
    assert held.no("there") is False
    held.world.sync("here")
    held.world.sync("there")
    held.read_now()
    assert held.listed("zoe")


def restore_beside(path: Path) -> None:
    path.with_name("backup").rename(path)


def restore_in_place(path: Path) -> None:
    path.write_bytes(path.with_name("backup").read_bytes())


@pytest.mark.parametrize("restores", [restore_beside, restore_in_place])
def test_an_older_copy_of_the_index_is_no_successor(held: Held, restores: Callable[[Path], None]) -> None:
    """A backup put back lists who was there then: neither its yes nor its "no" is taken for today's."""
    world, knowledge = held.world, held.knowledge
    world.writer.checkpoint(always=True)
    world.writer.path.with_name("backup").write_bytes(world.writer.path.read_bytes())
    world.sources["here"].records = [*people(49), Record("late", "example.com")]
    world.sync("here")
    knowledge.renew(at_once=True)
    knowledge.reader.close()  # a reader without the new pages in its cache
    world.reader.close()
    world.writer.close()
    restores(world.writer.path)
    knowledge.mark = world.writer.mark
    held.read_now()
    knowledge.renew(at_once=True)
    assert not held.listed("user00049")
    assert knowledge.no("here", "example.com", "late") is None
    assert knowledge.no("there", "example.com", "late") is False


def test_an_older_copy_does_not_end_the_holding(held: Held) -> None:
    """The last snapshot is newer than a backup that is put in the index's place: it is held on."""
    world = held.world
    world.writer.checkpoint(always=True)
    world.writer.path.with_name("backup").write_bytes(world.writer.path.read_bytes())
    world.sources["here"].records = [*people(49), Record("late", "example.com")]
    world.sync("here")
    held.knowledge.mark = world.writer.mark
    held.read_now()
    assert held.listed("late")
    delete(world.writer.path)
    restore_beside(world.writer.path)
    for _ in range(2):
        held.knowledge.renew(at_once=True)
    assert held.knowledge.reader.gone
    assert held.listed("late")
    assert not held.listed("user00049")
    world.writer.recover(world.writer.check())
    held.knowledge.mark = world.writer.mark
    assert not held.knowledge.renew(at_once=True)
    world.sync("here")
    world.sync("there")
    held.knowledge.mark = world.writer.mark
    assert held.knowledge.renew(at_once=True)
    assert held.listed("late")
    assert not held.knowledge.reader.gone


def test_a_copy_that_a_new_keeper_found_waits_for_its_readings(held: Held) -> None:
    """The keeper died, an older copy was put back, and the next keeper takes it for its own: until it has read."""
    world, knowledge = held.world, held.knowledge
    world.writer.checkpoint(always=True)
    world.writer.path.with_name("backup").write_bytes(world.writer.path.read_bytes())
    world.sources["here"].records = [*people(49), Record("late", "example.com")]
    world.sync("here")
    held.read_now()
    world.reader.close()
    world.writer.close()
    delete(world.writer.path)
    restore_beside(world.writer.path)
    knowledge.renew(at_once=True)
    world.writer = Writer(world.state)
    knowledge.mark, knowledge.ages = world.writer.mark, {"here": Age(None), "there": Age(None)}
    assert not knowledge.renew(at_once=True)
    assert held.listed("late")
    assert not held.listed("user00049")
    world.sync("here")
    world.sync("there")
    held.read_now()
    knowledge.renew(at_once=True)
    assert not knowledge.reader.gone
    assert held.listed("late")
    assert not held.listed("user00049")


def test_a_mark_is_of_what_was_committed_into_this_very_file(held: Held) -> None:
    """A rolled back generation does not raise it, and into a file that was replaced nothing is written."""
    writer = held.world.writer
    before = writer.mark
    with writer.change() as connection:
        writer.bump(connection)
        connection.execute("ROLLBACK")
    assert writer.mark == before
    other = writer.connect()
    delete(writer.path)
    writer.recover("it was deleted")
    mark = writer.mark
    with pytest.raises(IndexFault, match="rebuilt meanwhile"), writer.change(other):
        pass
    other.close()
    assert writer.mark == mark
    assert mark[0] != before[0]
    writer.new_generation()
    assert writer.mark == (mark[0], mark[1] + 1)


def test_a_file_that_was_not_read_since_the_start_says_no_to_nobody(held: Held) -> None:
    """It may have changed while the service was stopped: who is in the index is listed, who is not is TEMP."""
    held.knowledge.ages = {"there": Age(None)}
    assert held.listed("zoe")
    assert held.no("there") is False
    held.read_now()
    assert held.no("there") is True


def test_a_reading_that_began_before_a_rebuild_is_not_taken_for_good(held: Held) -> None:
    """Its connection writes into the file that is gone: nothing of it is in the new one, so it must be read again."""
    world = held.world

    def rebuild(number: int) -> None:
        if number == 20:
            delete(world.writer.path)
            world.writer.recover("it was deleted")

    world.sources["here"].fail = rebuild
    world.sources["here"].records = [*people(50), Record("late", "example.com")]
    report = world.sync(good=False)
    assert not report.good
    assert not report.broken, "the new file is sound"
    assert "rebuilt meanwhile" in report.error
    world.sources["here"].fail = lambda _n: None
    world.sync("here")
    assert "late" in world.listed()
