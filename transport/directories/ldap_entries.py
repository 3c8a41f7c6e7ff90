# SPDX-License-Identifier: Apache-2.0
"""LDAP entries as records: addresses with their prefixes, kinds, targets, members by DN, ranges."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any
from uuid import UUID

import ldap3
from ldap3.utils.ciDict import CaseInsensitiveDict
from ldap3.utils.conv import escape_filter_chars

from transport.address import external
from transport.config.settings import LdapOptions
from transport.directories.base import DirectoryError, Skipped
from transport.directories.ldap_connect import BULK, Broken, Link
from transport.directories.reading import address_in, kind_of, location_of, targets_of, trimmed, why_not
from transport.record import Kind, Record

# object classes that say what an entry is; all others say nothing
_CLASSES = {
    "group": Kind.GROUP,
    "groupofnames": Kind.GROUP,
    "groupofuniquenames": Kind.GROUP,
    "groupofmembers": Kind.GROUP,
    "groupofurls": Kind.GROUP,
    "mailgroup": Kind.GROUP,
    "nismailalias": Kind.ALIAS,
    "contact": Kind.ALIAS,
}
_PREFIX = re.compile(r"([A-Za-z][A-Za-z0-9]*):(.*)", re.DOTALL)
_RANGE = re.compile(r"(.+);range=(\d+)-(\d+|\*)$", re.IGNORECASE)
_DN = re.compile(rb"\s*(?:[A-Za-z][\w-]*|[0-9.]+)\s*=")
_COMMA = re.compile(rb"\s*,\s*")
_DIVIDER = re.compile(rb"(?<!\\),")
_MAX_RANGES = 10_000
KEYS = ("entryUUID", "objectGUID")
"""Attributes of which an entry has one that it keeps when it is renamed."""

_MISSING = "-"  # of a member DN that has no address


def dn_key(name: bytes) -> bytes:
    """A DN as it is compared here: lower case, no blanks about commas. DNs that differ otherwise are looked up."""
    return _COMMA.sub(b",", name.strip()).lower()


def same(found: Mapping[str, Any]) -> bytes:
    """What tells an entry from others even when it is renamed between two searches for KEYS, else its DN."""
    return _key(found["raw_attributes"]) or dn_key(found["raw_dn"])


def above(key: bytes) -> bytes:
    """The DN of the entry above, of a `dn_key`; an escaped comma divides nothing (RFC 4514)."""
    return _DIVIDER.split(key, maxsplit=1)[-1]


@dataclass(slots=True)
class Entry:
    """One entry that has addresses. members: DNs or addresses, not resolved yet; primary: its main address."""

    key: bytes | None
    records: list[Record]
    primary: str
    members: Sequence[bytes]
    dn: str

    @property
    def bare(self) -> bool:
        """Whether it is a group of nobody."""
        return not self.members and self.records[0].kind is Kind.GROUP and not self.records[0].targets

    def expanded(self, addresses: Mapping[bytes, str], skipped: Skipped) -> Iterator[Record]:
        """The records with their members as targets; `addresses`: DN key -> address."""
        words: list[str] = []
        for value in self.members:
            found = addresses.get(dn_key(value))
            if found is None and not Entries.is_dn(value):
                words.append(value.decode("utf-8", "surrogateescape"))
            elif not found or found == _MISSING:
                skipped.add(f"{self.primary}: {value.decode('utf-8', 'replace')}", "member without an address")
            else:
                words.append(found)
        targets, _ = targets_of(words, skipped, self.primary)
        for record in self.records:
            yield record._replace(targets=tuple(dict.fromkeys(record.targets + targets)))


class Entries:
    """Reads entries by one directory's options."""

    def __init__(self, options: LdapOptions) -> None:
        self._options = options
        names = [*options.address_attributes, *options.target_attributes, options.kind_attribute]
        names += [options.member_attribute, options.location_attribute, *KEYS]
        self.attributes = list(dict.fromkeys(name for name in names if name))
        self._shared = frozenset(n.lower() for n in options.target_attributes) & {options.location_attribute.lower()}

    @staticmethod
    def is_dn(value: bytes) -> bool:
        """Whether a member is named by DN; else it is an address (which may hold a `=`, as SRS's do)."""
        return _DN.match(value) is not None and (b"," in value or b"@" not in value)

    def read(
        self, found: Mapping[str, Any], skipped: Skipped, *, suspended: bool, members: Sequence[bytes] = ()
    ) -> Entry | None:
        """One search result as an entry, None when it holds no address (noted)."""
        options, raw = self._options, _whole(found["raw_attributes"])
        addresses, primary = self._addresses(found["dn"], raw, skipped)
        if not addresses:
            return None
        kind = self._kind(raw, bool(members))
        if kind is None:
            kind = Kind.GROUP if members else Kind.MAILBOX
            said = f"{options.kind_attribute} is none of mailbox, alias, group: taken as {kind.name.lower()}"
            skipped.add(found["dn"], said)
        targets = self._targets(raw, kind, skipped, primary)
        if kind is Kind.ALIAS and self._shared and not targets:
            skipped.add(found["dn"], "a contact without a target: nobody's mailbox")
            return None
        location = self._location(raw, kind)
        key = _key(raw)
        records = []
        for local, domain in addresses:
            record = Record(local, domain, kind, not suspended, location, targets, key)
            if kind is Kind.ALIAS and targets == (external(local, domain),) and self._shared:
                skipped.add(found["dn"], "a contact whose target is its own address")
                continue
            records.append(trimmed(record))
        return Entry(key, records, primary, members, str(found["dn"])) if records else None

    def _addresses(self, dn: str, raw: Mapping[str, Any], skipped: Skipped) -> tuple[list[tuple[str, str]], str]:
        """Every address of an entry once, and its primary one in external form."""
        found: dict[tuple[str, str], None] = {}
        primary = ""
        nonsense = 0
        for name in self._options.address_attributes:
            for value in raw.get(name) or ():
                text, prefix = _without_prefix(value)
                if text is None:
                    continue
                address = address_in(text)
                if address is None:
                    nonsense += 1
                    skipped.add(f"{dn}: {text}", why_not(text))
                    continue
                found[address[:2]] = None
                if prefix == "SMTP" or not primary:
                    primary = external(address.local, address.domain)
        if not found and not nonsense:
            skipped.add(dn, "no address")
        return list(found), primary

    def _kind(self, raw: Mapping[str, Any], members: bool) -> Kind | None:
        name = self._options.kind_attribute
        values = [_text(v).strip().lower() for v in raw.get(name) or ()] if name else []
        if name.lower() in ("objectclass", "structuralobjectclass"):
            for value in values:
                if value in _CLASSES:
                    return _CLASSES[value]
        elif values:
            return kind_of(values[0])
        if members:
            return Kind.GROUP
        targets = any(raw.get(n) for n in self._options.target_attributes if n.lower() not in self._shared)
        return Kind.ALIAS if targets and not name else Kind.MAILBOX

    def _targets(self, raw: Mapping[str, Any], kind: Kind, skipped: Skipped, owner: str) -> tuple[str, ...]:
        words: list[str] = []
        for name in self._options.target_attributes:
            if name.lower() in self._shared and kind is not Kind.ALIAS:
                continue  # targetAddress of a mailbox says where it is
            for value in raw.get(name) or ():
                text, _ = _without_prefix(value)
                if text:
                    words.append(text)
        return targets_of(words, skipped, owner)[0]

    def _location(self, raw: Mapping[str, Any], kind: Kind) -> str | None:
        """A word; of an address (targetAddress) `@` and its domain."""
        name = self._options.location_attribute
        if not name or (name.lower() in self._shared and kind is Kind.ALIAS):
            return None
        for value in raw.get(name) or ():
            text = location_of(value)
            plain, prefix = _without_prefix(value)
            address = address_in(plain) if plain and "@" in plain else None
            if address is not None and (prefix or name.lower() in self._shared):
                return f"@{address.domain}"
            if text:
                return text
        return None

    def members(self, link: Link, found: Mapping[str, Any], timeout: float) -> list[bytes]:
        """All members of a group, those of later ranges too (`member;range=0-1499`, [MS-ADTS] 3.1.1.3.1.3.3)."""
        name, raw = self._options.member_attribute, found["raw_attributes"]
        values = list(raw.get(name) or ())
        ranged = _first_range(raw, name)
        if ranged is None:
            return values
        end = monotonic() + timeout
        for _ in range(3):
            values, before, after = self._all_ranges(link, str(found["dn"]), name, end)
            if before == after:
                return values
        raise DirectoryError(f"{found['dn']} changes while its members are read", "it is read again at the next sync")

    def _all_ranges(self, link: Link, dn: str, name: str, end: float) -> tuple[list[bytes], Any, Any]:
        """The members by ranges, and the entry's change number before and after."""
        values: list[bytes] = []
        stamps: list[Any] = []
        start = 0
        for _ in range(_MAX_RANGES):
            wanted = [f"{name};range={start}-*", "uSNChanged"]
            messages = link.search(dn, "(objectClass=*)", wanted, end - monotonic(), scope=ldap3.BASE)
            raw: Mapping[str, Any] = next((m["raw_attributes"] for m in messages if m["type"] == "searchResEntry"), {})
            stamps.append(raw.get("uSNChanged"))
            part = _first_range(raw, name)
            if part is None:
                values += raw.get(name) or ()
                break
            key, last = part
            values += raw.get(key) or ()
            if last == "*":
                break
            start = int(last) + 1
        return values, stamps[0], stamps[-1]

    def members_again(self, link: Link, entry: Entry) -> Sequence[bytes]:
        """The members that a group has by now; those known when it cannot be asked by its name any more."""
        name = self._options.member_attribute
        try:
            messages = link.search(entry.dn, "(objectClass=*)", [name], BULK, scope=ldap3.BASE)
        except DirectoryError:
            return entry.members
        found = next((message for message in messages if message["type"] == "searchResEntry"), None)
        return entry.members if found is None else self.members(link, found, BULK)

    def address_of(self, link: Link, dn: bytes, timeout: float) -> str | None:
        """The primary address of the entry with this DN, "" when it has none, None when it does not exist."""
        wanted = list(self._options.address_attributes)
        try:
            name = dn.decode()
            messages = link.search(name, "(objectClass=*)", wanted, timeout, scope=ldap3.BASE)
        except UnicodeDecodeError:
            return ""
        except Broken:
            raise
        except DirectoryError as fault:
            if re.search(r"\((32|34|50|10)\)", fault.what):  # gone, no DN, not ours to see, elsewhere
                return None
            raise
        for message in messages:
            if message["type"] == "searchResEntry":
                return self._addresses(name, _whole(message["raw_attributes"]), Skipped())[1]
        return None

    def has_member_of(self, found: Mapping[str, Any]) -> bool:
        """Whether the server keeps `memberOf` (Active Directory)."""
        return bool(found["raw_attributes"].get("objectGUID"))

    def addresses_by_group(self, link: Link, dn: str, end: float) -> dict[bytes, str]:
        """The members' addresses of one Active Directory group in one search a page."""
        wanted = f"(memberOf={escape_filter_chars(dn, 'utf-8')})"
        found: dict[bytes, str] = {}
        cookie: bytes | None = None
        while True:
            messages, cookie = link.page(
                self._options.base, wanted, self._options.address_attributes, end - monotonic(), cookie
            )
            for message in messages:
                if message["type"] == "searchResEntry":
                    primary = self._addresses(message["dn"], _whole(message["raw_attributes"]), Skipped())[1]
                    found[dn_key(message["raw_dn"])] = primary or _MISSING
            if not cookie:
                return found


def _whole(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Attributes with those of their values that bear an option: `mail;lang-de` is a subtype of `mail`, which a filter
    finds (RFC 4512 section 2.5.2.1). Ranges are no subtypes."""
    others = [key for key in raw if ";" in key and not _RANGE.match(key)]
    if not others:
        return raw
    whole: dict[str, Any] = CaseInsensitiveDict()
    for key in raw:
        whole[key] = raw[key]
    for key in others:
        name = key.partition(";")[0]
        whole[name] = [*(whole.get(name) or ()), *raw[key]]
    return whole


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _without_prefix(value: bytes) -> tuple[str | None, str]:
    """A value without `smtp:`, and that prefix as written; None for the address of another system (X500:, SIP:)."""
    text = _text(value).strip()
    match = _PREFIX.fullmatch(text)
    if match is None:
        return text, ""
    return (match[2].strip(), match[1]) if match[1].lower() == "smtp" else (None, match[1])


def _first_range(raw: Mapping[str, Any], name: str) -> tuple[str, str] | None:
    """The ranged form of an attribute in a result: its key and the last index, or `*`."""
    for key in raw:
        match = _RANGE.match(key)
        if match is not None and match[1].lower() == name.lower():
            return key, match[3]
    return None


def _key(raw: Mapping[str, Any]) -> bytes | None:
    """The entry's stable key in 16 bytes: entryUUID (RFC 4530) or objectGUID."""
    for value in raw.get("entryUUID") or ():
        try:
            return UUID(value.decode()).bytes
        except ValueError:
            return bytes(value)
    for value in raw.get("objectGUID") or ():
        return bytes(value)
    return None
