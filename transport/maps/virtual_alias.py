# SPDX-License-Identifier: Apache-2.0
"""The `virtual_alias` map (virtual_alias_maps): targets, envelope changes, and identity for who is listed.

Identity keeps a site's own `@domain` catch-all from swallowing listed people. Large expansions are answered as
nested chunks, because virtual_alias_expansion_limit (1,000) and a socketmap reply (100,000 bytes) are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from zlib import crc32

from transport.address import Address, external, forms
from transport.config.settings import Settings
from transport.decision import Decision, Verdict
from transport.maps.answer import NOT_FOUND, OK, TEMP, Answer, trouble
from transport.names import chunk_domain

MAX_MEMBERS = 900
MAX_BYTES = 60_000
SEPARATOR = ", "
_STATE = re.compile("[0-9a-f]{8}")
_MEMBER = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^",])+')


def answer(settings: Settings, address: Address, decision: Decision) -> Answer:
    """What one address is rewritten to."""
    common = trouble(decision)
    if common is not None:
        return common
    if decision.verdict is Verdict.EXPAND:
        targets = decision.targets
        if decision.copy == "all":  # a mailbox that forwards and keeps: its own mail is delivered at the destination
            own = external(address.local, address.domain)
            changed = on_the_wire(settings, address, decision)
            targets = tuple(changed if changed and target == own else target for target in targets)
        return listing(targets, address.local, address.domain)
    # without an answer cleanup(8) would ask for, and expand, the name before the delimiter, who is somebody else
    stays = decision.listed and (decision.identity or is_longer(settings, address, decision))
    if decision.verdict is Verdict.RELAY and (decision.copy == "all" or not decision.here):
        changed = on_the_wire(settings, address, decision)
        if changed or stays:
            return Answer(OK, changed or external(address.local, address.domain))
        return NOT_FOUND
    if decision.verdict is Verdict.UNKNOWN or not stays:
        return NOT_FOUND
    return Answer(OK, external(address.local, address.domain))


def is_longer(settings: Settings, address: Address, decision: Decision) -> bool:
    """Whether it is listed as it stands, and MTAs would take it for another address with an extension."""
    shapes = forms(address.local, settings.daemon.recipient_delimiter)
    return decision.listed and len(shapes) > 1 and decision.base == address.local


def on_the_wire(settings: Settings, address: Address, decision: Decision) -> str:
    """The changed envelope recipient of a relayed address (`envelope`, `plus = "strip"`), "" when unchanged."""
    destination = settings.destinations[decision.destination]
    local = address.local
    if destination.plus_strip and decision.extension and local.endswith(decision.extension):
        local = local.removesuffix(decision.extension)
    domain = address.domain
    if destination.envelope and address.domain == decision.domain:  # below it, the same name there is somebody else
        domain = destination.envelope
    if local == address.local and domain == address.domain:
        return ""
    return external(local, domain)


def listing(targets: Sequence[str], local: str, domain: str, store: str = "") -> Answer:
    """All targets, or the first level of chunks when they are too many for one answer."""
    pieces = chunks(targets)
    if len(pieces) == 1:
        return Answer(OK, SEPARATOR.join(pieces[0]))
    below, state = chunk_domain(domain, store), state_of(targets)
    return Answer(OK, SEPARATOR.join(external(f"{local}={state}={n}", below) for n in range(1, len(pieces) + 1)))


def state_of(targets: Sequence[str]) -> str:
    """A word for what a large group is at present: the chunks of two states do not make one group, and whoever went
    from one chunk to another meanwhile would get nothing."""
    return f"{crc32(','.join(targets).encode()):08x}"


def chunk_of(local: str) -> tuple[str, str, int] | None:
    """The group, its state and the number that a chunk's local part `GROUP=STATE=NUMBER` names; None: it is none.

    state: "" where the name has none.
    """
    rest, _, digits = local.rpartition("=")
    if not rest or not digits.isascii() or not digits.isdigit() or len(digits) > 6:
        return None
    group, _, state = rest.rpartition("=")
    if not group or _STATE.fullmatch(state) is None:
        group, state = rest, ""
    return group, state, int(digits)


def chunk(targets: Sequence[str], state: str, number: int) -> Answer:
    """Chunk `number` (from 1) of a large expansion; TEMP when the group has changed since its chunks were named:
    cleanup(8) gives the message back to be sent again."""
    if state and state != state_of(targets):
        return Answer(TEMP, "the group has changed meanwhile")
    pieces = chunks(targets)
    if not 1 <= number <= len(pieces):
        return NOT_FOUND
    return Answer(OK, SEPARATOR.join(pieces[number - 1]))


def members(value: str) -> list[str]:
    """The addresses of an answer; a comma in a quoted local part separates nothing."""
    return [text.strip() for text in _MEMBER.findall(value)]


def chunks(targets: Sequence[str]) -> list[list[str]]:
    """Cut into runs within both limits; always at least one run."""
    runs: list[list[str]] = [[]]
    size = 0
    for target in targets:
        length = len(target.encode()) + len(SEPARATOR)
        if runs[-1] and (len(runs[-1]) >= MAX_MEMBERS or size + length > MAX_BYTES):
            runs.append([])
            size = 0
        runs[-1].append(target)
        size += length
    return runs
