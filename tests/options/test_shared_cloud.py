# SPDX-License-Identifier: Apache-2.0
"""A primary for which its peer's address proves nothing, and that even copies to it: mail still goes round never."""

from __future__ import annotations

import re

import pytest

from tests.e2e.site import US, Cleaned
from tests.e2e.test_roles import Pair
from tests.mta.waiting import wait_for


@pytest.fixture(scope="module")
def pair(kept: Cleaned) -> Pair:
    """Both relay strangers; the primary has dual delivery, and does not take the secondary for its own alone."""
    return Pair(
        kept,
        primary={"unknown": '"relay"', "delivery": '"dual"'},
        secondary={"unknown": '"relay"', "outsiders": '"verify"', "loop_grace": '"2s"'},
        exclusive="false",
    )


def hops(pair: Pair, address: str) -> int:
    """How often either host sent mail for an address to the other."""
    text = pair.primary.mta.text() + pair.secondary.mta.text()
    return len(re.findall(rf"/smtp\[\d+\]: \w+: to=<{re.escape(address)}>, .*status=sent", text))


def test_case_44_52_stranger_goes_one_round(pair: Pair) -> None:
    """Cases 44, 47, 52: carl writes to nobody: to the primary, back once, refused there; carl is told."""
    sent = pair.secondary.send("nobody1@example.com", sender="carl@example.com", client=US)
    assert sent.codes == {"nobody1@example.com": 250}

    def told() -> bool:
        return any(not m.sender and b"nobody1" in m.content for m in pair.secondary.store.mails)

    wait_for(told, 30, lambda: pair.primary.tails() + pair.secondary.tails())
    assert hops(pair, "nobody1@example.com") == 1
    pair.primary.mta.wait_empty()
    pair.secondary.mta.wait_empty()


def test_case_78_copy_that_would_come_back(pair: Pair) -> None:
    """Case 78: the copy for ann, whom the secondary knows to be at the primary, is refused there, in silence."""
    sent = pair.primary.send("ann@example.com", sender="away@away.test")

    pair.primary.store.wait(sent.subject, "ann@example.com")
    pair.primary.mta.wait_empty()
    assert pair.primary.store.recipients(sent.subject) == ["ann@example.com"]
    assert "5.4.6" in pair.primary.mta.text()
    assert [m for m in pair.primary.world.mails if "away@away.test" in m.recipients] == []


def test_case_6_outsiders_are_verified(pair: Pair) -> None:
    """outsiders = "verify" at the secondary: the primary is asked whether it takes the stranger; listed people pass."""
    sent = pair.secondary.send("ann@example.com", "carl@example.com")

    assert set(sent.codes.values()) == {250}
    pair.primary.store.wait(sent.subject, "ann@example.com")
    pair.secondary.store.wait(sent.subject, "carl@example.com")


def test_both_are_good_by_check(pair: Pair) -> None:
    """Nothing differs from what `postfix show` prints, on either host."""
    assert pair.primary.check() == []
    assert pair.secondary.check() == []
