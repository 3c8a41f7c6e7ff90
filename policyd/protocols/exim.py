# SPDX-License-Identifier: Apache-2.0
"""What Exim asks through `${readsocket` and reads with `${extract`: a connection, a line, an answer, end of
file.

Request: `decide [client=IP] [listener=IP:PORT] [cert=FINGERPRINT] [outsider=yes|no] [bounce=yes|no]
recipient=ADDRESS`, the address last and to the end of the line, since a local part may hold blanks. Reply:
pairs `key=value`, the first one `decision=`. Exim expands a host list twice and a reply is not tainted, so
that no reply
ever holds what Exim could expand: see `reply`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import NamedTuple

from policyd.protocols import ProtocolError

MAX_REQUEST = 4096
"""Octets of a request with its line feed: an address as long as Exim takes one, and the few words before
it."""

MAX_REPLY = 60_000
"""Octets of a reply. Exim has no limit of its own; a longer list of targets is no answer but an accident."""

DECISIONS = frozenset(
    ("local", "relay", "expand", "unknown", "loop", "suspended", "refuse", "temp", "pass")
)  # fmt: skip

TEMP = b'decision=temp text="temporary internal error"'
"""Stands for a reply that must not be sent."""

_KEY = re.compile(r"[a-z][a-z0-9_]*")
# `$` and `\` are live in Exim's second expansion of a host list and in quoted values, `"` ends a value
_FORBIDDEN = re.compile('[$\\\\"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
_PLAIN = re.compile(r"[!-~]+")
_LISTENER = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:]*)):(\d{1,5})")
_FINGERPRINT = re.compile(r"[0-9A-F]{2}(?:[0-9A-F]{2}){15,63}")


class Request(NamedTuple):
    """One question. Texts are "" where nothing was said.

    client: the peer's IP address in its shortest form. listener: `HOST:PORT` of our side, IPv6 in brackets.
    cert: the client certificate's fingerprint in upper-case hex with colons. outsider: the client is neither
    ours nor authenticated. bounce: the sender is null. recipient: as Exim gives it, quoted or not.
    """

    recipient: str
    client: str = ""
    listener: str = ""
    cert: str = ""
    outsider: bool = False
    bounce: bool = False


def next_frame(buf: bytes | bytearray, pos: int = 0) -> int | None:
    """Where the line that begins at `pos` ends (the offset behind its line feed); None: it is not all
    there."""
    end = buf.find(b"\n", pos, pos + MAX_REQUEST)
    if end >= 0:
        return end + 1
    if len(buf) - pos >= MAX_REQUEST:
        raise ProtocolError(f"a line is longer than {MAX_REQUEST} bytes")
    return None


def parse(frame: bytes) -> Request:
    """One complete request. Raises ProtocolError for unknown or broken words: contrib and daemon then differ.

    `client=`, `listener=` and `cert=` may be empty (a message that did not come by SMTP, or without TLS).
    """
    line = frame[:-1].removesuffix(b"\r").decode("utf-8", "surrogateescape")
    head, found, recipient = line.partition("recipient=")
    words = head.split(" ")
    if words[0] != "decide" or not found or words[-1] != "":
        raise ProtocolError("a request is 'decide … recipient=ADDRESS'")
    values: dict[str, str] = {}
    for word in words[1:]:
        if not word:
            continue
        key, equals, value = word.partition("=")
        if not equals or key in values or key not in _WORDS:
            raise ProtocolError("a request has a word that is not known, or one twice")
        values[key] = value
    return Request(
        recipient,
        _client(values.get("client", "")),
        _listener(values.get("listener", "")),
        _cert(values.get("cert", "")),
        _yes(values.get("outsider", "no")),
        _yes(values.get("bounce", "no")),
    )


_WORDS = frozenset(("client", "listener", "cert", "outsider", "bounce"))


def _client(text: str) -> str:
    if not text:
        return ""
    bare = text[1:-1] if text[0] == "[" and text[-1] == "]" and ":" in text else text
    try:
        return str(ip_address(bare))
    except ValueError:
        raise ProtocolError("client= is not an IP address, nor an IPv6 address in brackets") from None


def _listener(text: str) -> str:
    if not text:
        return ""
    match = _LISTENER.fullmatch(text)
    if not match:
        raise ProtocolError("listener= is not IP:PORT or [IPv6]:PORT")
    host = match[1] or match[2]
    if not host:
        return ""  # what Exim expands `$received_ip_address:$received_port` to outside of SMTP
    try:
        address = ip_address(host)
    except ValueError:
        raise ProtocolError("listener= is not IP:PORT or [IPv6]:PORT") from None
    return f"[{address}]:{int(match[3])}" if address.version == 6 else f"{address}:{int(match[3])}"


def _cert(text: str) -> str:
    digits = text.replace(":", "").upper()
    if not digits:
        return ""
    if not _FINGERPRINT.fullmatch(digits):
        raise ProtocolError("cert= is not a fingerprint")
    return ":".join(digits[i : i + 2] for i in range(0, len(digits), 2))


def _yes(text: str) -> bool:
    if text == "yes":
        return True
    if text in ("no", ""):
        return False
    raise ProtocolError("outsider= and bounce= are yes or no")


def reply(pairs: Mapping[str, str]) -> bytes:
    """The whole reply, without a line end: Exim reads to the end of file.

    pairs: in the order in which they are sent; `decision` is put first. Values with blanks are quoted. The
    whole reply becomes `decision=temp` when the decision is none of DECISIONS, a key is none, the reply is
    over-long, or any value holds `$`, a backslash, a quote, a control character or text that is not Unicode.
    """
    decision = pairs.get("decision", "")
    if decision not in DECISIONS:
        return TEMP
    words = ["decision=" + decision]
    for key, value in pairs.items():
        if key == "decision":
            continue
        if not _KEY.fullmatch(key) or _FORBIDDEN.search(value):
            return TEMP
        words.append(f"{key}={value}" if _PLAIN.fullmatch(value) else f'{key}="{value}"')
    line = " ".join(words).encode()
    return line if len(line) <= MAX_REPLY else TEMP
