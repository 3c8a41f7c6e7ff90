# SPDX-License-Identifier: Apache-2.0
"""The `here` map: who has a mailbox, alias or group on this side. Never for a recipient parameter of Postfix: it
would refuse everybody at the other side."""

from __future__ import annotations

from transport.decision import Decision
from transport.maps.answer import NOT_FOUND, OK, Answer, trouble


def answer(decision: Decision) -> Answer:
    """The verdict's word for who is here."""
    common = trouble(decision)
    if common is not None:
        return common
    return Answer(OK, decision.verdict.value) if decision.here else NOT_FOUND
