# SPDX-License-Identifier: Apache-2.0
"""The live queue of one directory, step by step: in a time that a test sets, with queries that return when it says."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import cast

import pytest

from policyd.keeper import queue as queues
from policyd.keeper.canaries import CanaryStore
from policyd.keeper.queue import LiveQueue
from tests.daemon.asking import HERE, Asked, Canaries, Crew, D, Loop
from transport.directories.base import DirectoryError, DirectoryTimeout


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


def test_equal_questions_are_one(asked: Asked) -> None:
    """While one waits or is on its way, and while its answer counts, an address is asked about once."""
    asked.ask("ann", "zed", "zed")
    assert (len(asked.crew.jobs), asked.said()) == (1, [])
    asked.ask("zed")
    assert len(asked.crew.jobs) == 1
    asked.come_back()
    assert asked.said() == [("ann", ["ann"]), ("zed", "no"), ("zed", "no"), ("zed", "no")]
    assert asked.source.asked[0][:2] == [("ann", D), ("zed", D)]
    asked.loop.run(4.9)
    asked.ask("zed", "ann")
    assert (asked.said(), asked.crew.jobs) == ([("zed", "no"), ("ann", ["ann"])], [])
    asked.loop.run(0.1)
    asked.ask("zed")
    assert (len(asked.crew.jobs), asked.said()) == (1, [])


def test_what_was_answered_before_a_reading_is_asked_again(asked: Asked) -> None:
    """The reading is newer; one that began with the question is not."""
    asked.ask("zed")
    asked.come_back()
    asked.said()
    for read_at, again in ((999.0, 0), (1000.0, 0), (1000.1, 1)):
        asked.queue.read_at = read_at
        asked.ask("zed")
        assert len(asked.crew.jobs) == again


def test_asked_anew_is_asked(asked: Asked) -> None:
    """`flush` and `explain` take neither an answer that is remembered nor one to an earlier question."""
    asked.ask("zed")
    asked.ask("zed", anew=True)
    asked.loop.run(0.05)
    assert len(asked.crew.jobs) == 2
    asked.come_back()
    asked.come_back()
    assert asked.said() == [("zed", "no"), ("zed", "no")]
    asked.ask("zed", anew=True)
    assert len(asked.crew.jobs) == 1


def test_forgetting(asked: Asked) -> None:
    """Of one address, of a domain; of others nothing."""
    for gone, again in ((("zed", D), ["zed"]), ((None, D), ["zed", "eve"]), ((None, "x.example"), []), (("x", D), [])):
        asked.ask("zed", "eve")
        asked.come_back()
        asked.said()
        asked.queue.forget(*gone)
        asked.ask("zed", "eve")
        assert [local for local in ("zed", "eve") if (local, D) in asked.queue.flying] == again
        while asked.crew.jobs:
            asked.come_back()
        asked.queue.forget(None, D)
        asked.loop.run(1.0)


def test_a_directory_that_lies_is_not_believed(asked: Asked) -> None:
    """All canaries missing: TEMP at once for everybody, until a probe finds one; a yes still counts."""
    people_, asked.source.records = asked.source.records, asked.source.records[-1:]
    asked.ask("ann", "zed")
    asked.come_back()
    assert asked.said() == [("ann", ["ann"]), ("zed", None)]
    assert (asked.queue.circuit.open, asked.told) == (True, ["changed"])
    asked.ask("eve")
    assert asked.said() == [("eve", None)]
    asked.loop.run(0.4)
    assert len(asked.crew.jobs) == 1
    asked.come_back()
    assert asked.queue.circuit.open
    asked.source.records = people_
    asked.loop.run(0.7)
    asked.come_back()
    assert (asked.queue.circuit.open, asked.told) == (False, ["changed", "changed"])
    asked.loop.run(1.0)  # what failed is remembered for a second
    asked.ask("zed")
    asked.come_back()
    assert asked.said() == [("zed", "no")]


@pytest.mark.parametrize(
    "error", [DirectoryError("refused", "start it"), DirectoryTimeout("late"), RuntimeError("bug")]
)
def test_a_probe_that_fails_is_followed_by_another(asked: Asked, error: Exception) -> None:
    """The circuit stays open, whatever goes wrong, also where no thread is free for the probe."""
    asked.queue._trip("hangs")
    asked.crew.free = 0
    asked.loop.run(0.4)
    assert asked.crew.jobs == []
    asked.crew.free = 4
    for _ in range(4):
        asked.loop.run(7.0)
        assert len(asked.crew.jobs) == 1
        asked.come_back(error=error)
        assert asked.queue.circuit.open
    asked.loop.run(7.0)
    asked.come_back()
    assert not asked.queue.circuit.open


def test_a_directory_that_hangs(asked: Asked) -> None:
    """Neither the query nor the canary beside it is back by the deadline: the first one opens the circuit."""
    asked.ask("zed")
    asked.loop.run(0.5)
    assert len(asked.crew.jobs) == 2, "a canary goes beside it"
    asked.ask("eve")
    asked.loop.run(0.6)
    assert asked.queue.circuit.open
    assert sorted(asked.said()) == [("eve", None), ("zed", None)]
    assert asked.told == ["changed"]
    asked.come_back()
    assert asked.said() == [], "nobody waits for it any more"


def test_an_address_that_is_slow_by_itself(asked: Asked) -> None:
    """The canary comes back, the query does not: it alone fails, as often as that happens."""
    for number in range(4):
        asked.ask(f"slow{number}")
        asked.loop.run(0.5)
        asked.come_back(1)
        asked.loop.run(0.6)
        assert asked.said() == [(f"slow{number}", None)]
        asked.crew.jobs.clear()
        asked.crew.free = 4
    assert not asked.queue.circuit.open


def test_late_without_a_canary(asked: Asked) -> None:
    """Where no thread was free for one, two of ten open the circuit; a query's own time-out is late as well."""
    for opened in (False, True):
        asked.crew.free = 1
        asked.ask(f"zed{opened}")
        asked.loop.run(0.9)
        asked.come_back(error=DirectoryTimeout("late"))
        assert asked.said() == [(f"zed{opened}", None)]
        assert asked.queue.circuit.open is opened
        asked.ask(f"zed{opened}")
        assert asked.said() == [(f"zed{opened}", None)], "not asked again for a second"
    assert (asked.queue.missed, asked.told) == (2, ["changed"])
    asked.loop.run(0.4)
    asked.come_back()
    assert not asked.queue.circuit.open


def test_errors_open_no_circuit(asked: Asked) -> None:
    """Who asked is told, again for a second without a query; the next question is a query."""
    for number in range(6):
        asked.ask(f"zed{number}")
        asked.come_back(error=DirectoryError("refused", "start it"))
        assert asked.said() == [(f"zed{number}", None)]
        asked.ask(f"zed{number}")
        assert asked.said() == [(f"zed{number}", None)]

    def refuse(_: object) -> None:
        raise DirectoryError("refused", "start it")

    asked.source.on_ask = refuse
    asked.ask("down")
    asked.come_back()
    assert asked.said() == [("down", None)]
    assert (asked.queue.circuit.open, asked.queue.errors) == (False, 7)
    asked.loop.run(1.0)
    asked.ask("zed0")
    assert len(asked.crew.jobs) == 1


def test_another_server_is_told(asked: Asked) -> None:
    """Its "no" is not believed and a sync is asked for; without a sync yet, and from the same, all is well."""
    for synced, answered, foreign in (("", "a", 0), ("a", "a", 0), ("a", "b", 1)):
        asked.queue.server, asked.source.server = synced, answered
        asked.ask(f"zed{answered}{synced}")
        asked.come_back()
        assert asked.told.count("foreign") == foreign
        assert asked.said() == [(f"zed{answered}{synced}", None if foreign else "no")]
    assert not asked.queue.circuit.open


def test_waiting_is_bounded(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound, and beyond the deadline without a thread, nobody waits; neither is remembered as an answer."""
    monkeypatch.setattr(queues, "_WAITING", 2)
    asked.crew.free = 0
    asked.ask("one", "two", "three")
    assert asked.said() == [("three", None)]
    asked.loop.run(0.9)
    assert asked.said() == []
    asked.loop.run(0.2)
    assert sorted(asked.said()) == [("one", None), ("two", None)]
    asked.crew.free = 4
    asked.ask("one", "three")
    asked.come_back()
    assert asked.said() == [("one", "no"), ("three", "no")]


def test_a_closed_queue_keeps_nobody(asked: Asked) -> None:
    """Who waits, and who asks later, could not ask; what comes back afterwards changes nothing."""
    asked.crew.free = 1
    asked.ask("one")
    asked.ask("two")
    asked.queue.close()
    asked.ask("three")
    assert sorted(asked.said()) == [("one", None), ("three", None), ("two", None)]
    asked.come_back()
    asked.loop.run(30.0)
    assert (asked.said(), asked.crew.jobs, asked.told) == ([], [], [])
    assert asked.crew.closed


def test_a_crowd_is_asked_in_batches(asked: Asked) -> None:
    """48 addresses and two canaries in a query, several at once, everybody once."""
    names = [f"x{number}" for number in range(100)]
    asked.ask(*names)
    asked.loop.run(0.03)
    for _ in range(10):
        if not asked.crew.jobs:
            break
        asked.come_back()
        asked.loop.run(0.03)
    assert [len(one) for one in asked.source.asked] == [50, 50, 6]
    assert sorted(asked.said()) == sorted((name, "no") for name in names)


def test_answers_are_remembered_as_long_as_they_count(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the memory is turned over meanwhile, and never more of them than there is room for."""
    asked.loop.run(3.0)
    asked.ask("zed")
    asked.come_back()
    asked.loop.run(2.5)
    asked.queue.look_after()
    asked.ask("zed")
    assert ([local for local, _ in asked.said()], asked.crew.jobs) == (["zed", "zed"], [])
    asked.loop.run(5.5)
    asked.queue.look_after()
    assert (asked.queue.results, asked.queue.old_results) == ({}, {})
    monkeypatch.setattr(queues, "_REMEMBERED", 2)
    for number in range(9):
        asked.ask(f"x{number}")
        asked.come_back()
        asked.loop.run(0.05)
    assert len(asked.queue.results) + len(asked.queue.old_results) <= 4


def test_no_deadline_is_longer_than_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the configuration says: all mail of the host waits for it."""
    monkeypatch.setattr(queues, "Crew", Crew)
    loop, canaries = cast(asyncio.AbstractEventLoop, Loop()), cast(CanaryStore, Canaries())
    for says, waits in ((60.0, 2.0), (0.5, 0.5)):
        queue = LiveQueue(loop, replace(HERE, deadline=says), canaries, lambda: None, lambda: None)
        assert queue.deadline == waits


def test_time_spent_waiting_is_spent(asked: Asked) -> None:
    """A query has what is left to the one who waits longest, its canary what is left to the query."""
    asked.crew.free = 0
    asked.ask("one")
    asked.loop.run(0.6)
    asked.crew.free = 4
    asked.ask("two")
    asked.loop.run(0.2)
    assert asked.crew.limits == [0.4, 0.24]
    assert asked.said() == []
    asked.loop.run(0.21)
    assert sorted(asked.said()) == [("one", None), ("two", None)]


def test_no_thread_can_be_started(asked: Asked) -> None:
    """Who asked waits on, is told at the deadline, and is asked about as soon as there is one."""
    asked.crew.refuses = True
    asked.ask("one")
    assert (asked.said(), list(asked.queue.waiting)) == ([], [("one", D)])
    asked.loop.run(1.1)
    assert asked.said() == [("one", None)]
    asked.ask("one")
    asked.crew.refuses = False
    asked.ask("two")
    asked.come_back()
    assert asked.said() == [("one", "no"), ("two", "no")]


@pytest.mark.parametrize("error", [DirectoryError("refused", "start it"), DirectoryTimeout("late")])
def test_a_probe_that_the_directory_refuses(asked: Asked, error: DirectoryError) -> None:
    """An answer that says nothing of the canaries closes no circuit; nor does one that comes when all is over."""

    def refuse(_: object) -> None:
        raise error

    asked.source.on_ask = refuse
    asked.queue._trip("hangs")
    for _ in range(3):
        asked.loop.run(7.0)
        asked.come_back()
        assert asked.queue.circuit.open
    asked.loop.run(7.0)
    asked.source.on_ask = lambda _: None
    asked.queue.close()
    asked.come_back()
    assert (asked.queue.circuit.open, asked.told) == (True, ["changed"])


def test_a_canary_that_is_late_too(asked: Asked) -> None:
    """Beside a late query it proves nothing when it ran out of time itself; who waits for a thread is told at once."""

    def late(_: object) -> None:
        raise DirectoryTimeout("late")

    asked.ask("zed")
    asked.loop.run(0.5)
    asked.source.on_ask = late
    asked.come_back(1)
    asked.crew.free = 0
    asked.ask("eve")
    asked.come_back()
    assert asked.queue.circuit.open
    assert sorted(asked.said()) == [("eve", None), ("zed", None)]
