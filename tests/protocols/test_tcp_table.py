# SPDX-License-Identifier: Apache-2.0
"""tcp_table(5): lines, escapes, limits."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.protocols import ProtocolError, tcp_table

from .framing import check_splits


def test_every_split() -> None:
    """However the bytes arrive, the same requests come out."""
    check_splits(tcp_table.next_frame, [b"get u@d\n", b"get %22a%20b%22@d\n", b"\n", b"get \n"])


@pytest.mark.parametrize(
    ("frame", "key"),
    [
        (b"get u@d.test\n", b"u@d.test"),
        (b"get %22a%20b%22@d\n", b'"a b"@d'),
        (b"get j%C3%b6rg@d\n", "jörg@d".encode()),
        (b"get \n", b""),
        (b"get a b\n", b"a b"),
        (b"get %00%0a%25\n", b"\0\n%"),
    ],
)
def test_parse(frame: bytes, key: bytes) -> None:
    """The key comes out with its own bytes."""
    assert tcp_table.parse(frame) == key


@pytest.mark.parametrize("frame", [b"\n", b"get\n1", b"put a b\n", b"GET u@d\n", b"get %\n", b"get %4\n", b"get %zz\n"])
def test_nonsense(frame: bytes) -> None:
    """Anything but `get KEY` is refused."""
    with pytest.raises(ProtocolError):
        tcp_table.parse(frame)


def test_size_limit() -> None:
    """A line is at most 4096 bytes with its line feed."""
    assert tcp_table.next_frame(b"x" * 4095 + b"\n") == 4096
    assert tcp_table.next_frame(b"x" * 4095) is None
    with pytest.raises(ProtocolError):
        tcp_table.next_frame(b"x" * 4096 + b"\n")


@pytest.mark.parametrize(
    ("status", "value", "wanted"),
    [
        ("OK", "relay:[h.test]:25", b"200 relay:[h.test]:25\n"),
        ("OK", "a b%", b"200 a%20b%25\n"),
        ("OK", "jörg@d", b"200 j%C3%B6rg@d\n"),
        ("NOTFOUND", "", b"500 not%20found\n"),
        ("TEMP", "try later\n", b"400 try%20later\n"),
        ("TEMP", "", b"400 try%20again%20later\n"),
    ],
)
def test_reply(status: str, value: str, wanted: bytes) -> None:
    """The three replies, encoded as tcp_table(5) has it."""
    assert tcp_table.reply(status, value) == wanted


@pytest.mark.parametrize(
    ("status", "value"),
    [("OK", ""), ("OK", "a\nb"), ("OK", "x" * 4092), ("OK", "ü" * 700), ("OK", "\udcff"), ("PERM", "x"), ("", "")],
)
def test_harmful_reply(status: str, value: str) -> None:
    """What cannot be sent as it is meant is "try again later"."""
    assert tcp_table.reply(status, value).startswith(b"400 ")


@given(st.text())
def test_any_value(value: str) -> None:
    """A value comes back as it was, or the answer is 400; the line is never too long."""
    line = tcp_table.reply("OK", value)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line) <= tcp_table.MAX_LINE
    if line.startswith(b"200 "):
        assert unquote_to_bytes(line[4:-1]).decode() == value
    else:
        assert line.startswith(b"400 ")


@given(st.binary())
def test_any_key(key: bytes) -> None:
    """A key encoded byte by byte is decoded."""
    assert tcp_table.parse(b"get " + b"".join(b"%%%02x" % byte for byte in key) + b"\n") == key


def test_corpus(corpus: list[bytes]) -> None:
    """No seed makes the parser do anything but answer or refuse."""
    for data in corpus:
        try:
            end = tcp_table.next_frame(data)
            if end is not None:
                tcp_table.parse(data[:end])
        except ProtocolError:
            continue
