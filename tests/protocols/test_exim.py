# SPDX-License-Identifier: Apache-2.0
"""Exim's request line, and replies that Exim can only read, never run."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policyd.protocols import ProtocolError, exim
from policyd.protocols.exim import Request

from .framing import check_splits

FULL = b"decide client=192.0.2.1 listener=192.0.2.9:25 cert=AB outsider=yes bounce=no recipient=u@d\n"


def test_every_split() -> None:
    """However the bytes arrive, the same request comes out."""
    check_splits(exim.next_frame, [b"decide recipient=a b@d\n", "decide bounce=yes recipient=jörg@d\n".encode()])


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("recipient=u@d", Request("u@d")),
        ("recipient=a b@d", Request("a b@d")),
        ('recipient="a b"@d', Request('"a b"@d')),
        ("recipient=x recipient=y client=1@d", Request("x recipient=y client=1@d")),
        ("recipient=", Request("")),
        ("client=192.0.2.1 recipient=u@d", Request("u@d", client="192.0.2.1")),
        ("client=2001:DB8:0::1 recipient=u@d", Request("u@d", client="2001:db8::1")),
        ("client=[2001:DB8:0::1] recipient=u@d", Request("u@d", client="2001:db8::1")),
        ("listener=192.0.2.9:25 recipient=u@d", Request("u@d", listener="192.0.2.9:25")),
        ("listener=[2001:DB8::0:1]:025 recipient=u@d", Request("u@d", listener="[2001:db8::1]:25")),
        ("cert=ab:cd" + "00" * 14 + " recipient=u@d", Request("u@d", cert="AB:CD" + ":00" * 14)),
        ("outsider=yes bounce=yes recipient=u@d", Request("u@d", outsider=True, bounce=True)),
        ("outsider=no bounce=no recipient=u@d", Request("u@d")),
        ("client= listener=:0 cert= outsider= recipient=u@d", Request("u@d")),
        ("client= listener=[]:0  recipient=u@d", Request("u@d")),
    ],
)
def test_parse(line: str, wanted: Request) -> None:
    """The words in any order, the address last and to the end of the line."""
    assert exim.parse(f"decide {line}\n".encode()) == wanted
    assert exim.parse(f"decide {line}\r\n".encode()) == wanted


@pytest.mark.parametrize(
    "line",
    [
        "",
        "decide",
        "decide ",
        "decide u@d",
        "deciderecipient=u@d",
        "Decide recipient=u@d",
        "query recipient=u@d",
        " decide recipient=u@d",
        "decide xrecipient=u@d",
        "decide what=1 recipient=u@d",
        "decide client recipient=u@d",
        "decide client=1.2.3 recipient=u@d",
        "decide client=[2001:db8::1 recipient=u@d",
        "decide client=mx.example.com recipient=u@d",
        "decide client=192.0.2.1 client=192.0.2.2 recipient=u@d",
        "decide listener=192.0.2.1 recipient=u@d",
        "decide listener=2001:db8::1:25 recipient=u@d",
        "decide listener=h:25 recipient=u@d",
        "decide cert=xyz recipient=u@d",
        "decide outsider=1 recipient=u@d",
        "decide bounce=YES recipient=u@d",
    ],
)
def test_nonsense(line: str) -> None:
    """A word that is not known or broken is an error, never ignored: the configuration and the daemon
    differ."""
    with pytest.raises(ProtocolError):
        exim.parse(line.encode() + b"\n")


def test_not_utf8() -> None:
    """Bytes that are not UTF-8 reach the parser of addresses, which refuses them."""
    from transport.address import parse

    assert parse(exim.parse(b"decide recipient=u\xff@d\n").recipient) is None
    assert parse(exim.parse(b"decide recipient=u\0@d\n").recipient) is None


def test_size_limit() -> None:
    """An endless line is refused."""
    with pytest.raises(ProtocolError):
        exim.next_frame(b"x" * exim.MAX_REQUEST)


@pytest.mark.parametrize(
    ("pairs", "wanted"),
    [
        ({"decision": "local"}, b"decision=local"),
        (
            {"hosts": "h1.test;h2.test", "port": "25", "tls": "ca+name", "decision": "relay", "verify": "no"},
            b"decision=relay hosts=h1.test;h2.test port=25 tls=ca+name verify=no",
        ),
        (
            {"decision": "loop", "code": "550", "text": "5.4.6 mail loop"},
            b'decision=loop code=550 text="5.4.6 mail loop"',
        ),
        ({"decision": "relay", "address": "a b@d"}, b'decision=relay address="a b@d"'),
        ({"decision": "relay", "address": ""}, b'decision=relay address=""'),
        ({"decision": "expand", "targets": "jörg@d,x@d"}, 'decision=expand targets="jörg@d,x@d"'.encode()),
    ],
)
def test_reply(pairs: dict[str, str], wanted: bytes) -> None:
    """The decision first, then each pair, quoted where it holds blanks, no line end."""
    assert exim.reply(pairs) == wanted


@pytest.mark.parametrize(
    "pairs",
    [
        {},
        {"decision": ""},
        {"decision": "RELAY"},
        {"decision": "ask"},
        {"decision": "relay", "address": "${run{/bin/sh}}@d"},
        {"decision": "relay", "address": "a$b@d"},
        {"decision": "relay", "address": "a\\b@d"},
        {"decision": "relay", "address": '"a b"@d'},
        {"decision": "relay", "address": "a\nb@d"},
        {"decision": "relay", "address": "a\0b@d"},
        {"decision": "relay", "address": "a\udcff@d"},
        {"decision": "relay", "a b": "x"},
        {"decision": "relay", "": "x"},
        {"decision": "expand", "targets": "x@d," * 20_000},
    ],
)
def test_harmful_reply(pairs: dict[str, str]) -> None:
    """Nothing that Exim would expand, cut or misread leaves us."""
    assert exim.reply(pairs) == exim.TEMP


def extract(reply: str) -> dict[str, str]:
    """What Exim's `${extract{KEY}{…}}` would find: blanks between pairs, values bare or in double quotes."""
    out: dict[str, str] = {}
    for key, quoted, bare in re.findall(r'([^\s=]+)=(?:"([^"]*)"|(\S*))', reply):
        out.setdefault(key, quoted or bare)
    return out


@given(
    st.sampled_from(sorted(exim.DECISIONS)),
    st.dictionaries(st.sampled_from(["hosts", "port", "address", "targets", "text"]), st.text()),
)
@example("relay", {"address": " decision=local"})
@example("relay", {"address": '" decision=local'})
def test_any_reply(decision: str, pairs: dict[str, str]) -> None:
    """A reply is read back as it was meant or is `temp`; it never holds what Exim would expand."""
    reply = exim.reply({**pairs, "decision": decision})
    assert reply.startswith(b"decision=")
    assert not re.search(rb"[$\\\x00-\x1f\x7f]", reply)
    found = extract(reply.decode())
    assert reply == exim.TEMP or found == {"decision": decision, **pairs}


@given(st.text().filter(lambda text: "\n" not in text and not text.endswith("\r")))
def test_recipient_cannot_change_the_question(recipient: str) -> None:
    """Whatever a recipient holds, it is the recipient."""
    line = f"decide client=192.0.2.1 recipient={recipient}\n".encode("utf-8", "surrogatepass")
    request = exim.parse(line)
    assert request.client == "192.0.2.1"
    assert not request.bounce
    assert not request.outsider
    assert request._replace(recipient="") == Request("", client="192.0.2.1")


def test_corpus(corpus: list[bytes]) -> None:
    """No seed makes the parser do anything but answer or refuse."""
    for data in corpus:
        try:
            end = exim.next_frame(data)
            if end is not None:
                exim.parse(data[:end])
        except ProtocolError:
            continue
