# SPDX-License-Identifier: Apache-2.0
"""The `tls_policy` map (smtp_tls_policy_maps): how well a destination has to prove itself, by next hop text."""

from __future__ import annotations

from transport.config.settings import Settings
from transport.maps.answer import NOT_FOUND, OK, Answer
from transport.maps.nexthop import TLS_WORDS, hops, strictest


def rows(settings: Settings) -> dict[str, str]:
    """Next hop, as `transport` writes it -> policy. `ca+name` is `secure match=HOST`."""
    words: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for destination in settings.destinations.values():
        wanted = destination.hosts or (destination.domain,)
        for hop, host in zip(hops(destination), wanted, strict=True):
            words.setdefault(hop, []).append(destination.tls)
            names[hop] = host
    return {hop: _policy(strictest(found), names[hop]) for hop, found in words.items()}


def _policy(word: str, host: str) -> str:
    policy = TLS_WORDS[word]
    return f"{policy} match={host}" if word == "ca+name" else policy


def answer(settings: Settings, key: str) -> Answer:
    """The policy of one next hop."""
    found = rows(settings).get(key)
    return Answer(OK, found) if found else NOT_FOUND
