# SPDX-License-Identifier: Apache-2.0
"""The four kinds of connection: what differs between socketmap, tcp_table, policy delegation and Exim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from policyd import log
from policyd.protocols import exim, policy, socketmap, tcp_table
from policyd.worker import cache
from policyd.worker.connection import Connection

if TYPE_CHECKING:
    from transport.answerer import Outcome


_HEADS = 4096  # more beginnings of frames than lengths of keys times maps


class Socketmap(Connection):
    """socketmap_table(5)."""

    kind = "socketmap"
    next_frame = staticmethod(socketmap.next_frame)
    heads: ClassVar[dict[bytes, tuple[str, int]]] = {}
    """What stands before the first blank of frames that were answered -> map name, and octets of the whole frame."""

    def data_received(self, data: bytes) -> None:
        """The hot path: a whole known frame, and nothing else waiting, is answered here and now."""
        if not self.busy:
            hit = self.cache.new.get(data) or self._known(data)
            if hit is not None:
                hit[1][0] += 1
                self.at_once[0] += 1
                self.transport.write(hit[0])
                if self.worker.stopping:
                    self.transport.close()
                return
        Connection.data_received(self, data)  # super() would cost as much as a look into the cache

    def _known(self, data: bytes) -> cache.Entry | None:
        """One plain frame about an address whose situation was answered before: the index is read, nothing
        is decided or rendered. None: go the whole way, which finds out what is the matter."""
        kept = self.cache
        if not kept.shared or data in kept.old:
            return None
        head, _, key = data.partition(b" ")
        begins = self.heads.get(head)
        if begins is None or len(data) != begins[1] or data[-1] != 0x2C:
            return None
        try:
            outcome = self.worker.answerer.shared(begins[0], key[:-1])
        except Exception:
            return None  # met again, and said, on the whole way
        known = kept.shared.get(id(outcome)) if outcome is not None else None
        if known is None:
            return None
        entry, outcome = known
        if outcome.keep:
            kept.put(data, entry)
        return entry

    def answer(self, frame: bytes) -> bytes | None:
        hit = self.cache.get(frame)
        if hit is not None:
            hit[1][0] += 1
            return hit[0]
        request = socketmap.parse(frame)
        if len(frame) > cache.MAX_FRAME:
            return self.settle(request, None)
        if len(self.heads) < _HEADS and request[0] in self.worker.maps:
            self.heads[frame.partition(b" ")[0]] = (request[0], len(frame))
        return self.settle(request, frame)

    def outcome(self, request: tuple[str, bytes], now: float) -> Outcome:
        return self.worker.answerer.map(request[0], request[1], now)

    def render(self, request: tuple[str, bytes], outcome: Outcome) -> bytes:
        return socketmap.reply(outcome.status, outcome.value)

    def refuse(self, reason: str) -> bytes:
        return socketmap.reply("TEMP", reason)

    def label(self, request: tuple[str, bytes]) -> str:
        if request[0] in self.worker.maps:
            return request[0]
        log.limited(
            log.WARNING, "unknown map", "a map is asked that does not exist: correct main.cf", name=request[0][:40]
        )
        return "unknown"

    def describe(self, request: tuple[str, bytes]) -> str:
        return request[1].decode("utf-8", "replace")


class TcpTable(Connection):
    """tcp_table(5): a listener serves one map."""

    kind = "tcp_table"
    next_frame = staticmethod(tcp_table.next_frame)

    def answer(self, frame: bytes) -> bytes | None:
        hit = self.cache.get(frame)
        if hit is not None:
            hit[1][0] += 1
            return hit[0]
        return self.settle(tcp_table.parse(frame), frame if len(frame) <= cache.MAX_FRAME else None)

    def outcome(self, request: bytes, now: float) -> Outcome:
        return self.worker.answerer.map(self.map_name, request, now)

    def render(self, request: bytes, outcome: Outcome) -> bytes:
        return tcp_table.reply(outcome.status, outcome.value)

    def refuse(self, reason: str) -> bytes:
        return tcp_table.reply("TEMP", reason)

    def describe(self, request: bytes) -> str:
        return request.decode("utf-8", "replace")


class Policy(Connection):
    """SMTPD_POLICY_README."""

    kind = "policy"
    next_frame = staticmethod(policy.next_frame)
    layout: policy.Layout | None = None

    def answer(self, frame: bytes) -> bytes | None:
        key = self.layout.key(frame) if self.layout is not None else None
        if key is not None:
            hit = self.cache.get(key)
            if hit is not None:
                hit[1][0] += 1
                return hit[0]
        request = policy.parse(frame)
        # `parse` goes by the names, the layout by the places: what is kept for others has to stand under both
        layout = policy.Layout(frame)
        sure = layout.key(frame)
        if key is None or key != sure:
            self.layout, key = layout, sure
        return self.settle(request, key if key is not None and len(key) <= cache.MAX_FRAME else None)

    def outcome(self, request: Mapping[str, str], now: float) -> Outcome:
        return self.worker.answerer.policy(request, now)

    def render(self, request: Mapping[str, str], outcome: Outcome) -> bytes:
        return policy.reply(outcome.value if outcome.status == "OK" else policy.TEMP)

    def refuse(self, reason: str) -> bytes:
        return policy.reply(policy.TEMP if reason else "DUNNO")

    def describe(self, request: Mapping[str, str]) -> str:
        return request.get("recipient", "")

    def client(self, request: Mapping[str, str]) -> str:
        return request.get("client_address", "")


class Exim(Connection):
    """`${readsocket`: one line, one answer, end of file."""

    kind = "exim"
    answered = False

    def next_frame(self, buf: bytes | bytearray, pos: int) -> int | None:
        return None if self.answered else exim.next_frame(buf, pos)

    def answer(self, frame: bytes) -> bytes | None:
        hit = self.cache.get(frame)
        reply: bytes | None
        if hit is not None:
            hit[1][0] += 1
            reply = hit[0]
        else:
            asked = exim.parse(frame)
            request = asked._asdict()
            request["outsider"] = "yes" if asked.outsider else "no"
            request["bounce"] = "yes" if asked.bounce else "no"
            reply = self.settle(request, frame if len(frame) <= cache.MAX_FRAME else None)
        self.answered = self.ended = True  # closes behind the reply
        return reply

    def eof_received(self) -> bool:
        """Exim shuts its sending side down after the line, unless it is told not to; it then reads our answer."""
        self.ended = True
        if self.pending is None and not self.blocked and not self.transport.is_closing():
            if self.buffer and not self.answered:
                self.transport.write(self.on_broken())  # half a line: an empty answer would count as success
            self.transport.close()
        return True

    def on_broken(self) -> bytes:
        """Nothing said would be "no such thing" to `${readsocket`."""
        return exim.TEMP

    def outcome(self, request: Mapping[str, str], now: float) -> Outcome:
        return self.worker.answerer.exim(request, now)

    def render(self, request: Mapping[str, str], outcome: Outcome) -> bytes:
        return exim.reply(outcome.pairs) if outcome.status == "OK" and outcome.pairs else exim.TEMP

    def refuse(self, reason: str) -> bytes:
        return exim.TEMP if reason else exim.reply({"decision": "pass"})

    def describe(self, request: Mapping[str, str]) -> str:
        return request.get("recipient", "")

    def client(self, request: Mapping[str, str]) -> str:
        return request.get("client", "")


KINDS: dict[str, type[Connection]] = {kind.kind: kind for kind in (Socketmap, TcpTable, Policy, Exim)}
