# SPDX-License-Identifier: Apache-2.0
"""The maps that Postfix has as static files only: few lines, made from the settings alone.

`relay_domains`, `shadow_transport`, `shadow_generic` are regexp_table(5), `peers_access` is cidr_table(5),
`tls_policy` is indexed, and so is `relay_domains` beyond 500 domains.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from ipaddress import ip_network

from transport.config.settings import Domain, Settings
from transport.maps import tls_policy as tls_policy_map
from transport.maps import transport as transport_map
from transport.maps.answer import OK
from transport.maps.guard import spellings
from transport.maps.nexthop import copy_service, next_hop
from transport.names import SHADOW_SUFFIX, Names, local_stores, shadow_domain

MOST_REGEXP = 500
"""Domains up to which `relay_domains` is exact by regexp; each key is matched against each line."""

REGEXP = "regexp"
CIDR = "cidr"

_BELOW = r"(.+\.)?"


def relay_domains_type(settings: Settings, types: Sequence[str]) -> str:
    """The table type under which main.cf has to name the file `relay_domains`."""
    enabled = sum(domain.enabled == "yes" for domain in settings.domains.values())
    return REGEXP if enabled <= MOST_REGEXP or not types else types[0]


def relay_domains(settings: Settings, kind: str, without: Collection[str] = ()) -> Iterator[str]:
    """Our enabled domains, exactly: an indexed file would take everything below them too, as long as
    parent_domain_matches_subdomains holds relay_domains (postconf(5))."""
    for domain in settings.domains.values():
        if domain.enabled != "yes" or domain.name in without:
            continue
        yield from relay_domains_of(domain, kind)


def relay_domains_of(domain: Domain, kind: str) -> Iterator[str]:
    """The lines of one domain."""
    below = domain.subdomains != "exact"
    for name in spellings(domain.name):
        if kind == REGEXP:
            yield f"/^{_BELOW if below else ''}{re.escape(name)}$/\tOK"
        else:
            yield f"{name}\tOK"
            if below:
                yield f".{name}\tOK"


def tls_policy(settings: Settings) -> Iterator[str]:
    """One line a next hop, as `transport` writes it."""
    for hop, policy in tls_policy_map.rows(settings).items():
        yield f"{hop.lower()}\t{policy}"


def shadow_transport(settings: Settings) -> Iterator[str]:
    """Routes of copies: one line a destination, and one a domain for local copies; and of envelope domains.

    They do not depend on what is enabled: mail may be queued.
    """
    names = Names(settings)
    for destination in settings.destinations.values():
        route = f"{copy_service(destination)}:{next_hop(destination)}"
        yield f"/{re.escape('.' + destination.name + SHADOW_SUFFIX)}$/\t{route}"
        if destination.envelope:
            route = transport_map.relay(settings, destination.name)
            for name in spellings(destination.envelope):
                yield f"/@{re.escape(name)}$/\t{route}"
    routes: dict[str, tuple[str, str]] = {}
    for domain in settings.domains.values():
        for store in local_stores(domain):
            name = shadow_domain(domain.name, store)
            answer = transport_map.shadow(names.place(name))
            if answer.status == OK:
                routes[name] = (store, answer.value)
    most = Counter(routes.values()).most_common(1)[0][0] if len(routes) > MOST_REGEXP else None
    for name, known in routes.items():
        if known != most:
            yield f"/@{re.escape(name)}$/\t{known[1]}"
    if most is not None:
        # ten thousand lines would cost trivial-rewrite(8) 190 MB; this one sorts behind the exceptions
        yield f"/{re.escape(f'.{most[0]}{SHADOW_SUFFIX}')}$/\t{most[1]}"


def shadow_generic(settings: Settings) -> Iterator[str]:
    """Copies' addresses back into the real ones, for the services that carry them (generic(5)).

    A destination with another `envelope` knows its people by that domain only.
    """
    envelopes = {name: destination.envelope for name, destination in settings.destinations.items()}
    stores = dict.fromkeys((store for domain in settings.domains.values() for store in local_stores(domain)), "")
    for store, envelope in {"local": "", **stores, **envelopes}.items():
        yield rf"/^(.*)@(.*){re.escape('.' + store + SHADOW_SUFFIX)}$/" + f"\t$1@{envelope or '$2'}"


def peers_access(settings: Settings, spf: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The networks of all peers, for postscreen_access_list, check_client_access and rate limits.

    spf: networks of each `spf:` name, as they last resolved; a name that is missing has no line.
    """
    for destination in settings.destinations.values():
        for peer in destination.peers:
            found: Sequence[str] = ()
            if peer.kind == "network":
                found = (peer.value,)
            elif peer.kind == "spf":
                found = spf.get(peer.value, ())
            for network in found:
                yield f"{ip_network(network, strict=False)}\tpermit"
