# SPDX-License-Identifier: Apache-2.0
"""Questions to the DNS, with short patience and answers in plain words."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

import dns.exception
import dns.rdatatype
import dns.resolver
from dns.rdtypes.ANY.MX import MX


class DnsError(Exception):
    """No answer. `final`: the name or the record does not exist; else it can be another time."""

    def __init__(self, what: str, *, final: bool) -> None:
        super().__init__(what)
        self.what = what
        self.final = final


@dataclass(slots=True)
class Dns:
    """One resolver, by default the host's own. timeout: seconds for one question with all its retries."""

    timeout: float = 5.0
    nameservers: tuple[str, ...] = ()
    port: int = 53
    _known: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def addresses(self, name: str) -> tuple[str, ...]:
        """IPv4 and IPv6 addresses of a host name. Raises DnsError."""
        found: list[str] = []
        trouble: DnsError | None = None
        for kind in ("A", "AAAA"):
            try:
                found += self._ask(name, kind)
            except DnsError as error:
                if trouble is None or not error.final:
                    trouble = error
        if not found and trouble is not None:
            raise trouble
        return tuple(found)

    def mx(self, name: str) -> tuple[str, ...]:
        """MX hosts by preference, without trailing dot; ("",) for a null MX (RFC 7505); () for none."""
        try:
            return self._ask(name, "MX")
        except DnsError as error:
            if error.final and "no such name" not in error.what:
                return ()
            raise

    def exists(self, name: str, kind: str) -> bool:
        """Whether a name has a record of this type. Raises DnsError when nobody knows."""
        try:
            return bool(self._ask(name, kind))
        except DnsError as error:
            if error.final:
                return False
            raise

    def _ask(self, name: str, kind: str) -> tuple[str, ...]:
        known = self._known.get((name, kind))
        if known is None:
            known = self._known[name, kind] = self._answer(name, kind)
        return known

    def _answer(self, name: str, kind: str) -> tuple[str, ...]:
        try:
            resolver = dns.resolver.Resolver(configure=not self.nameservers)
            if self.nameservers:
                resolver.nameservers = list(self.nameservers)
                resolver.port = self.port
            answer = resolver.resolve(f"{name}.", kind, lifetime=self.timeout)
        except dns.resolver.NXDOMAIN:
            raise DnsError(f"no such name: {name}", final=True) from None
        except dns.resolver.NoAnswer:
            raise DnsError(f"{name} has no {kind} record", final=True) from None
        except (dns.exception.DNSException, OSError) as error:
            first = (str(error).splitlines() or [""])[0][:200]
            raise DnsError(
                f"the DNS does not answer for {name} ({first or type(error).__name__})", final=False
            ) from None
        if kind == "MX":
            records = sorted(
                (record.preference, record.exchange.to_text(omit_final_dot=True).lower())
                for record in answer
                if isinstance(record, MX)
            )
            return tuple("" if host in (".", "@") else host for _, host in records)
        return tuple(record.to_text() for record in answer)


def by_hosts_file(name: str) -> tuple[str, ...]:
    """Addresses that the system knows without the DNS' help (hosts(5)); also asks the DNS where that is configured."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
