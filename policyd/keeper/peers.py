# SPDX-License-Identifier: Apache-2.0
"""`spf:` peers: the networks behind a domain's SPF record, resolved by TTL; the last good set stays.

The record is read as RFC 7208 section 5 says (ip4, ip6, a, mx, include, redirect), for its networks only: `-`, `~` and
`?` terms are nobody's. A failed resolution changes nothing: a peer is known by its last good set, over restarts too.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyd import log, threads
from policyd.keeper import files
from transport.config.settings import Settings

if TYPE_CHECKING:
    import dns.resolver

_LOOKUPS = 30  # RFC 7208 4.6.4 says 10 to mail receivers; some clouds' own records need more for us
_SHORTEST, _LONGEST, _RETRY = 60.0, 3600.0, 60.0
_LIFETIME = 5.0  # seconds for one question to all name servers


class SpfError(Exception):
    """The record cannot be resolved now."""


@dataclass(slots=True)
class Resolved:
    """One name's networks. due: unix time of the next resolution; error: why the last one failed, or ""."""

    networks: tuple[str, ...] = ()
    good_at: float = 0.0
    due: float = 0.0
    error: str = ""


def spf_names(settings: Settings) -> frozenset[str]:
    """All names that destinations' peers use."""
    return frozenset(peer.value for one in settings.destinations.values() for peer in one.peers if peer.kind == "spf")


class Peers:
    """All names' networks. `refresh` runs in a thread; everything else in the loop."""

    def __init__(self, state: Path, resolve: Callable[[str], tuple[tuple[str, ...], float]] | None = None) -> None:
        self.path = state / "peers.json"
        self.file = files.Saver(self.path)
        self.names: dict[str, Resolved] = {}
        self._resolve = resolve or resolve_spf
        self._saved = files.read_json(self.path)

    def use(self, settings: Settings) -> None:
        """Follow the configuration: new names are due now, with what was remembered of them."""
        wanted = spf_names(settings)
        for name in [name for name in self.names if name not in wanted]:
            del self.names[name]
        for name in wanted - self.names.keys():
            saved = self._saved.get(name)
            networks = tuple(str(one) for one in saved) if isinstance(saved, list) else ()
            self.names[name] = Resolved(networks)

    def networks(self) -> dict[str, tuple[str, ...]]:
        """Each name's networks as CIDR text."""
        return {name: one.networks for name, one in self.names.items() if one.networks}

    def due(self) -> list[str]:
        """Names to resolve now."""
        now = time.time()
        return [name for name, one in self.names.items() if one.due <= now or one.due > now + 2 * _LONGEST]

    def refresh(self, names: list[str]) -> dict[str, Resolved]:
        """Resolve these; slow, in a thread."""
        found = {}
        for name in names:
            now = time.time()
            try:
                networks, ttl = self._resolve(name)
                found[name] = Resolved(networks, now, now + min(_LONGEST, max(_SHORTEST, ttl)))
            except SpfError as error:
                found[name] = Resolved(due=now + _RETRY, error=str(error))
        return found

    def take(self, found: dict[str, Resolved]) -> bool:
        """Take over what `refresh` found; whether any network changed."""
        changed = False
        for name, new in found.items():
            old = self.names.get(name)
            if old is None:
                continue
            if new.error:
                log.limited(log.WARNING, f"spf {name}", "SPF name cannot be resolved: its last good networks stay",
                            name=name, error=new.error, networks=len(old.networks))  # fmt: skip
                old.due, old.error = new.due, new.error
                continue
            changed = changed or new.networks != old.networks
            self.names[name] = new
        if changed:
            self._saved = {name: list(networks) for name, networks in self.networks().items()}
        return changed

    async def keep(self, tell: Callable[[], None], changed: Callable[[], None]) -> None:
        """Resolve what is due, for ever. tell: called after each resolution; changed: before that, if it was news."""
        while True:
            try:
                if names := self.due():
                    if self.take(await threads.to_thread(self.refresh, names)):
                        self.file.save(self.text())
                        changed()
                    tell()
            except Exception as error:
                log.limited(log.ERROR, "peers", "fault in resolving peers, their last good networks stay", error)
            await asyncio.sleep(2.0)

    def text(self) -> str:
        """What the file is to hold now."""
        return json.dumps(self._saved)


def resolve_spf(name: str, resolver: dns.resolver.Resolver | None = None) -> tuple[tuple[str, ...], float]:
    """The networks of a name's SPF record and the seconds they may be used. Raises SpfError.

    resolver: by default the host's own.
    """
    walk = _Walk(resolver or _hosts_own())
    walk.record(name)
    if not walk.networks:
        raise SpfError("its SPF record names no network")
    return tuple(sorted(walk.networks)), walk.ttl


def _hosts_own() -> dns.resolver.Resolver:
    import dns.exception
    import dns.resolver

    try:
        resolver = dns.resolver.Resolver()
    except (dns.exception.DNSException, OSError) as error:
        raise SpfError(f"/etc/resolv.conf cannot be used: {type(error).__name__}") from error
    resolver.lifetime = _LIFETIME
    return resolver


class _Walk:
    """One resolution, across includes."""

    def __init__(self, resolver: dns.resolver.Resolver) -> None:
        self.resolver = resolver
        self.networks: set[str] = set()
        self.ttl = _LONGEST
        self.lookups = 0
        self.seen: set[str] = set()

    def record(self, name: str) -> None:
        """Follow the SPF record of `name`."""
        name = name.rstrip(".").lower()
        if name in self.seen:
            return
        self.seen.add(name)
        texts = ["".join(part.decode("ascii", "replace") for part in one.strings) for one in self._ask(name, "TXT")]
        records = [text for text in texts if text.lower() == "v=spf1" or text.lower().startswith("v=spf1 ")]
        if len(records) != 1:
            raise SpfError(f"{name} has {len(records)} SPF records")
        redirect, has_all = "", False  # RFC 7208 6.1: `all` anywhere turns `redirect` off
        for term in records[0].split()[1:]:
            lowered = term.lower()
            if lowered.startswith("redirect="):
                redirect = lowered[9:]
            elif lowered.lstrip("+-~?") == "all":
                has_all = True
            elif lowered[0] not in "-~?":
                self._term(lowered.lstrip("+"), name)
        if redirect and not has_all:
            self.record(redirect)

    def _term(self, term: str, name: str) -> None:
        mechanism, _, value = term.partition(":")
        if "%" in term or mechanism.partition("/")[0] in ("all", "exists", "ptr") or "=" in mechanism:
            return  # macros and names say nothing about networks
        if mechanism in ("ip4", "ip6"):
            self._add(value)
        elif mechanism == "include":
            self.record(value)
        else:
            kind, slash, prefix = mechanism.partition("/")
            host, slash2, prefix2 = value.partition("/")
            prefixes = (slash + prefix) or (slash2 + prefix2)
            host = host or name
            if kind == "a":
                self._hosts(host, prefixes)
            elif kind == "mx":
                for exchange in self._ask(host, "MX"):
                    self._hosts(str(exchange.exchange).rstrip("."), prefixes)

    def _hosts(self, host: str, prefixes: str) -> None:
        """Both families of a host; `prefixes` as in RFC 7208 5.3: /32//128."""
        four, _, six = prefixes.partition("//")
        for kind, length in (("A", four.strip("/") or "32"), ("AAAA", six.strip("/") or "128")):
            for address in self._ask(host, kind, needed=False):
                self._add(f"{address}/{length}")

    def _add(self, text: str) -> None:
        try:
            self.networks.add(str(ip_network(text, strict=False)))
        except ValueError:
            raise SpfError(f"{text!r} is no network") from None

    def _ask(self, name: str, kind: str, needed: bool = True) -> Iterable[Any]:
        import dns.exception
        import dns.resolver

        self.lookups += 1
        if self.lookups > _LOOKUPS:
            raise SpfError(f"more than {_LOOKUPS} look-ups")
        try:
            answer = self.resolver.resolve(name, kind)
        except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN) as error:
            if needed:
                raise SpfError(f"{name} has no {kind} record") from error
            return []
        except (dns.exception.DNSException, OSError, UnicodeError) as error:
            raise SpfError(f"{name} {kind}: {type(error).__name__}") from error
        if answer.rrset is not None:
            self.ttl = min(self.ttl, float(answer.rrset.ttl))
        return answer
