# SPDX-License-Identifier: Apache-2.0
"""Whether every attribute that counts may still be read, which no search says: one that is not ours to see is missing.

A lost location reads as "is here", a lost `accountStatus` as "is active", a lost second address attribute as "nobody".
A filter has three values (RFC 4511 section 4.5.1.7): `(|(a=*)(!(a=*)))` is true of every entry, with the attribute or
without it, and undefined where the server does not let us look.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from time import monotonic

import ldap3

from transport.config.settings import LdapOptions
from transport.directories.base import DirectoryError
from transport.directories.ldap_connect import BULK, Broken, Link

_NAMES = re.compile(r"(?:^|\()\s*([A-Za-z][\w-]*)(?:;[\w-]+)*\s*(?:[~<>]?=|:)")  # of a filter's terms
_UNDEFINED_TYPE = 17  # undefinedAttributeType: no schema of the server has it, and nobody a value of it
_NO_SUCH_ATTRIBUTE = 16  # nothing to hide, then
_AGAIN = 1.0  # seconds for which a connection that has shown everything is believed to show it
_KEPT = 3  # entries that are looked at when no listing chose any
_MANY = 100  # of places at which an entry is looked at behind a listing


class Rights:
    """What bind_dn could read the last time, shared by the sources of all threads."""

    def __init__(self, options: LdapOptions) -> None:
        names = [*options.address_attributes, options.kind_attribute, *options.target_attributes]
        names += [options.member_attribute, options.location_attribute]
        names += _NAMES.findall(options.filter) + _NAMES.findall(options.suspended_filter)
        self._attributes = tuple(dict.fromkeys(name.partition(";")[0] for name in names if name))
        self._unknown: dict[str, set[str]] = {}  # by server: attributes that no schema of it has
        self._samples: Sequence[str] = ()
        self._turn = 0

    def listed(self, link: Link, samples: Mapping[bytes, str]) -> None:
        """Behind a listing; samples: the DN of an entry for each place. Raises Broken where an attribute is hidden:
        another server may show it."""
        self._unknown.pop(link.server, None)
        chosen = [samples[place] for place in sorted(samples, key=len)[:_MANY]]
        for dn in dict.fromkeys((*chosen, *self._samples)):  # those of the last time may have left the filter by it
            self._read(link, dn, monotonic() + BULK)
        self._samples = chosen[-_KEPT:]

    def need(self, link: Link, found: Sequence[str], end: float) -> None:
        """Behind a look-up that found these entries (DNs): one of them is looked at, so that a far server is asked once
        more and not thrice. Raises Broken as `listed` does. end: monotonic."""
        if monotonic() - link.read_at < _AGAIN:
            return
        self._turn += 1
        if chosen := found or self._samples:
            self._read(link, chosen[self._turn % len(chosen)], end)
        link.read_at = monotonic()

    def need_all(self, link: Link) -> None:
        """Behind changes: as `listed`, of those that it looked at last."""
        for dn in self._samples:
            self._read(link, dn, monotonic() + BULK)

    def _read(self, link: Link, dn: str, end: float) -> None:
        unknown = self._unknown.setdefault(link.server, set())
        if _decides(link, dn, [name for name in self._attributes if name not in unknown], end):
            return
        for name in self._attributes:
            if name in unknown or _decides(link, dn, [name], end):
                continue
            code = link.compared(dn, name, end - monotonic())
            if code == _UNDEFINED_TYPE:
                unknown.add(name)
            elif _may_have(link, dn, name, code, end) and _evaluates(link, end):
                what = f"{link.url}: bind_dn may not read {name} of {dn}"
                raise Broken(DirectoryError(what, "what is hidden reads as nothing: let it, or use another attribute"))


_rights: dict[LdapOptions, Rights] = {}


def rights_of(options: LdapOptions) -> Rights:
    """Those of a directory, in this process."""
    return _rights.setdefault(options, Rights(options))


def _decides(link: Link, dn: str, names: Sequence[str], end: float) -> bool:
    """Whether a filter knows of this entry if it has these attributes; an entry that is gone says nothing."""
    if not names:
        return True
    wanted = "".join(f"(|({name}=*)(!({name}=*)))" for name in names)
    try:
        found = link.search(dn, f"(&{wanted})", ["1.1"], end - monotonic(), scope=ldap3.BASE)
    except DirectoryError:
        return True
    return any(message["type"] == "searchResEntry" for message in found)


def _evaluates(link: Link, end: float) -> bool:
    """Whether the server knows what such a filter means, asked of what everybody may see (RFC 4512 section 5.1)."""
    return _decides(link, "", ["objectClass"], end)


def _may_have(link: Link, dn: str, name: str, code: int, end: float) -> bool:
    """Whether the entry is there and could have the attribute: Active Directory says so ([MS-ADTS] 3.1.1.4.5.20), where
    other servers have an error for an attribute that they do not know. code: of a comparison with it."""
    try:
        found = link.search(dn, "(objectClass=*)", ["allowedAttributes"], end - monotonic(), scope=ldap3.BASE)
    except DirectoryError:
        return False
    for message in found:
        if message["type"] == "searchResEntry":
            values = message["raw_attributes"].get("allowedAttributes") or ()
            if not values:
                return code != _NO_SUCH_ATTRIBUTE
            return name.lower() in {value.decode("utf-8", "replace").lower() for value in values}
    return False
