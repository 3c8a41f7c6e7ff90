# SPDX-License-Identifier: Apache-2.0
"""What a map answers. Every map gives one of three, never an empty value (socketmap_table(5))."""

from __future__ import annotations

from typing import NamedTuple

from transport.decision import Decision, Verdict

OK = "OK"
NOTFOUND = "NOTFOUND"
TEMP = "TEMP"


class Answer(NamedTuple):
    """status: OK, NOTFOUND or TEMP. value: the result of OK, the reason of TEMP, "" of NOTFOUND."""

    status: str
    value: str = ""


NOT_FOUND = Answer(NOTFOUND)


def trouble(decision: Decision) -> Answer | None:
    """The answer that TEMP and PASS have in every map; None for a verdict that the map itself must answer."""
    if decision.verdict is Verdict.TEMP:
        return Answer(TEMP, decision.reason)
    if decision.verdict is Verdict.PASS:
        return NOT_FOUND
    return None
