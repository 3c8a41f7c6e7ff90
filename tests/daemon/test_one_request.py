# SPDX-License-Identifier: Apache-2.0
"""One connection of a worker, whose keeper the test is: what a fault in one request is to its client."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from policyd import clock
from policyd.link import Channel, Live
from policyd.protocols import socketmap
from policyd.worker.cache import Cache
from policyd.worker.faces import KINDS, Socketmap
from policyd.worker.main import Worker
from transport.config.settings import Daemon, Destination, Directory, Domain, Settings, SqlOptions

HERE = Directory("here", "sql", SqlOptions("sqlite:////nowhere/people.db", "SELECT address FROM recipients"), b"f" * 16)


def _settings(state: Path) -> Settings:
    return Settings(
        digest=b"one",
        daemon=Daemon(state=state),
        directories={"here": HERE},
        destinations={"m365": Destination("m365", hosts=("192.0.2.9",))},
        domains={"example.com": Domain("example.com", local=("here",), destination="m365")},
    )


def broken(*_: object) -> Any:
    """A fault of ours."""
    raise RuntimeError("a fault of ours")


def test_a_fault_behind_a_live_answer_is_temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waited is told to try again, what came behind it is answered, and nobody waits for an answer for ever."""
    up, supervisor = socket.socketpair()
    link, keeper = socket.socketpair()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    async def life() -> bytes:
        loop = asyncio.get_running_loop()
        worker = Worker(loop, _settings(tmp_path), 1, [], up, link)
        worker.supervisor.on_close = lambda _: None
        worker.caches["socketmap", ""] = Cache()
        await loop.connect_accepted_socket(lambda: Socketmap(worker), ours)
        tell = Channel(keeper)
        tell.send(("asks", {"here": HERE.asked}))
        requests = [socketmap.request("transport", key) for key in ("new@example.com", "x@other.example")]
        await loop.sock_sendall(theirs, b"".join(requests))
        async with asyncio.timeout(20):
            while not worker.live.waiting:
                await asyncio.sleep(0.01)
            right = worker.answerer.map
            monkeypatch.setattr(worker.answerer, "map", broken)
            now = clock.now()
            tell.send(("answers", [("here", "new", "example.com", Live((), now, now + 5))]))
            said = await loop.sock_recv(theirs, 65536)
            monkeypatch.setattr(worker.answerer, "map", right)
            while said.count(b",") < 2:
                said += await loop.sock_recv(theirs, 65536)
            await loop.sock_sendall(theirs, requests[1])
            while said.count(b",") < 3:
                said += await loop.sock_recv(theirs, 65536)
        assert worker.counters.faults["internal"]
        worker.supervisor.close()
        supervisor.close()
        assert worker.keeper is not None
        worker.keeper.close()
        return said

    said = asyncio.run(life())
    theirs.close()
    words = []
    while said:
        end = socketmap.next_reply(said)
        assert end is not None
        words.append(socketmap.parse_reply(said[:end])[0])
        said = said[end:]
    assert (words[0], words[2]) == ("TEMP", "NOTFOUND")


def test_what_comes_behind_a_request_that_waits_stays_with_its_client(tmp_path: Path) -> None:
    """While a live answer is out nothing more is read: a client that goes on sending takes no memory of ours."""
    up, supervisor = socket.socketpair()
    link, keeper = socket.socketpair()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    request = socketmap.request("transport", "new@example.com")
    enough = 32 << 20

    async def life() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        worker = Worker(loop, _settings(tmp_path), 1, [], up, link)
        worker.supervisor.on_close = lambda _: None
        worker.caches["socketmap", ""] = Cache()
        await loop.connect_accepted_socket(lambda: Socketmap(worker), ours)
        await loop.sock_sendall(theirs, request)
        sent = full = 0
        async with asyncio.timeout(20):
            while not worker.live.waiting:
                await asyncio.sleep(0.01)
            (connection,) = worker.connections
            while sent < enough and full < 100:  # so many turns of the loop in which nobody read
                try:
                    sent += theirs.send(request * 1000)
                    full = 0
                except BlockingIOError:
                    full += 1
                    await asyncio.sleep(0)
        held = len(connection.buffer)
        worker.supervisor.close()
        supervisor.close()
        assert worker.keeper is not None
        worker.keeper.close()
        keeper.close()
        return sent, held

    sent, held = asyncio.run(life())
    theirs.close()
    assert sent < enough
    assert held < 1 << 20


@pytest.mark.parametrize(
    ("kind", "map_name", "request_", "said"),
    [
        ("socketmap", "", socketmap.request("transport", "ann@example.com"), b":TEMP "),
        ("tcp_table", "transport", b"get ann@example.com\n", b"400 "),
        (
            "policy",
            "",
            b"request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=ann@example.com\n\n",
            b"DEFER_IF_",
        ),
        ("exim", "", b"decide recipient=ann@example.com\n", b"decision=temp"),
    ],
)
def test_a_fault_is_temp_in_every_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, map_name: str, request_: bytes, said: bytes
) -> None:
    """A fault of ours in deciding is "try again later" to every MTA, in its own words: never "not found" or "go on"."""
    up, supervisor = socket.socketpair()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    async def life() -> bytes:
        loop = asyncio.get_running_loop()
        worker = Worker(loop, _settings(tmp_path), 1, [], up, None)
        worker.supervisor.on_close = lambda _: None
        worker.caches[kind, map_name] = Cache()
        for name in ("map", "policy", "exim"):
            monkeypatch.setattr(worker.answerer, name, broken)
        await loop.connect_accepted_socket(lambda: KINDS[kind](worker, map_name), ours)
        await loop.sock_sendall(theirs, request_)
        async with asyncio.timeout(20):
            reply = await loop.sock_recv(theirs, 65536)
        worker.supervisor.close()
        supervisor.close()
        return reply

    assert said in asyncio.run(life())
    theirs.close()
