# SPDX-License-Identifier: Apache-2.0
"""The action of one policy delegation request (SMTPD_POLICY_README; DESIGN 5.5): whom smtpd(8) means, and what it is
told to do. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from transport.address import Address, parse, unrouted
from transport.client import Client, Judgement, Rule, listener_name
from transport.maps.answer import OK
from transport.names import Of
from transport.outcome import Outcome
from transport.router import PASS_FOREIGN

if TYPE_CHECKING:
    from transport.answerer import Answerer

_ROUTED = 4  # domains in one recipient; Postfix refuses what names more than the host and another one
_OURS = (Of.SPLIT, Of.STRIP, Of.MATCH)
_DUNNO = Outcome(OK, "DUNNO", decision=PASS_FOREIGN)


def answer(faces: Answerer, attributes: Mapping[str, str], now: float) -> Outcome:
    """The action for one policy delegation request (SMTPD_POLICY_README): DESIGN 5.5's order, at RCPT only."""
    if attributes.get("protocol_state", "RCPT") != "RCPT":
        return _DUNNO
    whose, *meant = attributes.get("policy_context", "").split("@")
    origin = next((word for word in meant if not word.startswith(".")), "")
    above = next((word for word in meant if word.startswith(".")), "")
    address = _recipient(faces, attributes.get("recipient", ""), origin, above)
    if address is None:
        return _DUNNO
    client = Client(
        address=attributes.get("client_address", ""),
        listener=listener_name(attributes.get("server_address", ""), attributes.get("server_port", "")),
        certs=(attributes.get("ccert_fingerprint", ""), attributes.get("ccert_pubkey_fingerprint", "")),
        # a site whose permits stand in smtpd_relay_restrictions asks about who is logged in, too
        outsider=whose == "outsider" and not attributes.get("sasl_username"),
        bounce=not attributes.get("sender", "").strip("<> "),
    )
    outcome = faces.judged(address, client, now)
    if outcome.judgement is None or outcome.ask:
        return outcome
    action = "DUNNO" if outcome.observe else action_of(outcome.judgement)
    return Outcome(
        OK,
        action,
        decision=outcome.decision,
        judgement=outcome.judgement,
        ask_loop=outcome.ask_loop,
        keep=outcome.keep,
        observe=outcome.observe,
    )


def _recipient(faces: Answerer, text: str, origin: str, above: str) -> Address | None:
    """The recipient of ours that smtpd(8) means: policy delegation names it as the client wrote it, the maps get
    it as trivial-rewrite(8) resolves it.

    origin: $myorigin, where it is ours: the domain of a recipient without one. above: `.$mydomain`, where
    append_dot_mydomain makes a domain of ours out of a single label.
    """
    rest = text
    for _ in range(_ROUTED):
        address = parse(rest)
        if above and address and "." not in address.domain:
            address = parse(f"{rest}{above}")
        place = faces.router.names.place(address.domain) if address else None
        if place and place.of in _OURS:
            return address
        rest = unrouted(rest)
        if not rest:
            break
    return parse(f"{text}@{origin}" if origin and "@" not in text else text)


def action_of(judgement: Judgement) -> str:
    """A judgement as a policy action (access(5)). Text always follows a code: digits alone mean permit."""
    if judgement.rule is Rule.NONE:
        return "DUNNO"
    if judgement.rule is Rule.VERIFY:
        return "reject_unverified_recipient"
    if judgement.rule is Rule.TEMP:
        return f"DEFER_IF_PERMIT {judgement.status} {judgement.text}"
    return f"{judgement.code} {judgement.status} {judgement.text}"
