# SPDX-License-Identifier: Apache-2.0
"""Whether a server has everybody, which no search says: asked of each new connection.

A replica of OpenLDAP that begins anew (a lost database, a new machine) answers while its provider fills it, and shows
those who have come so far. Its contextCSN comes last, behind the last entry (RFC 4533 section 3.3.1: the cookie of a
refresh that is over). Where not even the base can be read, another server of `url` may do better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic

import ldap3

from transport.config.settings import LdapOptions
from transport.directories.base import DirectoryError
from transport.directories.ldap_connect import Broken, Link
from transport.directories.ldap_places import SYNC_REQUEST, stamps_at
from transport.directories.ldap_sync import context_csn, names_no_state, suffix_of
from transport.directories.ldap_told import ACTIVE_DIRECTORY, root_of

_HINT = (
    "is this replica being filled by its provider (may it give everything: size limit)? It is read as soon as it is"
    " full. Else let bind_dn read contextCSN of the suffix, or load it with slapadd -w"
)


class Loading:
    """What the servers of one directory have, shared by the sources of all threads."""

    def __init__(self, options: LdapOptions) -> None:
        self._options = options
        self._roots: dict[str, Mapping[str, Sequence[str]]] = {}  # by server; only of those that have the suffix
        self._had: set[str] = set()  # servers that had a contextCSN

    def need(self, link: Link, end: float) -> None:
        """Raises Broken when the server does not have everybody yet: another one may. end: monotonic."""
        partial = False
        try:
            root = self._roots.get(link.server) or root_of(link, end - monotonic())
            if suffix_of(root, self._options.base) and ACTIVE_DIRECTORY not in root["supportedCapabilities"]:
                self._roots[link.server] = root
                partial = self._partial(link, root, end)
        except DirectoryError:
            pass  # what cannot be asked says nothing
        except Broken:
            if not link.open:
                raise
            # likewise: a proxy answers `other` or `unavailable` for what is not behind it, the suffix above the base
        if partial:
            what = f"{link.url}: its contextCSN is missing: it does not have everybody yet"
            raise Broken(DirectoryError(what, _HINT))
        if len(self._options.url) > 1:
            self._based(link, end)

    def _partial(self, link: Link, root: Mapping[str, Sequence[str]], end: float) -> bool:
        base = self._options.base
        if context_csn(link, root, base, end - monotonic()):
            self._had.add(link.server)
            return False
        if link.server in self._had:
            return True
        if SYNC_REQUEST not in root["supportedControl"]:
            return False
        # offered, and without a state to begin with; other servers than OpenLDAP have states of their own kinds
        return stamps_at(link, base, end - monotonic()) == "" and names_no_state(link.result)

    def _based(self, link: Link, end: float) -> None:
        """Of several servers the one that is asked must have the base, and be willing."""
        try:
            link.search(self._options.base, "(objectClass=*)", ["1.1"], end - monotonic(), scope=ldap3.BASE)
        except DirectoryError as fault:
            raise Broken(fault) from None


_loading: dict[LdapOptions, Loading] = {}


def loading_of(options: LdapOptions) -> Loading:
    """That of a directory, in this process."""
    return _loading.setdefault(options, Loading(options))
