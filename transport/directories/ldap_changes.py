# SPDX-License-Identifier: Apache-2.0
"""What an LDAP directory says has changed: content sync (RFC 4533) and Active Directory's uSNChanged.

Both begin behind a paged listing, at a mark read before it: OpenLDAP's contextCSN, Active Directory's
highestCommittedUSN. Whenever server, mark or set is in doubt the answer is a full compare.
"""

from __future__ import annotations

import json

from transport.config.settings import LdapOptions
from transport.directories.base import Changes, DirectoryError
from transport.directories.ldap_connect import Broken, Link
from transport.directories.ldap_entries import Entries
from transport.directories.ldap_places import SYNC_REQUEST, stamps_at
from transport.directories.ldap_sync import content_sync, context_csn
from transport.directories.ldap_told import ACTIVE_DIRECTORY, doubt, packed, root_of
from transport.directories.ldap_unseen import ahead
from transport.directories.ldap_usn import usn_changed, usn_mark


def first_cookie(link: Link, options: LdapOptions) -> bytes:
    """Where changes may go on after a listing that begins now; b"" where the server cannot tell of changes."""
    try:
        root = root_of(link)
        if ACTIVE_DIRECTORY in root.get("supportedCapabilities", ()):
            return packed(usn_mark(link, root))
        if SYNC_REQUEST in root.get("supportedControl", ()):
            stamps = context_csn(link, root, options.base)
            if stamps and stamps_at(link, options.base) is not None:
                part = {"part": True} if ahead(stamps) else {}
                return packed({"server": link.server, "sync": f"rid=000,csn={';'.join(stamps)}", **part})
    except DirectoryError:
        pass  # a listing needs no mark: without one every sync is a compare
    except Broken:
        if not link.open:
            raise
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
        return doubt(link, "the server does not tell of changes")
    if mark.get("server") != link.server:
        return doubt(link, f"the last listing came from {mark.get('server')}, now {link.server} answers")
    if "sync" in mark:
        return content_sync(link, options, entries, wanted, mark, limit)
    if "usn" in mark:
        return usn_changed(link, options, entries, wanted, mark, limit)
    return doubt(link, "an unknown mark")
