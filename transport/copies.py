# SPDX-License-Identifier: Apache-2.0
"""The shadow of a copy: `local-part@DOMAIN.DESTINATION.splitmx.invalid`, `…DOMAIN.local…` for "all". Pure."""

from __future__ import annotations

from transport.address import external
from transport.config.settings import Settings
from transport.decision import Decision
from transport.names import local_store, shadow_domain


def shadow(settings: Settings, decision: Decision, local: str) -> str:
    """The shadow under which the copy for a listed recipient leaves.

    decision: with `copy` "dual" or "all". local: the local part as given, extension and all; a destination that
    knows no extensions (`plus = "strip"`) gets its copy without.
    """
    domain = settings.domains[decision.domain]
    if decision.copy == "all":
        return external(local, shadow_domain(domain.name, local_store(domain, decision.local_transport)))
    destination = settings.destinations[domain.destination]
    if destination.plus_strip and decision.extension:
        local = local.removesuffix(decision.extension)
    return external(local, shadow_domain(domain.name, destination.name))
