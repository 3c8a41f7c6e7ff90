# SPDX-License-Identifier: Apache-2.0
"""Next hops and service names as transport(5) writes them, one spelling for maps, static files and `postfix show`."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from transport.config.settings import Destination


def host_hop(host: str, port: int) -> str:
    """`[host]`, `[host]:port` when not 25; an IPv6 literal as `[ipv6:…]` (smtp(8))."""
    try:
        literal = ip_address(host.strip("[]").removeprefix("ipv6:"))
    except ValueError:
        text = host
    else:
        text = f"ipv6:{literal}" if literal.version == 6 else str(literal)
    return f"[{text}]" if port == 25 else f"[{text}]:{port}"


def hops(destination: Destination) -> tuple[str, ...]:
    """Each next hop of a destination by itself: also the keys of smtp_tls_policy_maps."""
    if destination.hosts:
        return tuple(host_hop(host, destination.port) for host in destination.hosts)
    return (destination.domain if destination.port == 25 else f"{destination.domain}:{destination.port}",)


def next_hop(destination: Destination) -> str:
    """All next hops in order, with commas (Postfix 3.5 and newer tries them one after the other)."""
    return ",".join(hops(destination))


def copy_service(destination: Destination) -> str:
    """The master.cf service that carries dual delivery's copies and writes their shadows back."""
    return f"dual-{destination.name}"


def local_copy_route(local_transport: str) -> str:
    """Route of the local copy of `delivery = "all"`: the store's next hop on a service of its own.

    `lmtp:NEXTHOP` goes by the service splitmx-lmtp, `smtp:NEXTHOP` by splitmx-smtp; "" for anything else, which the
    configuration refuses.
    """
    program, _, hop = local_transport.partition(":")
    return f"splitmx-{program}:{hop}" if program in ("lmtp", "smtp") and hop else ""


TLS_WORDS = {
    "none": "none",
    "may": "may",
    "encrypt": "encrypt",
    "ca": "verify",
    "ca+name": "secure",
    "dane": "dane-only",
}
"""The words of the configuration in the terms of smtp_tls_policy_maps (postconf(5))."""

_STRICTNESS = ("none", "may", "encrypt", "dane", "ca", "ca+name")


def strictest(words: Iterable[str]) -> str:
    """Destinations with the same next hop share one TLS policy: the strictest wins."""
    return max(words, key=_STRICTNESS.index)
