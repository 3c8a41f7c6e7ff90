# SPDX-License-Identifier: Apache-2.0
"""What an LDAP server's changes do not show: people who come or go while their own entries stay as they are.

A folder that is moved takes along whoever is below it, and who enters a group gets another `memberOf`: neither touches
the entryCSN or uSNChanged of the people concerned. Nor do they show what was written while the clock was behind.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from time import gmtime, strftime, time
from typing import Any
from uuid import UUID

from ldap3.utils.conv import escape_filter_chars

from transport.directories.ldap_connect import BULK, Link

_MEMBERSHIP = re.compile(r"[(&|!]\s*memberOf\b", re.IGNORECASE)
_CLOCKS = 5.0  # seconds by which clocks may differ
_FOLDERS = frozenset((b"organizationalunit", b"container"))


def by_membership(wanted: str) -> bool:
    """Whether a filter asks for groups that an entry is in: then only a listing shows who matches it."""
    return _MEMBERSHIP.search(wanted) is not None


def stamps_of(values: Iterable[str]) -> dict[str, str]:
    """Change stamps by provider: `time#count#sid#mod`, with fields of fixed width (draft-chu-ldap-csn)."""
    return {stamp.split("#")[2]: stamp for stamp in values if stamp.count("#") == 3}


def ahead(stamps: Iterable[str]) -> bool:
    """Whether one of these stamps is of a time to come, of a clock that was wrong: what is written before that time
    gets a smaller one, and content sync (RFC 4533) as slapd does it tells nothing of that."""
    soon = strftime("%Y%m%d%H%M%S", gmtime(time() + _CLOCKS))
    return any(stamp > soon for stamp in stamps)


def folder_changed(link: Link, base: str, since: Mapping[str, str], seen: Collection[bytes]) -> bool:
    """Whether an entry with others below it is later than these stamps; those `seen` among the changes are people."""
    later = "".join(f"(entryCSN>={escape_filter_chars(stamp)})" for stamp in since.values())
    found = link.search(base, f"(&(|{later})(hasSubordinates=TRUE))", ["entryUUID", "entryCSN"], BULK)
    return any(_is_later(message["raw_attributes"], since, seen) for message in found if "raw_attributes" in message)


def _is_later(raw: Mapping[str, Any], since: Mapping[str, str], seen: Collection[bytes]) -> bool:
    stamps = stamps_of(value.decode("ascii", "replace") for value in raw.get("entryCSN") or ())
    keys = [UUID(value.decode()).bytes for value in raw.get("entryUUID") or ()]
    return any(stamp > since.get(sid, stamp) for sid, stamp in stamps.items()) and not any(key in seen for key in keys)


def is_folder(classes: Sequence[bytes]) -> bool:
    """Whether these objectClass values are those of a folder of Active Directory: the last one is the entry's own."""
    return bool(classes) and classes[-1].lower() in _FOLDERS
