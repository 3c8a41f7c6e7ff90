# SPDX-License-Identifier: Apache-2.0
"""Policy delegation: requests as Postfix 3.5 to 3.12 writes them, and actions that do what they say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.protocols import ProtocolError, policy

from .framing import check_splits, frames

REQUEST = (
    b"request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nhelo_name=mx.example.net\n"
    b"queue_id=8045F2AB23\nsender=foo@bar.tld\nrecipient=John Doe@example.com\nrecipient_count=0\n"
    b"client_address=192.0.2.3\nclient_name=another.domain.tld\nreverse_client_name=another.domain.tld\n"
    b"instance=123.456.7\nsasl_method=plain\nsasl_username=you\nsasl_sender=\nsize=12345\n"
    b"ccert_subject=CN=a=b\nccert_issuer=x\nccert_fingerprint=C2:9D\nencryption_protocol=TLSv1.3\n"
    b"encryption_cipher=x\nencryption_keysize=256\netrn_domain=\nstress=\nccert_pubkey_fingerprint=68:B3\n"
    b"client_port=1234\npolicy_context=outsider\nserver_address=10.3.2.1\nserver_port=54321\n"
    b"compatibility_level=3.8\nmail_version=3.12.0\ntls_sni=x\n\n"
)
SHORT = b"request=smtpd_access_policy\nrecipient=u@d\n\n"


def test_every_split() -> None:
    """However the bytes arrive, the same requests come out."""
    check_splits(policy.next_frame, [SHORT, SHORT.replace(b"u@d", "jörg@d".encode()), SHORT])
    for cut in range(len(REQUEST)):
        assert frames(policy.next_frame, REQUEST + SHORT, [cut]) == [REQUEST, SHORT]


def test_parse() -> None:
    """Every attribute is there, split at its first equals sign."""
    attrs = policy.parse(REQUEST)
    assert len(attrs) == 32
    assert attrs["recipient"] == "John Doe@example.com"
    assert attrs["ccert_subject"] == "CN=a=b"
    assert attrs["stress"] == ""


def test_unknown_attributes() -> None:
    """Attributes of a later Postfix do no harm, and the last of two counts."""
    attrs = policy.parse(b"request=smtpd_access_policy\nnew_one=1\nrecipient=a@d\nrecipient=b@d\n\n")
    assert attrs == {"request": "smtpd_access_policy", "new_one": "1", "recipient": "b@d"}


def test_not_utf8() -> None:
    """Bytes that are not UTF-8 reach the parser of addresses, which refuses them."""
    from transport.address import parse

    attrs = policy.parse(SHORT.replace(b"u@d", b"u\xff@d"))
    assert attrs["recipient"] == "u\udcff@d"
    assert parse(attrs["recipient"]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"\n\n",
        b"\n\nrequest=x",
        b"x" * policy.MAX_REQUEST,
        b"a=b\n" * (policy.MAX_REQUEST // 4),
    ],
)
def test_nonsense_frames(data: bytes) -> None:
    """An empty request and an endless one are refused at once."""
    with pytest.raises(ProtocolError):
        policy.next_frame(data)


@pytest.mark.parametrize(
    "frame",
    [
        b"x\n\n",
        b"request=smtpd_access_policy\nx\n\n",
        b"\nrequest=smtpd_access_policy\n\n",
        b"request=other\n\n",
        b"Request=smtpd_access_policy\n\n",
        b"recipient=u@d\n\n",
        b"request=smtpd_access_policy\nrecipient=u\0@d\n\n",
        b"request=smtpd_access_policy\r\n\n\n",
    ],
)
def test_no_request(frame: bytes) -> None:
    """What is not an access policy request is none."""
    with pytest.raises(ProtocolError):
        policy.parse(frame)


def changed(name: str, value: str) -> bytes:
    """REQUEST with another value of one attribute."""
    lines = REQUEST.decode().split("\n")
    found = [f"{name}={value}" if line.startswith(name + "=") else line for line in lines]
    assert found != lines
    return "\n".join(found).encode()


def test_cache_key() -> None:
    """What differs with each request does not make a new key; what an answer depends on does."""
    layout = policy.Layout(REQUEST)
    key = layout.key(REQUEST)
    assert key is not None
    for name in (
        "instance",
        "queue_id",
        "size",
        "client_port",
        "helo_name",
        "client_name",
        "stress",
        "sender",
        "sasl_username",
    ):
        assert layout.key(changed(name, "other")) == key
    seen = {key, layout.key(changed("sender", "")), layout.key(changed("sasl_username", ""))}
    anonymous = REQUEST.replace(b"\nsasl_username=you", b"\nsasl_none=")
    assert policy.Layout(anonymous).key(anonymous) == layout.key(changed("sasl_username", "")) != key
    assert policy.Layout(anonymous).key(REQUEST) is None
    assert layout.key(anonymous) is None
    for name in (
        "recipient",
        "client_address",
        "protocol_state",
        "policy_context",
        "server_address",
        "server_port",
        "ccert_fingerprint",
        "ccert_pubkey_fingerprint",
    ):
        seen.add(layout.key(changed(name, "other")))
    assert len(seen) == 11
    assert None not in seen


def test_cache_key_of_other_layouts() -> None:
    """A request in another order, or with other attributes, has no key under this layout or one of its own."""
    layout = policy.Layout(REQUEST)
    lines = REQUEST.removesuffix(b"\n\n").split(b"\n")
    assert layout.key(SHORT) is None
    assert layout.key(b"\n".join(lines[1:] + lines[:1]) + b"\n\n") != layout.key(REQUEST)
    assert layout.key(b"\n".join(lines[:-1]) + b"\n\n") is None
    assert layout.key(changed("sender", "x").replace(b"\nsender=", b"\nSender=")) is None
    assert policy.Layout(SHORT).key(SHORT) is None
    only = b"request=smtpd_access_policy\n\n"
    assert policy.Layout(only).key(only) is None
    bare = b"request=smtpd_access_policy\nsender=\n\n"
    assert policy.Layout(bare).key(bare) is not None


@given(st.permutations(REQUEST.removesuffix(b"\n\n").split(b"\n")), st.sampled_from(["recipient", "server_port"]))
def test_cache_key_never_mixes(lines: list[bytes], name: str) -> None:
    """Whatever order was learned: requests with one key agree in everything that matters."""
    layout = policy.Layout(b"\n".join(lines) + b"\n\n")
    for frame in (REQUEST, changed(name, "other")):
        key = layout.key(frame)
        if key is not None:
            assert key != layout.key(b"\n".join(lines) + b"\n\n") or policy.parse(frame) == policy.parse(REQUEST)


@pytest.mark.parametrize("name", ["policy_context", "ccert_fingerprint", "server_port", "client_address"])
def test_what_comes_in_another_places_stead_counts(name: str) -> None:
    """An attribute that the layout has not seen, where another one stood, makes no request like those without it."""
    without = REQUEST.replace(b"\n" + name.encode() + b"=", b"\nx_other=")
    assert policy.Layout(without).key(without) is not None
    assert policy.Layout(without).key(REQUEST) is None
    instead = without.replace(b"\nsize=", f"\n{name}=".encode())
    assert policy.Layout(without).key(instead) is None


@pytest.mark.parametrize(
    "action",
    [
        "DUNNO",
        "reject_unverified_recipient",
        "DEFER_IF_PERMIT 4.3.0 directory not readable",
        "550 5.4.6 mail loop",
        "550 5.2.1 mailbox disabled",
        "451 4.4.6 möglicherweise",
    ],
)
def test_reply(action: str) -> None:
    """Each action of ours is sent as it is."""
    assert policy.reply(action) == f"action={action}\n\n".encode()


@pytest.mark.parametrize(
    "action",
    [
        "",
        "550",
        "550 ",
        "550 5.1.1",
        "550 5.1.1 ",
        "1700000000",
        "OK",
        "PERMIT",
        "DEFER_IF_PERMIT",
        "FILTER smtp:x",
        "REDIRECT u@d",
        "HOLD",
        "DISCARD",
        "421 4.3.0 x",
        "521 5.3.0 x",
        "dunno",
        "check_recipient_access hash:x",
        "\nDUNNO",
        "550\n5.1.1",
    ],
)
def test_harmful_reply(action: str) -> None:
    """An action that would permit, disconnect, or concern the whole message is never sent."""
    assert policy.reply(action) == f"action={policy.TEMP}\n\n".encode()


@given(st.text() | st.text().map(lambda text: "550 5.1.1 " + text))
def test_any_reply_is_one_line(action: str) -> None:
    """Whatever is answered: one line, an empty line, valid UTF-8."""
    line = policy.reply(action).decode()
    assert line.startswith("action=")
    assert line.endswith("\n\n")
    assert line.count("\n") == 2
    assert len(line.encode()) <= policy.MAX_ACTION + 16


@given(
    st.dictionaries(
        st.text(alphabet="abcdefgh_", min_size=1).filter(lambda name: name != "request"),
        st.binary().map(lambda value: value.replace(b"\n", b"").replace(b"\0", b"")),
    ),
    st.data(),
)
def test_round_trip(values: dict[str, bytes], data: st.DataObject) -> None:
    """Attributes survive, whatever their bytes and wherever the stream is cut."""
    lines = [b"request=smtpd_access_policy", *(k.encode() + b"=" + v for k, v in values.items())]
    frame = b"\n".join(lines) + b"\n\n"
    cuts = data.draw(st.lists(st.integers(0, 2 * len(frame))))
    assert frames(policy.next_frame, frame * 2, cuts) == [frame] * 2
    attrs = policy.parse(frame)
    assert attrs.pop("request") == "smtpd_access_policy"
    assert {k: v.encode(errors="surrogateescape") for k, v in attrs.items()} == values


def test_corpus(corpus: list[bytes]) -> None:
    """No seed makes the parser do anything but answer or refuse."""
    for data in corpus:
        try:
            end = policy.next_frame(data)
            if end is not None:
                policy.parse(data[:end])
                policy.Layout(data[:end]).key(data[:end])
        except ProtocolError:
            continue
