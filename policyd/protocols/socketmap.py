# SPDX-License-Identifier: Apache-2.0
"""Postfix's and Sendmail's socketmap protocol (socketmap_table(5)).

A request is one netstring `LENGTH:NAME KEY,`, and so is its reply: `OK VALUE`, `NOTFOUND ` or `TEMP REASON`.
There
is no request number: the n-th reply on a connection belongs to the n-th request.
"""

from __future__ import annotations

import re

from policyd.protocols import ProtocolError

MAX_REQUEST = 100_000
"""Octets of a request's payload, as many as of a reply. Postfix 3.12 asks for no key beyond 10,000 octets
(`socketmap_max_query_size`), older ones have no limit: a hopeless key is better "not found" than a broken server."""

MAX_REPLY = 100_000
"""Octets of a reply's payload: `socketmap_max_reply_size` (postconf(5)); before 3.10 the same, built in.
Postfix takes a longer one for a broken server."""

MAX_REASON = 200
"""Octets of a TEMP reason: Postfix logs no more."""

MAX_DIGITS = 7
"""Digits of a length, leading zeros included (Postfix accepts them)."""

NOTFOUND = b"9:NOTFOUND ,"
"""The whole reply. The blank is needed: some Postfix releases take a bare word for an error."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def next_frame(buf: bytes | bytearray, pos: int = 0, limit: int = MAX_REQUEST) -> int | None:
    """Where the request that begins at `pos` ends (the offset behind its comma); None: not all of it is there."""
    colon = buf.find(b":", pos, pos + MAX_DIGITS + 1)
    digits = buf[pos:colon] if colon >= 0 else buf[pos : pos + MAX_DIGITS + 1]
    if not digits.isdigit():
        if colon < 0 and not digits:
            return None
        raise ProtocolError("a netstring's length is not a number")
    if colon < 0:
        if len(digits) > MAX_DIGITS:
            raise ProtocolError("a netstring's length has too many digits")
        return None
    size = int(digits)
    if size > limit:
        raise ProtocolError(f"a netstring is longer than {limit} bytes")
    comma = colon + 1 + size
    if len(buf) <= comma:
        return None
    if buf[comma] != 0x2C:
        raise ProtocolError("a netstring does not end with a comma")
    return comma + 1


def next_reply(buf: bytes | bytearray, pos: int = 0) -> int | None:
    """The same for a reply, for the client's side."""
    return next_frame(buf, pos, MAX_REPLY)


def parse(frame: bytes) -> tuple[str, bytes]:
    """Map name and key of one complete request. Without a blank all of it is the name, and the key is empty.

    Split at the first blank: keys may hold blanks (`"john doe"@example.com`).
    """
    name, _, key = frame[frame.find(b":") + 1 : -1].partition(b" ")
    return str(name, "ascii", "replace"), key


def reply(status: str, value: str = "") -> bytes:
    """The whole reply frame. status: "OK", "NOTFOUND", "TEMP"; value: what was found, or a reason.

    What Postfix would not take as it is meant becomes TEMP: an OK without value (a "configuration error"
    there), one beyond MAX_REPLY, one with control characters (a NUL cuts it), or any other status. It is
    never PERM, which Postfix answers with 4xx as well, and blames on its administrator.
    """
    if status == "OK":
        if value and (value.isprintable() or not _CONTROL.search(value)):
            payload = b"OK " + value.encode()
            if len(payload) <= MAX_REPLY:
                return b"%d:%b," % (len(payload), payload)
            value = "the answer is too long"
        else:
            value = "the answer has no valid text"
    elif status == "NOTFOUND":
        return NOTFOUND
    elif status != "TEMP":
        value = "internal error"
    payload = b"TEMP " + _reason(value)
    return b"%d:%b," % (len(payload), payload)


def _reason(text: str) -> bytes:
    """A reason as one line of valid UTF-8, cut between characters, never empty."""
    line = " ".join(_CONTROL.sub(" ", text).split()) or "try again later"
    return line.encode()[:MAX_REASON].decode(errors="ignore").encode()


def request(name: str, key: str | bytes) -> bytes:
    """A request frame, for the client's side. Raises ValueError when it could not be read as it is meant."""
    if not name or " " in name or not name.isascii():
        raise ValueError("a map name is one word of ASCII")
    payload = name.encode() + b" " + (key.encode(errors="surrogateescape") if isinstance(key, str) else key)
    if len(payload) > MAX_REQUEST:
        raise ValueError(f"the key is longer than {MAX_REQUEST - len(name) - 1} bytes")
    return b"%d:%b," % (len(payload), payload)


def parse_reply(frame: bytes) -> tuple[str, str]:
    """Status and value of one complete reply frame. Raises ProtocolError for a status that is none."""
    word, _, value = frame[frame.find(b":") + 1 : -1].partition(b" ")
    status = word.decode("ascii", "replace")
    if status not in ("OK", "NOTFOUND", "TEMP", "TIMEOUT", "PERM"):
        raise ProtocolError("the reply has no status that socketmap knows")
    return status, value.decode(errors="replace")
