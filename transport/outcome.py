# SPDX-License-Identifier: Apache-2.0
"""One answer, before a protocol puts it into bytes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from transport.client import Judgement
from transport.decision import Decision


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer.

    status, value: of a map OK/NOTFOUND/TEMP and its value; of the policy service OK and the action; of Exim OK and
    "" with `pairs` holding the reply's keys in order.
    decision: what was decided, None where no address was involved. judgement: of the policy service and Exim.
    ask: look-ups to make before asking again: (directory, local, domain). ask_loop: a listed address whose first
    return from its peer has to be looked up (and noted) before asking again.
    keep: may be cached until settings or index change. observe: decided for a domain that is only observed.
    shared: this very object is the answer of all addresses in one situation, as long as the settings hold.
    """

    status: str
    value: str = ""
    decision: Decision | None = None
    judgement: Judgement | None = None
    pairs: Mapping[str, str] = field(default_factory=dict)
    ask: tuple[tuple[str, str, str], ...] = ()
    ask_loop: tuple[str, str] | None = None
    keep: bool = True
    observe: bool = False
    shared: bool = False
