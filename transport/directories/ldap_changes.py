# SPDX-License-Identifier: Apache-2.0
"""What an LDAP directory says has changed: content sync (RFC 4533) and Active Directory's uSNChanged.

Both begin behind a paged listing, at a mark read before it: OpenLDAP's contextCSN, Active Directory's
highestCommittedUSN. Whenever server, mark or set is in doubt the answer is a full compare.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import ldap3
from ldap3.utils.conv import escape_bytes

from transport.config.settings import LdapOptions
from transport.directories.base import Changes, DirectoryError, Skipped
from transport.directories.ldap_connect import BULK, Link
from transport.directories.ldap_entries import Entries, dn_key
from transport.directories.ldap_places import SYNC_REQUEST, tells_of
from transport.directories.ldap_request import tlv
from transport.directories.ldap_unseen import by_membership, folder_changed, is_folder, stamps_of
from transport.record import Record

_SYNC_STATE = "1.3.6.1.4.1.4203.1.9.1.2"
_SYNC_DONE = "1.3.6.1.4.1.4203.1.9.1.3"
_SYNC_INFO = "1.3.6.1.4.1.4203.1.9.1.4"
_SHOW_DELETED = "1.2.840.113556.1.4.417"
_ACTIVE_DIRECTORY = "1.2.840.113556.1.4.800"  # among supportedCapabilities
_SIZE_LIMIT, _REFRESH_REQUIRED = 4, 4096
_CHUNK = 50  # entries asked for at once by their keys
_FOLDER = "a folder was changed or moved: who is below it may have come or gone"
_CHANGES_FOR_MEMBERS = 5000  # base look-ups of members in one round; more: a compare is cheaper

_Fault = DirectoryError


def first_cookie(link: Link, options: LdapOptions) -> bytes:
    """Where changes may go on after a listing that begins now; b"" where the server cannot tell of changes."""
    try:
        root = _root(link)
        if _ACTIVE_DIRECTORY in root.get("supportedCapabilities", ()):
            return _packed(_usn_mark(link, root))
        if SYNC_REQUEST in root.get("supportedControl", ()):
            stamps = _context_csn(link, root, options.base)
            if stamps and tells_of(link, options.base):
                return _packed({"server": link.server, "sync": f"rid=000,csn={';'.join(stamps)}"})
    except _Fault:
        pass  # a listing needs no mark: without one every sync is a compare
    return b""


def changes_since(
    link: Link, options: LdapOptions, entries: Entries, wanted: str, cookie: bytes, limit: int
) -> Changes:
    """What changed since the cookie, at most `limit` entries. `wanted`: the directory's filter."""
    try:
        mark = json.loads(cookie) if cookie else {}
    except ValueError:
        mark = {}
    if not isinstance(mark, dict) or not mark:
        return _doubt(link, "the server does not tell of changes")
    if mark.get("server") != link.server:
        return _doubt(link, f"the last listing came from {mark.get('server')}, now {link.server} answers")
    if "sync" in mark:
        return _content_sync(link, options, entries, wanted, mark, limit)
    if "usn" in mark:
        return _usn_changed(link, options, entries, wanted, mark, limit)
    return _doubt(link, "an unknown mark")


def _doubt(link: Link, why: str) -> Changes:
    return Changes(full_needed=True, why=why, server=link.server)


def _packed(mark: Mapping[str, Any]) -> bytes:
    return json.dumps(mark).encode()


def _root(link: Link) -> dict[str, list[str]]:
    """The server's root entry (RFC 4512 section 5.1), and Active Directory's additions."""
    names = ["supportedControl", "supportedCapabilities", "namingContexts", "defaultNamingContext"]
    names += ["dsServiceName", "highestCommittedUSN"]
    found = link.search("", "(objectClass=*)", names, BULK, scope=ldap3.BASE)
    raw = _one(found)
    return {name: [v.decode("utf-8", "replace") for v in raw.get(name) or ()] for name in names}


def _one(found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The attributes of the one entry that was asked for, {} when it did not come."""
    return next((m["raw_attributes"] for m in found if m["type"] == "searchResEntry"), {})


def _context_csn(link: Link, root: Mapping[str, Sequence[str]], base: str) -> list[str]:
    """The change stamps of the suffix that holds `base`, one per provider."""
    key = dn_key(base.encode())
    suffixes = [s for s in root["namingContexts"] if s and (b"," + key).endswith(b"," + dn_key(s.encode()))]
    if not suffixes:
        return []
    found = link.search(max(suffixes, key=len), "(objectClass=*)", ["contextCSN"], BULK, scope=ldap3.BASE)
    raw = _one(found)
    return [value.decode("ascii", "replace") for value in raw.get("contextCSN") or ()]


# -- content sync ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Refresh:
    """What one refresh said. present: keys that exist, None while no present phase was seen."""

    states: dict[bytes, Mapping[str, Any]] = field(default_factory=dict)
    deletes: list[bytes] = field(default_factory=list)
    present: set[bytes] | None = None
    cookie: str = ""

    def exists(self, key: bytes) -> None:
        if self.present is None:
            self.present = set()
        self.present.add(key)


def _content_sync(
    link: Link, options: LdapOptions, entries: Entries, wanted: str, mark: Mapping[str, Any], limit: int
) -> Changes:
    """One refreshOnly search from the mark's cookie."""
    cookie = str(mark["sync"])
    stamps = _context_csn(link, _root(link), options.base)
    since, now = stamps_of(cookie.partition("csn=")[2].split(";")), stamps_of(stamps)
    if not since or any(now.get(sid, "") < stamp for sid, stamp in since.items()):
        return _doubt(link, "the server's contextCSN is hidden, or went back: another database, or a backup")
    control = (SYNC_REQUEST, True, _sync_request(cookie))
    found = link.search(
        options.base,
        wanted,
        entries.attributes,
        BULK,
        controls=[control],
        size_limit=limit,
        tolerated=(_SIZE_LIMIT, _REFRESH_REQUIRED),
    )
    code = int(link.result["result"])
    if code == _SIZE_LIMIT:
        return _doubt(link, f"more than {limit} entries changed")
    if code == _REFRESH_REQUIRED:
        return _doubt(link, "the server no longer knows what changed since")
    refresh = _Refresh(cookie="")
    for message in found:
        _take(message, refresh)
    done = (link.result.get("controls") or {}).get(_SYNC_DONE)
    refresh_deletes = False
    if done and done["value"]:
        for tag, value in _parts(_inside(bytes(done["value"]))):
            if tag == 0x04:
                refresh.cookie = value.decode("utf-8", "replace")
            elif tag == 0x01:
                refresh_deletes = value != b"\0"
    if refresh_deletes:
        refresh.present = None
    elif refresh.present is None and refresh.cookie not in ("", cookie) and not refresh.deletes:
        # a present phase without one present entry would mean that everybody is gone
        return _doubt(link, "the server says that no entry is present any more")
    if now != since and folder_changed(link, options.base, since, refresh.states):
        return _doubt(link, _FOLDER)
    upserts = _upserts(link, options, entries, wanted, refresh.states)
    if upserts is None:
        return _doubt(link, "groups with many members changed")
    if refresh.present is not None:
        refresh.present.update(refresh.states)
    whole = not by_membership(wanted) and not mark.get("part")
    return Changes(
        upserts=upserts,
        deletes=refresh.deletes,
        cookie=_packed({**mark, "sync": refresh.cookie or cookie}),
        present=None if refresh.present is None else frozenset(refresh.present),
        server=link.server,
        removals=whole,
        additions=whole,
    )


def _take(message: Mapping[str, Any], refresh: _Refresh) -> None:
    """One message of a refresh: an entry with its state, or a set of keys."""
    if message["type"] == "searchResEntry":
        control = (message.get("controls") or {}).get(_SYNC_STATE)
        if control is None:
            return
        parts = _parts(_inside(bytes(control["value"])))
        if len(parts) < 2:
            raise DirectoryError("a malformed sync message", "the next sync is a compare")
        state, key = int.from_bytes(parts[0][1], "big"), parts[1][1]
        if state == 0:
            refresh.exists(key)
        elif state == 3:
            refresh.deletes.append(key)
        else:
            refresh.states[key] = message
    elif message["type"] == "intermediateResponse" and message.get("responseName") == _SYNC_INFO:
        value = bytes(message.get("responseValue") or b"")
        tag, body = _first(value)
        if tag == 0x80:  # newcookie
            refresh.cookie = body.decode("utf-8", "replace")
        elif tag == 0xA1:  # refreshDelete
            refresh.cookie = _cookie_in(body) or refresh.cookie
        elif tag == 0xA2:  # refreshPresent
            refresh.cookie = _cookie_in(body) or refresh.cookie
            if refresh.present is None:
                refresh.present = set()
        elif tag == 0xA3:  # syncIdSet
            _take_set(body, refresh)


def _take_set(body: bytes, refresh: _Refresh) -> None:
    """A syncIdSet: [cookie] [refreshDeletes] SET OF 16 octets, each behind its two octets of tag and length.

    Read by fixed steps: a generic decoder takes a second for 100,000.
    """
    deletes = False
    keys: list[bytes] = []
    for tag, value in _parts(body):
        if tag == 0x04:
            refresh.cookie = value.decode("utf-8", "replace")
        elif tag == 0x01:
            deletes = value != b"\0"
        elif tag == 0x31:
            if len(value) % 18 or value[0:2] not in (b"\x04\x10", b""):
                raise DirectoryError("a set of keys that is not RFC 4533's", "the next sync is a compare")
            keys = [value[i + 2 : i + 18] for i in range(0, len(value), 18)]
    if deletes:
        refresh.deletes += keys
    else:
        for key in keys:
            refresh.exists(key)


def _cookie_in(body: bytes) -> str:
    return next((value.decode("utf-8", "replace") for tag, value in _parts(body) if tag == 0x04), "")


def _sync_request(cookie: str) -> bytes:
    """syncRequestValue: refreshOnly, from this cookie (RFC 4533 section 2.2)."""
    body = b"\x0a\x01\x01" + tlv(0x04, cookie.encode())
    return tlv(0x30, body)


def _first(data: bytes, start: int = 0) -> tuple[int, bytes]:
    tag, begin, end = _bounds(data, start)
    return tag, data[begin:end]


def _bounds(data: bytes, start: int) -> tuple[int, int, int]:
    """Tag, and where the value begins and ends. Raises DirectoryError for what is no BER."""
    try:
        tag, size, begin = data[start], data[start + 1], start + 2
        if size & 0x80:
            width = size & 0x7F
            size, begin = int.from_bytes(data[begin : begin + width], "big"), begin + width
    except IndexError:
        raise DirectoryError("a malformed sync message", "the next sync is a compare") from None
    if begin + size > len(data):
        raise DirectoryError("a malformed sync message", "the next sync is a compare")
    return tag, begin, begin + size


def _inside(data: bytes) -> bytes:
    return _first(data)[1] if data else b""


def _parts(data: bytes) -> list[tuple[int, bytes]]:
    """The elements of a sequence's inside."""
    found = []
    at = 0
    while at < len(data):
        tag, begin, at = _bounds(data, at)
        found.append((tag, data[begin:at]))
    return found


# -- uSNChanged --------------------------------------------------------------------------------------------------


def _usn_mark(link: Link, root: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Which controller this is, by name and database, and its highest change number."""
    service, number = root["dsServiceName"][0], int(root["highestCommittedUSN"][0])
    found = link.search(service, "(objectClass=*)", ["invocationId"], BULK, scope=ldap3.BASE)
    raw = _one(found)
    values = raw.get("invocationId") or ()
    if not values:
        raise DirectoryError("the controller's invocationId cannot be read")
    return {"server": link.server, "service": service, "invocation": values[0].hex(), "usn": number}


def _usn_changed(
    link: Link, options: LdapOptions, entries: Entries, wanted: str, mark: Mapping[str, Any], limit: int
) -> Changes:
    """Objects of this controller whose change number is beyond the mark's.

    Deleted ones are found by the compare, unless bind_dn may see them.
    """
    root = _root(link)
    if not root.get("dsServiceName"):
        return _doubt(link, "the server is no domain controller any more")
    now = _usn_mark(link, root)
    if any(now[name] != mark.get(name) for name in ("service", "invocation")):
        return _doubt(link, "another domain controller answers, or its database was restored")
    since = int(mark["usn"])
    if now["usn"] < since:
        return _doubt(link, "the change number went back")
    later = f"(uSNChanged>={since + 1})"
    states: dict[bytes, Mapping[str, Any]] = {}
    gone: dict[bytes, None] = {}
    for found in link.entries(options.base, later, ["objectGUID", "objectClass"]):
        if is_folder(found["raw_attributes"].get("objectClass") or ()):
            return _doubt(link, _FOLDER)
        for value in found["raw_attributes"].get("objectGUID") or ():
            gone[bytes(value)] = None
        if len(gone) > limit:
            return _doubt(link, f"more than {limit} objects changed")
    for found in link.entries(options.base, f"(&{wanted}{later})", entries.attributes):
        for value in found["raw_attributes"].get("objectGUID") or ():
            states[bytes(value)] = found
            gone.pop(bytes(value), None)
    moved = _elsewhere(link, root, options.base, f"(&{wanted}{later})", limit)
    gone.update((key, None) for key in moved or () if key not in states)
    upserts = _upserts(link, options, entries, wanted, states)
    if upserts is None:
        return _doubt(link, "groups with many members changed")
    # changed, and no recipient (any more): an entry without addresses
    upserts += [(key, ()) for key in gone]
    deleted = _deleted(link, root, later, limit)
    if deleted is not None and len(deleted) > limit:
        return _doubt(link, f"more than {limit} objects were deleted")
    return Changes(
        upserts=upserts,
        deletes=deleted or (),
        cookie=_packed(now),
        server=link.server,
        removals=deleted is not None and moved is not None and not by_membership(wanted),
        additions=not by_membership(wanted),
    )


def _elsewhere(
    link: Link, root: Mapping[str, Sequence[str]], base: str, wanted: str, limit: int
) -> frozenset[bytes] | None:
    """Keys of what matches anywhere in the domain: who was moved out of `base` is a change there alone.

    None where the domain cannot be searched, or too much matches.
    """
    domain = next(iter(root.get("defaultNamingContext") or ()), "")
    if dn_key(domain.encode()) == dn_key(base.encode()):
        return frozenset()
    keys: set[bytes] = set()
    try:
        for found in link.entries(domain, wanted, ["objectGUID"]):
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
        if not _one(place).get("isDeleted"):  # Samba shows its bare name to everybody
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


# -- both --------------------------------------------------------------------------------------------------------


def _upserts(
    link: Link, options: LdapOptions, entries: Entries, wanted: str, states: Mapping[bytes, Mapping[str, Any]]
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
