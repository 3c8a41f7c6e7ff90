# SPDX-License-Identifier: Apache-2.0
"""Addresses: one parser for all that MTAs and directories send."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transport.address import (
    MAX_LOCAL,
    Address,
    external,
    fold_domain,
    fold_local,
    forms,
    parse,
    unquote,
    with_extension,
)


def pair(key: str | bytes) -> tuple[str, str] | None:
    address = parse(key)
    return address and (address.local, address.domain)


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("User@Split.Test", ("user", "split.test")),
        ("User+Ext@Split.Test", ("user+ext", "split.test")),
        ('"John Doe"@d.test', ("john doe", "d.test")),
        ("John Doe@d.test", ("john doe", "d.test")),
        ('"john.doe"@d.test', ("john.doe", "d.test")),
        ('"a@b"@d.test', ("a@b", "d.test")),
        ("a@b@d.test", ("a@b", "d.test")),
        ('"a\\"b"@d.test', ('a"b', "d.test")),
        ('a"b@d.test', ('a"b', "d.test")),
        ('"a\\\\b"@d.test', ("a\\b", "d.test")),
        ("a\\b@d.test", ("a\\b", "d.test")),
        ('"a"b"@d.test', ('"a"b"', "d.test")),
        ('"@d.test', ('"', "d.test")),
        ('"a\\"@d.test', ('"a\\"', "d.test")),
        ("us%er@d.test", ("us%er", "d.test")),
        ("host!u@d.test", ("host!u", "d.test")),
        ("x@d.test.", ("x", "d.test")),
        ("x@[192.0.2.7]", ("x", "[192.0.2.7]")),
        ("x@[IPv6:2001:DB8::1]", ("x", "[ipv6:2001:db8::1]")),
        ("+ext@d.test", ("+ext", "d.test")),
        ("u++e@d.test", ("u++e", "d.test")),
        ("-dash@d.test", ("-dash", "d.test")),
        ("a..b.@d.test", ("a..b.", "d.test")),
        ("jörg@d.test", ("jörg", "d.test")),
        ("JÖRG@d.test", ("jörg", "d.test")),
        ("jo\u0308rg@d.test", ("jörg", "d.test")),
        ("Straße@d.test", ("strasse", "d.test")),
        ("u@bücher.test", ("u", "xn--bcher-kva.test")),
        ("u@BÜCHER.test", ("u", "xn--bcher-kva.test")),
        ("u@bu\u0308cher.test", ("u", "xn--bcher-kva.test")),
        ("u@XN--BCHER-KVA.test", ("u", "xn--bcher-kva.test")),
        ("u@straße.test", ("u", "xn--strae-oqa.test")),
        ("u@strasse.test", ("u", "strasse.test")),
        ("u@例え\u3002テスト", ("u", "xn--r8jz45g.xn--zckzah")),
        ("u@_spf.d.test", ("u", "_spf.d.test")),
    ],
)
def test_shapes(key: str, wanted: tuple[str, str]) -> None:
    """Each shape in which Postfix, Exim or a directory writes an address has one meaning, as text and as
    bytes."""
    assert pair(key) == wanted
    assert pair(key.encode()) == wanted


@pytest.mark.parametrize(
    "key",
    [
        "",
        "*",
        "@",
        "@d.test",
        '""@d.test',
        "user",
        "user@",
        "user@.",
        "user@..",
        "user@d..test",
        "user@.d.test",
        "user@d test",
        "user@d.test..",
        "user@" + "a" * 64 + ".test",
        "user@" + "a." * 130 + "test",
        "user@" + "ü" * 200,
        "user@[",
        "user@[]",
        "user@[192.0.2.7",
        "user@[a]b",
        "us\0er@d.test",
        "us\ner@d.test",
        "us\x7fer@d.test",
        "us\x85er@d.test",
        "us\u2028er@d.test",
        "us\udcffer@d.test",
        '"us\\\ner"@d.test',
        "user@d\0.test",
        "user@d.test\n",
        "user@\ue000.test",
        "user@\u2100.test",
        "u" * (MAX_LOCAL + 1) + "@d.test",
        "ü" * (MAX_LOCAL // 2 + 1) + "@d.test",
        "u@" * 100_000,
        "u" * 1_000_000 + "@d.test",
        '"<>"',
        "<>",
    ],
)
def test_hopeless(key: str) -> None:
    """What can be nobody's address is None."""
    assert parse(key) is None
    assert parse(key.encode(errors="surrogateescape")) is None


@pytest.mark.parametrize("key", [b"\xff@d.test", b"u\xc3@d.test", b"u\xed\xa0\x80@d.test", b"u@d\xfc.test"])
def test_invalid_utf8(key: bytes) -> None:
    """Bytes that are not UTF-8 are nobody's address, and no error."""
    assert parse(key) is None


def test_original_keeps_case() -> None:
    """The local part as it was given is kept for an envelope that keeps it, without its quotes."""
    assert parse('"John Doe"@D.test') == Address("john doe", "d.test", "John Doe")
    assert parse(b"John.Doe@D.test") == Address("john.doe", "d.test", "John.Doe")
    assert parse("JÖRG@D.test") == Address("jörg", "d.test", "JÖRG")


@pytest.mark.parametrize(
    ("local", "wanted"),
    [
        ("ann", "ann@d.test"),
        ("ann.b+c", "ann.b+c@d.test"),
        ("a b", '"a b"@d.test'),
        ("a@b", '"a@b"@d.test'),
        ('a"b', '"a\\"b"@d.test'),
        ("a\\b", '"a\\\\b"@d.test'),
        (".a", '".a"@d.test'),
        ("a.", '"a."@d.test'),
        ("a..b", '"a..b"@d.test'),
        ("jörg", "jörg@d.test"),
        ("a,b", '"a,b"@d.test'),
        ("", '""@d.test'),
    ],
)
def test_external(local: str, wanted: str) -> None:
    """A local part is quoted where RFC 5321 needs it and nowhere else."""
    assert external(local, "d.test") == wanted


@pytest.mark.parametrize(
    ("local", "delimiters", "wanted"),
    [
        ("ann", "+", [("ann", "")]),
        ("ann+x", "+", [("ann+x", ""), ("ann", "+x")]),
        ("ann+", "+", [("ann+", ""), ("ann", "+")]),
        ("ann+x+y", "+", [("ann+x+y", ""), ("ann", "+x+y")]),
        ("anna-maria+x", "+-", [("anna-maria+x", ""), ("anna", "-maria+x")]),
        ("anna-maria+x", "-+", [("anna-maria+x", ""), ("anna", "-maria+x")]),
        ("anna-maria+x", "+", [("anna-maria+x", ""), ("anna-maria", "+x")]),
        ("ann-x", "+", [("ann-x", "")]),
        ("+ext", "+", [("+ext", "")]),
        ("+ext+more", "+", [("+ext+more", "")]),
        ("-a+b", "+-", [("-a+b", "")]),
        ("ann+x", "", [("ann+x", "")]),
        ("owner-list", "-", [("owner-list", "")]),
        ("list-request", "-", [("list-request", "")]),
        ("owner-list", "+-", [("owner-list", "")]),
        ("owner+list", "+-", [("owner+list", ""), ("owner", "+list")]),
        ("owner-list+x", "+", [("owner-list+x", ""), ("owner-list", "+x")]),
        ("-request", "-", [("-request", "")]),
        ("mailer-daemon", "-", [("mailer-daemon", "")]),
        ("double-bounce", "-", [("double-bounce", "")]),
        ("postmaster", "t", [("postmaster", "")]),
        ("postmaster+x", "+", [("postmaster+x", ""), ("postmaster", "+x")]),
    ],
)
def test_forms(local: str, delimiters: str, wanted: list[tuple[str, str]]) -> None:
    """Extensions are cut where Postfix's split_addr(3) cuts them, so that live and static maps agree."""
    assert forms(local, delimiters) == tuple(wanted)


@pytest.mark.parametrize(
    ("address", "extension", "wanted"),
    [
        ("ann@d.test", "", "ann@d.test"),
        ("ann@d.test", "+x", "ann+x@d.test"),
        ('"a b"@d.test', "+x", '"a b+x"@d.test'),
        ("ann@d.test", "+a b", '"ann+a b"@d.test'),
        ("Ann@D.test", "+X", "Ann+X@D.test"),
        ("ann", "+x", "ann+x"),
    ],
)
def test_with_extension(address: str, extension: str, wanted: str) -> None:
    """The extension goes before the last @ and the result is valid external form."""
    assert with_extension(address, extension) == wanted


def test_domain_table_is_bounded() -> None:
    """Senders' domains do not fill the memory, and remembered answers stay right."""
    from transport import address

    for number in range(10_000):
        assert pair(f"u@host{number}.test") == ("u", f"host{number}.test")
        assert parse(f"u@bad..{number}") is None
    assert len(address._known) <= address._MAX_KNOWN


@given(st.text() | st.binary())
@example('"')
@example("ß@ß")
@example("u@\u200d")
def test_never_raises(key: str | bytes) -> None:
    """Whatever the key is, there is an address or None."""
    parse(key)
    parse(key + "@d.test" if isinstance(key, str) else key + b"@d.test")
    parse("u@" + key if isinstance(key, str) else b"u@" + key)


@given(st.text(min_size=1, max_size=60), st.sampled_from(["d.test", "[192.0.2.7]", "bücher.test"]))
def test_external_round_trip(local: str, domain: str) -> None:
    """What external() writes, parse() reads as the same address; and the internal form too, unless it looks
    quoted."""
    parsed = parse(external(local, domain))
    internal = parse(f"{local}@{domain}")
    if unquote(local) == local:
        assert parsed == internal
    if parsed is not None:
        assert parsed.original == local
        assert parse(external(parsed.local, parsed.domain)) == parsed._replace(original=parsed.local)


@given(st.text())
def test_folding_rests(text: str) -> None:
    """Folding twice is folding once, in any case and normalisation."""
    folded = fold_local(text)
    assert fold_local(folded) == folded
    if text.isascii():
        assert fold_local(text.upper()) == folded


@given(st.text(max_size=30))
def test_domain_folding_rests(text: str) -> None:
    """A folded domain is ASCII and folds to itself."""
    folded = fold_domain(text)
    if folded is not None:
        assert folded.isascii()
        assert fold_domain(folded) == folded
        assert fold_domain(folded.upper()) == folded


@given(st.text(alphabet="ab+-.@ä", min_size=1), st.text(alphabet="+-.", max_size=3))
def test_forms_lose_nothing(local: str, delimiters: str) -> None:
    """Each form put together is the whole local part, and a base is never empty."""
    for base, extension in forms(local, delimiters):
        assert base
        assert base + extension == local


def test_corpus() -> None:
    """No seed of the fuzzers raises."""
    seeds = sorted((Path(__file__).parents[1] / "protocols" / "corpus" / "address").iterdir())
    assert seeds
    for seed in seeds:
        parse(seed.read_bytes())
