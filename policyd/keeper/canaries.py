# SPDX-License-Identifier: Apache-2.0
"""Which listed addresses accompany a live query: chosen by each sync, kept in memory until the next."""

from __future__ import annotations

from collections.abc import Iterable

from transport.config.settings import Directory
from transport.index.reader import Reader
from transport.index.states import Canary
from transport.lookup import canaries_for

_MOST = 20_000  # pairs of directory and domain in memory


class CanaryStore:
    """Reads them out of the index when first needed."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._known: dict[tuple[str, str], tuple[Canary, ...]] = {}
        self._emptied: dict[str, bool] = {}

    def forget(self, directory: str = "") -> None:
        """They were chosen anew: of one directory, or of all."""
        for key in [key for key in self._known if not directory or key[0] == directory]:
            del self._known[key]
        self._emptied.clear()

    def canaries(self, directory: str, domain: str = "") -> tuple[Canary, ...]:
        """Of this domain, or a few of any."""
        known = self._known.get((directory, domain))
        if known is None:
            if len(self._known) >= _MOST:
                self._known.clear()
            known = self.reader.canaries(directory, domain)
            if known:  # none may mean that the index is not there yet
                self._known[directory, domain] = known
        return known

    def choose(self, directory: Directory, domains: Iterable[str]) -> tuple[Canary, ...]:
        """For a query about these domains, best first."""
        configured = []
        for text in directory.canary:
            local, _, domain = text.rpartition("@")
            configured.append(Canary(local, domain))
        return canaries_for(self, directory, domains, configured=configured)

    def emptied(self, directory: str) -> bool:
        """Whether somebody accepted that it lists nobody."""
        if directory not in self._emptied:
            self._emptied = {state.name: state.emptied_on_purpose for state in self.reader.directories()}
            self._emptied.setdefault(directory, False)
        return self._emptied[directory]
