# SPDX-License-Identifier: Apache-2.0
"""Changes in Active Directory: objects of one domain controller whose uSNChanged is beyond a mark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ldap3

from transport.config.settings import LdapOptions
from transport.directories.base import Changes, DirectoryError
from transport.directories.ldap_connect import BULK, Link
from transport.directories.ldap_entries import Entries, dn_key
from transport.directories.ldap_told import FOLDER, doubt, only, packed, root_of, upserts_of
from transport.directories.ldap_unseen import by_membership, is_folder

_SHOW_DELETED = "1.2.840.113556.1.4.417"


def usn_mark(link: Link, root: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Which controller this is, by name and database, and its highest change number."""
    service, number = root["dsServiceName"][0], int(root["highestCommittedUSN"][0])
    found = link.search(service, "(objectClass=*)", ["invocationId"], BULK, scope=ldap3.BASE)
    raw = only(found)
    values = raw.get("invocationId") or ()
    if not values:
        raise DirectoryError("the controller's invocationId cannot be read")
    return {"server": link.server, "service": service, "invocation": values[0].hex(), "usn": number}


def usn_changed(
    link: Link, options: LdapOptions, entries: Entries, wanted: str, mark: Mapping[str, Any], limit: int
) -> Changes:
    """Objects of this controller whose change number is beyond the mark's.

    Deleted ones are found by the compare, unless bind_dn may see them.
    """
    root = root_of(link)
    if not root.get("dsServiceName"):
        return doubt(link, "the server is no domain controller any more")
    now = usn_mark(link, root)
    if any(now[name] != mark.get(name) for name in ("service", "invocation")):
        return doubt(link, "another domain controller answers, or its database was restored")
    since = int(mark["usn"])
    if now["usn"] < since:
        return doubt(link, "the change number went back")
    later = f"(uSNChanged>={since + 1})"
    states: dict[bytes, Mapping[str, Any]] = {}
    gone: dict[bytes, None] = {}
    for found in link.entries(options.base, later, ["objectGUID", "objectClass"]):
        if is_folder(found["raw_attributes"].get("objectClass") or ()):
            return doubt(link, FOLDER)
        for value in found["raw_attributes"].get("objectGUID") or ():
            gone[bytes(value)] = None
        if len(gone) > limit:
            return doubt(link, f"more than {limit} objects changed")
    for found in link.entries(options.base, f"(&{wanted}{later})", entries.attributes):
        for value in found["raw_attributes"].get("objectGUID") or ():
            states[bytes(value)] = found
            gone.pop(bytes(value), None)
    moved = _elsewhere(link, root, options.base, later, limit)
    gone.update((key, None) for key in moved or () if key not in states)
    upserts = upserts_of(link, options, entries, states)
    if upserts is None:
        return doubt(link, "groups with many members changed")
    # changed, and no recipient (any more): an entry without addresses
    upserts += [(key, ()) for key in gone]
    deleted = _deleted(link, root, later, limit)
    if deleted is not None and len(deleted) > limit:
        return doubt(link, f"more than {limit} objects were deleted")
    return Changes(
        upserts=upserts,
        deletes=deleted or (),
        cookie=packed(now),
        server=link.server,
        removals=deleted is not None and moved is not None and not by_membership(wanted),
        additions=not by_membership(wanted),
    )


def _elsewhere(
    link: Link, root: Mapping[str, Sequence[str]], base: str, later: str, limit: int
) -> frozenset[bytes] | None:
    """Keys of what changed anywhere in the domain: who was moved out of `base` is a change there alone, and may have
    lost the address with it. Machines are left out: they change all day.

    None where the domain cannot be searched, or too much changed.
    """
    domain = next(iter(root.get("defaultNamingContext") or ()), "")
    if dn_key(domain.encode()) == dn_key(base.encode()):
        return frozenset()
    keys: set[bytes] = set()
    try:
        for found in link.entries(domain, f"(&{later}(!(objectClass=computer)))", ["objectGUID"]):
            keys.update(bytes(value) for value in found["raw_attributes"].get("objectGUID") or ())
            if len(keys) > limit:
                return None
    except DirectoryError:
        return None
    return frozenset(keys)


def _deleted(link: Link, root: Mapping[str, Sequence[str]], later: str, limit: int) -> list[bytes] | None:
    """Keys of objects deleted since; None where the server does not show them to us."""
    bases = root.get("defaultNamingContext") or ()
    if not bases:
        return None
    shown = [(_SHOW_DELETED, True, None)]
    try:
        place = link.search(
            f"CN=Deleted Objects,{bases[0]}",
            "(objectClass=*)",
            ["isDeleted"],
            BULK,
            scope=ldap3.BASE,
            controls=shown,
        )
        if not only(place).get("isDeleted"):  # Samba shows its bare name to everybody
            return None
        keys: list[bytes] = []
        cookie: bytes | None = None
        while True:
            found, cookie = link.page(bases[0], f"(&(isDeleted=TRUE){later})", ["objectGUID"], BULK, cookie, shown)
            for message in found:
                if message["type"] == "searchResEntry":
                    keys += map(bytes, message["raw_attributes"].get("objectGUID") or ())
            if not cookie or len(keys) > limit:
                return keys
    except DirectoryError:
        return None
