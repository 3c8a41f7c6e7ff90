# SPDX-License-Identifier: Apache-2.0
"""Postfix's SMTP access policy delegation (SMTPD_POLICY_README).

A request is lines `name=value`, ended by an empty line; the reply is `action=…` and an empty line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import itemgetter

from policyd.protocols import ProtocolError

MAX_REQUEST = 32_768
"""Octets of a request. A dozen values of at most 2,048 octets (`line_length_limit`) come from the client, the
rest is short."""

MAX_ACTION = 900
"""Octets of an action: its text becomes an SMTP reply line, which Postfix folds but RFC 5321 section
4.5.3.1.5 limits to 512; what is longer helps nobody."""

TEMP = "DEFER_IF_PERMIT 4.3.0 Temporary internal error, try again later"
"""Stands for an action that must not be sent."""

_DECISIVE = (
    b"request",
    b"recipient",
    b"client_address",
    b"protocol_state",
    b"policy_context",
    b"server_address",
    b"server_port",
    b"ccert_fingerprint",
    b"ccert_pubkey_fingerprint",
)

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
# A code without text would *permit* (access(5): any all-numerical result is OK), and FILTER, REDIRECT, HOLD,
# DISCARD
# concern the whole message. 421 and 521 would disconnect.
_SAFE = re.compile(
    r"DUNNO|reject_unverified_recipient|DEFER_IF_PERMIT \d\.\d+\.\d+ \S.*|[45](?!21)\d\d [45]\.\d+\.\d+ \S.*"
)


def next_frame(buf: bytes | bytearray, pos: int = 0) -> int | None:
    """Where the request that begins at `pos` ends (the offset behind its empty line); None: it is not all
    there."""
    end = buf.find(b"\n\n", pos, pos + MAX_REQUEST)
    if end > pos:
        return end + 2
    if end == pos or buf[pos : pos + 1] == b"\n":
        raise ProtocolError("a policy request is empty")
    if len(buf) - pos >= MAX_REQUEST:
        raise ProtocolError(f"a policy request is longer than {MAX_REQUEST} bytes")
    return None


def parse(frame: bytes) -> dict[str, str]:
    """The attributes of one complete request, names as they are (they are case-sensitive), values as text.

    Bytes that are not UTF-8 stand as lone surrogates (surrogateescape), so that an address with them parses
    as nobody's. Of attributes that come twice, the last counts, as in Postfix's own example server. Raises
    ProtocolError unless it is an access policy request.
    """
    try:
        attrs = dict([line.split("=", 1) for line in frame[:-2].decode("utf-8", "surrogateescape").split("\n")])
    except ValueError:
        raise ProtocolError("a policy request has a line without '='") from None
    if attrs.get("request") != "smtpd_access_policy":
        raise ProtocolError("not a policy request (request=smtpd_access_policy is missing)")
    if b"\0" in frame:
        raise ProtocolError("a policy request holds a NUL byte")
    return attrs


class Layout:
    """Where the attributes that an answer depends on stand in one client's requests.

    A Postfix process writes the same attributes in the same order each time, so the cache's key for its next request
    is found without parsing it. Never the raw request: instance, size, queue_id and client_port differ each time.
    The key holds whole lines with their names: a request in another order makes another key, never a wrong one.
    """

    __slots__ = ("_absent", "_count", "_pick", "_sender", "_user")

    def __init__(self, frame: bytes) -> None:
        """Learn from one complete request that `parse` accepts."""
        where = {line.partition(b"=")[0]: number for number, line in enumerate(frame.split(b"\n"))}
        self._count = frame.count(b"\n") + 1
        self._sender = where.get(b"sender", -1)
        self._user = where.get(b"sasl_username", -1)
        # Postfix names all of them in each request, and nothing has to be looked for
        self._absent = [name + b"=" for name in (*_DECISIVE, b"sasl_username") if name not in where]
        numbers = [where[name] for name in _DECISIVE if name in where]
        self._pick: Callable[[list[bytes]], tuple[bytes, ...]] = itemgetter(*numbers, -1)  # the last one is empty

    def key(self, frame: bytes) -> bytes | None:
        """What the answer depends on, or None when this request is laid out otherwise (or names no sender)."""
        lines = frame.split(b"\n")
        if len(lines) != self._count:
            return None
        sender = lines[self._sender]
        if not sender.startswith(b"sender="):
            return None
        user = lines[self._user] if self._user >= 0 else b""
        if self._user >= 0 and not user.startswith(b"sasl_username="):
            return None
        for name in self._absent:
            if name in frame:
                return None
        # of the sender, and of who is logged in, it only matters whether there is one
        marks = (b"\n" if len(sender) > 7 else b"") + (b"\r" if len(user) > 14 else b"")
        return b"\n".join(self._pick(lines)) + marks


def reply(action: str) -> bytes:
    """The whole reply. An action that would not do what is meant (see TEMP) becomes a temporary refusal."""
    line = _CONTROL.sub(" ", action).rstrip()
    if len(line) > MAX_ACTION // 4:
        line = line.encode()[:MAX_ACTION].decode(errors="ignore")
    if not _SAFE.fullmatch(line):
        line = TEMP
    return b"action=%b\n\n" % line.encode()
