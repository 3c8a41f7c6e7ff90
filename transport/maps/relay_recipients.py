# SPDX-License-Identifier: Apache-2.0
"""The `relay_recipients` map: who is accepted. Right in relay_recipient_maps, virtual_mailbox_maps and
local_recipient_maps alike."""

from __future__ import annotations

from transport.decision import Decision, Verdict
from transport.maps.answer import NOT_FOUND, OK, Answer, trouble


def answer(decision: Decision) -> Answer:
    """The verdict's word when mail is to be accepted (suspended recipients too: policy refuses those)."""
    common = trouble(decision)
    if common is not None:
        return common
    if decision.verdict in (Verdict.LOCAL, Verdict.RELAY, Verdict.EXPAND):
        return Answer(OK, decision.verdict.value)
    return NOT_FOUND
