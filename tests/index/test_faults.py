# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to the file: said, rebuilt, never a wrong answer, never a crash."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.sync.conftest import World, people
from transport.index import reader as reading
from transport.index import schema
from transport.index.reader import Reader
from transport.index.writer import Writer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(reading, "STAT_EVERY", 0.0)
    made = World(tmp_path)
    made.sources["here"].records = people(3000)
    made.sync()
    made.writer.checkpoint(always=True)
    made.reader.renew()
    yield made
    made.close()


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zero(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(b"\0" * size)


def text(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"once upon a time\n" * (path.stat().st_size // 17 + 1))


def rubbish_inside(path: Path) -> None:
    """The header stays, the rest does not."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(random.Random(1).randbytes(size - 4096))


def foreign(path: Path) -> None:
    """Another program's database is copied over it."""
    other = path.with_name("other.sqlite")
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE recipient (a)")
    connection.close()
    other.replace(path)


def _swap(path: Path, was: bytes, now: bytes) -> None:
    data = path.read_bytes()
    assert data.count(was) == 1
    with path.open("r+b") as file:
        file.seek(data.index(was))
        file.write(now)


def a_name_that_is_no_text(path: Path) -> None:
    """One octet of a table's name: SQLite's own message about it is no text either."""
    _swap(path, b"tablerecipientrecipient", b"tablerec\xffpientrecipient")


def an_index_of_nothing(path: Path) -> None:
    """One octet of an index's description."""
    _swap(path, b"CREATE INDEX recipient_entry ON rec", b"CREATE INDEX recipient_entry ON \xffec")


def another_column(path: Path) -> None:
    """One octet of a column's name: SQLite finds nothing wrong with it."""
    _swap(path, b"domain (id INTEGER PRIMARY KEY, name", b"domain (id INTEGER PRIMARY KEY, nane")


def no_generation(path: Path) -> None:
    """One octet of what it remembers of itself."""
    _swap(path, b"generation", b"gengration")


def another_index(path: Path) -> None:
    """An index of ours, but not this one, is renamed over it."""
    folder = path.with_name("elsewhere")
    folder.mkdir()
    Writer(folder).close()
    (folder / schema.FILE).replace(path)


FLIPS = [a_name_that_is_no_text, an_index_of_nothing, another_column, no_generation]
DAMAGES = [delete, truncate, half, zero, text, rubbish_inside, foreign, *FLIPS, another_index]


@pytest.mark.parametrize("damage", DAMAGES)
def test_under_a_live_reader(world: World, damage: Callable[[Path], None]) -> None:
    """A reader answers right or says "not loaded"; the writer sees it and rebuilds; the reader comes back."""
    damage(world.writer.path)
    lost = False
    for n in random.Random(3).sample(range(3000), 1500):
        rows = world.reader.rows("example.com", f"user{n:05d}")
        if not rows:
            assert not world.reader.loaded("here"), "an absence from a broken index must mean nothing"
            lost = True
        if n % 50 == 0:
            world.reader.renew()
    reason = world.writer.check(deep=True)
    assert reason, f"{damage.__name__} was not noticed"
    world.writer.recover(reason)
    assert reason in world.writer.said
    world.reader.renew()
    assert not world.reader.loaded("here"), "a new index is empty, and says so"
    assert world.sync().first_load
    assert world.reader.loaded("here")
    assert all(world.reader.rows("example.com", f"user{n:05d}") for n in range(3000))
    assert lost or damage is not delete


@pytest.mark.parametrize("damage", DAMAGES[1:-1])
def test_at_start(world: World, damage: Callable[[Path], None]) -> None:
    """What cannot be read at start is set aside, said, and made anew."""
    path = world.writer.path
    world.writer.close()
    damage(path)
    world.writer = Writer(world.state)
    assert "rebuilt from the directories" in world.writer.said
    world.reader.renew()
    assert not world.reader.loaded("here")
    assert world.sync().added == 3000


@pytest.mark.parametrize("flip", FLIPS[:3])
def test_rot_on_the_disk(world: World, flip: Callable[[Path], None]) -> None:
    """An octet that changes by itself, which no time of the file tells of: the next sync says so, the check sees it."""
    path = world.writer.path
    before = path.stat()
    flip(path)
    other = Reader(world.state)
    other.renew()
    assert other.reason.startswith(f"{path} cannot be read")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    report = world.sync(good=False)
    assert report.broken, report.error
    if flip is not another_column:
        assert world.writer.check(deep=True)
    world.writer.recover("rot")
    assert world.sync().added == 3000


@pytest.mark.parametrize("what", ["kind = 3", "kind = 6", "kind = 10", "kind = -1", "active = 2", "active = -1"])
def test_a_kind_that_nobody_wrote(world: World, what: str) -> None:
    """A row that holds what no writer puts there is a fault of who is asked about, and of nobody else."""
    with sqlite3.connect(world.writer.path) as database:
        database.execute(f"UPDATE recipient SET {what} WHERE local = 'user00007'")
    database.close()
    world.reader.renew()
    with pytest.raises(KeyError):  # TEMP, in a worker
        world.reader.rows("example.com", "user00007")
    assert world.reader.rows("example.com", "user00008")
    assert world.reader.loaded("here")


@pytest.mark.parametrize("end", ["-wal", "-shm"])
def test_deleted_companions(world: World, end: str) -> None:
    """Whoever deletes the log or its map under us makes us begin anew, and nobody reads half a state."""
    world.sources["here"].records = people(2990)
    world.sync()
    world.writer.path.with_name(schema.FILE + end).unlink()
    reason = world.writer.check()
    assert end in reason
    world.writer.recover(reason)
    world.reader.renew()
    assert not world.reader.loaded("here")
    assert world.sync().rows == 2990
    assert world.reader.rows("example.com", "user00001")


@pytest.mark.parametrize("left", [0, 32, 5000])
@pytest.mark.parametrize("looked", [True, False])
def test_a_log_that_is_cut(world: World, left: int, looked: bool) -> None:
    """Whoever cuts the log under us makes us begin anew, whether the next look or the next sync meets it first."""
    world.sources["here"].records = people(2990)
    world.sync()
    assert world.writer.check() == ""
    os.truncate(world.writer.path.with_name(f"{schema.FILE}-wal"), left)
    if looked:
        reason = world.writer.check()
        assert "cut" in reason
    else:
        world.sources["here"].records = people(2980)
        report = world.sync(good=False)
        assert report.broken
        reason = report.error
    world.writer.recover(reason)
    assert world.sync().first_load
    assert world.writer.check() == ""


@pytest.mark.parametrize("version", [0, schema.VERSION - 1, schema.VERSION + 1, 99])
def test_older_and_newer_formats(world: World, version: int) -> None:
    """Another format is rebuilt by a writer and not read by a reader."""
    path = world.writer.path
    world.reader.close()
    world.writer.close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    reader = Reader(world.state)
    reader.renew()
    assert f"its format is {version}" in reader.reason
    reader.close()
    world.writer = Writer(world.state)
    assert "format" in world.writer.said


def test_a_directory_in_its_place(tmp_path: Path) -> None:
    """Something that is no file at all is moved out of the way."""
    (tmp_path / schema.FILE).mkdir()
    writer = Writer(tmp_path)
    assert "no file" in writer.said
    writer.close()


@pytest.mark.parametrize("target", ["no/thing", schema.FILE])
def test_a_link_that_leads_nowhere(tmp_path: Path, target: str) -> None:
    """A link to nothing or to itself in the index's place is moved out of the way, at a start and under a writer."""
    path = tmp_path / schema.FILE
    path.symlink_to(tmp_path / target)
    writer = Writer(tmp_path)
    assert "was a link to" in writer.said
    path.unlink()
    path.symlink_to(tmp_path / target)
    writer.recover(writer.check())
    assert path.is_file()
    assert not path.is_symlink()
    assert writer.check() == ""
    writer.close()


def test_a_stale_log_never_enters_a_new_index(world: World) -> None:
    """When the index is deleted, its write-ahead log is not played into the next one."""
    path = world.writer.path
    world.sources["here"].records = people(2990)
    world.sync()
    aside = world.state / "aside"
    shutil.copy(path.with_name(path.name + "-wal"), aside)
    world.writer.close()
    path.unlink()
    shutil.copy(aside, path.with_name(path.name + "-wal"))
    world.writer = Writer(world.state)
    assert world.listed() == set()
    assert world.writer.check(deep=True) == ""


def test_damage_during_a_sync(world: World) -> None:
    """A sync that meets a broken file reports it, and asks for the rebuilding."""
    rubbish_inside(world.writer.path)
    world.sources["here"].records = people(2900)
    report = world.sync(good=False)
    assert report.error
    assert report.broken
    assert not report.believable


def test_damage_that_a_sync_does_not_touch(world: World) -> None:
    """A page that rots in silence is found by the next compare, though that changes nothing."""
    world.writer.checkpoint(always=True)
    path = world.writer.path
    size, stamp = path.stat().st_size, path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\0" * 2048)
    os.utime(path, ns=(stamp, stamp))
    report = world.sync(good=False)
    assert report.broken
    assert not report.believable


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.sync.conftest import World, people
world = World(Path({state!r}))
lists = [people(1500), people(1450) + people(100, prefix="other")]
print("ready", flush=True)
while True:
    for records in lists:
        world.sources["here"].records = records
        report = world.sync()
        assert report.held == 0
        world.writer.checkpoint(always=True)
"""


@pytest.mark.parametrize("seed", range(12))
def test_killed_at_any_moment(tmp_path: Path, seed: int) -> None:
    """A writer that is killed leaves one of the states it had committed, whole, and the next one goes on."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(root=str(ROOT), state=str(tmp_path))],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    reader = Reader(tmp_path)
    until = time.monotonic() + random.Random(seed).uniform(0.02, 0.6)
    while time.monotonic() < until:
        reader.renew()
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    reader.close()
    world = World(tmp_path)
    assert "rebuilt" not in world.writer.said
    assert world.writer.check(deep=True) == ""
    first = {r.local for r in people(1500)}
    second = {r.local for r in people(1450) + people(100, prefix="other")}
    assert world.listed() in (set(), first, second)
    world.reader.renew()
    counted = {state.name: state.rows for state in world.reader.directories()}
    assert counted.get("here", 0) == len(world.listed())
    world.sources["here"].records = people(1500)
    assert world.sync().rows == 1500
    assert world.listed() == first
    world.close()


FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.sync.conftest import World, people
world = World(Path({state!r}))
world.sources["here"].records = people(2000)
world.sync()
world.writer.checkpoint(always=True)
size = world.writer.path.stat().st_size
for room in range(0, 1_500_000, 150_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    world.sources["here"].records = people(1900) + people(20_000, prefix="many-more-people-than-fit-")
    report = world.sync(good=False)
    if report.good:
        break
    assert "cannot" in report.error and "room" in report.hint, report.line()
    assert not report.broken
    assert len(world.listed()) == 2000
    assert all(world.reader.rows("example.com", f"user{{n:05d}}") for n in range(2000))
    print("full at", room, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert world.sync().rows == 21_900
assert world.writer.check(deep=True) == ""
print("good")
"""


def test_disk_full(tmp_path: Path) -> None:
    """When the disk is full at any point of a sync, the old state stays good and readable, and room heals it."""
    done = subprocess.run(
        [sys.executable, "-c", FULL.format(root=str(ROOT), state=str(tmp_path))],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("full at") >= 3
    assert done.stdout.endswith("good\n")
