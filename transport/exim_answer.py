# SPDX-License-Identifier: Apache-2.0
"""The pairs of one Exim reply (DESIGN 5.6): the decision in words that fixed routers and one ACL can test. Pure.

Exim runs its routers for senders, for children of redirects and at delivery too, so they ask without a client; only
the RCPT ACL names it. Everything an address of ours needs stands in one reply: Exim asks once an address.

Keys, in the order in which they are sent (an absent key means its first word):

decision      local, relay, expand, unknown, loop, suspended, refuse, temp or pass
destination   the name in [destinations] of what follows
bounce        sender, postmaster: who is told when the destination refuses; errors: the address to tell
copy          none, relay (dual: a copy goes to hosts), local (all: hosts are the delivery, the copy is here)
envelope      with copy=relay: the domain of the copy on the wire; in files with relay, too
plus          with copy=relay: strip, the copy goes without the extension
self          with expand, when the address is among its own targets (a mailbox that forwards and keeps): how that
              kept mail goes, local or relay
store         the location's or domain's local_transport, for people; store_via: lmtp, smtp (store_hosts, store_port)
              or socket (store_path)
strip         octets of the extension at the end of the local part, for who is here
members       how many targets follow
targets       with expand, commas between; targets64: the same in base64, when one needs quotes
hosts         next hops with `;` between, or DOMAIN/MX; port; tls: none, may, encrypt, ca, ca+name or dane
address       the recipient on the wire; address64: the same in base64. Absent: as it was asked
code, text    a refusal's reply code, and its enhanced code and text
verify        no, yes: the destination has to be asked first. The last key of relay, expand, and of local with
              other keys: a reply that lost its end lacks it
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from zlib import crc32

from transport.address import Address, external, fold_domain, parse
from transport.client import Client, Judgement, Rule, listener_name
from transport.config.settings import Destination, Settings
from transport.decision import Decision, Verdict
from transport.maps import virtual_alias
from transport.maps.answer import OK, TEMP
from transport.names import Of, Place, chunk_domain
from transport.outcome import Outcome
from transport.router import PASS_FOREIGN

if TYPE_CHECKING:
    from transport.answerer import Answerer

PASS = {"decision": "pass"}
UNKNOWN = {"decision": "unknown", "code": "550", "text": "5.1.1 No such recipient here"}

MAX_MEMBERS = 900
MAX_BYTES = 40_000
"""Of the targets in one reply; larger groups are cut into chunks at DOMAIN.group.splitmx.invalid."""

_OURS = (Of.SPLIT, Of.STRIP, Of.MATCH)
_WORDS = {Rule.LOOP: "loop", Rule.SUSPENDED: "suspended", Rule.REFUSE: "refuse", Rule.TEMP: "temp"}
# what may stand bare in a reply: nothing that Exim expands, unquotes or takes for the end of a value
_STATE = re.compile("[0-9a-f]{8}")
_BARE = re.compile(r'[^\s"$\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+')
_STORE = re.compile(r"(lmtp|smtp):(?:\[(?:ipv6:)?)?([0-9A-Za-z][0-9A-Za-z.:_-]*?)\]?(?::(\d{1,5}))?", re.I)
_SOCKET = re.compile(r"lmtp:unix:(/[0-9A-Za-z./_-]+)")


def answer(faces: Answerer, request: Mapping[str, str], now: float) -> Outcome:
    """The outcome for one Exim request: `pairs` in order, or look-ups to make first.

    request: recipient, and client, listener, cert, outsider, bounce where the RCPT ACL asks.
    """
    text = request.get("recipient", "")
    address = parse(text)
    if address is None:
        return Outcome(OK, pairs=_hopeless(faces, text), decision=PASS_FOREIGN)
    place = faces.router.names.place(address.domain)
    if place.of is Of.ENVELOPE:
        decision = faces.router.decide(faces.knowledge, address, now)
        return Outcome(OK, pairs=pairs_of(faces, address, decision, now), decision=decision)
    if place.of is Of.CHUNK:
        return _chunk(faces, address, place, now)
    host, _, port = request.get("listener", "").rpartition(":")
    client = Client(
        address=request.get("client", ""),
        listener=listener_name(host, port) if host else "",
        certs=(request.get("cert", ""),),
        outsider=request.get("outsider") == "yes",
        bounce=request.get("bounce") == "yes",
    )
    outcome = faces.judged(address, client, now)
    if outcome.ask:
        return outcome
    pairs = PASS
    if outcome.decision and outcome.judgement and not outcome.observe and outcome.decision.verdict is not Verdict.PASS:
        pairs = refusal(outcome.judgement) or pairs_of(faces, address, outcome.decision, now)
        if outcome.judgement.rule is Rule.VERIFY:
            pairs["verify"] = "yes"
    return replace(outcome, pairs=pairs)


def _hopeless(faces: Answerer, text: str) -> dict[str, str]:
    """What is no address is nobody's; in a domain of ours that makes it unknown, whatever `unknown` says."""
    name = fold_domain(text.rpartition("@")[2])
    place = faces.router.names.place(name) if name else None
    if place is None or place.domain is None or place.of not in _OURS or place.domain.enabled != "yes":
        return PASS
    return UNKNOWN


def _chunk(faces: Answerer, address: Address, place: Place, now: float) -> Outcome:
    """One part of a large group: `LOCAL=STATE=NUMBER`. Of another state than the present one: TEMP, since the parts
    that Exim has already asked for would not fit. It asks for the group again at its next attempt."""
    rest, _, digits = address.local.rpartition("=")
    local, _, state = rest.rpartition("=") if "=" in rest else (rest, "", "")
    if place.domain is None or place.store or not local or not digits.isascii() or not digits.isdigit():
        return Outcome(OK, pairs=PASS, decision=PASS_FOREIGN)
    decision = faces.router.decide(faces.knowledge, Address(local, place.owner, local), now)
    if decision.verdict is Verdict.ASK:
        return Outcome(TEMP, "asking", decision=decision, ask=decision.ask, keep=False)
    keep = decision.keep and decision.until is None
    if decision.verdict is Verdict.TEMP:
        return Outcome(OK, pairs={"decision": "temp"}, decision=decision, keep=False)
    pieces, present = parts(decision.targets)
    number = int(digits[:6])
    if state != present and _STATE.fullmatch(state):
        return Outcome(OK, pairs={"decision": "temp"}, decision=decision, keep=False)
    if decision.verdict is not Verdict.EXPAND or not 1 <= number <= len(pieces):
        return Outcome(OK, pairs=UNKNOWN, decision=decision, keep=keep)
    pairs = {"decision": "expand", **_targets(pieces[number - 1]), "verify": "no"}
    return Outcome(OK, pairs=pairs, decision=decision, keep=keep)


def refusal(judgement: Judgement) -> dict[str, str]:
    """The pairs of a refusal, empty when the recipient passes."""
    word = _WORDS.get(judgement.rule)
    if word is None:
        return {}
    if judgement.rule is Rule.TEMP:
        return {"decision": "temp"}
    return {"decision": word, "code": str(judgement.code), "text": f"{judgement.status} {judgement.text}"}


def pairs_of(faces: Answerer, address: Address, decision: Decision, now: float) -> dict[str, str]:
    """The pairs of a decision, whoever the client is."""
    if decision.verdict is Verdict.UNKNOWN:
        return dict(UNKNOWN)
    if decision.verdict not in (Verdict.LOCAL, Verdict.RELAY, Verdict.EXPAND):
        return {"decision": decision.verdict.value.lower()}
    settings = faces.settings
    pairs = {"decision": decision.verdict.value.lower()}
    if decision.verdict is Verdict.EXPAND:
        if external(address.local, address.domain) in decision.targets:
            kept = faces.router.kept(address, decision, now)
            pairs["self"] = kept.verdict.value.lower()
            pairs |= _delivery(settings, address, kept)
        pieces, state = parts(decision.targets)
        members = pieces[0]
        if len(pieces) > 1:
            below = chunk_domain(address.domain)
            members = [external(f"{address.local}={state}={n}", below) for n in range(1, len(pieces) + 1)]
        pairs |= _targets(members)
    else:
        pairs |= _delivery(settings, address, decision)
    if len(pairs) > 1:
        pairs["verify"] = "yes" if decision.verify else "no"
    return pairs


def chunks(targets: Sequence[str]) -> list[list[str]]:
    """Cut into runs that fit into a reply, in base64 too; always at least one run."""
    runs: list[list[str]] = [[]]
    size = 0
    for target in targets:
        length = len(target.encode()) + 1
        if runs[-1] and (len(runs[-1]) >= MAX_MEMBERS or size + length > MAX_BYTES):
            runs.append([])
            size = 0
        runs[-1].append(target)
        size += length
    return runs


def parts(targets: Sequence[str]) -> tuple[list[list[str]], str]:
    """The runs of a group and, when there are several, a word for its present state: the parts of two states do not
    make one group, and whoever moved from one part to another meanwhile would get nothing."""
    runs = chunks(targets)
    return runs, f"{crc32(','.join(targets).encode()):08x}" if len(runs) > 1 else ""


def _targets(members: Sequence[str]) -> dict[str, str]:
    if all(_BARE.fullmatch(member) for member in members):
        return {"members": str(len(members)), "targets": ",".join(members)}
    return {"members": str(len(members)), "targets64": base64(",".join(members))}


def _delivery(settings: Settings, address: Address, decision: Decision) -> dict[str, str]:
    """How one LOCAL or RELAY address is delivered: the copy, the store, the destination's hosts."""
    pairs: dict[str, str] = {}
    relayed = decision.verdict is Verdict.RELAY
    destination: Destination | None = None
    if relayed:
        destination = settings.destinations[decision.destination]
    elif decision.copy == "dual":
        destination = settings.destinations[settings.domains[decision.domain].destination]
    if destination is not None:
        pairs["destination"] = destination.name
        if relayed and destination.bounce == "postmaster":
            pairs |= {"bounce": "postmaster", **_errors(settings, decision)}
    if decision.copy:
        pairs["copy"] = "relay" if decision.copy == "dual" else "local"
    if destination is not None and not relayed:
        if destination.envelope:
            pairs["envelope"] = destination.envelope
        if destination.plus_strip:
            pairs["plus"] = "strip"
    if not relayed or decision.here:
        pairs |= store(decision.local_transport)
        if decision.extension and address.local.endswith(decision.extension):
            pairs["strip"] = str(len(decision.extension.encode()))
    if destination is not None:
        pairs |= route(destination)
        if relayed:
            pairs |= _on_the_wire(settings, address, decision)
    return pairs


def _errors(settings: Settings, decision: Decision) -> dict[str, str]:
    if not decision.domain:
        return {}
    named = settings.domains[decision.domain].postmaster
    return {"errors": named if _BARE.fullmatch(named) else f"postmaster@{decision.domain}"}


def route(destination: Destination) -> dict[str, str]:
    """The next hops of a destination."""
    hosts = ";".join(host.strip("[]").removeprefix("ipv6:") for host in destination.hosts)
    return {"hosts": hosts or f"{destination.domain}/MX", "port": str(destination.port), "tls": destination.tls}


def store(local_transport: str) -> dict[str, str]:
    """A local_transport (written as transport(5) has it) in Exim's terms; empty where the site's own routers deliver.

    `store_via` is missing for what Exim cannot deliver to by itself (`virtual:`, a socket below Postfix's queue).
    """
    if not local_transport or local_transport == ":":
        return {}
    pairs = {"store": local_transport} if _BARE.fullmatch(local_transport) else {}
    socket = _SOCKET.fullmatch(local_transport)
    if socket:
        return {**pairs, "store_via": "socket", "store_path": socket[1]}
    found = _STORE.fullmatch(local_transport.replace(":inet:", ":", 1))
    if found and found[2].lower() != "unix":
        via = found[1].lower()
        return {
            **pairs,
            "store_via": via,
            "store_hosts": found[2] if via == "lmtp" or "[" in local_transport else f"{found[2]}/MX",
            "store_port": found[3] or ("24" if via == "lmtp" else "25"),
        }
    return pairs


def _on_the_wire(settings: Settings, address: Address, decision: Decision) -> dict[str, str]:
    """The recipient as the destination gets it, as it was asked when nothing of it changes: folded it may be somebody
    else there (ß, ς). What needs quotes cannot stand in a reply and is not repeated when it does not change."""
    changed = virtual_alias.on_the_wire(settings, address, decision)
    text = changed or external(address.original, address.domain)
    if _BARE.fullmatch(text):
        return {"address": text}
    return {"address64": base64(text)} if changed else {}


def base64(text: str) -> str:
    """What cannot stand in a reply as it is, in letters that can."""
    return b64encode(text.encode()).decode("ascii")
