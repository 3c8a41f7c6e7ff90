# SPDX-License-Identifier: Apache-2.0
"""The index as `build` reads it: everybody, once, in whatever way is fastest."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from transport.config.settings import Directory, Settings, SqlOptions
from transport.index.reader import Reader
from transport.index.writer import Writer
from transport.maps import snapshot
from transport.maps.snapshot import Snapshot
from transport.record import Row

NAMES = ("here", "there", "other")


def settings() -> Settings:
    """Three directories."""
    return Settings(
        directories={name: Directory(name, "sql", SqlOptions("sqlite://", "q"), name.encode()) for name in NAMES}
    )


def filled(folder: Path, rows: list[tuple[str, int, int, int, str | None, int]]) -> Snapshot:
    """A snapshot of an index with these rows in example.com: (local, directory, kind, active, location, targets)."""
    writer = Writer(folder)
    with writer.change() as connection:
        for number, name in enumerate(NAMES, 1):
            # the third one was made under another definition: its rows do not count
            fingerprint = b"old" if name == "other" else name.encode()
            connection.execute(
                "INSERT INTO directory (id, name, fingerprint, rows, loaded_at, believable) VALUES (?, ?, ?, 1, 1, 1)",
                (number, name, fingerprint),
            )
        connection.execute("INSERT INTO domain VALUES (1, 'example.com'), (2, 'example.net')")
        connection.executemany("INSERT INTO recipient VALUES (1, ?, ?, ?, ?, ?, ?, NULL)", rows)
        connection.execute("INSERT INTO recipient VALUES (2, 'elsewhere', 1, 0, 1, NULL, 0, NULL)")
        writer.bump(connection)
    writer.close()
    reader = Reader(folder)
    reader.use({name: directory.fingerprint for name, directory in settings().directories.items()})
    reader.renew()
    return Snapshot(settings(), reader, 0.0)


def listed(found: Snapshot) -> dict[str, tuple[Row, ...]]:
    """Everybody with their rows; nobody may come twice."""
    everybody: dict[str, tuple[Row, ...]] = {}
    for run in found.everyone("example.com"):
        for situation, locals_ in run.items():
            for local in locals_:
                assert local not in everybody
                everybody[local] = situation
    return everybody


@pytest.mark.parametrize("several", [False, True], ids=["one row each", "some have two"])
@pytest.mark.parametrize("words", [1, 20], ids=["few situations", "many"])
@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_everybody_comes_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, words: int, several: bool
) -> None:
    """However rows are cut into runs, each address comes with all of its rows, as a look-up finds them."""
    monkeypatch.setattr(snapshot, "CHUNK", chunk)
    chance = random.Random(chunk)
    rows: list[tuple[str, int, int, int, str | None, int]] = []
    for n in range(150):
        local = chance.choice(["u", "v.w", "ü", "z z", "a+b"]) + str(n)
        for directory in chance.sample([1, 2, 3], 2 if several and n % 3 == 0 else 1):
            place = f"word{chance.randrange(words)}" if words > 1 else None
            rows.append((local, directory, n % 40 == 0, 1, place, int(n % 40 == 0)))
    found = filled(folder, rows)
    everybody = listed(found)
    for local in {row[0] for row in rows}:
        expected = {row._replace(targets=int(bool(row.targets))) for row in found.rows("example.com", local)}
        assert set(everybody.get(local, ())) == expected, local


def test_a_domain_nobody_lists_is_empty(folder: Path) -> None:
    """Neither a domain without rows nor an unknown one is a fault."""
    found = filled(folder, [])
    assert listed(found) == {}
    assert list(found.everyone("unknown.example")) == []
