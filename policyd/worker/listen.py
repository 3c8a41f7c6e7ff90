# SPDX-License-Identifier: Apache-2.0
"""Accepting connections on sockets that all workers share, also when descriptors run out.

We accept by ourselves rather than through the event loop's server: at EMFILE a loop either spins or gives the
listener up, and the MTA would wait 100 s for an answer. A spare descriptor is closed to accept and close the
connection instead: the MTA is refused and tries again.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from policyd import log
from policyd.sockets import Open

Networks = tuple[IPv4Network | IPv6Network, ...]

_AT_ONCE = 64  # connections accepted in one turn
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE = 0.1  # seconds without accepting after descriptors ran out


def networks(texts: tuple[str, ...]) -> Networks:
    """The `allow` networks; loopback is always among them."""
    return tuple(ip_network(text, strict=False) for text in (*texts, "127.0.0.0/8", "::1/128"))


def allowed(host: str, among: Networks) -> bool:
    """Whether a client at this address may ask."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address.version == network.version and address in network for network in among)


class Acceptor:
    """Accepts on one listener.

    factory: makes the protocol of one connection. among: the networks that may connect, read at each connection.
    accepted, full: called for each connection, and each time that there is no descriptor for one.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: Open,
        factory: Callable[[], asyncio.BaseProtocol],
        among: Callable[[], Networks],
        accepted: Callable[[], None],
        full: Callable[[], None],
    ) -> None:
        self.loop = loop
        self.sock = listener.sock
        self.name = listener.listener.name
        self.inet = listener.listener.kind == "inet"
        self.factory = factory
        self.among = among
        self.accepted = accepted
        self.full = full
        self.tasks: set[asyncio.Task[object]] = set()
        self.spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.open = True
        loop.add_reader(self.sock.fileno(), self._ready)

    def close(self) -> None:
        """Accept no more; our copy of the socket is closed."""
        if self.open:
            self.open = False
            self.loop.remove_reader(self.sock.fileno())
            self.sock.close()

    def _ready(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, address = self.sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in _FULL:
                    self._full(error)
                else:
                    log.limited(log.WARNING, f"accept {self.name}", "accept failed", listener=self.name, error=error)
                return
            connection.setblocking(False)
            if self.inet and not allowed(address[0], self.among()):
                log.limited(log.WARNING, f"allow {address[0]}", "connection from outside of daemon.allow is closed",
                            client=address[0], listener=self.name)  # fmt: skip
                connection.close()
                continue
            self.accepted()
            task: asyncio.Task[object] = self.loop.create_task(self._connect(connection))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(self.factory, connection)
        except OSError as error:
            connection.close()
            log.limited(log.WARNING, f"connect {self.name}", "connection failed", listener=self.name, error=error)

    def _full(self, error: OSError) -> None:
        """Refuse what waits, with the spare descriptor, and pause."""
        self.full()
        log.limited(
            log.ERROR,
            "descriptors",
            "out of descriptors, connections are refused: raise LimitNOFILE= or lower default_process_limit",
            listener=self.name,
            error=error.strerror,
        )
        if self.spare >= 0:
            os.close(self.spare)
            self.spare = -1
        try:
            for _ in range(_AT_ONCE):
                refused, _ = self.sock.accept()
                refused.close()
        except OSError:
            pass
        try:
            self.spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            pass  # somebody was faster; the next pause tries again
        self.loop.remove_reader(self.sock.fileno())
        self.loop.call_later(_PAUSE, self._again)

    def _again(self) -> None:
        if not self.open:
            return
        if self.spare < 0:
            try:
                self.spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                pass
        self.loop.add_reader(self.sock.fileno(), self._ready)
