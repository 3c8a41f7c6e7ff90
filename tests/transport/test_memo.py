# SPDX-License-Identifier: Apache-2.0
"""What an answerer remembers, while directories come and go: it never says other than one made a moment ago."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tests.transport.world import NOW, World, answerer, domain
from transport.answerer import ADDRESS_MAPS, Answerer
from transport.config.settings import Location, Unknown
from transport.record import Kind, Row

LOCALS = ["ann", "ann+x", "bob", "cy", "all", "postmaster", "abuse"]
KEYS = [*LOCALS, "ann+y", "all+x", "zed", "postmaster+x"]
DIRECTORIES = ["here", "corp", "there"]


class Half(World):
    """Directories of which some are not loaded: they tell only what they are asked, and some of them nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.told: set[tuple[str, str]] = set()

    def rows(self, domain: str, local: str) -> Sequence[Row]:
        rows = super().rows(domain, local)
        return [
            row._replace(live=row.directory in self.unloaded)
            for row in rows
            if row.directory not in self.unloaded or (row.directory, local) in self.told
        ]

    def no(self, directory: str, domain: str, local: str) -> bool | None:
        if directory not in self.unloaded or (directory, local) in self.told:
            return True
        return None if directory not in self.dead else False

    def forget(self, local: str) -> None:
        """Nobody lists it any more."""
        self.listed.pop(("example.com", local), None)
        self.told = {one for one in self.told if one[1] != local}


def _settings(chosen: random.Random) -> dict[str, object]:
    return {
        "local": ("here", "corp"),
        "unknown": chosen.choice([Unknown.REJECT, Unknown.VERIFY, Unknown.RELAY, Unknown.CATCHALL]),
        "catchall": "cy@example.com",
        "postmaster": chosen.choice(["", "ann@example.com"]),
        "abuse": chosen.choice(["", "all@example.com"]),
        "group_members": chosen.random() < 0.7,
        "delivery": chosen.choice(["split", "split", "dual", "all"]),
        "locations": {"gone": Location(destination="s"), "onprem": Location()},
    }


def _happen(chosen: random.Random, world: Half) -> None:
    """One event. What is in the index changes with a new generation; what was told is forgotten at any time."""
    event = chosen.choice(["list", "list", "leave", "load", "lose", "forget", "down"])
    directory, local = chosen.choice(DIRECTORIES), chosen.choice(LOCALS)
    if event == "list":
        world.forget(local)
        for one in chosen.sample(DIRECTORIES, chosen.choice([1, 1, 2])):
            goals = [f"{goal}@example.com" for goal in chosen.sample(KEYS, 2)] if local == "all" else []
            location = chosen.choice([None, None, "gone", "onprem"])
            kind = Kind.GROUP if goals else Kind.MAILBOX
            world.add(f"{local}@example.com", one, kind=kind, location=location, targets=goals)
    elif event == "leave":
        world.forget(local)
    elif event == "load":
        world.unloaded.discard(directory)
    elif event == "lose":
        world.unloaded.add(directory)
    elif event == "forget":
        world.told.clear()
    else:
        world.dead ^= {directory}


def _compare(kept: Answerer, world: Half, name: str, key: str, seed: int) -> None:
    for _ in range(12):
        fresh = Answerer(kept.settings, world).map(name, f"{key}@example.com", NOW)
        mine = kept.map(name, f"{key}@example.com", NOW)
        assert (mine.status, mine.value, set(mine.ask)) == (fresh.status, fresh.value, set(fresh.ask)), (
            seed,
            name,
            key,
        )
        if not fresh.ask:
            return
        world.told |= {(directory, local) for directory, local, _ in fresh.ask}
    raise AssertionError((seed, name, key, "asks for ever"))


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_memos_of_half_known_directories(first: int) -> None:
    """Each map's answer is that of an answerer without a memory, whatever was loaded, lost and asked before."""
    for seed in range(first, first + 20):
        chosen = random.Random(seed)
        world = Half()
        kept = answerer(world, domain(**_settings(chosen)))
        for _ in range(40):
            _happen(chosen, world)
            kept.new_generation()
            for key in chosen.sample(KEYS, 6):
                _compare(kept, world, chosen.choice(ADDRESS_MAPS), key, seed)
