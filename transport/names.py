# SPDX-License-Identifier: Apache-2.0
"""Which name is whose: split domains, their subdomains, envelope domains, shadows. Pure.

Shadow names (DESIGN 2, 5.3) live under `.splitmx.invalid` and never leave the host in that form:
`DOMAIN.DESTINATION.splitmx.invalid` (the copy of dual delivery), `DOMAIN.local.splitmx.invalid` (the local copy of
`delivery = "all"`; `DOMAIN.local-DIGEST.splitmx.invalid` where `locations` names another store),
`DOMAIN.group.splitmx.invalid` and `DOMAIN.DESTINATION.group.splitmx.invalid` (chunks of a large expansion). DOMAIN of a
group below a domain with `subdomains = "match"` is the name below: its namesake in the domain is another group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import sha256
from typing import Protocol

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
    """A classified domain name. store: destination name or "local…" of a shadow; "" for a plain chunk.

    local_transport: where the local copy of `delivery = "all"` is stored. owner: the domain name whose shadow it is.
    """

    of: Of
    domain: Domain | None = None
    destination: Destination | None = None
    store: str = ""
    local_transport: str = ""
    owner: str = ""


FOREIGN = Place(Of.FOREIGN)


def shadow_domain(domain: str, store: str) -> str:
    """The copy's domain: `store` is a destination's name or one of `local_stores`."""
    return f"{domain}.{store}{SHADOW_SUFFIX}"


def local_store(domain: Domain, local_transport: str) -> str:
    """The word for one of the domain's stores in a shadow: the same for as long as it is written the same."""
    if local_transport in ("", domain.local_transport):
        return "local"
    return f"local-{sha256(local_transport.encode()).hexdigest()[:12]}"


def local_stores(domain: Domain) -> Mapping[str, str]:
    """Every store of a domain: its word in a shadow, and its transport."""
    places = [domain.local_transport, *(one.local_transport for one in domain.locations.values())]
    return {local_store(domain, place): place or domain.local_transport for place in places}


def chunk_domain(domain: str, store: str = "") -> str:
    """The domain of the chunks of a large group; `store` as in `shadow_domain`, "" for the group itself."""
    return f"{domain}.{store}{CHUNK_SUFFIX}" if store else f"{domain}{CHUNK_SUFFIX}"


class _HasSubdomains(Protocol):
    @property
    def subdomains(self) -> str: ...


def open_parent(domains: Mapping[str, _HasSubdomains | None], name: str) -> str:
    """The nearest parent of a domain name that takes its subdomains (`strip`, `match`), or "".

    One that does not take them hides none above it, as in Postfix's and Exim's lists of our domains.
    """
    while "." in name:
        name = name.partition(".")[2]
        entry = domains.get(name)
        if entry is not None and entry.subdomains != "exact":
            return name
    return ""


class Names:
    """Classifies domain names for one configuration."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open_parents = any(d.subdomains != "exact" for d in settings.domains.values())
        self._known: dict[str, Place] = {}
        for destination in settings.destinations.values():
            if destination.envelope and destination.envelope not in settings.domains:
                self._known.setdefault(destination.envelope, Place(Of.ENVELOPE, None, destination))

    def _shadow(self, name: str) -> Place:
        """Take `DOMAIN[.STORE][.group]` apart; a split domain wins over a store of the same look."""
        chunk = name.endswith(CHUNK_SUFFIX)
        rest = name.removesuffix(CHUNK_SUFFIX) if chunk else name.removesuffix(SHADOW_SUFFIX)
        domain = self._domain(rest) if chunk else None
        if domain is not None:
            return Place(Of.CHUNK, domain, owner=rest)
        owner, _, store = rest.rpartition(".")
        domain = self._domain(owner)
        if domain is None:
            return FOREIGN
        destination = self._settings.destinations.get(store)
        place = "" if destination is not None else local_stores(domain).get(store)
        if place is None:
            return FOREIGN
        return Place(Of.CHUNK if chunk else Of.COPY, domain, destination, store, place, owner)

    def _domain(self, name: str) -> Domain | None:
        """Whose groups stand at a name: a split domain's, or those below one with `subdomains = "match"`."""
        if name in self._settings.domains:
            return self._settings.domains[name]
        below = self._below(name) if self._open_parents else FOREIGN
        return below.domain if below.of is Of.MATCH else None

    def place(self, name: str) -> Place:
        """Classify a lower-case A-label domain name."""
        known = self._known.get(name)
        if known is not None:
            return known
        domain = self._settings.domains.get(name)
        if domain is not None:
            known = self._known[name] = Place(Of.SPLIT, domain)
            return known
        if name.endswith(SHADOW_SUFFIX):
            return self._shadow(name)
        return self._below(name) if self._open_parents else FOREIGN

    def _below(self, name: str) -> Place:
        """The nearest parent that takes its subdomains."""
        parent = open_parent(self._settings.domains, name)
        if not parent:
            return FOREIGN
        domain = self._settings.domains[parent]
        return Place(Of.STRIP if domain.subdomains == "strip" else Of.MATCH, domain)
