# SPDX-License-Identifier: Apache-2.0
"""Search requests of many equality terms, encoded by hand (RFC 4511 section 4.5.1, BER).

ldap3 builds each filter as a tree of pyasn1 objects, 57 us of CPU an address; this takes 3. The administrator's filter
is encoded by ldap3 once, and the terms are octets put together: no text is ever parsed as a filter, so that nothing in
an address can be syntax.
"""

from __future__ import annotations

from collections.abc import Sequence

from ldap3 import DEREF_NEVER, SUBTREE
from ldap3.operation.search import search_operation
from ldap3.utils.asn1 import encode

_SEQUENCE, _OCTETS, _INTEGER = 0x30, 0x04, 0x02
_SEARCH = 0x63
_AND, _OR, _EQUAL = 0xA0, 0xA1, 0xA3
# wholeSubtree, neverDerefAliases, no size limit, no time limit, types and values
_HOW = b"\x0a\x01\x02\x0a\x01\x00\x02\x01\x00\x02\x01\x00\x01\x01\x00"


def tlv(tag: int, value: bytes) -> bytes:
    """Tag, length, value."""
    size = len(value)
    if size < 128:
        return bytes((tag, size)) + value
    width = (size.bit_length() + 7) // 8
    return bytes((tag, 0x80 | width)) + size.to_bytes(width, "big") + value


def encoded_filter(text: str) -> bytes:
    """The administrator's filter in BER. Raises what ldap3 raises for a filter that is none."""
    request = search_operation("", text, SUBTREE, DEREF_NEVER, ["1.1"], 0, 0, False, False, True, None)
    return bytes(encode(request["filter"]))


def equality(attribute: str, value: str) -> bytes:
    """One `(attribute=value)`; raises UnicodeEncodeError for what is no text."""
    return tlv(_EQUAL, tlv(_OCTETS, attribute.encode()) + tlv(_OCTETS, value.encode()))


def any_of(wanted: bytes, terms: Sequence[bytes]) -> bytes:
    """`(&WANTED(|TERMS))`."""
    return tlv(_AND, wanted + tlv(_OR, b"".join(terms)))


def attribute_list(names: Sequence[str]) -> bytes:
    """The attributes wanted."""
    return tlv(_SEQUENCE, b"".join(tlv(_OCTETS, name.encode()) for name in names))


def search(number: int, base: bytes, wanted: bytes, attributes: bytes) -> bytes:
    """A whole LDAPMessage: search below `base` (UTF-8), never following aliases. number: 1 to 2^31 - 1."""
    body = tlv(_OCTETS, base) + _HOW + wanted + attributes
    octets = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return tlv(_SEQUENCE, tlv(_INTEGER, octets) + tlv(_SEARCH, body))


def message_size(data: bytes | bytearray, start: int) -> int:
    """How long the message that begins at `start` is; 0 when its length has not arrived yet."""
    if len(data) < start + 2:
        return 0
    size = data[start + 1]
    if size < 0x80:
        return size + 2
    width = size & 0x7F
    if len(data) < start + 2 + width:
        return 0
    return int.from_bytes(data[start + 2 : start + 2 + width], "big") + 2 + width
