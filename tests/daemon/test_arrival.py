# SPDX-License-Identifier: Apache-2.0
"""New settings on their way: a little at a time, and no live answer is lost over them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from policyd import clock, parts
from policyd.keeper import reloading
from policyd.keeper.main import Keeper
from policyd.keeper.syncing import Order
from policyd.link import Channel, Live, Message
from policyd.parts import Arrival, cut
from policyd.worker.live import Pending
from policyd.worker.main import Worker
from transport.config.settings import Daemon, Destination, Directory, Domain, Settings, SqlOptions, Wave
from transport.index.writer import Writer

HERE = Directory("here", "sql", SqlOptions("sqlite:////nowhere/people.db", "SELECT address FROM recipients"), b"f" * 16)
TRIPLE = ("here", "new", "example.com")


def _settings(state: Path, *names: str, directory: Directory = HERE) -> Settings:
    domains = {name: Domain(name, local=("here",), destination="m365") for name in names}
    return Settings(
        digest=" ".join(names).encode(),
        daemon=Daemon(state=state),
        directories={"here": replace(directory, domains=tuple(names))},
        destinations={"m365": Destination("m365", hosts=("192.0.2.9",))},
        domains=domains,
    )


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def test_thousands_of_domains_arrive_a_few_at_a_time(tmp_path: Path) -> None:
    """Settings are the same at the other end, and whoever else has something to do in the loop gets his turns."""
    wave = Wave("first", 1.0, "d1.example", "m365", frozenset(f"u{n}@d1.example" for n in range(5000)))
    sent = replace(_settings(tmp_path, *(f"d{n}.example" for n in range(5000))), waves=(wave, replace(wave, name="b")))
    taken: list[tuple[Settings, str]] = []
    turns = 0

    async def life() -> None:
        nonlocal turns
        arrival = Arrival(asyncio.get_running_loop(), lambda *new: taken.append(new))
        arrival.begin(cut(sent), "text")
        while not taken:
            turns += 1
            await asyncio.sleep(0)

    asyncio.run(life())
    assert taken == [(sent, "text")]
    assert turns > 100


def _seen(sent: Sequence[Settings], behind: Callable[[Settings], str | None], number: int) -> list[object]:
    """What is taken and done, in its order, when all of these arrive at once. behind: what is to be done behind each;
    number: how much there will be."""
    seen: list[object] = []

    async def life() -> None:
        arrival = Arrival(asyncio.get_running_loop(), lambda settings, _: seen.append(settings))
        for settings in sent:
            arrival.begin(cut(settings), "")
            if word := behind(settings):
                arrival.then(partial(seen.append, word))
        await _until(lambda: len(seen) >= number)

    asyncio.run(life())
    return seen


def test_what_comes_behind_settings_is_done_behind_them(tmp_path: Path) -> None:
    """Of many reloads the newest wins, and a refused one is the last word when it was the last."""
    one, two, three = (_settings(tmp_path, f"{word}.example") for word in ("one", "two", "three"))
    seen = _seen((one, two, three), lambda settings: "refused" if settings is three else None, 3)
    assert seen == [one, three, "refused"]


def test_a_refusal_stands_where_it_came(tmp_path: Path) -> None:
    """What was refused before a good reload is not said behind it, as if the good one had not been taken."""
    one, two, three = (_settings(tmp_path, f"{word}.example") for word in ("one", "two", "three"))
    seen = _seen((one, two, three), lambda settings: f"behind {settings.digest.decode()}", 5)
    assert seen == [one, "behind one.example", "behind two.example", three, "behind three.example"]


def test_damaged_settings_are_said_and_the_next_ones_are_taken(tmp_path: Path) -> None:
    """One reload that cannot be taken stands in nobody's way."""
    good = _settings(tmp_path, "example.com")
    seen: list[object] = []

    async def life() -> None:
        arrival = Arrival(
            asyncio.get_running_loop(), lambda settings, _: seen.append(settings), lambda: seen.append("failed")
        )
        arrival.begin((cut(good)[0], b"nonsense"), "")
        arrival.begin(cut(good), "")
        await _until(lambda: len(seen) > 1)

    asyncio.run(life())
    assert seen == ["failed", good]


def _worker(loop: asyncio.AbstractEventLoop, settings: Settings) -> tuple[Worker, Channel]:
    above, below = socket.socketpair()
    worker = Worker(loop, settings, 1, [], below, None)
    worker.supervisor.on_close = lambda _: None
    return worker, Channel(above)


@pytest.mark.parametrize("fails", [1, 100])
def test_a_worker_never_stays_with_old_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int) -> None:
    """Where it could not take the new ones (no memory for a moment), it tries again; in vain, it makes room for a
    worker that begins with them."""
    old, new = _settings(tmp_path, "example.com"), _settings(tmp_path, "example.com", "example.org")
    stopped: list[Worker] = []
    monkeypatch.setattr(parts, "_AGAIN", 0.01)
    monkeypatch.setattr(Worker, "_stop", lambda worker: stopped.append(worker))
    real, calls = Worker._configure, []

    def configure(worker: Worker, settings: Settings, text: str) -> None:
        calls.append(settings)
        if len(calls) <= fails:
            raise MemoryError
        real(worker, settings, text)

    monkeypatch.setattr(Worker, "_configure", configure)

    async def life() -> None:
        worker, supervisor = _worker(asyncio.get_running_loop(), old)
        supervisor.send(("settings", cut(new), ""))
        await _until(lambda: worker.settings == new or stopped)
        assert stopped == ([worker] if fails > 1 else [])
        assert worker.counters.faults.get("settings", 0) == len(stopped)
        worker.supervisor.close()
        supervisor.close()

    asyncio.run(life())


OTHER = replace(HERE, options=SqlOptions("sqlite:////nowhere/other.db", "SELECT address FROM recipients"))


@pytest.mark.parametrize(("directory", "counts"), [(HERE, True), (OTHER, False)])
def test_a_live_answer_counts_while_its_directory_is_the_same(
    tmp_path: Path, directory: Directory, counts: bool
) -> None:
    """A worker that has new settings already takes an answer of a keeper with the old ones, if nothing that it rests on
    has changed: adding a domain puts no stranger off. That of a directory which was exchanged says nothing."""
    old = _settings(tmp_path, "example.com")
    new = _settings(tmp_path, "example.com", "example.org", directory=directory)
    up, supervisor = socket.socketpair()
    link, keeper = socket.socketpair()
    went_on: list[Pending] = []

    class Waiter:
        def resume(self, pending: Pending) -> None:
            went_on.append(pending)

    async def life() -> None:
        worker = Worker(asyncio.get_running_loop(), old, 1, [], up, link)
        worker.supervisor.on_close = lambda _: None
        tell = Channel(keeper)
        tell.send(("asks", {"here": old.directories["here"].asked}))
        await _until(lambda: worker.keeper_asks)
        assert worker.live.wait(Pending(Waiter(), None, None, clock.now()), [TRIPLE], None)
        Channel(supervisor).send(("settings", cut(new), ""))
        await _until(lambda: worker.settings == new)
        now = clock.now()
        tell.send(("answers", [(*TRIPLE, Live((), now, now + 5))]))
        await _until(lambda: went_on)
        worker.supervisor.close()
        assert worker.keeper is not None
        worker.keeper.close()

    asyncio.run(life())
    assert (went_on[0].overlay[TRIPLE].records == ()) is counts


def test_who_waits_for_a_live_answer_goes_on_waiting_when_a_domain_is_added(tmp_path: Path) -> None:
    """The directory is asked as before: nobody who asked a moment ago is put off for a new domain's sake."""
    answers: list[Any] = []

    async def life() -> None:
        up, supervisor = socket.socketpair()
        keeper = Keeper(asyncio.get_running_loop(), _settings(tmp_path, "example.com"), "", [], up)
        keeper.supervisor.on_close = lambda _: None
        queue = keeper.queues["here"]
        queue.ask("new", "example.com", lambda *answer: answers.append(answer))
        keeper.use(_settings(tmp_path, "example.com", "example.org"))
        assert keeper.queues["here"] is queue
        assert (queue.closed, answers) == (False, [])
        assert queue.directory.domains == ("example.com", "example.org")
        keeper.static.close()
        queue.close()
        supervisor.close()

    asyncio.run(life())


def test_a_reading_goes_on_when_a_domain_is_added(tmp_path: Path) -> None:
    """Of a large directory it takes minutes: where somebody adds a domain every few of them it would never end."""

    async def life() -> None:
        up, supervisor = socket.socketpair()
        keeper = Keeper(asyncio.get_running_loop(), _settings(tmp_path, "example.com"), "", [], up)
        keeper.supervisor.on_close = lambda _: None
        keeper.index.writer = Writer(tmp_path)
        keeper._use_syncs(keeper.settings)
        reading = keeper.syncs["here"]
        reading.order(order := Order())
        new = _settings(tmp_path, "example.com", "example.org")
        keeper.use(new)
        assert keeper.syncs["here"] is reading
        assert (reading.settings, reading.directory) == (new, new.directories["here"])
        assert (await order.done).error, "there is no such directory, but it was asked"
        keeper.use(_settings(tmp_path, "example.com", directory=OTHER))
        assert keeper.syncs["here"] is not reading
        keeper.syncs["here"].close()
        keeper.static.close()
        supervisor.close()

    asyncio.run(life())


def test_postfix_hears_of_a_new_domain_when_every_worker_answers_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then a worker would say of it that it is not ours, and behind the table of our domains that is believed.
    One that takes long is counted, once."""
    monkeypatch.setattr(reloading, "_NOTING", 0.0)
    old, new = _settings(tmp_path, "example.com"), _settings(tmp_path, "example.com", "example.org")

    async def life() -> None:
        loop = asyncio.get_running_loop()
        up, supervisor = socket.socketpair()
        keeper = Keeper(loop, old, "", [], up)
        keeper.supervisor.on_close = lambda _: None
        at_keeper, at_worker = socket.socketpair()
        keeper.link(1, at_keeper)
        tell = Channel(supervisor)
        tell.send(("settings", cut(new), ""))
        await _until(lambda: keeper.settings == new)
        assert keeper.static.settings == old
        await _until(lambda: keeper.crowd.faults.get("settings") == 1)
        above, below = socket.socketpair()
        worker = Worker(loop, old, 1, [], below, at_worker)
        worker.supervisor.on_close = lambda _: None
        Channel(above).send(("settings", cut(new), ""))
        await _until(lambda: keeper.static.settings == new)
        assert worker.settings == new
        assert keeper.crowd.faults["settings"] == 1
        keeper.static.close()
        for one in keeper.queues.values():
            one.close()
        worker.supervisor.close()
        supervisor.close()

    asyncio.run(life())


def test_who_asked_for_a_reload_hears_of_that_one(tmp_path: Path) -> None:
    """A reload that waits for a worker is not called refused since the next one is, nor the next one taken with it."""
    old, new = _settings(tmp_path, "example.com"), _settings(tmp_path, "example.com", "example.org")

    async def life() -> tuple[object, object]:
        up, supervisor = socket.socketpair()
        keeper = Keeper(asyncio.get_running_loop(), old, "", [], up)
        keeper.supervisor.on_close = lambda _: None
        at_keeper, at_worker = socket.socketpair()
        keeper.link(1, at_keeper)
        keeper.static.close()
        first = asyncio.ensure_future(keeper.reloading.ask())
        await asyncio.sleep(0)
        tell = Channel(supervisor)
        tell.send(("settings", cut(new), ""))
        await _until(lambda: keeper.settings == new)
        second = asyncio.ensure_future(keeper.reloading.ask())
        await asyncio.sleep(0)
        tell.send(("refused", ("a mistake",)))
        told = await second
        Channel(at_worker).send(("uses", new.digest))
        both = await first, told
        for one in keeper.queues.values():
            one.close()
        supervisor.close()
        return both

    assert asyncio.run(life()) == ((), ("a mistake",))


@pytest.mark.parametrize("whose", ["supervisor", "keeper"])
def test_a_message_for_which_there_is_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str) -> None:
    """Half of it is lost, and where the next one begins: a worker makes room for one that hears of new settings, and a
    link to the keeper is let go, for which it asks anew."""
    stopped: list[Worker] = []
    monkeypatch.setattr(Worker, "_stop", lambda worker: stopped.append(worker))

    def none() -> list[Message]:
        raise MemoryError

    async def life() -> None:
        worker, supervisor = _worker(asyncio.get_running_loop(), _settings(tmp_path, "example.com"))
        mine, theirs = socket.socketpair()
        worker._link(mine)
        keeper = Channel(theirs)
        link = getattr(worker, whose)
        monkeypatch.setattr(link.channel, "receive", none)
        (supervisor if whose == "supervisor" else keeper).send(("settings", (), ""))
        await _until(lambda: stopped == [worker] if whose == "supervisor" else worker.keeper is None)
        assert worker.supervisor.open  # closed, it would be killed, and who is being answered would not be
        worker.supervisor.close()
        supervisor.close()
        keeper.close()
        if worker.keeper is not None:
            worker.keeper.close()

    asyncio.run(life())
