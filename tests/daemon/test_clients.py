# SPDX-License-Identifier: Apache-2.0
"""Clients of every kind: pipelining, slow, half-closed, silent, too many."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from policyd.protocols import socketmap
from tests.daemon.site import LOCAL, REMOTE, Client, Site
from tests.mta.waiting import wait_for


def _exchange(path: Path, data: bytes, half_close: bool = True) -> bytes:
    """Send all, perhaps close our sending side, read until the end of file."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        sock.sendall(data)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
        return answer


def _wait_replaced(site: Site, role: str, old: int) -> None:
    """Wait until another process has taken this one's place."""
    wait_for(lambda: site.pids(role) not in ([], [old]), 10)


def test_half_requests_take_no_memory_without_end(site: Site) -> None:
    """Hundreds of clients that send nearly a whole long request and wait: the oldest are let go, and others are
    answered."""
    with contextlib.ExitStack() as held:
        clients = [held.enter_context(contextlib.closing(site.client())) for _ in range(400)]
        for client in clients:
            with contextlib.suppress(OSError):  # it was let go already
                client.sock.sendall(b"99999:transport " + b"x" * 99_000)
        wait_for(lambda: sum(_is_closed(client.sock) for client in clients) > 200, 20, site.splitmx.tail)
        assert not _is_closed(clients[-1].sock)
        assert site.ask("ann@example.com") == ("OK", LOCAL)
    assert "too much of half requests" in site.log()


def _is_closed(sock: socket.socket) -> bool:
    """Whether the daemon has ended this connection."""
    sock.setblocking(False)
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_pipelined_frames_are_answered_in_order(site: Site) -> None:
    """Many requests in one write, cached, new and live ones mixed: one reply each, in their order."""
    client = site.client()
    keys = ["ann@example.com", "x@foreign.example", "nobody@example.com", "sales@example.com"] * 200
    client.sock.sendall(b"".join(socketmap.request("transport", key) for key in keys))
    answers = [client.receive() for _ in keys]
    for key, answer in zip(keys, answers, strict=True):
        expected = {"ann": ("OK", LOCAL), "nob": ("OK", REMOTE), "x@f": ("NOTFOUND", ""), "sal": ("OK", LOCAL)}
        assert answer == expected[key[:3]], key


def test_two_frames_in_one_read_get_two_answers(site: Site) -> None:
    """A read that holds two known frames is never answered as one."""
    client = site.client()
    for _ in range(3):
        client.send("transport", "ann@example.com")
        assert client.receive() == ("OK", LOCAL)
    frame = socketmap.request("transport", "ann@example.com")
    client.sock.sendall(frame + frame)
    assert [client.receive(), client.receive()] == [("OK", LOCAL)] * 2


def test_byte_by_byte_request_is_answered(site: Site) -> None:
    """A request may come in any pieces."""
    client = site.client()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    for byte in socketmap.request("transport", "ann@example.com"):
        client.sock.sendall(bytes((byte,)))
    assert client.receive() == ("OK", LOCAL)


@pytest.mark.parametrize("data", [b"x", b"99999999:", b"200000:", b"3:abcd", b"GET / HTTP/1.1\r\n\r\n", b"-1:,"])
def test_nonsense_closes_only_its_own_connection(site: Site, data: bytes) -> None:
    """Bytes that are no netstring end that connection without an answer."""
    other = site.client()
    assert _exchange(site.map, data, half_close=False) == b""
    assert other.ask("transport", "ann@example.com") == ("OK", LOCAL)


def test_half_closed_client_gets_its_answers(site: Site) -> None:
    """A client that closes its sending side still reads every answer."""
    data = socketmap.request("transport", "ann@example.com") + socketmap.request("transport", "nobody@example.com")
    answer = _exchange(site.map, data)
    assert answer == socketmap.reply("OK", LOCAL) + socketmap.reply("OK", REMOTE)


def test_client_that_leaves_while_waiting_harms_nobody(site: Site) -> None:
    """Connections closed before their live answer came are forgotten."""
    for number in range(50):
        client = site.client()
        client.send("transport", f"gone{number}@example.com")
        client.close()
    assert site.ask("ann@example.com") == ("OK", LOCAL)
    wait_for(lambda: sum(one["connections"] for one in site.status()["workers"]["running"]) == 0, 10)


def test_client_that_never_reads_is_bounded(site: Site) -> None:
    """A client that sends without reading is stopped from sending; others are answered meanwhile."""
    client = site.client(timeout=2)
    frames = socketmap.request("transport", "ann@example.com") * 1000

    def fill() -> None:
        for _ in range(2000):
            client.sock.sendall(frames)

    with pytest.raises(TimeoutError):
        fill()
    (worker,) = site.pids("worker")
    assert site.ask("ann@example.com") == ("OK", LOCAL)
    assert _rss(worker) < 80 << 20


def _rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
def test_half_frame_ends_after_30_seconds_and_idle_never(site: Site) -> None:
    """Half a request for 30 s ends its connection; idle between requests never does."""
    idle = site.client()
    assert idle.ask("transport", "ann@example.com") == ("OK", LOCAL)
    half = site.client(timeout=60)
    half.sock.sendall(b"30:transport ")
    with pytest.raises((EOFError, ConnectionResetError)):
        half.receive()
    assert idle.ask("transport", "ann@example.com") == ("OK", LOCAL)


def test_a_policy_request_with_two_recipients_is_kept_for_nobody(site: Site) -> None:
    """Whoever may connect cannot have one recipient's answer kept for another: attributes that come twice."""
    words = "request=smtpd_access_policy\nprotocol_state=RCPT\nsender=a@b.test\nclient_address=192.0.2.77\n"
    plain = (words + "recipient={}\nsize=0\n\n").format
    known, unknown = "ann@example.com", "stranger@example.com"
    twice = (words + f"recipient={unknown}\nrecipient={known}\n\n").encode()
    path = site.folder / "policy.sock"
    assert _exchange(path, plain(known).encode() + twice) == b"action=DUNNO\n\n" * 2
    assert _exchange(path, plain(unknown).encode() * 3) == b"action=reject_unverified_recipient\n\n" * 3


def test_policy_requests(site: Site) -> None:
    """The policy service answers request after request on one connection, pipelined too."""
    request = (
        "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=SMTP\nclient_address=192.0.2.77\n"
        "sender=s@example.net\nrecipient={}\nqueue_id=\ninstance=1.{}\nsize=0\n\n"
    )
    data = b"".join(
        request.format(to, number).encode()
        for number, to in enumerate(["ann@example.com", "new@example.com", "x@foreign.example"] * 20)
    )
    answer = _exchange(site.folder / "policy.sock", data)
    assert answer == b"action=DUNNO\n\naction=reject_unverified_recipient\n\naction=DUNNO\n\n" * 20


def test_exim_gets_one_line_and_end_of_file(site: Site) -> None:
    """Each Exim connection gets one answer and is closed, whether or not Exim closes its side."""
    path = site.folder / "exim.sock"
    for half_close in (True, False):
        assert _exchange(path, b"decide recipient=ann@example.com\n", half_close).startswith(b"decision=local")
        assert _exchange(path, b"decide recipient=new@example.com\n", half_close).startswith(b"decision=relay")


@pytest.mark.parametrize("data", [b"decide nonsense=1 recipient=ann@example.com\n", b"decide recip", b"\n"])
def test_exim_is_never_answered_with_nothing(site: Site, data: bytes) -> None:
    """A broken or half request is decision=temp: an empty answer would be success to Exim."""
    assert _exchange(site.folder / "exim.sock", data).startswith(b"decision=temp")


def test_tcp_table(sites: Callable[..., Site]) -> None:
    """A tcp_table listener serves its one map."""
    site = sites("ann@example.com")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    site.splitmx.write(
        site.config().replace("workers = 1", f'workers = 1\ntcp_table = {{ transport = "inet:127.0.0.1:{port}" }}')
    )
    site.start()
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(b"get ann@example.com\nget x@foreign.example\nget nobody@example.com\n")
        sock.shutdown(socket.SHUT_WR)
        lines = sock.makefile("rb").read().splitlines()
    assert lines[0] == f"200 {LOCAL}".encode()
    assert lines[1].startswith(b"500")
    assert lines[2] == f"200 {REMOTE}".encode()


def test_unknown_map_is_temp(site: Site) -> None:
    """A map that does not exist is TEMP, with a warning."""
    assert site.ask("ann@example.com", "transports")[0] == "TEMP"
    assert "unknown" in site.log() or "does not exist" in site.log()


@pytest.mark.slow
def test_five_thousand_idle_connections(sites: Callable[..., Site]) -> None:
    """5,000 idle connections cost nobody anything."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    try:
        site = sites("ann@example.com").start()
        clients: list[Client] = []
        while len(clients) < 5000:
            try:
                clients.append(site.client())
            except BlockingIOError:  # the backlog is full for a moment
                site.answers("ann@example.com", LOCAL)
        assert site.ask("ann@example.com") == ("OK", LOCAL)
        assert clients[0].ask("transport", "ann@example.com") == ("OK", LOCAL)
        assert clients[-1].ask("transport", "ann@example.com") == ("OK", LOCAL)
        (worker,) = site.pids("worker")
        assert _rss(worker) < 120 << 20
        for client in clients:
            client.close()
        wait_for(lambda: sum(one["connections"] for one in site.status()["workers"]["running"]) == 0, 20)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_out_of_descriptors_refuses_and_recovers(site: Site) -> None:
    """With no descriptor left new connections are closed at once, open ones go on, and all heals."""
    (worker,) = site.pids("worker")
    used = len(os.listdir(f"/proc/{worker}/fd"))
    subprocess.run(["prlimit", f"--pid={worker}", f"--nofile={used + 10}:"], check=True)
    kept = site.client()
    assert kept.ask("transport", "ann@example.com") == ("OK", LOCAL)
    clients = [site.client(timeout=10) for _ in range(40)]
    served = refused = 0
    for client in clients:
        try:
            assert client.ask("transport", "ann@example.com") == ("OK", LOCAL)
            served += 1
        except (EOFError, OSError):
            refused += 1
    assert refused > 0
    assert kept.ask("transport", "ann@example.com") == ("OK", LOCAL)
    assert "out of descriptors" in site.log()
    for client in clients:
        client.close()
    site.answers("ann@example.com", LOCAL)
    assert site.pids("worker") == [worker]


def test_more_waiting_requests_than_room_are_temp(sites: Callable[..., Site]) -> None:
    """Beyond 1,000 requests waiting for a stopped keeper the rest is TEMP at once, and all are answered in time."""
    site = sites("ann@example.com", fresh_for="1s", sync_every="300s").start()
    wait_for(lambda: site.status()["directories"]["here"]["age"] > 1.1, 5)
    (keeper,) = site.pids("keeper")
    os.kill(keeper, signal.SIGSTOP)
    try:
        statuses = asyncio.run(_storm(site.map, 1300))
        assert set(statuses) == {"TEMP"}
        assert site.ask("ann@example.com") == ("OK", LOCAL)
        assert "too many requests wait" in site.log()
    finally:
        for pid in site.pids("keeper"):
            os.kill(pid, signal.SIGCONT)


async def _storm(path: Path, number: int) -> list[str]:
    async def one(at: int) -> str:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(socketmap.request("transport", f"storm{at}@example.com"))
        size = await reader.readuntil(b":")
        payload = await reader.readexactly(int(size[:-1]) + 1)
        writer.close()
        return payload.split(b" ")[0].decode()

    return await asyncio.gather(*(one(at) for at in range(number)))


LOOP = (
    b"request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address=198.51.100.7\nsender=s@example.net\n"
    b"recipient=bob@example.com\n\n"
)


def _with_peers(sites: Callable[..., Site], **options: str) -> Site:
    """bob is at the other side, whose peers bring him back as `LOOP` says; a loop is 550 after two seconds."""
    more = 'locations = { cloud = "m365" }\nloop_grace = "2s"'
    site = sites("ann@example.com", domain=more, **options)
    site.add("bob@example.com", location="cloud")
    site.splitmx.write(
        site.config().replace(
            'hosts = ["192.0.2.9"]', 'hosts = ["192.0.2.9"]\npeers = ["198.51.100.0/24"]\nexclusive = true'
        )
    )
    return site


def test_loop_of_a_listed_address_is_451_first_and_550_after_its_grace(sites: Callable[..., Site]) -> None:
    """A listed remote address that its peer brings back: 451 for `loop_grace` from the first sight, then 550; the
    first sight outlives workers and keeper."""
    site = _with_peers(sites).start()
    path = site.folder / "policy.sock"
    assert site.ask("bob@example.com") == ("OK", REMOTE)
    assert _exchange(path, LOOP).startswith(b"action=451 4.4.6 ")
    for role in ("worker", "keeper"):
        (pid,) = site.pids(role)
        wait_for(lambda: (site.folder / "state" / "loops.json").exists(), 5)
        os.kill(pid, signal.SIGKILL)
        _wait_replaced(site, role, pid)
    wait_for(lambda: _exchange(path, LOOP).startswith(b"action=550 5.4.6 "), 10, site.splitmx.tail)
    assert _exchange(path, LOOP.replace(b"198.51.100.7", b"203.0.113.1")) == b"action=DUNNO\n\n"


def test_a_disk_that_stands_still_holds_up_nobody(sites: Callable[..., Site]) -> None:
    """Writing down a first sight never ends (a FIFO nobody reads): strangers are still asked live, status answers,
    and the keeper lives on."""
    site = _with_peers(sites, fresh_for="100ms")
    site.add("cyd@example.com", location="cloud")
    site.start()
    keeper = site.pids("keeper")
    os.mkfifo(site.folder / "state" / ".loops.json.new")
    assert _exchange(site.folder / "policy.sock", LOOP).startswith(b"action=451 4.4.6 ")
    end = time.monotonic() + 6
    while time.monotonic() < end:
        assert site.ask(f"stranger{time.monotonic()}@example.com") == ("OK", REMOTE)
        assert site.control("ping")["ok"]
        time.sleep(0.2)
    again = LOOP.replace(b"bob@", b"cyd@")  # another first sight, while the one before is not written yet
    assert _exchange(site.folder / "policy.sock", again).startswith(b"action=451 4.4.6 ")
    wait_for(lambda: "the disk does not answer" in site.splitmx.log.read_text(), 5, site.splitmx.tail)
    assert 'splitmx_unwritten{file="loops.json"} 1.0' in site.metrics()
    assert 'splitmx_unwritten{file="index.sqlite"} 0.0' in site.metrics()
    assert site.pids("keeper") == keeper


def test_shortcut_and_whole_way_agree(sites: Callable[..., Site]) -> None:
    """A frame that comes alone may be answered by what its situation was told before; many at once go the whole way:
    the replies are the same, for odd keys and other maps too."""
    people = [f"{name}@example.com" for name in ("ann", "bob", "eve", "dan", '"john doe"', "o'neil", "a.b-c_d")]
    site = sites(*people, fresh_for="300s").start()
    keys = [
        *people, "Ann@example.com", "ann@EXAMPLE.com", "ann+x@example.com", '"ann"@example.com', "ann@example.com.",
        "ann @example.com", " ann@example.com", "@example.com", "ann@", "ann", "zed@example.com", "ann@example.net",
        "\u00e4nn@example.com", "ann\u00a0@example.com", "x" * 200 + "@example.com", "john doe@example.com",
    ]  # fmt: skip
    frames = [(name, key) for name in ("transport", "relay_recipients", "virtual_alias", "here") for key in keys]
    many = site.client()
    for name, key in frames:
        many.send(name, key)
    whole = [many.receive() for _ in frames]
    alone = site.client()
    for _ in range(3):
        assert [alone.ask(name, key) for name, key in frames] == whole
        site.splitmx.run("flush", "nobody@example.com", check=True)  # empties the caches of answers
    assert len({value for _, value in whole}) > 3
