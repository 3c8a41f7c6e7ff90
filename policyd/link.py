# SPDX-License-Identifier: Apache-2.0
"""Messages between our own processes: whole Python tuples over one end of a socket pair, never blocking.

Both ends were made by the supervisor and belong to its children, so what arrives is ours and may be unpickled.
A message may carry one open descriptor (a new link after a keeper or a worker was replaced).

Supervisor to worker or keeper: ("settings", parts, text) of `policyd.parts`, ("link", number) with a descriptor,
("stop",).
Supervisor to keeper: ("refused", errors) of a reload, ("fault", kind) to be counted.
Worker or keeper to supervisor: ("beat",), ("ready",), ("reload",). Worker to supervisor: ("unlinked",), once a second
while it has no link to a keeper.
Worker to keeper:
    ("ask", [(directory, local, domain), …])    look these up live
    ("loop", local, domain)                     when did this address first come back
    ("counts", {…}, …)                          see worker.counters
    ("uses", digest)                            by which settings it answers from now on
    ("index", text)                             what is wrong with the index
    ("observe", [dict, …])                      policy decisions of observed domains
Keeper to worker:
    ("asks", {name: Directory})                 what is asked under each name from now on (`Directory.asked`)
    ("answers", [(directory, local, domain, Live), …])
    ("told", [answer, …])                       live answers of `flush` that a worker which began later has to know
    ("ages", {directory: Age}, mark)            each second and after each change: renew the snapshot first;
                                                mark: (instance, generation) of the index, None while there is none
    ("nudge",)                                  the index has changed
    ("peers", {destination: (network, …)})      resolved `spf:` names
    ("loop", local, domain, first)              `policyd.clock`
    ("flush", local or None, domain or None, [answer, …])
                                                forget what was learned live, and learn these answers
"""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from policyd import clock, log
from transport.record import Record

Message = tuple[Any, ...]

_LENGTH = struct.Struct("!I")
_READ = 262_144
LOST = -1  # in the place of a descriptor for which this process had no room
_LIMIT = 256 * 1024 * 1024  # bytes waiting for a reader that does not read: it is hung and about to be killed


class Age(NamedTuple):
    """What a worker knows of one directory.

    read_at: `policyd.clock` at the start of the last good reading, None when it was never read since start.
    content_time: unix time of the content, for files.
    closed: its "no" cannot be had now: circuit open, canaries missing, server changed. A stale "no" is TEMP at once.
    """

    read_at: float | None
    content_time: float | None = None
    closed: bool = False


class Live(NamedTuple):
    """The result of one live look-up.

    records: what was found, () for a "no", None when it could not be asked.
    asked_at, end: `policyd.clock`; from `end` on it does not count any more.
    beside: all addresses of the person that was found, when there are several.
    """

    records: tuple[Record, ...] | None
    asked_at: float
    end: float
    beside: tuple[tuple[str, str], ...] = ()


def not_asked() -> Live:
    """Nobody could be asked, which is true of this moment alone."""
    now = clock.now()
    return Live(None, now, now)


Told = tuple[str, str, str, Live]
"""(directory, local, domain, result) of one live look-up."""


class LinkClosedError(Exception):
    """The other process is gone, or does not read."""


class Channel:
    """One end of a link. Use `send`, `receive`, `flush` when the socket is writable; `fileno` for a selector."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.descriptors: deque[int] = deque()  # arrived with messages, in their order; LOST: it was thrown away
        self._in = bytearray()
        self._out: deque[tuple[memoryview, int | None]] = deque()
        self._waiting = 0

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self.sock.fileno()

    @property
    def writing(self) -> bool:
        """Whether something waits for the socket to become writable."""
        return bool(self._out)

    def send(self, message: Message, descriptor: int | None = None) -> None:
        """Send or queue a message; `descriptor` is duplicated now and closed once sent.

        Raises LinkClosedError, and OSError where there is no room for the duplicate: then nothing is sent.
        """
        extra = None if descriptor is None else os.dup(descriptor)  # the caller may close its own at once
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._waiting += len(body) + _LENGTH.size
        if self._waiting > _LIMIT:
            if extra is not None:
                os.close(extra)
            raise LinkClosedError("the other side does not read")
        self._out.append((memoryview(_LENGTH.pack(len(body)) + body), extra))
        self.flush()

    def flush(self) -> bool:
        """Send what the socket takes now; whether everything is out. Raises LinkClosedError."""
        while self._out:
            view, descriptor = self._out[0]
            try:
                if descriptor is None:
                    sent = self.sock.send(view)
                else:
                    sent = socket.send_fds(self.sock, [view], [descriptor])
                    os.close(descriptor)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                raise LinkClosedError(str(error)) from error
            self._waiting -= sent
            if sent == len(view):
                self._out.popleft()
            else:
                self._out[0] = (view[sent:], None)
        return True

    def receive(self) -> list[Message]:
        """All messages that have arrived. Raises LinkClosedError at the end, after the last message was returned."""
        ended = False
        while True:
            try:
                data, descriptors, flags, _ = socket.recv_fds(self.sock, _READ, 16, socket.MSG_CMSG_CLOEXEC)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                data, descriptors, flags = b"", [], 0
            self.descriptors.extend(descriptors)
            if flags & socket.MSG_CTRUNC:  # recvmsg(2): we may open no more; one read holds one message's at most
                self.descriptors.append(LOST)
            if not data:
                ended = True
                break
            self._in += data
            if len(data) < _READ:
                break
        messages: list[Message] = []
        at = 0
        while len(self._in) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._in, at)
            end = at + _LENGTH.size + length
            if len(self._in) < end:
                break
            messages.append(pickle.loads(memoryview(self._in)[at + _LENGTH.size : end].tobytes()))  # noqa: S301  our own child
            at = end
        if at:
            del self._in[:at]
        if ended and not messages:
            raise LinkClosedError("closed by the other side")
        return messages

    def close(self) -> None:
        """Close the socket and every descriptor on its way; never raises."""
        for _, descriptor in self._out:
            if descriptor is not None:
                os.close(descriptor)
        self._out.clear()
        while self.descriptors:
            if (descriptor := self.descriptors.popleft()) != LOST:
                os.close(descriptor)
        self.sock.close()


class LoopChannel:
    """A Channel in an event loop: calls `on_message` for each message, whatever the one before led to, and `on_close`
    once.

    on_unread: there was no memory for what has arrived, and nothing more will be read; else the link is closed then.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_message: Callable[[LoopChannel, Message], None],
        on_close: Callable[[LoopChannel], None],
        on_unread: Callable[[], None] | None = None,
    ) -> None:
        self.loop = loop
        self.channel = Channel(sock)
        self.on_message = on_message
        self.on_close = on_close
        self.on_unread = on_unread
        self.open = True
        self._writer = False
        loop.add_reader(sock.fileno(), self._read)

    def send(self, message: Message) -> bool:
        """Send or queue a message; False when the other side is gone."""
        if not self.open:
            return False
        try:
            self.channel.send(message)
        except LinkClosedError:
            self.close()
            return False
        self._watch()
        return self.open

    def descriptor(self) -> int:
        """The descriptor that came with the message now handled. Raises OSError (EMFILE) when it was lost."""
        found = self.channel.descriptors.popleft()
        if found == LOST:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return found

    def close(self) -> None:
        """Close now; `on_close` is called once, from the loop."""
        if not self.open:
            return
        self.open = False
        self.loop.remove_reader(self.channel.fileno())
        if self._writer:
            self.loop.remove_writer(self.channel.fileno())
        self.channel.close()
        self.loop.call_soon(self.on_close, self)

    def _watch(self) -> None:
        if self.channel.writing != self._writer:
            self._writer = self.channel.writing
            if self._writer:
                self.loop.add_writer(self.channel.fileno(), self._write)
            else:
                self.loop.remove_writer(self.channel.fileno())

    def _write(self) -> None:
        try:
            self.channel.flush()
        except LinkClosedError:
            self.close()
            return
        self._watch()

    def _read(self) -> None:
        try:
            messages = self.channel.receive()
        except LinkClosedError:
            self.close()
            return
        except MemoryError:  # a part of it may be lost, and with it where the next message begins
            log.limited(log.ERROR, "link memory", "out of memory for a message of ours, its link is given up")
            if self.on_unread is None:
                self.close()
                return
            self.loop.remove_reader(self.channel.fileno())
            self.on_unread()
            return
        for message in messages:
            try:
                self.on_message(self, message)
            except Exception as error:  # those behind it may carry a descriptor, or somebody waits for them
                log.limited(log.ERROR, f"message {message[0]}", "fault in handling a message of ours", error)
