# SPDX-License-Identifier: Apache-2.0
"""What a split domain needs beside its maps: TLS, destinations' services, limits, probing, peers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from transport.address import fold_domain
from transport.config.settings import Unknown
from transport.maps import transport as transport_map
from transport.maps.build import refusals
from transport.maps.guard import spellings
from transport.maps.nexthop import hops, host_hop, next_hop
from transport.mta import postfix_ways as ways
from transport.mta.postfix import split_list
from transport.mta.postfix_parts import LOCAL, RELAY, VIRTUAL, Master, Override

if TYPE_CHECKING:
    from transport.mta.postfix_plan import Planner

EXPANSION_LIMIT = 100_000
"""virtual_alias_expansion_limit: above the largest group; its default is 1,000."""

DIGESTS = {16: "md5", 20: "sha1", 32: "sha256", 64: "sha512"}
"""smtpd_tls_fingerprint_digest by a fingerprint's length in octets."""


def add(planner: Planner) -> None:
    """All of it."""
    if not planner.domains:
        return  # observing alone changes nothing but who is asked at RCPT
    alone(planner)
    kept_routes(planner)
    tls(planner)
    destinations(planner)
    limits(planner)
    verify(planner)
    peers(planner)


def alone(planner: Planner) -> None:
    """Files without a live map behind them: they hold listed addresses only, and refuse everybody else."""
    if planner.live:
        return
    planner.plan.problems += refusals(planner.settings, alone=True)
    if planner.settings.daemon.socketmap:
        planner.plan.notes.append(
            "[daemon] socketmap is set, so the maps are written to stand before live ones: take it out, or build them "
            "with splitmx build --alone"
        )


_CLASS_TRANSPORT = {VIRTUAL: "virtual_transport", LOCAL: "local_transport"}
_WHOLE_ADDRESSES = ("regexp", "pcre", "static", "socketmap", "tcp")  # transport(5): asked for those alone


def kept_routes(planner: Planner) -> None:
    """A site's own route for a domain, its parent or `*`: `:`, our answer for people here, would end it unasked."""
    postfix = planner.postfix
    tables = [
        table
        for table in split_list(postfix.full("transport_maps"))
        if not planner.is_ours(table) and table.removeprefix("proxy:").partition(":")[0] not in _WHOLE_ADDRESSES
    ]
    dot = "" if "transport_maps" in split_list(postfix.full("parent_domain_matches_subdomains")) else "."
    there = {transport_map.relay(planner.settings, name) for name in planner.settings.destinations}
    keys: dict[str, list[str]] = {}
    for domain in planner.domains:
        if planner.plan.classes[domain.name] in _CLASS_TRANSPORT and not (domain.alias_of or domain.local_transport):
            for name in spellings(domain.name):
                labels = name.split(".")
                keys[name] = [name, *(dot + ".".join(labels[n:]) for n in range(1, len(labels))), "*"]
    every = [key for some in keys.values() for key in some]
    found = {table: postfix.lookup(table, every) for table in tables}  # one postmap a table, however many domains
    for name, some in keys.items():
        hit = next(((key, table) for key in some for table in tables if key in found[table]), None)
        if hit is None:
            continue
        key, table = hit
        usual = _CLASS_TRANSPORT[planner.plan.classes[fold_domain(name) or name]]
        now, route = postfix.full(usual).rstrip(":"), found[table][key]
        same = {"", now, *there} | ({"local"} if now.startswith("local:") else set())
        if route.rstrip(":") in same:
            continue
        if route.startswith(":"):  # a next hop alone, by the transport of the class
            route = now.partition(":")[0] + route
        planner.plan.problems.append(
            f"{table} routes {name} ({key}) by {route}, and people here would get their mail by {usual} = "
            f'{postfix.full(usual)} instead: set local_transport = "{route}", or what is meant, in [domains."{name}"]'
        )


def tls(planner: Planner) -> None:
    """How destinations have to prove themselves."""
    words = {d.tls for d in planner.settings.destinations.values()}
    if not words - {"may"}:
        return
    planner.add(
        "smtp_tls_policy_maps",
        [f"{planner.type}:{planner.maps}/tls_policy"],
        "what a destination's tls asks for; a static file, so that no other mail depends on it",
    )
    if words & {"ca", "ca+name"} and not (
        planner.postfix.full("smtp_tls_CAfile") or planner.postfix.full("smtp_tls_CApath")
    ):
        planner.set("smtp_tls_CAfile", "/etc/ssl/certs/ca-certificates.crt", "tls ca without it defers everything")
    if "dane" in words and planner.postfix.full("smtp_dns_support_level") != "dnssec":
        planner.set("smtp_dns_support_level", "dnssec", "tls dane needs it, and a validating resolver")


def destinations(planner: Planner) -> None:
    """The services that carry relayed mail, and what a destination cannot have here."""
    relay = planner.postfix.service("relay") or planner.postfix.service("smtp")
    root = "y" if relay is not None and relay.chroot else "n"
    for destination in planner.settings.destinations.values():
        name = destination.service
        if planner.postfix.service(name) is None:
            entry = f"{name} unix - - {root} - - smtp -o syslog_name=postfix/{name}"
            entry += ways.off(planner, hops(destination))
            why = f"the service of destination {destination.name}; limits go here, as {name}_destination_…"
            planner.plan.masters.append(Master(f"{name}/unix", entry, why))
        else:
            ways.of_destination(planner, destination)
        if destination.bounce == "postmaster":
            planner.plan.problems.append(
                f'[destinations.{destination.name}] bounce = "postmaster": Postfix sends the report of a relayed '
                "message to its sender and has no setting for another address; use sender here"
            )
        if len(destination.hosts) > 1 and planner.postfix.version < (3, 5):
            planner.plan.problems.append(f"[destinations.{destination.name}]: several hosts need Postfix 3.5")
        own = [host for host in destination.hosts if host_hop(host, 25) == host_hop(hostname(planner), 25)]
        if own:
            planner.plan.problems.append(f"[destinations.{destination.name}] names this host, {own[0]}: it would loop")
    ways.of_stores(planner)


def hostname(planner: Planner) -> str:
    """The name this Postfix greets with."""
    return planner.postfix.full("myhostname") or "localhost"


def limits(planner: Planner) -> None:
    """How long smtpd lives, how large a group may be."""
    if planner.live:
        for service in planner.postfix.receivers:
            why = "smtpd keeps a temporary failure of transport_maps for its life: keep that short"
            planner.plan.overrides += [
                Override(service.key, "max_use", "20", why),
                Override(service.key, "max_idle", "20s", why),
            ]
    limit = planner.postfix.full("virtual_alias_expansion_limit")
    wanted = max(EXPANSION_LIMIT, int(limit) if limit.isdigit() else 0)
    planner.set(
        "virtual_alias_expansion_limit", str(wanted), "above the largest group; Postfix defers larger ones for ever"
    )
    once(planner)
    if RELAY in planner.plan.classes.values():
        why = "no flush log for each deferral to the other side; ETRN of other domains stays"
        planner.set("fast_flush_domains", ", ".join(others_flushed(planner)), why)


def once(planner: Planner) -> None:
    """Nobody gets a message twice by alias and group; but where a milter takes an alias off, cleanup(8) then takes off
    whom it stands for, named too or not (cleanup_del_rcpt in its source): a site's own `yes` stays beside milters.
    """
    postfix, name = planner.postfix, "enable_original_recipient"
    own = [postfix.of(service, "smtpd_milters") for service in postfix.receivers]
    if any(own) or postfix.full("non_smtpd_milters"):
        if name in postfix.own and postfix.full(name) == "yes" and not planner.copying():
            return
        planner.plan.notes.append(
            f"{name} = no beside milters: where one takes an alias or a group off a message, its people get nothing, "
            f"even those who are named beside it. For such a milter set {name} = yes: mail by two ways comes twice"
        )
    planner.set(name, "no", "once is once, by alias and group too; costs the X-Original-To header")


def others_flushed(planner: Planner) -> list[str]:
    """What fast_flush_domains (default: $relay_domains) names beside the split domains: customers who use ETRN."""
    ours = {name for d in planner.settings.domains.values() for name in spellings(d.name)}
    named = split_list(planner.postfix.full("fast_flush_domains"))
    return [entry for entry in named if not planner.is_ours(entry) and entry.lower() not in ours]


def verify(planner: Planner) -> None:
    """Address verification without its traps (ADDRESS_VERIFICATION_README)."""
    probed = [
        d
        for d in planner.domains
        if d.unknown is Unknown.VERIFY or (d.role == "secondary" and d.outsiders is Unknown.VERIFY)
    ]
    if not probed or not planner.live:
        return
    why = "a mailbox that is new at the other side is tried again soon"
    planner.set("address_verify_negative_refresh_time", "10m", why)
    planner.set("address_verify_negative_expire_time", "1h", why)
    planner.set("unverified_recipient_reject_code", "550", "a sure no is a no")
    planner.set("unverified_recipient_reject_reason", "Address unknown", "names of inner hosts stay inside")
    if planner.guard.sqlite:
        probes(planner, {d.destination for d in probed if d.destination})


def probes(planner: Planner, names: Iterable[str]) -> None:
    """Probes apart from mail: services of their own, so that no queue, delay or limit of the one holds up the other.

    The route is that of `transport`, under the probing service's name; whatever else that says goes on as before.
    """
    parameter = "address_verify_transport_maps"
    services: dict[str, list[str]] = {}
    probed: dict[str, tuple[str, ...]] = {}
    for name in sorted(names):
        destination = planner.settings.destinations[name]
        services.setdefault(destination.service, []).append(next_hop(destination))
        probed[destination.service] = (*probed.get(destination.service, ()), *hops(destination))
    lines = []
    for service, every in services.items():
        lines += [f"/^{re.escape(f'{service}:{hop}')}$/ probe-{service}:{hop}\n" for hop in dict.fromkeys(every)]
        carrier = planner.postfix.service(service) or planner.postfix.service("relay")
        root = "y" if carrier is not None and carrier.chroot else "n"
        entry = f"probe-{service} unix - - {root} - - smtp -o syslog_name=postfix/probe-{service}"
        entry += ways.as_carried(carrier, ()) + ways.off(planner, probed[service], carrier)
        planner.plan.masters.append(Master(f"probe-{service}/unix", entry, "probes keep no mail waiting"))
    entry = planner.guard.live_through("transport", "probes.regexp", "".join(lines), "routes of probes")
    own = planner.own(parameter if parameter in planner.postfix.own else "transport_maps")
    own = [word for word in own if word != "$transport_maps"]
    planner.add(parameter, [entry, "$transport_maps"], "probes go by their own services", own)


def peers(planner: Planner) -> None:
    """The other side is no flood and no stranger; its certificate is asked for."""
    prints = [p.value for d in planner.settings.destinations.values() for p in d.peers if p.kind == "cert"]
    if prints:
        planner.set("smtpd_tls_ask_ccert", "yes", "a peer is known by its certificate")
        digests = {DIGESTS.get(len(value.replace(":", "")) // 2, "") for value in prints}
        if len(digests) > 1:
            planner.plan.problems.append("cert: peers with fingerprints of different digests: Postfix makes one only")
        elif digests != {""}:
            planner.set("smtpd_tls_fingerprint_digest", digests.pop(), "how the peers' fingerprints were made")
    kinds = {p.kind for d in planner.settings.destinations.values() for p in d.peers}
    if not kinds & {"network", "spf"}:
        return
    table = f"cidr:{planner.maps}/peers_access"
    own = planner.own("smtpd_client_event_limit_exceptions")
    planner.add("smtpd_client_event_limit_exceptions", [table], "the other side is no flood", own)
    if any(s.command == "postscreen" for s in planner.postfix.services):
        planner.add("postscreen_access_list", [table], "the other side is no stranger")
