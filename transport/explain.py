# SPDX-License-Identifier: Apache-2.0
"""The report behind `splitmx explain`: the decision, what it rests on, and what each MTA will be told. Pure."""

from __future__ import annotations

from typing import Any

from transport.address import external, forms, parse
from transport.answerer import ADDRESS_MAPS, Answerer
from transport.decision import Decision, Verdict
from transport.names import Of


def explain(answerer: Answerer, text: str, now: float, client: dict[str, str] | None = None) -> dict[str, Any]:
    """Explain one address.

    client: policy attributes of the client to judge (client_address, server_address, server_port, sender,
    policy_context, ccert_fingerprint). Returns a JSON-able report; its key `ask` names look-ups that have to be
    made before the report is final, as (directory, local, domain).
    """
    address = parse(text)
    if address is None:
        return {"address": text, "decision": Verdict.PASS.value, "reason": "not an address", "ask": []}
    place = answerer.router.names.place(address.domain)
    observed = place.domain is not None and place.domain.enabled == "observe"
    decision = answerer.router.decide(answerer.knowledge, address, now, observing=observed)
    policy = answerer.policy({**(client or {}), "protocol_state": "RCPT", "recipient": text}, now)
    maps: dict[str, dict[str, str]] = {}
    ask = [*decision.ask, *policy.ask]
    for name in ADDRESS_MAPS:
        outcome = answerer.address_map(name, address, now)
        ask.extend(outcome.ask)
        maps[name] = {"status": outcome.status, "value": outcome.value}
    exim = answerer.exim({"recipient": text}, now)
    return {
        "address": external(address.local, address.domain),
        "decision": decision.verdict.value,
        "reason": decision.reason,
        "domain": decision.domain,
        "observed": observed,
        **_details(decision),
        "rule": policy.judgement.rule.name if policy.judgement is not None else "NONE",
        "policy": policy.value,
        "loop_first_seen": list(policy.ask_loop) if policy.ask_loop else None,
        "maps": maps,
        "exim": dict(exim.pairs),
        "records": _records(answerer, address.local, address.domain) if place.of is not Of.FOREIGN else [],
        "ask": [list(item) for item in dict.fromkeys(ask)],
    }


def _details(decision: Decision) -> dict[str, Any]:
    return {
        "directory": decision.directory,
        "destination": decision.destination,
        "local_transport": decision.local_transport,
        "targets": list(decision.targets),
        "left_out": list(decision.dropped),
        "extension": decision.extension,
        "listed": decision.listed,
        "here": decision.here,
        "copy": decision.copy,
        "verify": decision.verify,
        "suspended": decision.suspended,
        "catchall": decision.catchall,
        "findings": list(decision.findings),
        "changes_at": decision.until,
    }


def _records(answerer: Answerer, local: str, domain: str) -> list[dict[str, Any]]:
    """What each directory says of each form of the address."""
    found = []
    for base, _ in forms(local, answerer.settings.daemon.recipient_delimiter):
        for row in answerer.knowledge.rows(domain, base):
            found.append(
                {
                    "address": external(base, domain),
                    "directory": row.directory,
                    "kind": row.kind.name.lower(),
                    "active": row.active,
                    "location": row.location,
                    "targets": row.targets,
                    "live": row.live,
                }
            )
    return found
