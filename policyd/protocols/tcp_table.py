# SPDX-License-Identifier: Apache-2.0
"""Postfix's tcp_table(5): `get KEY`, answered by `200 VALUE`, `500 not found` or `400 REASON`, a line each.

Key and value are %XX-encoded. The protocol has no map name: each listener serves one map.
"""

from __future__ import annotations

import re

from policyd.protocols import ProtocolError

MAX_LINE = 4096
"""Octets of a request or a reply with its line feed (tcp_table(5))."""

NOT_FOUND = b"500 not%20found\n"

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
# As Postfix's hex_quote(): all but printable ASCII, and of that `%` and the blank
_UNSAFE = re.compile(rb"[^!-$&-~]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def next_frame(buf: bytes | bytearray, pos: int = 0) -> int | None:
    """Where the line that begins at `pos` ends (the offset behind its line feed); None: it is not all
    there."""
    end = buf.find(b"\n", pos, pos + MAX_LINE)
    if end >= 0:
        return end + 1
    if len(buf) - pos >= MAX_LINE:
        raise ProtocolError(f"a line is longer than {MAX_LINE} bytes")
    return None


def parse(frame: bytes) -> bytes:
    """The key of one complete request, decoded. Raises ProtocolError for anything but `get KEY`."""
    word, _, key = frame[:-1].partition(b" ")
    if word != b"get":
        raise ProtocolError("only 'get' is known")
    if b"%" in key:
        if _BAD_ESCAPE.search(key):
            raise ProtocolError("a key's %-encoding is broken")
        key = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), key)
    return key


def reply(status: str, value: str = "") -> bytes:
    """The whole reply line. status: "OK", "NOTFOUND", "TEMP"; value: what was found, or a reason.

    What cannot be sent as it is meant is 400 (try again later): an empty or over-long value, control
    characters.
    """
    if status == "NOTFOUND":
        return NOT_FOUND
    if status == "OK":
        if value and not _CONTROL.search(value):
            line = b"200 " + _encode(value) + b"\n"
            if len(line) <= MAX_LINE:
                return line
            value = "the answer is too long for tcp_table, use socketmap"
        else:
            value = "the answer has no valid text"
    elif status != "TEMP":
        value = "internal error"
    reason = " ".join(_CONTROL.sub(" ", value).split())[:200] or "try again later"
    return b"400 " + _encode(reason) + b"\n"


def _encode(text: str) -> bytes:
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], text.encode())
