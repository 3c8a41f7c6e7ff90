# SPDX-License-Identifier: Apache-2.0
"""What an administrator has to hear of single answers: loops, refusals, members left out, findings.

Each kind at most once a minute, with how often it was repeated; the metrics count them all.
"""

from __future__ import annotations

from policyd import log
from transport.answerer import Outcome
from transport.client import Rule
from transport.decision import Decision

_SHOWN = 10

_TEXT = {
    Rule.LOOP: "loop: an address came back from where it would go",
    Rule.SUSPENDED: "refused: the recipient is suspended",
    Rule.REFUSE: "refused",
}


def counted_as(outcome: Outcome) -> str:
    """The word under which an answer is counted: the rule that refused, else the decision's verdict."""
    if outcome.judgement is not None and outcome.judgement.rule in _TEXT:
        return outcome.judgement.rule.name
    return outcome.decision.verdict._value_ if outcome.decision is not None else outcome.status


def remark(outcome: Outcome, asked: str, client: str) -> None:
    """Write the log lines of one answer that is new. asked: the recipient; client: its address, where there is one."""
    decision, judgement = outcome.decision, outcome.judgement
    if decision is None:
        return
    if judgement is not None and judgement.rule in _TEXT:
        level = log.WARNING if judgement.rule is Rule.LOOP else log.INFO
        log.limited(level, f"{judgement.rule.name} {decision.domain}", _TEXT[judgement.rule], recipient=asked,
                    client=client, code=f"{judgement.code} {judgement.status}", destination=decision.destination,
                    reason=decision.reason)  # fmt: skip
    if decision.dropped:
        _dropped(decision, asked)
    for finding in decision.findings:
        log.limited(log.WARNING, f"finding {finding}", "finding", text=finding)


def _dropped(decision: Decision, asked: str) -> None:
    names = ", ".join(decision.dropped[:_SHOWN])
    if len(decision.dropped) > _SHOWN:
        names += f" and {len(decision.dropped) - _SHOWN} more"
    log.limited(log.INFO, f"dropped {decision.domain} {decision.base}",
                "group_members = false leaves out members at the other side", group=asked, members=names)  # fmt: skip
