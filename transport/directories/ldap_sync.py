# SPDX-License-Identifier: Apache-2.0
"""Changes by content sync (RFC 4533), as OpenLDAP's syncprov tells them: one refreshOnly search from a cookie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ldap3

from transport.config.settings import LdapOptions
from transport.directories.base import Changes, DirectoryError
from transport.directories.ldap_connect import BULK, Link
from transport.directories.ldap_entries import Entries, dn_key
from transport.directories.ldap_places import SYNC_REQUEST
from transport.directories.ldap_request import tlv
from transport.directories.ldap_told import FOLDER, doubt, only, packed, root_of, upserts_of
from transport.directories.ldap_unseen import ahead, by_membership, folder_changed, stamps_of

_SYNC_STATE = "1.3.6.1.4.1.4203.1.9.1.2"
_SYNC_DONE = "1.3.6.1.4.1.4203.1.9.1.3"
_SYNC_INFO = "1.3.6.1.4.1.4203.1.9.1.4"
_SIZE_LIMIT, _REFRESH_REQUIRED = 4, 4096


def suffix_of(root: Mapping[str, Sequence[str]], base: str) -> str:
    """The suffix of the server's database that holds `base`, "" when there is none. root: as `root_of` gives it."""
    key = dn_key(base.encode())
    suffixes = [s for s in root["namingContexts"] if s and (b"," + key).endswith(b"," + dn_key(s.encode()))]
    return max(suffixes, key=len, default="")


def context_csn(link: Link, root: Mapping[str, Sequence[str]], base: str, seconds: float = BULK) -> list[str]:
    """The change stamps of the suffix that holds `base`, one per provider."""
    suffix = suffix_of(root, base)
    if not suffix:
        return []
    found = link.search(suffix, "(objectClass=*)", ["contextCSN"], seconds, scope=ldap3.BASE)
    raw = only(found)
    return [value.decode("ascii", "replace") for value in raw.get("contextCSN") or ()]


def names_no_state(result: Mapping[str, Any]) -> bool:
    """Whether the result of a search with content sync's control is without a cookie: there is no state to name yet."""
    done = (result.get("controls") or {}).get(_SYNC_DONE)
    return done is not None and not _cookie_in(_inside(bytes(done["value"] or b"")))


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


def content_sync(
    link: Link, options: LdapOptions, entries: Entries, wanted: str, mark: Mapping[str, Any], limit: int
) -> Changes:
    """One refreshOnly search from the mark's cookie."""
    cookie = str(mark["sync"])
    stamps = context_csn(link, root_of(link), options.base)
    since, now = stamps_of(cookie.partition("csn=")[2].split(";")), stamps_of(stamps)
    if not since or any(now.get(sid, "") < stamp for sid, stamp in since.items()):
        return doubt(link, "the server's contextCSN is hidden, or went back: another database, or a backup")
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
        return doubt(link, f"more than {limit} entries changed")
    if code == _REFRESH_REQUIRED:
        return doubt(link, "the server no longer knows what changed since")
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
        return doubt(link, "the server says that no entry is present any more")
    written = now != since or refresh.cookie not in ("", cookie)  # the latter: since contextCSN was read
    if written and folder_changed(link, options.base, since, refresh.states):
        return doubt(link, FOLDER)
    upserts = upserts_of(link, options, entries, refresh.states)
    if upserts is None:
        return doubt(link, "groups with many members changed")
    if refresh.present is not None:
        refresh.present.update(refresh.states)
    if ahead(now.values()):
        mark = {**mark, "part": True}  # until the next compare: what was not told by then is not told later either
    whole = not by_membership(wanted) and not mark.get("part")
    return Changes(
        upserts=upserts,
        deletes=refresh.deletes,
        cookie=packed({**mark, "sync": refresh.cookie or cookie}),
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
