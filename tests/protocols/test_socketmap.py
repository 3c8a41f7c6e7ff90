# SPDX-License-Identifier: Apache-2.0
"""socketmap: framing, requests, and replies that Postfix reads as they are meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.protocols import ProtocolError, socketmap

from .framing import check_splits, frames


def test_every_split() -> None:
    """However the bytes arrive, the same requests come out, many in one read or one in many."""
    messages = [socketmap.request("m", key) for key in ("a@b", "", "x" * 300, "jörg@d", "a:b,c")]
    check_splits(socketmap.next_frame, [*messages, b"0:,", b"007:a b,c:d,"])


@pytest.mark.parametrize(
    ("frame", "name", "key"),
    [
        (b"16:transport u@d.te,", "transport", b"u@d.te"),
        (b'26:virtual_alias "john doe"@d,', "virtual_alias", b'"john doe"@d'),
        (b"11:transport *,", "transport", b"*"),
        (b"4:name,", "name", b""),
        (b"5:name ,", "name", b""),
        (b"0:,", "", b""),
        (b"2: x,", "", b"x"),
        (b"007:a b,c:d,", "a", b"b,c:d"),
        (b"4:\xff \0\n,", "\ufffd", b"\0\n"),
    ],
)
def test_parse(frame: bytes, name: str, key: bytes) -> None:
    """The name ends at the first blank; the rest is the key, whatever bytes it holds."""
    assert socketmap.parse(frame) == (name, key)


@pytest.mark.parametrize(
    "data",
    [
        b"-1:x,",
        b"+1:x,",
        b" 1:x,",
        b"1 :x,",
        b"x",
        b":,",
        b"\n",
        b"\0",
        b"1a",
        b"\xb2:xx,",
        b"100001:",
        b"99999999",
        b"00000001:x,",
        b"1:xy",
        b"1:x;",
        b"3:a b\n",
        b"GET / HTTP/1.1\r\n",
    ],
)
def test_nonsense(data: bytes) -> None:
    """What can be no netstring is refused at once, without waiting for more."""
    with pytest.raises(ProtocolError):
        socketmap.next_frame(data)
    with pytest.raises(ProtocolError):
        socketmap.next_frame(bytearray(b"1:x," + data), 4)


def test_size_limit() -> None:
    """The largest key that Postfix sends fits, one byte more than the limit does not."""
    assert socketmap.next_frame(b"%d:%b," % (socketmap.MAX_REQUEST, b"x" * socketmap.MAX_REQUEST))
    with pytest.raises(ProtocolError):
        socketmap.next_frame(b"%d:" % (socketmap.MAX_REQUEST + 1))


@pytest.mark.parametrize(
    ("status", "value", "wanted"),
    [
        ("OK", "relay:[h.test]:25", b"20:OK relay:[h.test]:25,"),
        ("OK", ":", b"4:OK :,"),
        ("OK", "jörg@d", "10:OK jörg@d,".encode()),
        ("NOTFOUND", "", b"9:NOTFOUND ,"),
        ("NOTFOUND", "text", b"9:NOTFOUND ,"),
        ("TEMP", "try later", b"14:TEMP try later,"),
        ("TEMP", "", b"20:TEMP try again later,"),
        ("TEMP", "a\r\nb\0c", b"10:TEMP a b c,"),
    ],
)
def test_reply(status: str, value: str, wanted: bytes) -> None:
    """The three replies, each with its blank."""
    assert socketmap.reply(status, value) == wanted


@pytest.mark.parametrize(
    ("status", "value"),
    [
        ("OK", ""),
        ("OK", "a\0b"),
        ("OK", "a\nb"),
        ("OK", "a\x7f"),
        ("OK", "\udcff"),
        ("OK", "x" * (socketmap.MAX_REPLY - 2)),
        ("OK", "ü" * (socketmap.MAX_REPLY // 2)),
        ("PERM", "x"),
        ("ok", "x"),
        ("", ""),
    ],
)
def test_harmful_reply(status: str, value: str) -> None:
    """What Postfix would misread is "try again later", never an empty, cut, over-long or permanent answer."""
    assert socketmap.parse_reply(socketmap.reply(status, value))[0] == "TEMP"


def test_largest_reply() -> None:
    """A value may fill the reply to Postfix's limit."""
    value = "x" * (socketmap.MAX_REPLY - 3)
    assert socketmap.parse_reply(socketmap.reply("OK", value)) == ("OK", value)


@given(st.sampled_from(["OK", "NOTFOUND", "TEMP", "PERM", "x"]), st.text())
def test_any_reply_is_one_frame(status: str, value: str) -> None:
    """Whatever is answered: one complete netstring, a known status, no control character, and OK only as
    meant."""
    frame = socketmap.reply(status, value)
    assert socketmap.next_reply(frame) == len(frame)
    word, text = socketmap.parse_reply(frame)
    assert word in ("OK", "NOTFOUND", "TEMP")
    assert not any(ord(c) < 32 or c == "\x7f" for c in text)
    if word == "OK":
        assert (status, value) == ("OK", text)
    assert text or word == "NOTFOUND"


@given(st.text(alphabet="abc_", min_size=1, max_size=16), st.binary(max_size=300), st.data())
def test_request_round_trip(name: str, key: bytes, data: st.DataObject) -> None:
    """What a client writes, the server reads, wherever the stream is cut."""
    frame = socketmap.request(name, key)
    assert socketmap.parse(frame) == (name, key)
    cuts = data.draw(st.lists(st.integers(0, 3 * len(frame))))
    assert frames(socketmap.next_frame, frame * 3, [c for c in cuts if c <= 3 * len(frame)]) == [frame] * 3


@pytest.mark.parametrize(("name", "key"), [("", "x"), ("a b", "x"), ("ä", "x"), ("m", "x" * 100_000)])
def test_request_refuses(name: str, key: str) -> None:
    """A client cannot write a request that would be read as another one."""
    with pytest.raises(ValueError, match=r"map name|longer"):
        socketmap.request(name, key)


@pytest.mark.parametrize("frame", [b"0:,", b"2:NO,", b"3:ok ,", b"1:\xff,"])
def test_unknown_reply(frame: bytes) -> None:
    """A reply without a known status is no answer."""
    with pytest.raises(ProtocolError):
        socketmap.parse_reply(frame)


def test_corpus(corpus: list[bytes]) -> None:
    """No seed makes the parser do anything but answer or refuse."""
    for data in corpus:
        try:
            end = socketmap.next_frame(data)
        except ProtocolError:
            continue
        if end is not None:
            socketmap.parse(data[:end])
