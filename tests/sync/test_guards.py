# SPDX-License-Identifier: Apache-2.0
"""Guards: what must not lock up goes through by itself; what cannot be true is held back, shown, and released."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from transport.config.settings import Domain, Settings, Unknown, Wave
from transport.record import Kind, Record

from .conftest import World, people

# --- what must not lock up


def test_one_leaver_of_four(world: World) -> None:
    """In an office of four each leaver goes at once, though one is a quarter of all."""
    world.sources["here"].records = people(4)
    world.sync()
    for left in (3, 2, 1):
        world.sources["here"].records = people(left)
        report = world.sync()
        assert (report.removed, report.held, report.rows) == (1, 0, left)


def test_the_very_last_leaver_locks_nothing(world: World) -> None:
    """Who empties a directory is held, but the next mailbox enters at once and takes the held one along."""
    world.sources["here"].records = people(1)
    world.sync()
    world.sources["here"].records = []
    report = world.sync()
    assert (report.held, report.believable) == (1, False)
    assert world.listed() == {"user00000"}
    world.sources["here"].records = people(1, prefix="new")
    report = world.sync()
    assert (report.added, report.removed, report.held) == (1, 1, 0)
    assert world.reader.held() == ()


def test_a_deleted_canary_is_a_deletion(world: World) -> None:
    """Canaries that leave are removed and replaced like anybody."""
    world.sources["here"].records = people(60, entries=True)
    world.sync()
    for _ in range(3):
        gone = {canary.local for canary in world.reader.canaries("here", "example.com")}
        world.sources["here"].records = [r for r in world.sources["here"].records if r.local not in gone]
        assert world.sync().removed == 5
        assert gone.isdisjoint({canary.local for canary in world.reader.canaries("here", "example.com")})


def test_one_tenant_of_many_empties(world: World) -> None:
    """A domain whose people all leave is believed while the directory's other known addresses are there."""
    names = [f"tenant{n}.example" for n in range(50)]
    world.sources["here"].records = [record for name in names for record in people(30, name)]
    world.sync()
    world.sources["here"].records = [r for r in world.sources["here"].records if r.domain != names[7]]
    report = world.sync()
    assert (report.removed, report.held, report.believable) == (30, 0, True)
    assert world.reader.canaries("here", names[7]) == ()
    assert world.reader.canaries("here", names[8])


def test_one_tenant_of_two_empties(world: World) -> None:
    """Also when it was half of the directory."""
    world.sources["here"].records = people(50) + people(50, "two.example")
    world.sync()
    world.sources["here"].records = people(50)
    assert (world.sync().removed, world.reader.held()) == (50, ())


def wave(world: World, addresses: list[str], to: str, at: float) -> None:
    moved = Wave("w", at, "example.com", to, frozenset(addresses))
    world.settings = replace(world.settings, waves=(moved,))


def test_the_first_wave(world: World) -> None:
    """An empty local directory that is allowed to be empty gets its first people out of the remote list."""
    world.change("here", may_be_empty=True)
    world.sources["there"].records = people(200)
    world.sync("there")
    assert world.sync().believable
    wave(world, [f"user{n:05d}@example.com" for n in range(80)], "local", time.time() - 60)
    world.sources["here"].records = people(80)
    report = world.sync()
    assert (report.moved, report.held) == (80, 0)


def test_the_last_wave(world: World) -> None:
    """Everybody left in a passed wave: an empty directory is then believed."""
    world.sources["here"].records = people(80)
    world.sync()
    wave(world, [f"user{n:05d}@example.com" for n in range(80)], "cloud", time.time() - 60)
    world.sources["here"].records = []
    report = world.sync()
    assert (report.removed, report.held, report.believable) == (80, 0, True)
    assert world.sync().believable
    assert world.reader.loaded("here")


def test_a_wave_covers_all_addresses_of_an_entry(world: World) -> None:
    """Aliases of a person who moved in a wave leave with the person."""
    both = [Record(f"{kind}{n}", "example.com", entry=str(n).encode()) for n in range(40) for kind in ("user", "alias")]
    world.sources["here"].records = both + people(60, prefix="stays")
    world.sync()
    wave(world, [f"user{n}@example.com" for n in range(40)], "cloud", time.time() - 60)
    world.sources["here"].records = people(60, prefix="stays")
    assert (world.sync().removed, world.reader.held()) == (80, ())


def test_a_wave_to_come_does_not_count(world: World) -> None:
    """Before its time a wave excuses nothing."""
    world.sources["here"].records = people(80)
    world.sync()
    wave(world, [f"user{n:05d}@example.com" for n in range(80)], "cloud", time.time() + 3600)
    world.sources["here"].records = people(30)
    assert world.sync().held == 50
    assert world.sync().held == 50
    assert world.sync(now=time.time() + 7200).removed == 50, "its moment has come, though nothing else changed"


def test_emptied_on_purpose(world: World) -> None:
    """An empty directory is released by --accept, by its name, its only domain's, or by all; it stays so."""
    for accept in (["here"], ["example.com"], []):
        world.sources["here"].records = people(30)
        world.sync()
        world.sources["here"].records = []
        assert world.sync().held == 30
        assert world.sync(accept=["there"]).held == 30
        report = world.sync(accept=accept)
        assert (report.removed, report.held, report.believable) == (30, 0, True)
        assert world.sync().believable
        assert world.reader.loaded("here")
        assert next(state for state in world.reader.directories() if state.name == "here").emptied_on_purpose


def test_ordinary_shrinking_goes_on(world: World) -> None:
    """Three times fifteen of a hundred, a sync each, are three ordinary syncs."""
    world.sources["here"].records = people(100)
    world.sync()
    for left in (85, 73, 62):
        world.sources["here"].records = people(left)
        assert world.sync().held == 0
    assert len(world.listed()) == 62


# --- what must be held


def test_half_a_table_gone(world: World) -> None:
    """Removals that are too many stay, what is new or changed is taken, and it heals by itself."""
    everyone = people(100)
    world.sources["here"].records = everyone
    world.sync()
    world.sources["here"].records = [
        *everyone[:59],
        everyone[59]._replace(active=False),
        Record("new", "example.com"),
    ]
    report = world.sync()
    assert (report.added, report.changed, report.removed, report.held) == (1, 1, 0, 40)
    assert len(world.listed()) == 101
    held = world.reader.held()
    assert [(h.directory, h.domain, h.what, h.count) for h in held] == [("here", "example.com", "removed", 40)]
    assert len(held[0].first) == 20
    since = held[0].since
    assert world.sync().held == 40, "the same again does not creep"
    assert world.reader.held()[0].since == since
    world.sources["here"].records = [*everyone, Record("new", "example.com")]
    report = world.sync()
    assert (report.held, report.removed) == (0, 0)
    assert world.reader.held() == ()


def test_held_is_released_by_name(world: World) -> None:
    """--accept takes what is held of the directory or the domain that is named, and nothing else."""
    for accept, taken in ((["example.com"], 1), (["here"], 2), ([], 2), (["there"], 0)):
        world.sources["here"].records = people(100) + people(100, "two.example")
        world.sync(accept=())
        world.sources["here"].records = people(50) + people(50, "two.example")
        assert world.sync().held == 100
        report = world.sync(accept=accept)
        assert (report.removed, report.held) == (50 * taken, 100 - 50 * taken)


def test_only_the_domain_concerned_is_held(world: World) -> None:
    """A domain that loses half of its people does not keep another from its ordinary leavers."""
    world.sources["here"].records = people(100) + people(100, "two.example")
    world.sync()
    world.sources["here"].records = people(50) + people(95, "two.example")
    report = world.sync()
    assert (report.removed, report.held) == (5, 50)


def test_many_domains_gone_at_once(world: World) -> None:
    """A part of the directory that is missing is no row of tenants that closed the same second."""
    names = [f"tenant{n}.example" for n in range(20)]
    world.sources["here"].records = [record for name in names for record in people(20, name)]
    world.sync()
    world.sources["here"].records = [record for name in names[:12] for record in people(20, name)]
    report = world.sync()
    assert (report.removed, report.held) == (0, 160)
    assert world.reader.canaries("here", names[19]), "they prove that something is missing"


@pytest.mark.parametrize(
    ("old", "new"), [("onprem", "cloud"), ("cloud", "onprem"), ("cloud", None), (None, "nonsense")]
)
def test_a_flipped_location_column(world: World, old: str | None, new: str | None) -> None:
    """A location column that turns over moves nobody; single moves and new people go through."""
    world.sources["here"].records = people(100, location=old)
    world.sync()
    world.sources["here"].records = [*people(100, location=new), Record("new", "example.com", location=new)]
    report = world.sync()
    assert (report.moved, report.held, report.added) == (0, 100, 1)
    assert world.reader.rows("example.com", "user00042")[0].location == old
    assert world.reader.held()[0].what == "moved"
    world.sources["here"].records = people(8, location=new) + people(100, location=old)[8:]
    report = world.sync()
    assert (report.moved, report.held) == (8, 0)
    assert world.reader.held() == ()


def test_moves_among_stores_are_no_change_of_side(world: World) -> None:
    """A location that names another local store stays on this side."""
    world.sources["here"].records = people(100, location="onprem")
    world.sync()
    world.sources["here"].records = people(100, location="store2")
    report = world.sync()
    assert (report.changed, report.held) == (100, 0)


def test_a_move_of_everybody_in_a_wave(world: World) -> None:
    """The same flip announced by a passed wave is taken."""
    world.sources["here"].records = people(100, location="onprem")
    world.sync()
    wave(world, [f"user{n:05d}@example.com" for n in range(100)], "cloud", time.time() - 1)
    world.sources["here"].records = people(100, location="cloud")
    assert world.sync().moved == 100


def test_a_filter_that_suddenly_lists_everybody(world: World) -> None:
    """People of the other side who are suddenly listed here stay at the other side."""
    world.sources["here"].records = people(40, prefix="own")
    world.sources["there"].records = people(100)
    world.sync()
    world.sync("there")
    world.sources["here"].records = [*people(40, prefix="own"), *people(100), Record("new", "example.com")]
    report = world.sync()
    assert (report.added, report.moved, report.held) == (1, 0, 100)
    assert [row.directory for row in world.reader.rows("example.com", "user00042")] == ["there"]
    assert world.sync().held == 100
    assert world.sync(accept=["example.com"]).moved == 100
    assert {row.directory for row in world.reader.rows("example.com", "user00042")} == {"here", "there"}


def test_the_remote_list_with_everybody_moves_nobody(world: World) -> None:
    """Who is here stays here when the other side lists everybody too: that is taken and is no move."""
    world.sources["here"].records = people(100)
    world.sources["there"].records = people(30, prefix="far")
    world.sync()
    world.sync("there")
    world.sources["there"].records = people(30, prefix="far") + people(100)
    report = world.sync("there")
    assert (report.added, report.moved, report.held) == (100, 0, 0)


@pytest.mark.parametrize("remote", [True, False])
def test_a_remote_list_read_as_local(world: World, remote: bool) -> None:
    """A local list exchanged for the remote one: the old people stay, the others do not become local.

    Also where nobody lists the other side and strangers are relayed.
    """
    world.sources["here"].records = people(100, prefix="own")
    world.sync()
    if remote:
        world.sources["there"].records = people(100)
        world.sync("there")
    else:
        domain = replace(world.settings.domains["example.com"], remote=(), unknown=Unknown.RELAY)
        world.settings = replace(world.settings, domains={"example.com": domain})
    world.sources["here"].records = people(100)
    report = world.sync()
    assert (report.added, report.removed, report.moved, report.held) == (0, 0, 0, 200)
    assert world.listed() == {f"own{n:05d}" for n in range(100)}


def test_leavers_whom_the_other_side_lists(world: World) -> None:
    """Removals here that make people remote are moves: too many at once are held though few removals."""
    world.sources["here"].records = people(100)
    world.sources["there"].records = people(100)
    world.sync()
    world.sync("there")
    world.sources["here"].records = people(85)
    assert world.sync().held == 15
    world.sources["here"].records = people(95)
    report = world.sync()
    assert (report.moved, report.held) == (5, 0)


def test_an_alias_is_on_no_side(world: World) -> None:
    """Mailboxes that become aliases are decided by their targets: no change of side of their own."""
    world.sources["here"].records = people(60)
    world.sync()
    world.sources["here"].records = [r._replace(kind=Kind.ALIAS, targets=("x@example.com",)) for r in people(60)]
    assert (world.sync().changed, world.reader.held()) == (60, ())


def test_domains_that_are_not_split_have_no_side(world: World) -> None:
    """Rows of foreign domains are kept and shrink behind the guard, but locations there mean nothing."""
    world.sources["here"].records = people(60, "foreign.example", location="cloud")
    world.settings = replace(world.settings, domains={})
    world.sync()
    world.sources["here"].records = people(60, "foreign.example")
    assert (world.sync().changed, world.reader.held()) == (60, ())


def test_subdomains_match_have_their_parents_sides(world: World) -> None:
    """An address below a domain with `subdomains = "match"` moves by that domain's rules."""
    old = world.settings.domains["example.com"]
    domains: dict[str, Domain] = {"example.com": replace(old, subdomains="match")}
    world.settings = Settings(directories=world.settings.directories, domains=domains)
    world.sources["here"].records = people(60, "deep.sub.example.com", location="onprem")
    world.sync()
    world.sources["here"].records = people(60, "deep.sub.example.com", location="cloud")
    assert world.sync().held == 60


def test_guards_can_be_widened(world: World) -> None:
    """max_shrink, shrink_floor and max_moved are the directory's own."""
    world.change("here", max_shrink=0.6, max_moved=1.0)
    world.sources["here"].records = people(100, location="onprem")
    world.sync()
    world.sources["here"].records = people(50, location="cloud")
    report = world.sync()
    assert (report.removed, report.moved, report.held) == (50, 50, 0)
