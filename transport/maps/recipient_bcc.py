# SPDX-License-Identifier: Apache-2.0
"""The `recipient_bcc` map (recipient_bcc_maps): the shadow of a copy. cleanup(8) asks it before aliasing, takes one
value only, in internal form (it quotes the local part itself, cleanup_addr.c), and adds it with NOTIFY=NEVER, so a
copy that fails bounces to nobody."""

from __future__ import annotations

from transport.address import Address, external, unquote
from transport.config.settings import Settings
from transport.copies import shadow
from transport.decision import Decision, Verdict
from transport.maps.answer import NOT_FOUND, OK, Answer, trouble
from transport.maps.virtual_alias import is_longer
from transport.names import SHADOW_SUFFIX, shadow_domain


def answer(settings: Settings, address: Address, decision: Decision) -> Answer:
    """The shadow of who is here under dual or all; of an alias its target's; of a group its own.

    "Not found" makes cleanup(8) ask again without the extension: where anna-maria is listed beside anna, that would be
    anna's copy. So who has no copy and such a name is their own copy, which cleanup(8) leaves out as a duplicate.
    """
    common = trouble(decision)
    if common is not None:
        return common
    found = _copy(settings, address, decision)
    if found.status != OK and is_longer(settings, address, decision) and settings.copying:
        return Answer(OK, _internal(external(address.local, address.domain)))
    return found


def _copy(settings: Settings, address: Address, decision: Decision) -> Answer:
    if decision.verdict is Verdict.EXPAND:
        if len(decision.copies) == 1:
            return Answer(OK, _internal(decision.copies[0]))
        if decision.copies:
            store = decision.copies[0].removesuffix(SHADOW_SUFFIX).rpartition(".")[2]
            if store not in settings.destinations:
                store = "local"  # which every domain has, whatever stores its members' domains name
            owner = decision.domain if decision.through else address.domain
            return Answer(OK, _internal(external(address.local, shadow_domain(owner, store))))
        return NOT_FOUND
    if not decision.copy:
        return NOT_FOUND
    return Answer(OK, _internal(shadow(settings, decision, address.local)))


def _internal(shadow: str) -> str:
    local, _, domain = shadow.rpartition("@")
    return f"{unquote(local)}@{domain}"
