# SPDX-License-Identifier: Apache-2.0
"""What both ways of following an LDAP directory's changes share: the mark, and records of changed entries."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import ldap3
from ldap3.utils.conv import escape_bytes

from transport.config.settings import LdapOptions
from transport.directories.base import Changes, Skipped
from transport.directories.ldap_connect import BULK, Link
from transport.directories.ldap_entries import Entries, dn_key
from transport.record import Record

ACTIVE_DIRECTORY = "1.2.840.113556.1.4.800"
"""Among supportedCapabilities ([MS-ADTS] 3.1.1.3.4.3.1)."""

FOLDER = "a folder was changed or moved: who is below it may have come or gone"

_CHUNK = 50  # entries asked for at once by their keys
_CHANGES_FOR_MEMBERS = 5000  # base look-ups of members in one round; more: a compare is cheaper


def doubt(link: Link, why: str) -> Changes:
    """Compare, for this reason."""
    return Changes(full_needed=True, why=why, server=link.server)


def packed(mark: Mapping[str, Any]) -> bytes:
    """A mark as a cookie."""
    return json.dumps(mark).encode()


def root_of(link: Link, seconds: float = BULK) -> dict[str, list[str]]:
    """The server's root entry (RFC 4512 section 5.1), and Active Directory's additions."""
    names = ["supportedControl", "supportedCapabilities", "namingContexts", "defaultNamingContext"]
    names += ["dsServiceName", "highestCommittedUSN"]
    found = link.search("", "(objectClass=*)", names, seconds, scope=ldap3.BASE)
    raw = only(found)
    return {name: [v.decode("utf-8", "replace") for v in raw.get(name) or ()] for name in names}


def only(found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The attributes of the one entry that was asked for, {} when it did not come."""
    return next((m["raw_attributes"] for m in found if m["type"] == "searchResEntry"), {})


def upserts_of(
    link: Link, options: LdapOptions, entries: Entries, states: Mapping[bytes, Mapping[str, Any]]
) -> list[tuple[bytes | None, Sequence[Record]]] | None:
    """The records of each changed entry; None when a compare is cheaper."""
    suspended = _suspended(link, options, states) if options.suspended_filter and states else frozenset()
    skipped = Skipped()
    looked_up: dict[bytes, str] = {}
    made: list[tuple[bytes | None, Sequence[Record]]] = []
    for key, found in states.items():
        members = entries.members(link, found, BULK) if options.member_attribute else ()
        entry = entries.read(found, skipped, suspended=key in suspended, members=members)
        if entry is None:
            made.append((key, ()))
            continue
        if not entry.members:
            made.append((key, entry.records))
            continue
        for value in entry.members:
            name = dn_key(value)
            if name not in looked_up and entries.is_dn(value):
                if len(looked_up) >= _CHANGES_FOR_MEMBERS:
                    return None
                looked_up[name] = entries.address_of(link, value, BULK) or "-"
        made.append((key, list(entry.expanded(looked_up, skipped))))
    return made


def _suspended(link: Link, options: LdapOptions, states: Mapping[bytes, Mapping[str, Any]]) -> frozenset[bytes]:
    """Which of the entries `suspended_filter` matches."""
    condition = options.suspended_filter.strip()
    condition = condition if condition.startswith("(") else f"({condition})"
    by_guid = any(found["raw_attributes"].get("objectGUID") for found in states.values())
    name: str = "objectGUID" if by_guid else "entryUUID"
    written: Callable[[bytes], str] = escape_bytes if by_guid else (lambda key: str(UUID(bytes=key)))
    keys = list(states)
    found: set[bytes] = set()
    for start in range(0, len(keys), _CHUNK):
        terms = "".join(f"({name}={written(key)})" for key in keys[start : start + _CHUNK])
        messages = link.search(options.base, f"(&{condition}(|{terms}))", [name], BULK)
        for message in messages:
            if message["type"] == "searchResEntry":
                for value in message["raw_attributes"].get(name) or ():
                    found.add(bytes(value) if by_guid else UUID(value.decode()).bytes)
    return frozenset(found)
