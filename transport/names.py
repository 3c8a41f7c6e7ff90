# SPDX-License-Identifier: Apache-2.0
"""Which name is whose: split domains, their subdomains, envelope domains, shadows. Pure.

Shadow names (DESIGN 2, 5.3) live under `.splitmx.invalid` and never leave the host in that form:
`DOMAIN.DESTINATION.splitmx.invalid` (the copy of dual delivery), `DOMAIN.local.splitmx.invalid` (the local copy of
`delivery = "all"`), `DOMAIN.group.splitmx.invalid` and `DOMAIN.DESTINATION.group.splitmx.invalid` (chunks of a
large expansion).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from transport.config.settings import Destination, Domain, Settings

SHADOW_SUFFIX = ".splitmx.invalid"
CHUNK_SUFFIX = ".group" + SHADOW_SUFFIX


class Of(Enum):
    """What a domain name is to us."""

    FOREIGN = auto()
    SPLIT = auto()  # a [domains] entry
    STRIP = auto()  # below one with subdomains = "strip"
    MATCH = auto()  # below one with subdomains = "match"
    ENVELOPE = auto()  # a destination's envelope domain
    COPY = auto()  # shadow of the copy to a destination, or the local one
    CHUNK = auto()  # chunk of a large expansion


@dataclass(frozen=True, slots=True)
class Place:
    """A classified domain name. store: destination name or "local" of a shadow; "" for a plain chunk."""

    of: Of
    domain: Domain | None = None
    destination: Destination | None = None
    store: str = ""


FOREIGN = Place(Of.FOREIGN)


def shadow_domain(domain: str, store: str) -> str:
    """The copy's domain: `store` is a destination's name or "local"."""
    return f"{domain}.{store}{SHADOW_SUFFIX}"


def chunk_domain(domain: str, store: str = "") -> str:
    """The domain of the chunks of a large group; `store` as in `shadow_domain`, "" for the group itself."""
    return f"{domain}.{store}{CHUNK_SUFFIX}" if store else f"{domain}{CHUNK_SUFFIX}"


class Names:
    """Classifies domain names for one configuration."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open_parents = any(d.subdomains != "exact" for d in settings.domains.values())
        self._known: dict[str, Place] = {}
        for destination in settings.destinations.values():
            if destination.envelope:
                self._known.setdefault(destination.envelope, Place(Of.ENVELOPE, None, destination))
        for domain in settings.domains.values():
            self._known[domain.name] = Place(Of.SPLIT, domain)

    def _shadow(self, name: str) -> Place:
        """Take `DOMAIN[.STORE][.group]` apart; a split domain wins over a store of the same look."""
        chunk = name.endswith(CHUNK_SUFFIX)
        rest = name.removesuffix(CHUNK_SUFFIX) if chunk else name.removesuffix(SHADOW_SUFFIX)
        domains = self._settings.domains
        if chunk and rest in domains:
            return Place(Of.CHUNK, domains[rest])
        owner, _, store = rest.rpartition(".")
        if owner not in domains or (store != "local" and store not in self._settings.destinations):
            return FOREIGN
        destination = self._settings.destinations.get(store)
        return Place(Of.CHUNK if chunk else Of.COPY, domains[owner], destination, store)

    def place(self, name: str) -> Place:
        """Classify a lower-case A-label domain name."""
        known = self._known.get(name)
        if known is not None:
            return known
        if name.endswith(SHADOW_SUFFIX):
            return self._shadow(name)
        return self._below(name) if self._open_parents else FOREIGN

    def _below(self, name: str) -> Place:
        """The nearest parent among the split domains decides for its subdomains."""
        rest = name
        while "." in rest:
            rest = rest.partition(".")[2]
            place = self._known.get(rest)
            if place is None or place.of is not Of.SPLIT or place.domain is None:
                continue
            if place.domain.subdomains == "strip":
                return Place(Of.STRIP, place.domain)
            if place.domain.subdomains == "match":
                return Place(Of.MATCH, place.domain)
            return FOREIGN
        return FOREIGN
