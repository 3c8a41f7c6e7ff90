# SPDX-License-Identifier: Apache-2.0
"""How single values of the configuration are written. Each function takes what TOML gave, and raises Wrong."""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from transport import address
from transport.config.errors import Wrong, shown_url
from transport.config.settings import Unknown

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
_DESTINATION = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_COLUMN = re.compile(r'[A-Za-z_][A-Za-z0-9_.$]*|"[^"\n]+"|`[^`\n]+`')
_ATTRIBUTE = re.compile(r"(?:[A-Za-z][A-Za-z0-9-]*|\d+(?:\.\d+)+)(?:;[A-Za-z0-9-]+)*")
_SQL_URL = re.compile(r"[a-z][a-z0-9_]*(\+[a-z][a-z0-9_]*)?://")


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
    try:
        return value.astimezone(datetime.UTC).timestamp()  # which every command can print
    except OverflowError:
        raise Wrong("a time that is between the years 1 and 9999 in UTC, too") from None


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
        found = ipaddress.ip_address(inner)
    except ValueError:
        pass
    else:
        if "%" in inner:
            raise Wrong("an address without a zone (%interface)")
        return str(found)
    if re.fullmatch(r"\[?[^\[\]]+\]?:\d*", given):
        raise Wrong("a host name or an IP address alone; the port has its own key, port = 25")
    name = address.fold_domain(given)
    if not name or not _HOST.fullmatch(name) or name.rpartition(".")[2].isdigit():
        raise Wrong("a host name (RFC 1123) or an IP address")
    return name


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
        raise Wrong("a name of a-z, 0-9 and - (inside), 1 to 40 long, but not local or group")
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
