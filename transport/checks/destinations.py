# SPDX-License-Identifier: Apache-2.0
"""Are the destinations there: DNS, null MX, is it this host after all, does SMTP answer, does TLS do what is asked."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from transport.checks.dns import Dns, DnsError, by_hosts_file
from transport.checks.finding import Finding, error, note, warning
from transport.checks.smtp import Seen, look
from transport.config.settings import Destination, Settings
from transport.mta import hosts

AT_ONCE = 16
ADDRESSES = 4
"""Addresses of one host that are tried: a cloud's name has many, and they are alike."""

LOOP = "mail would loop; name the host of the other side"


@dataclass(slots=True)
class DestinationResult:
    """What became of one destination. hosts: (host, address, what was seen) of all that were tried."""

    name: str
    next_hop: str
    reached: bool = False
    took: float = 0.0
    tls: str = ""
    seen: list[Seen] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ourselves:
    """How to know this host. names: host names; addresses: beside those of its interfaces (proxy_interfaces);
    ports: where its own MTA takes mail."""

    names: frozenset[str]
    addresses: frozenset[str] = frozenset()
    ports: frozenset[int] = frozenset({25})

    def owns(self, address: str, port: int) -> bool:
        """Whether mail sent there would come back."""
        return port in self.ports and (address in self.addresses or hosts.is_own_address(address))


def ourselves(names: Collection[str] = (), addresses: Collection[str] = ()) -> Ourselves:
    """This host, with further names (myhostname) and addresses (proxy_interfaces) that an MTA's settings tell."""
    kept = {str(ipaddress.ip_address(a)) for a in addresses if _is_address(a)}
    return Ourselves(hosts.own_names() | {name.lower().rstrip(".") for name in names if name}, frozenset(kept))


def check(
    settings: Settings, dns: Dns, us: Ourselves, *, connect: bool = True, ca_file: str = ""
) -> list[DestinationResult]:
    """Every destination, several at once.

    connect: false leaves SMTP out (the keeper's daily look). ca_file: the CAs that the MTA trusts; "": the system's.
    """
    wanted = list(settings.destinations.values())
    with ThreadPoolExecutor(AT_ONCE, "check") as pool:
        return list(pool.map(lambda d: _destination(settings, d, dns, us, connect, ca_file), wanted))


def _destination(
    settings: Settings, destination: Destination, dns: Dns, us: Ourselves, connect: bool, ca_file: str
) -> DestinationResult:
    where = ", ".join(destination.hosts) or f"MX of {destination.domain}"
    result = DestinationResult(
        destination.name, where if destination.port == 25 else f"{where} port {destination.port}"
    )
    used = _used(settings, destination.name)
    places = dict(_places(destination, dns, us, result))
    if not places or not connect:
        return result
    for host, addresses in places.items():
        for address in addresses[:ADDRESSES]:
            seen = look(host, address, destination.port, destination.tls, ca_file=ca_file)
            result.seen.append(seen)
            if not seen.error:
                break
    _judge(destination, us, result, used)
    return result


def _used(settings: Settings, name: str) -> bool:
    """Whether any domain or wave sends mail to this destination."""
    if any(wave.to == name for wave in settings.waves):
        return True
    domains = settings.domains.values()
    return any(d.destination == name or any(p.destination == name for p in d.locations.values()) for d in domains)


def _places(
    destination: Destination, dns: Dns, us: Ourselves, result: DestinationResult
) -> Iterator[tuple[str, Sequence[str]]]:
    """Hosts with the addresses to try; what is wrong goes to the findings."""
    add = result.findings.append
    names = destination.hosts
    if not names:
        try:
            names = dns.mx(destination.domain)
        except DnsError as fault:
            add(error(f"destination {destination.name}: {fault.what}", _later(fault, "domain")))
            return
        if names == ("",):
            add(
                error(
                    f"destination {destination.name}: {destination.domain} takes no mail (null MX, RFC 7505)",
                    "name another domain, or hosts",
                )
            )
            return
        if not names:  # RFC 5321 section 5.1: the domain itself
            add(note(f"destination {destination.name}: {destination.domain} has no MX; its own address is used"))
            names = (destination.domain,)
    for name in names:
        if not name:
            continue
        if destination.port in us.ports and name in us.names:
            add(error(f"destination {destination.name}: {name} is this host", LOOP))
            continue
        try:
            addresses = (name,) if _is_address(name) else dns.addresses(name)
        except DnsError as fault:
            addresses = by_hosts_file(name)
            if not addresses:
                add(
                    error(
                        f"destination {destination.name}: {fault.what}",
                        _later(fault, "hosts" if destination.hosts else "domain"),
                    )
                )
                continue
            add(
                note(
                    f"destination {destination.name}: {name} stands in the hosts file only",
                    "Postfix reads that file with smtp_host_lookup = dns, native",
                )
            )
        own = [address for address in addresses if us.owns(address, destination.port)]
        if own:
            add(error(f"destination {destination.name}: {name} is this host ({', '.join(own)})", LOOP))
            continue
        yield name, addresses


def _later(fault: DnsError, key: str) -> str:
    return f"correct `{key}`" if fault.final else "try again; mail waits meanwhile"


def _judge(destination: Destination, us: Ourselves, result: DestinationResult, used: bool) -> None:
    add = result.findings.append
    name = destination.name
    good = [seen for seen in result.seen if not seen.error]
    result.reached = bool(good)
    if good:
        result.took, result.tls = good[0].took, good[0].tls or ("no STARTTLS" if not good[0].offered else "")
    level = warning if good else error
    for host in dict.fromkeys(seen.host for seen in result.seen):
        tried = [seen for seen in result.seen if seen.host == host]
        if all(seen.error for seen in tried):
            why = "; ".join(dict.fromkeys(f"{s.address}: {s.error}" for s in tried))
            add(
                level(
                    f"destination {name}: {host} cannot be used: {why}",
                    f"is port {destination.port} open from here? mail for it is deferred",
                )
            )
    for seen in good:
        if seen.greeting in us.names and destination.port in us.ports:
            add(error(f"destination {name}: {seen.host} answers with this host's own name, {seen.greeting}", LOOP))
        if seen.distrust:
            add(
                error(
                    f"destination {name}: the certificate of {seen.host} is not believed: {seen.distrust}",
                    f'with tls = "{destination.tls}" its mail is deferred; mend the certificate or take "encrypt"',
                )
            )
        elif not seen.offered and destination.tls not in ("none", "may"):
            add(
                error(
                    f'destination {name}: {seen.host} offers no STARTTLS, and tls is "{destination.tls}"',
                    'its mail is deferred; "may" sends in plain text',
                )
            )
        elif not seen.offered and destination.tls == "may":
            add(note(f"destination {name}: {seen.host} offers no STARTTLS; mail goes in plain text"))
    if not used:
        add(note(f"destination {name} is used by no domain"))


def tlsa(settings: Settings, dns: Dns) -> list[Finding]:
    """`dane` needs TLSA records (RFC 7672): `dane-only` defers without them."""
    found = []
    for destination in settings.destinations.values():
        if destination.tls != "dane":
            continue
        try:
            names = destination.hosts or dns.mx(destination.domain) or (destination.domain,)
            lacking = [
                name
                for name in names
                if name and not _is_address(name) and not dns.exists(f"_{destination.port}._tcp.{name}", "TLSA")
            ]
        except DnsError as fault:
            found.append(warning(f"destination {destination.name}: {fault.what}", "try again"))
            continue
        if lacking:
            found.append(
                error(
                    f'destination {destination.name}: no TLSA record for {", ".join(lacking)}, and tls is "dane"',
                    'its mail is deferred; take "ca+name" or "encrypt"',
                )
            )
    return found


def mta_settings(settings: Settings, values: Mapping[str, str]) -> list[Finding]:
    """What Postfix must be told for the destinations' TLS words. values: its parameters, expanded."""
    words = {destination.tls for destination in settings.destinations.values()}
    found = []
    if words & {"ca", "ca+name"} and not (values.get("smtp_tls_CAfile") or values.get("smtp_tls_CApath")):
        found.append(
            error(
                "neither smtp_tls_CAfile nor smtp_tls_CApath is set in main.cf: tls ca and ca+name defer everything",
                "postconf -e smtp_tls_CAfile=/etc/ssl/certs/ca-certificates.crt",
            )
        )
    if "dane" in words and values.get("smtp_dns_support_level") != "dnssec":
        found.append(
            error(
                "smtp_dns_support_level is not dnssec in main.cf: tls dane defers everything",
                "postconf -e smtp_dns_support_level=dnssec, and use a validating resolver",
            )
        )
    return found


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
