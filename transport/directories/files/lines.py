# SPDX-License-Identifier: Apache-2.0
"""Files of lines: a plain list, a Postfix table's source, passwd(5), aliases(5)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from transport.directories.base import Skipped
from transport.directories.files.reading import Content
from transport.directories.reading import QUOTED, address_in, name_and_rest, why_not
from transport.record import Kind, Record

FIRST_USER = 1000
"""login.defs(5) UID_MIN: users below are the system's own."""

_NOBODY = 65534
_KEY = re.compile(rf"(?:{QUOTED}|\S)+")


def _record(text: str, domains: Sequence[str], skipped: Skipped, kind: Kind = Kind.MAILBOX) -> Iterator[Record]:
    """One address, or a bare name in each of `domains`."""
    names = [text] if "@" in text or not domains else [f"{text}@{domain}" for domain in domains]
    for name in names:
        address = address_in(name)
        if address is None:
            skipped.add(name, why_not(name))
        else:
            yield Record(address.local, address.domain, kind)


def from_list(content: Content, domains: Sequence[str], skipped: Skipped) -> Iterator[Record]:
    """An address a line; `#` begins a comment line."""
    for line in content.lines():
        text = line.strip()
        if text and not text.startswith("#"):
            yield from _record(text, (), skipped)


def logical_lines(content: Content) -> Iterator[str]:
    """As postconf(5) and aliases(5) have it: a line that begins with a blank goes on the one before."""
    current = ""
    for line in content.lines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0] in " \t":
            current += line
            continue
        if current:
            yield current
        current = line
    if current:
        yield current


def from_postfix(content: Content, domains: Sequence[str], skipped: Skipped) -> Iterator[Record]:
    """The source of a Postfix table (relay_recipients, virtual mailboxes): keys are addresses, values are not used.

    `@domain` keys are catch-alls and name no recipient.
    """
    for line in logical_lines(content):
        match = _KEY.match(line.strip())
        key = match[0] if match else ""
        if key.startswith("@"):
            skipped.add(key, "a whole domain: not a recipient")
        else:
            yield from _record(key, (), skipped)


def from_passwd(content: Content, domains: Sequence[str], skipped: Skipped) -> Iterator[Record]:
    """The users of passwd(5) in each of the domains: root, and those from UID 1000 on but nobody's (65534).

    Other system users take mail by aliases(5), or not at all.
    """
    for line in content.lines():
        if not line.strip() or line.startswith(("#", "+", "-")):  # + and -: NIS, nsswitch.conf(5) compat
            continue
        fields = line.split(":")
        if len(fields) != 7 or not fields[2].isdigit():
            skipped.add(line, "not a line of passwd(5)")
            continue
        number = int(fields[2])
        if fields[0] == "root" or (number >= FIRST_USER and number != _NOBODY):
            yield from _record(fields[0], domains, skipped)


def from_aliases(content: Content, domains: Sequence[str], skipped: Skipped) -> Iterator[Record]:
    """The names of aliases(5) in each of the domains. Their targets are left to local(8), commands and files and
    :include: among them: mail for the name is delivered here."""
    for line in logical_lines(content):
        pair = name_and_rest(line)
        if pair is None or not pair[1].strip():
            skipped.add(line, "not a line of aliases(5)")
            continue
        yield from _record(pair[0], domains, skipped, Kind.ALIAS)
