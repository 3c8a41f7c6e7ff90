# SPDX-License-Identifier: Apache-2.0
"""What main.cf says for a smarthost, taken off the services that carry mail of a split domain.

Each was seen to keep that mail, or to send it round: a smarthost looks up the domain's MX, which is this host; the
other side does not speak TLS before it has greeted (RFC 8314 3.3 is for submission alone), and it refuses, and is told,
the password for the smarthost where main.cf has that for every host or by sender.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from transport.config.settings import Destination
from transport.maps.nexthop import hops
from transport.mta.postfix import Service, split_list
from transport.mta.postfix_parts import RELAY, Override
from transport.names import local_stores

if TYPE_CHECKING:
    from transport.mta.postfix_plan import Planner

FALLBACK, WRAPPER, LOGIN = "smtp_fallback_relay", "smtp_tls_wrappermode", "smtp_sasl_auth_enable"

_OFF = {FALLBACK: "", WRAPPER: "no", LOGIN: "no"}
_FOR_ALL = ("static", "regexp", "pcre")  # tables that know every host

_COPIES_OWN = "smtp_generic_maps", "smtp_discard_ehlo_keywords"


def off(planner: Planner, to: Sequence[str] = (), carrier: Service | None = None) -> str:
    """For a master.cf entry of ours: none of it, but for what the service in whose place it stands has of its own.

    to: the next hops.
    """
    own = carrier.overrides if carrier is not None else {}
    kept = {name: own[name] for name in (WRAPPER, LOGIN) if name in own}
    found = kept | {name: _OFF[name] for name in _OFF if name not in kept and _harms(planner, name, to)}
    return "".join(f" -o {name}={value}" for name, value in found.items())


def as_carried(carrier: Service | None, but: Iterable[str] = _COPIES_OWN) -> str:
    """For a service beside a destination's own: the same `-o` (source address, greeting, TLS, ...), by which the other
    side knows us. but: what it has of its own."""
    overrides = carrier.overrides if carrier is not None else {}
    left_out = {"syslog_name", *_OFF, *but}
    return "".join(f" -o {k}={v}" for k, v in overrides.items() if k not in left_out and v.split() == [v])


def of_destination(planner: Planner, destination: Destination) -> None:
    """A service that is there already, unless others need it as it is."""
    place = f"[destinations.{destination.name}]"
    advice = "give the destination a service"
    _own_way(planner, destination.service, place, "the other side", advice, hops(destination))


def of_stores(planner: Planner) -> None:
    """The same for stores here that are reached by smtp(8)."""
    for domain in planner.domains:
        for store in dict.fromkeys(local_stores(domain).values()):
            name, _, hop = store.partition(":")
            service = planner.postfix.service(name) if name else None
            if service is not None and service.command == "smtp":
                advice = f"give {domain.name} a store with a service"
                _own_way(planner, name, f"the store {store}", "the store", advice, hop.split(","))


def _harms(planner: Planner, name: str, to: Sequence[str]) -> bool:
    value = planner.postfix.full(name)
    if name == FALLBACK:
        return bool(value)
    if name == WRAPPER:
        return value == "yes" and not any(hop.endswith((":465", ":smtps", ":submissions")) for hop in to)
    return value == "yes" and _logs_in(planner, to)


def _logs_in(planner: Planner, to: Sequence[str]) -> bool:
    """Whether a password that is not meant for these hosts would be told them (SASL_README, smtp(8))."""
    postfix = planner.postfix
    tables = split_list(postfix.full("smtp_sasl_password_maps"))
    keys = [key for hop in to for key in (hop, hop.partition("]")[0].lstrip("["), hop.partition("]")[0] + "]")]
    named = [table for table in tables if table.removeprefix("proxy:").partition(":")[0] not in _FOR_ALL]
    if any(postfix.lookup(table, keys) or postfix.is_broken(table) for table in named):
        return False
    return postfix.full("smtp_sender_dependent_authentication") == "yes" or any(
        postfix.lookup(table, keys) for table in tables if table not in named
    )


def _own_way(planner: Planner, name: str, place: str, who: str, advice: str, to: Sequence[str]) -> None:
    service = planner.postfix.service(name)
    if service is None:
        return
    done = {*service.overrides, *(o.name for o in planner.plan.overrides if o.service == service.key)}
    for parameter, wanted in _OFF.items():
        if parameter in done or not _harms(planner, parameter, to):
            continue
        value = f"{parameter} = {planner.postfix.full(parameter)}"
        if name == "smtp" or (name == "relay" and planner.others(RELAY)):
            what, why = {
                FALLBACK: (planner.plan.problems, f" would get what {place} does not take now, and bring it back here"),
                WRAPPER: (planner.plan.problems, f": {place} does not speak TLS before it greets; its mail would wait"),
                # without AUTH over there it is of no consequence
                LOGIN: (planner.plan.notes, f": {place} is told a password meant for others, if it asks for one"),
            }[parameter]
            what.append(f"{value}{why}; service {name} carries other mail too: {advice} of its own in master.cf")
            continue
        why = {
            FALLBACK: f"what {who} does not take now waits; {FALLBACK} would bring it back here",
            WRAPPER: f"{who} does not speak TLS before it greets, as a smarthost at port 465 does",
            LOGIN: f"{who} is not told a password that is meant for others, and would refuse it",
        }[parameter]
        planner.plan.overrides.append(Override(service.key, parameter, wanted, why))
