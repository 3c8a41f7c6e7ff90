# SPDX-License-Identifier: Apache-2.0
"""Links between our own processes by themselves."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from pathlib import Path

import pytest

from policyd import link
from policyd.link import Channel, LinkClosedError


def test_channel_keeps_messages_whole_and_carries_descriptors(tmp_path: Path) -> None:
    """Messages larger than the socket's buffer arrive whole and in order, with their descriptors."""
    ours, theirs = socket.socketpair()
    one, other = Channel(ours), Channel(theirs)
    big = ("settings", "x" * 3_000_000)
    (tmp_path / "f").write_text("hello")
    with (tmp_path / "f").open() as file:
        one.send(("first",))
        one.send(big)
        one.send(("link", 3), file.fileno())
    received: list[link.Message] = []
    while len(received) < 3:
        one.flush()
        received += other.receive()
    assert received == [("first",), big, ("link", 3)]
    with os.fdopen(other.descriptors.popleft()) as copy:
        assert copy.read() == "hello"
    one.close()
    with pytest.raises(LinkClosedError):
        other.receive()
    with pytest.raises(LinkClosedError):
        other.send(("x",))
    other.close()


def test_a_message_that_cannot_be_handled_is_no_other_ones_fault() -> None:
    """A message's handler fails: the messages that came with it are handled, each with its own descriptor."""
    theirs, ours = socket.socketpair()
    seen: list[tuple[str, str]] = []

    def handle(channel: link.LoopChannel, message: link.Message) -> None:
        if message[0] == "bad":
            raise ValueError("cannot be handled")
        with open(channel.descriptor(), encoding="ascii") as file:
            seen.append((message[0], file.read()))

    async def life() -> None:
        channel = link.LoopChannel(asyncio.get_running_loop(), ours, handle, lambda _: None)
        sender = Channel(theirs)
        for name in ("one", "bad", "two"):
            reading, writing = os.pipe()
            os.write(writing, name.encode())
            os.close(writing)
            sender.send((name,), reading if name != "bad" else None)
            os.close(reading)
        async with asyncio.timeout(5):
            while len(seen) < 2:
                await asyncio.sleep(0.01)
        channel.close()
        sender.close()

    asyncio.run(life())
    assert seen == [("one", "one"), ("two", "two")]


def test_a_descriptor_without_room_is_missed_by_its_own_message_alone() -> None:
    """At the limit of descriptors a message arrives without its own, and says so; the next one has its own."""
    ours, theirs = socket.socketpair()
    sender, receiver = Channel(ours), Channel(theirs)
    reading, writing = os.pipe()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    for name in ("lost", "here"):
        os.write(writing, name.encode())
        sender.send((name,), reading)
        if name == "lost":
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            assert receiver.receive() == [(name,)]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert receiver.descriptors.popleft() == link.LOST
    with os.fdopen(receiver.descriptors.popleft()) as file:
        os.close(writing)
        assert file.read() == "losthere"
    os.close(reading)
    sender.close()
    receiver.close()
