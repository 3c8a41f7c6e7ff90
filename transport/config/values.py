# SPDX-License-Identifier: Apache-2.0
"""How single values of the configuration are written. Each function takes what TOML gave, and raises Wrong."""

from __future__ import annotations

import datetime
import ipaddress
import re
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from transport import address
from transport.config.errors import Wrong, shown_url
from transport.config.settings import Location, Peer, Unknown

TCP_MAPS = (
    "transport",
    "relay_recipients",
    "here",
    "virtual_alias",
    "recipient_bcc",
    "relay_domains",
    "tls_policy",
)
RESERVED = "splitmx.invalid"
"""The names of copies and groups stand below it (DESIGN 2)."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d|w)")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)")
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_SERVICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_DESTINATION = re.compile(r"[a-z0-9-]{1,40}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_COLUMN = re.compile(r'[A-Za-z_][A-Za-z0-9_.$]*|"[^"\n]+"|`[^`\n]+`')
_ATTRIBUTE = re.compile(r"(?:[A-Za-z][A-Za-z0-9-]*|\d+(?:\.\d+)+)(?:;[A-Za-z0-9-]+)*")
_SQL_URL = re.compile(r"[a-z][a-z0-9_]*(\+[a-z][a-z0-9_]*)?://")
_FREE_TEXT = ("error", "retry", "discard")  # services whose next hop is text, not a place


def text(value: object) -> str:
    """Text without control characters; blanks around it do not count. May be empty."""
    if not isinstance(value, str):
        raise Wrong("text in quotes")
    if any(ord(c) < 32 or ord(c) == 127 for c in value.replace("\n", " ").replace("\t", " ")):
        raise Wrong("text without control characters")
    return value.strip()


def some(value: object) -> str:
    """Text that says something."""
    found = text(value)
    if not found:
        raise Wrong("a value: write it, or leave the key out", "an empty value")
    return found


def maybe(parse: Callable[[object], str]) -> Callable[[object], str]:
    """A parser that takes the empty text too, which means "not set"."""

    def parse_or_empty(value: object) -> str:
        return "" if value == "" else parse(value)

    return parse_or_empty


def duration(value: object) -> float:
    """Seconds of `"5s"`, `"10m"`, `"24h"`; units ms, s, m, h, d, w."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Wrong('a duration with its unit (ms, s, m, h, d, w), such as "5s", "10m" or "24h"')
    return float(match[1]) * _UNITS[match[2]]


def between(least: float, most: float, said: str) -> Callable[[object], float]:
    """A duration within bounds; `said` names them."""

    def bounded(value: object) -> float:
        seconds = duration(value)
        if not least <= seconds <= most:
            raise Wrong(said)
        return seconds

    return bounded


def share(value: object) -> float:
    """A part of the whole: 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Wrong("a number from 0 to 1, such as 0.2 for 20 %")
    return float(value)


def whole(least: int, most: int) -> Callable[[object], int]:
    """A whole number within bounds."""

    def bounded(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise Wrong(f"a whole number from {least} to {most}")
        return value

    return bounded


def moment(value: object) -> float:
    """Unix time of an RFC 3339 time with its offset, as text or as TOML's own date-time."""
    if isinstance(value, str):
        if not _TIME.fullmatch(value):
            raise Wrong('a time with its offset (RFC 3339), such as "2026-12-01T12:00:00Z"')
        try:
            value = datetime.datetime.fromisoformat(value.upper())
        except ValueError:
            raise Wrong('a time that exists (RFC 3339), such as "2026-12-01T12:00:00Z"') from None
    if not isinstance(value, datetime.datetime) or value.tzinfo is None:
        raise Wrong('a time with its offset (RFC 3339), such as "2026-12-01T12:00:00Z"')
    return value.timestamp()


def domain(value: object) -> str:
    """A domain name as lower-case A-labels, without the trailing dot."""
    name = address.fold_domain(value.strip()) if isinstance(value, str) else None
    if not name or not _HOST.fullmatch(name) or "." not in name:
        raise Wrong("a domain name such as example.com, without blanks, @ or port")
    if name.rpartition(".")[2].isdigit():
        raise Wrong("a domain name, not an address")
    if name == RESERVED or name.endswith("." + RESERVED):
        raise Wrong(f"a domain outside {RESERVED}, which belongs to the copies of dual delivery")
    return name


def host(value: object) -> str:
    """A host name (A-labels) or IP address; IPv6 comes back without brackets."""
    if not isinstance(value, str):
        raise Wrong("a host name or an IP address")
    given = value.strip()
    inner = given[1:-1] if given.startswith("[") and given.endswith("]") else given
    if inner.lower().startswith("ipv6:"):
        inner = inner[5:]
    try:
        return str(ipaddress.ip_address(inner))
    except ValueError:
        pass
    if re.fullmatch(r"\[?[^\[\]]+\]?:\d*", given):
        raise Wrong("a host name or an IP address alone; the port has its own key, port = 25")
    name = address.fold_domain(given)
    if not name or not _HOST.fullmatch(name) or name.rpartition(".")[2].isdigit():
        raise Wrong("a host name (RFC 1123) or an IP address")
    return name


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


def mailbox(value: object) -> str:
    """An address, folded, in external form."""
    parsed = address.parse(value.strip()) if isinstance(value, str) else None
    if parsed is None or not _HOST.fullmatch(parsed.domain):
        raise Wrong("an address such as ann@example.com")
    if parsed.domain == RESERVED or parsed.domain.endswith("." + RESERVED):
        raise Wrong(f"an address outside {RESERVED}, which belongs to the copies of dual delivery")
    return address.external(parsed.local, parsed.domain)


def unknown(value: object) -> tuple[Unknown, str]:
    """`reject`, `relay`, `verify` or `catchall:ADDRESS`, the address folded."""
    if isinstance(value, str):
        if value in ("reject", "relay", "verify"):
            return Unknown(value), ""
        if value.startswith("catchall:") or value == "catchall":
            try:
                return Unknown.CATCHALL, mailbox(value[9:])
            except Wrong:
                raise Wrong("catchall:ADDRESS, such as catchall:info@example.com") from None
    raise Wrong("reject, relay, verify or catchall:ADDRESS")


def outsiders(value: object) -> Unknown:
    """`reject`, `verify` or `relay`."""
    if value in ("reject", "verify", "relay"):
        return Unknown(value)
    raise Wrong("reject, verify or relay")


def enabled(value: object) -> str:
    """`true`, `false` or `"observe"`, as yes, no and observe."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value == "observe":
        return "observe"
    raise Wrong('true, false or "observe"')


def delimiters(value: object) -> str:
    """A set of ASCII punctuation marks that may stand before an extension; "" for none."""
    if (
        not isinstance(value, str)
        or not value.isascii()
        or any(c.isalnum() or not c.isprintable() or c in '@" ' for c in value)
    ):
        raise Wrong('the marks of main.cf\'s recipient_delimiter, such as "+" or "+-"; "" for none')
    return value


def destination_name(value: object) -> str:
    """A destination's name: it becomes a label of the shadows' domain."""
    if not isinstance(value, str) or not _DESTINATION.fullmatch(value) or value in ("local", "group"):
        raise Wrong("a name of a-z, 0-9 and -, 1 to 40 long, but not local or group")
    return value


def plain_name(value: object) -> str:
    """A name of a directory or a wave: it stands in logs, metrics and commands."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Wrong("a name of letters, digits, _, - and ., up to 63 long")
    return value


def envelope(value: object) -> str:
    """`keep` as "", or the domain of the rewritten RCPT TO."""
    if value == "keep":
        return ""
    try:
        return domain(value)
    except Wrong as wrong:
        raise Wrong(f'"keep" or {wrong.allowed}') from None


def sql_url(value: object) -> str:
    """A SQLAlchemy URL; only its form is looked at."""
    given = value.strip() if isinstance(value, str) else ""
    if not _SQL_URL.match(given):
        raise Wrong(
            "a SQLAlchemy URL: sqlite:////PATH, postgresql+psycopg://USER@HOST/DB, mysql+pymysql://USER@HOST/DB",
            shown_url(given) if isinstance(value, str) else None,
        )
    return given


def sql_query(value: object) -> str:
    """One SELECT; a semicolon at its end is dropped, since the query is wrapped in another one."""
    given = some(value).rstrip("; \t\n")
    if not re.match(r"(?is)(\s|\(|--[^\n]*\n|/\*.*?\*/)*(select|with|values|table|exec|call)\b", given):
        raise Wrong("one SELECT that returns the column address")
    return given


def sql_lookup(value: object) -> str:
    """A SELECT with the bound list `:addresses`."""
    given = sql_query(value)
    if not re.search(r":addresses\b", given):
        raise Wrong("a SELECT with :addresses, such as … WHERE address IN :addresses")
    return given


def column(value: object) -> str:
    """The name of a column."""
    if not isinstance(value, str) or not _COLUMN.fullmatch(value.strip()):
        raise Wrong("the name of a column")
    return value.strip()


def attribute(value: object) -> str:
    """The name of an LDAP attribute (RFC 4512 section 2.5)."""
    if not isinstance(value, str) or not _ATTRIBUTE.fullmatch(value.strip()):
        raise Wrong("the name of an LDAP attribute, such as mail")
    return value.strip()


def ldap_urls(value: object) -> list[str]:
    """One URL or a list of them: ldap://, ldaps:// or ldapi://."""
    given = [value] if isinstance(value, str) else value
    said = "ldap://HOST[:PORT], ldaps://HOST[:PORT] or ldapi://SOCKET, or a list of them"
    if not isinstance(given, list) or not given:
        raise Wrong(said)
    urls = []
    for url in given:
        if not isinstance(url, str):
            raise Wrong(said)
        try:
            parts = urlsplit(url.strip())
            good = parts.scheme in ("ldap", "ldaps", "ldapi") and bool(parts.netloc)
            good = good and (parts.scheme == "ldapi" or bool(parts.hostname and parts.port != 0))
        except ValueError:
            good = False
        if not good or parts.username or parts.path not in ("", "/") or parts.query:
            raise Wrong(said, shown_url(url))
        urls.append(url.strip().rstrip("/"))
    return urls


def ldap_filter(value: object) -> str:
    """A search filter (RFC 4515) in brackets; its brackets must match."""
    given = some(value)
    depth = 0
    for index, char in enumerate(given):
        depth += (char == "(") - (char == ")")
        if depth <= 0 and index < len(given) - 1:
            break
    if depth != 0 or not given.startswith("(") or not given.endswith(")"):
        raise Wrong("a filter of RFC 4515 with matching brackets, such as (objectClass=inetOrgPerson)")
    return given


def dn(value: object) -> str:
    """A distinguished name (RFC 4514), by its looks."""
    given = some(value)
    if "=" not in given and not ("@" in given or "\\" in given):
        raise Wrong("a distinguished name, such as ou=people,dc=example,dc=com")
    return given
