# SPDX-License-Identifier: Apache-2.0
"""The `transport` map (transport_maps): a route for every address of ours, "not found" only for what is not.

"Not found" falls through to the site's own domain and `*` entries, so LOCAL, EXPAND and UNKNOWN are answered too:
`:` changes nothing (transport(5)).
"""

from __future__ import annotations

from transport.config.settings import Settings
from transport.decision import Decision, Verdict
from transport.maps.answer import NOT_FOUND, OK, Answer, trouble
from transport.maps.nexthop import copy_service, local_copy_route, next_hop
from transport.names import Of, Place


def answer(settings: Settings, decision: Decision) -> Answer:
    """The route of one decided address."""
    common = trouble(decision)
    if common is not None:
        return common
    if decision.verdict is Verdict.RELAY or (decision.verdict is Verdict.EXPAND and decision.copy == "all"):
        return Answer(OK, relay(settings, decision.destination))
    return Answer(OK, decision.local_transport or ":")


def relay(settings: Settings, name: str) -> str:
    """`SERVICE:NEXTHOP` of a destination."""
    destination = settings.destinations[name]
    return f"{destination.service}:{next_hop(destination)}"


def shadow(place: Place) -> Answer:
    """The route of a copy (a shadow address), the same as in the static shadow_transport."""
    if place.of is not Of.COPY or place.domain is None:
        return NOT_FOUND
    if place.destination is not None:
        return Answer(OK, f"{copy_service(place.destination)}:{next_hop(place.destination)}")
    route = local_copy_route(place.local_transport)
    return Answer(OK, route) if route else NOT_FOUND
