# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing of one parser with atheris: `parsers.py NAME [libFuzzer options] [corpus folders]`.

Each target asserts what must hold for any bytes at all; only ProtocolError may be raised.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import atheris  # optional: `run.sh` installs it

with atheris.instrument_imports():
    from policyd.protocols import ProtocolError, exim, policy, socketmap, tcp_table
    from transport.address import external, fold_local, forms, parse, unquote


def fuzz_address(data: bytes) -> None:
    """Never raises; folded means folded; the external form is the same address."""
    found = parse(data)
    if found is None:
        return
    assert fold_local(found.local) == found.local
    assert found.domain.isascii()
    assert parse(found.original + "@" + found.domain) == found or unquote(found.original) != found.original
    again = parse(external(found.original, found.domain))
    assert again == found
    assert all(base for base, _ in forms(found.local, "+-"))


def fuzz_socketmap(data: bytes) -> None:
    """Frames and refuses; a reply made of anything is one frame."""
    try:
        end = socketmap.next_frame(data)
        if end is not None:
            name, key = socketmap.parse(data[:end])
            assert len(name) + len(key) <= len(data)
    except ProtocolError:
        pass
    reply = socketmap.reply("OK", data.decode("utf-8", "surrogateescape"))
    assert socketmap.next_reply(reply) == len(reply)
    socketmap.parse_reply(reply)


def fuzz_policy(data: bytes) -> None:
    """Frames and refuses; an action made of anything is one line."""
    try:
        end = policy.next_frame(data)
        if end is not None:
            policy.parse(data[:end])
            policy.Layout(data[:end]).key(data[:end])
    except ProtocolError:
        pass
    assert policy.reply(data.decode("utf-8", "surrogateescape")).count(b"\n") == 2


def fuzz_tcp_table(data: bytes) -> None:
    """Frames and refuses; a reply made of anything is one line."""
    try:
        end = tcp_table.next_frame(data)
        if end is not None:
            tcp_table.parse(data[:end])
    except ProtocolError:
        pass
    reply = tcp_table.reply("OK", data.decode("utf-8", "surrogateescape"))
    assert reply.count(b"\n") == 1
    assert len(reply) <= tcp_table.MAX_LINE


def fuzz_exim(data: bytes) -> None:
    """Frames and refuses; a reply made of anything holds nothing that Exim would expand."""
    try:
        end = exim.next_frame(data)
        if end is not None:
            exim.parse(data[:end])
    except ProtocolError:
        pass
    reply = exim.reply({"decision": "relay", "address": data.decode("utf-8", "surrogateescape")})
    assert not any(byte in b"$\\\0\r\n" for byte in reply)
    assert reply.count(b'"') in (0, 2)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "address": fuzz_address,
    "socketmap": fuzz_socketmap,
    "policy": fuzz_policy,
    "tcp_table": fuzz_tcp_table,
    "exim": fuzz_exim,
}

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
