# SPDX-License-Identifier: Apache-2.0
"""How places are written in the configuration: next hops, locations, networks, peers. Each function raises Wrong."""

from __future__ import annotations

import ipaddress
import re
import socket

from transport.config.errors import Wrong
from transport.config.settings import Location, Peer
from transport.config.values import domain, host, text

_SERVICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_FREE_TEXT = ("error", "retry", "discard")  # services whose next hop is text, not a place


def service(value: object) -> str:
    """The name of a master.cf(5) service."""
    if not isinstance(value, str) or not _SERVICE.fullmatch(value):
        raise Wrong("the name of a master.cf service, such as relay")
    return value


def next_hop(value: object) -> str:
    """A `transport:nexthop` that Postfix can parse (transport(5), smtp_parse_destination): "" means `:`.

    A port that is none, an unknown service name or text behind a bracket is fatal to the delivery process.
    """
    given = text(value)
    if given in ("", ":"):
        return ""
    name, colon, hop = given.partition(":")
    if not _SERVICE.fullmatch(name):
        raise Wrong("TRANSPORT:NEXTHOP of transport(5), such as lmtp:unix:private/dovecot-lmtp")
    if not colon or not hop or name in _FREE_TEXT:
        return given
    if hop.startswith("unix:"):
        if not hop[5:] or re.search(r"[\s,]", hop):
            raise Wrong("unix: with the path of a socket, such as lmtp:unix:private/dovecot-lmtp")
        return given
    for part in re.split(r"[,\s]+", hop.removeprefix("inet:")):
        _place(part)
    return given


def _place(text_: str) -> None:
    """One next hop: `[host]`, `[host]:port`, `host` or `host:port`."""
    said = "a next hop as Postfix reads it: [host], [host]:port, domain or domain:port"
    if text_.startswith("["):
        inner, bracket, rest = text_[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise Wrong(f"{said}; nothing but :port behind the bracket")
        name, port = inner, rest[1:] if rest else None
    else:
        name, colon, after = text_.partition(":")
        port = after if colon else None
    try:
        host(name)
    except Wrong:
        raise Wrong(said) from None
    if port is not None and not _is_port(port):
        raise Wrong(f"{said}; a port is 1 to 65535 or a name of services(5)", f"port {port!r}")


def _is_port(port: str) -> bool:
    if port.isascii() and port.isdigit():
        return 1 <= int(port) <= 65535
    try:
        return bool(port) and socket.getservbyname(port, "tcp") > 0
    except (OSError, UnicodeError):
        return False


def location(value: object) -> Location:
    """What a location word means: `local`, `local:TRANSPORT:NEXTHOP`, or a destination's name."""
    if not isinstance(value, str) or not value.strip():
        raise Wrong('"local", "local:TRANSPORT:NEXTHOP" or the name of a destination')
    given = value.strip()
    if given == "local":
        return Location()
    if given.startswith("local:"):
        hop = next_hop(given[6:])
        if not hop:
            raise Wrong('"local:TRANSPORT:NEXTHOP", such as "local:lmtp:[store2.example.com]:24"')
        return Location(local_transport=hop)
    return Location(destination=given)


def network(value: object) -> str:
    """An address or network in CIDR form."""
    if not isinstance(value, str):
        raise Wrong("a network such as 192.0.2.0/24")
    given = value.strip().replace("[", "").replace("]", "")
    try:
        found = ipaddress.ip_network(given, strict=False)
    except ValueError:
        raise Wrong("a network such as 192.0.2.0/24 or 2001:db8::/32") from None
    if "/" in given and ipaddress.ip_address(given.partition("/")[0]) != found.network_address:
        raise Wrong(f"a network without host bits: {found}")
    return str(found)


def peer(value: object) -> Peer:
    """A network, `spf:NAME`, `listener:ADDRESS:PORT` or `cert:FINGERPRINT`."""
    said = "a network, spf:NAME, listener:ADDRESS:PORT or cert:FINGERPRINT"
    if not isinstance(value, str):
        raise Wrong(said)
    kind, colon, rest = value.strip().partition(":")
    if colon and kind == "spf":
        return Peer("spf", domain(rest))
    if colon and kind == "listener":
        return Peer("listener", _address_and_port(rest))
    if colon and kind == "cert":
        digits = rest.replace(":", "").upper()
        if len(digits) not in (32, 40, 64, 128) or not re.fullmatch(r"[0-9A-F]+", digits):
            raise Wrong("cert: with a fingerprint in hex (SHA-256: 32 pairs), as Postfix logs it")
        return Peer("cert", ":".join(digits[i : i + 2] for i in range(0, len(digits), 2)))
    try:
        found = network(value)
    except Wrong as wrong:
        raise wrong if "host bits" in wrong.allowed else Wrong(said) from None
    if found.endswith("/0"):
        raise Wrong("a network smaller than the whole Internet: everybody would be the peer")
    return Peer("network", found)


def _address_and_port(given: str) -> str:
    said = "listener:ADDRESS:PORT, such as listener:192.0.2.1:2525 or listener:[2001:db8::1]:25"
    name, colon, port = given.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or not 1 <= int(port) <= 65535:
        raise Wrong(said)
    bracketed = name.startswith("[") and name.endswith("]")
    try:
        found = ipaddress.ip_address(name[1:-1] if bracketed else name)
    except ValueError:
        raise Wrong(said) from None
    if (found.version == 6) != bracketed:
        raise Wrong(said)
    return f"[{found}]:{int(port)}" if bracketed else f"{found}:{int(port)}"
