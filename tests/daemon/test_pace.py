# SPDX-License-Identifier: Apache-2.0
"""Live look-ups of a worker give way to recipients who need none: fewer in a message, messages further apart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from policyd.link import Live
from policyd.worker.live import LiveLink, Pending
from policyd.worker.pace import INTERVAL, LEAST
from tests.transport.world import D, settings


class Turns:
    """A loop that only notes what it is to call, and after how many seconds of its own clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self.due.append((0.0, call))

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self.due.append((seconds, call))

    def turn(self) -> list[float]:
        """Make the calls that are due now, whatever they wait for; after how many seconds they were due."""
        due, self.due = self.due, []
        for seconds, call in due:
            self.now += seconds
            call()
        return [seconds for seconds, _ in due]


class Client:
    """Who asked; `answered` holds the requests that went on."""

    def __init__(self) -> None:
        self.answered: list[Any] = []

    def resume(self, pending: Pending) -> None:
        self.answered.append(pending.request)


class Asked:
    """A LiveLink whose messages are kept, and some strangers who wait."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.client = Client()
        self.messages: list[list[tuple[str, str, str]]] = []
        self.seen = 0
        loop = cast(asyncio.AbstractEventLoop, self.turns)
        self.link = LiveLink(loop, settings(D), self._send)

    def _send(self, message: tuple[Any, ...]) -> bool:
        self.messages.append(message[1])
        return True

    def known(self) -> None:
        """A recipient who needs no live look-up is answered."""
        self.link.pace.at_once[0] += 1

    def strangers(self, many: int) -> list[Pending]:
        """So many further requests that wait for one look-up each."""
        made = [Pending(self.client, self.seen + number, None, time.monotonic()) for number in range(many)]
        self.seen += many
        for one in made:
            assert self.link.wait(one, [("here", f"x{one.request}", "example.com")], None)
        return made

    def answer(self, message: list[tuple[str, str, str]]) -> None:
        """The keeper answers one message: nobody is listed."""
        now = time.monotonic()
        for triple in message:
            self.link.answer(triple, Live((), now, now + 1))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """A link that nobody has used, in a time that passes only in the loop."""
    made = Asked()
    monkeypatch.setattr(time, "monotonic", lambda: made.turns.now)
    return made


def test_strangers_alone_are_asked_about_at_once(asked: Asked) -> None:
    """With nobody else about, all that wait go in one message, in the next turn of the loop."""
    asked.strangers(300)
    assert asked.turns.turn() == [0.0]
    assert [len(message) for message in asked.messages] == [300]


def test_beside_known_recipients_messages_are_small_and_apart(asked: Asked) -> None:
    """A few in a message, and the next one no sooner than INTERVAL after it."""
    asked.strangers(LEAST)
    asked.turns.turn()
    asked.known()
    asked.strangers(3 * LEAST)
    waited = []
    while asked.turns.due:
        waited += asked.turns.turn()
    assert waited == pytest.approx([INTERVAL] * 3)
    assert [len(message) for message in asked.messages] == [LEAST] * 4


def test_known_recipients_count_for_a_moment_only(asked: Asked) -> None:
    """A tenth of a second after the last one strangers have the worker for themselves."""
    asked.known()
    asked.strangers(LEAST)
    asked.turns.turn()
    asked.turns.now += 0.2
    asked.strangers(60)
    assert asked.turns.turn() == [0.0]
    assert [len(message) for message in asked.messages] == [LEAST, 60]


def test_a_stranger_beside_known_recipients_does_not_wait_without_need(asked: Asked) -> None:
    """The first one after a while is asked about at once."""
    asked.known()
    asked.strangers(1)
    assert asked.turns.turn() == [0.0]


def test_nobody_is_asked_about_for_a_client_that_is_gone(asked: Asked) -> None:
    """Whoever gave up while the question waited is not asked about any more; who comes after that is, once."""
    asked.known()
    gone = asked.strangers(30)
    asked.turns.turn()
    for one in gone[LEAST:]:
        asked.link.drop(one)
    asked.seen = LEAST
    asked.strangers(LEAST)
    while asked.turns.due:
        asked.known()
        asked.turns.turn()
    assert asked.messages[1:] == [[("here", f"x{number}", "example.com") for number in range(LEAST, 2 * LEAST)]]


def test_what_the_keeper_tells_unasked_is_not_asked_for(asked: Asked) -> None:
    """An answer that another worker or `explain` brought serves who waits here."""
    asked.known()
    asked.strangers(LEAST + 1)
    asked.turns.turn()
    asked.answer([("here", f"x{LEAST}", "example.com")])
    while asked.turns.due:
        asked.known()
        asked.turns.turn()
    assert asked.client.answered == [LEAST]
    assert len(asked.messages) == 1


def test_a_new_keeper_is_not_asked_what_the_old_one_left(asked: Asked) -> None:
    """When the keeper dies all who wait are told so at once, and nothing of theirs is sent later."""
    asked.known()
    asked.strangers(30)
    asked.turns.turn()
    asked.link.keeper_gone()
    assert len(asked.client.answered) == 30
    while asked.turns.due:
        asked.turns.turn()
    assert [len(message) for message in asked.messages] == [LEAST]


def test_the_pace_is_kept_when_the_queue_was_empty_in_between(asked: Asked) -> None:
    """However often the questions that waited were dropped, there is one message in INTERVAL."""
    asked.known()
    asked.strangers(30)
    asked.turns.turn()
    for _ in range(5):
        for one in list(asked.link.waiting):
            asked.link.drop(one)
        asked.strangers(30)
    asked.known()
    asked.turns.turn()
    assert len(asked.messages) == 2


def test_the_more_strangers_wait_the_more_go_at_once(asked: Asked) -> None:
    """However many wait, the last one goes in less than half a second."""
    asked.strangers(1000)
    began = asked.turns.now
    while asked.turns.due:
        asked.known()
        asked.turns.turn()
    assert len(asked.messages[0]) > 5 * LEAST
    assert sum(map(len, asked.messages)) == 1000
    assert asked.turns.now - began < 0.5


def test_answers_are_handed_out_in_handfuls_beside_known_recipients(asked: Asked) -> None:
    """A batch of answers does not occupy the worker: one a millisecond, more where many wait."""
    asked.known()
    asked.strangers(30)
    while asked.turns.due:
        asked.turns.turn()
    for message in asked.messages:
        asked.answer(message)
    asked.turns.turn()
    assert asked.client.answered == [0, 1, 2]
    while asked.turns.due:
        assert asked.turns.turn() == [0.001]
    assert asked.client.answered == list(range(30))


@pytest.mark.parametrize("known", [False, True])
def test_a_fault_in_one_answer_holds_up_no_other(asked: Asked, known: bool) -> None:
    """A request that cannot go on (its connection is just being closed) is let go; those behind it go on."""

    class Closed(Client):
        def resume(self, pending: Pending) -> None:
            raise RuntimeError("the handler is closed")

    first, *others = asked.strangers(5)
    first.waiter = Closed()
    asked.turns.turn()
    asked.answer([triple for message in asked.messages for triple in message])
    if known:
        asked.known()
    for _ in range(20):
        asked.turns.turn()
    assert asked.client.answered == [one.request for one in others]
    late = asked.strangers(3)
    late[0].waiter = Closed()
    asked.link.keeper_gone()
    assert asked.client.answered[4:] == [one.request for one in late[1:]]
    assert not asked.link.waiting
