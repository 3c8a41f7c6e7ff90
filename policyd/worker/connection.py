# SPDX-License-Identifier: Apache-2.0
"""One connection of an MTA: frames in, replies out, in order, bounded in size and time.

`data_received` parses, decides and writes in one call. While an answer is pending, or the client does not read,
further bytes wait unparsed and reading pauses. A half frame or an unread reply of 30 s ends the connection; idle
between frames never does.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from policyd import log
from policyd.protocols import ProtocolError
from policyd.worker.live import Pending
from policyd.worker.remarks import counted_as, remark

if TYPE_CHECKING:
    from policyd.worker.main import Worker
    from transport.answerer import Outcome

PATIENCE = 30.0
"""Seconds for the rest of a frame, and for a reply to be read."""

MAX_OUT = 65_536
"""Octets of replies that wait for the client before reading from it pauses."""

_FULL = "too many look-ups are waiting, try again later"


class Connection(asyncio.Protocol, ABC):
    """What all protocols share. Subclasses say how a frame is found, answered and refused."""

    kind: ClassVar[str]
    transport: asyncio.Transport  # from connection_made on, which is called before anything else
    next_frame: Callable[[bytes | bytearray, int], int | None]
    """(buffer, offset) -> end of the frame there, None when it is not all there. Raises ProtocolError."""

    def __init__(self, worker: Worker, map_name: str = "") -> None:
        self.worker = worker
        self.map_name = map_name
        self.cache = worker.caches[self.kind, map_name]
        self.at_once = worker.live.pace.at_once
        self.buffer = bytearray()
        self.pending: Pending | None = None
        self.busy = False  # bytes have to wait: not on the hot path
        self.blocked = False  # the client does not read
        self.paused = False  # reading is paused
        self.ended = False  # the client sent its last byte
        self.half_since = 0.0  # CLOCK_MONOTONIC of a half frame's first byte
        self.unread_since = 0.0

    # --- asyncio.Protocol -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self.transport = cast(asyncio.Transport, transport)  # a stream's, of uvloop's own class
        self.transport.set_write_buffer_limits(high=MAX_OUT)
        self.worker.connections.add(self)
        if self.worker.stopping:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; what it waited for is of no use to anybody."""
        self.worker.connections.discard(self)
        self.worker.halves.discard(self)
        if self.pending is not None:
            self.worker.live.drop(self.pending)
            self.pending = None
        self.busy = True

    def data_received(self, data: bytes) -> None:
        """Bytes came: mostly one whole request and nothing before it, which needs no buffer."""
        if self.transport.is_closing():
            return
        if not self.busy:
            whole, reply = False, None
            try:
                whole = self.next_frame(data, 0) == len(data)
                if whole:
                    reply = self.answer(data)
            except ProtocolError:
                whole = False  # found again, and said, below
            if whole:
                if reply is not None:
                    self.at_once[0] += 1
                    self.transport.write(reply)
                if reply is None or self.ended or self.worker.stopping:
                    self._after(True)
                return
        self.buffer += data
        if self.pending is not None or self.blocked:
            self.busy = True
            self._pause()
            return
        self._pump()

    def eof_received(self) -> bool:
        """The client will send no more; it may still read (Exim never, others may)."""
        self.ended = True
        if self.pending is None and not self.blocked:
            self.transport.close()
        return True

    def pause_writing(self) -> None:
        """More than MAX_OUT waits for the client to read."""
        self.blocked = self.busy = True
        self._pause()

    def resume_writing(self) -> None:
        """It has read."""
        self.blocked = False
        if self.pending is None:
            self._pump()

    # --- frames -----------------------------------------------------------------------------------------------

    @abstractmethod
    def answer(self, frame: bytes) -> bytes | None:
        """The reply, or None when it comes later. Raises ProtocolError."""

    @abstractmethod
    def outcome(self, request: Any, now: float) -> Outcome:
        """Ask the answerer. now: unix time."""

    @abstractmethod
    def render(self, request: Any, outcome: Outcome) -> bytes:
        """The outcome as this protocol's reply."""

    @abstractmethod
    def refuse(self, reason: str) -> bytes:
        """A temporary failure as this protocol's reply."""

    def label(self, request: Any) -> str:
        """The map's name for counters and logs."""
        return self.map_name or self.kind

    @abstractmethod
    def describe(self, request: Any) -> str:
        """What was asked, for a debug line."""

    def _pump(self) -> None:
        """Answer every whole frame in the buffer, with one write."""
        if self.transport.is_closing():
            return
        out: list[bytes] = []
        size = pos = 0
        broken = False
        try:
            while not self.blocked:
                end = self.next_frame(self.buffer, pos)
                if end is None:
                    break
                frame = bytes(self.buffer[pos:end])
                pos = end
                reply = self.answer(frame)
                if reply is None:
                    break
                out.append(reply)
                size += len(reply)
                if size > MAX_OUT:
                    self.transport.write(b"".join(out))
                    out.clear()
                    size = 0
        except ProtocolError as error:
            broken = True
            self.worker.counters.fault("protocol")
            log.limited(log.WARNING, f"protocol {self.kind} {error}", "not understood, connection closed",
                        protocol=self.kind, error=error)  # fmt: skip
            out.append(self.on_broken())
        if pos:
            del self.buffer[:pos]
        if out:
            self.transport.write(b"".join(out))
        if broken:
            self.transport.close()
            self.busy = True
            return
        self._after(pos > 0)

    def client(self, request: Any) -> str:
        """The address of the SMTP client that a request is about, "" when it does not say."""
        return ""

    def on_broken(self) -> bytes:
        """What is said before a connection is closed because of a broken request."""
        return b""

    def _after(self, progressed: bool) -> None:
        """Bring flags, reading and time limits in line with what waits."""
        waiting = self.pending is not None or self.blocked
        if not waiting and (self.ended or (self.worker.stopping and not self.buffer)):
            self.transport.close()
            self.busy = True
            return
        self.busy = waiting or bool(self.buffer)
        if not waiting and self.paused:
            self.paused = False
            self.transport.resume_reading()
        if self.buffer and not waiting:
            if progressed or not self.half_since:
                self.half_since = time.monotonic()
                self.worker.halves.add(self)
        elif self.half_since:
            self.half_since = 0.0
            self.worker.halves.discard(self)

    def _pause(self) -> None:
        if not self.paused and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    # --- answers ----------------------------------------------------------------------------------------------

    def settle(self, request: Any, key: Any) -> bytes | None:
        """Decide now, or begin to wait for live answers (None). key: under which the reply may be cached."""
        started = time.monotonic()
        pending: Pending | None = None
        try:
            outcome = self.outcome(request, time.time())
            if outcome.ask or outcome.ask_loop:
                if outcome.observe:
                    self.worker.watch(self, request, outcome)
                    return self.refuse("")
                pending = Pending(self, request, key, started)
                if self.worker.live.wait(pending, outcome.ask, outcome.ask_loop):
                    self.pending = pending
                    return None
                return self._no_room(request, started)
            return self._finish(request, key, outcome, started)
        except Exception as error:
            return self._failed(error)

    def resume(self, pending: Pending) -> None:
        """What the request waited for is known: answer it, and go on with what came after it."""
        if self.pending is not pending:
            return
        knowledge = self.worker.knowledge
        knowledge.overlay = pending.overlay
        reply: bytes | None
        try:
            outcome = self.outcome(pending.request, time.time())
            if outcome.ask or outcome.ask_loop:
                if self.worker.live.wait(pending, outcome.ask, outcome.ask_loop):
                    return
                reply = self._no_room(pending.request, pending.started)
            else:
                reply = self._finish(pending.request, None, outcome, pending.started)
        except Exception as error:
            reply = self._failed(error)
        finally:
            knowledge.overlay = {}
        self.pending = None
        self.transport.write(reply)
        if not self.blocked:
            self._pump()

    def _finish(self, request: Any, key: Any, outcome: Outcome, started: float) -> bytes:
        worker = self.worker
        if outcome.shared and key is not None:
            known = self.cache.shared.get(id(outcome))
            if known is not None:  # as good as cached, and counted so
                entry = known[0]
                entry[1][0] += 1
                if outcome.keep:
                    self.cache.put(key, entry)
                return entry[0]
        reply = self.render(request, outcome)
        decision = outcome.decision
        verdict = counted_as(outcome)
        domain = decision.domain if decision is not None else ""
        cell = worker.counters.cell(self.label(request), domain, verdict)
        cell[0] += 1
        if outcome.observe:
            worker.observed(request, outcome)
        elif outcome.judgement is not None or (decision is not None and (decision.dropped or decision.findings)):
            remark(outcome, self.describe(request), self.client(request))
        if worker.debug:
            log.say(log.DEBUG, "decision", map=self.label(request), asked=self.describe(request), answer=outcome.status,
                    verdict=verdict, reason=decision.reason if decision is not None else "")  # fmt: skip
        elif key is not None:
            if outcome.keep:
                self.cache.put(key, (reply, cell))
            if outcome.shared:
                self.cache.shared[id(outcome)] = ((reply, cell), outcome)
        worker.counters.took(time.monotonic() - started)
        return reply

    def _no_room(self, request: Any, started: float) -> bytes:
        self.worker.counters.fault("overload")
        log.limited(log.WARNING, "overload", "too many requests wait for live look-ups: some are answered TEMP")
        self.worker.counters.cell(self.label(request), "", "TEMP")[0] += 1
        self.worker.counters.took(time.monotonic() - started)
        return self.refuse(_FULL)

    def _failed(self, error: Exception) -> bytes:
        """A fault of ours in one request is TEMP for that request, and nothing more."""
        self.worker.counters.fault("internal")
        log.limited(
            log.ERROR, f"internal {type(error).__name__}", "fault in answering one request, answered TEMP", error
        )
        return self.refuse("internal error")
