# SPDX-License-Identifier: Apache-2.0
"""Moving people: waves on every worker and in every file at their moment, foretold, and undone."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.e2e.site import PEOPLE, Cleaned, Site
from tests.mta.waiting import wait_for


@pytest.fixture(scope="module")
def site(kept: Cleaned) -> Site:
    """Two workers, and files that the daemon keeps up to date.

    Postfix asks the live map: a trivial-rewrite(8) looks only every 10 s whether a file was replaced.
    """
    people = [*PEOPLE, ("back@example.com", "mailbox", "", "cloud", 1)]
    return Site(
        kept,
        tables='\n[static]\ndirectory = "{site.maps}"\ntypes = ["lmdb"]\n',
        daemon={"workers": "2"},
        domain={"locations": '{ cloud = "there" }', "delivery": '"split"'},
        people=people,
        remote=["bob@example.com", "bea@example.com"],
    ).install()


def load(site: Site) -> None:
    """Let the daemon take the new text, and wait until it did."""
    taken = site.splitmx.log.read_text().count("configuration taken")
    site.splitmx.write(site.text)
    site.splitmx.reload()
    wait_for(lambda: site.splitmx.log.read_text().count("configuration taken") > taken, 30, site.splitmx.tail)


def wave(site: Site, seconds: float, to: str, *addresses: str) -> tuple[str, datetime]:
    """Add a wave that begins in so many seconds; its text and its moment."""
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
    names = ", ".join(f'"{address}"' for address in addresses)
    text = (
        f'\n[waves.pilot]\nat = "{at:%Y-%m-%dT%H:%M:%SZ}"\ndomain = "example.com"\nto = "{to}"\naddresses = [{names}]\n'
    )
    site.text += text
    load(site)
    return text, at


def undo(site: Site, text: str) -> None:
    """Remove it again."""
    site.text = site.text.replace(text, "")
    load(site)


def file_says(site: Site, key: str) -> str | None:
    """What the static file answers."""
    return site.mta.query(key, f"lmdb:{site.maps}/transport")


def generations(site: Site) -> list[int]:
    """Of which generation each worker's answers are."""
    status = json.loads(site.splitmx.run("status", "--json").stdout)
    return [worker["generation"] for worker in status["workers"]["running"]]


def another(site: Site) -> None:
    """Mail for somebody else: qmgr(8) keeps the last address it asked for, with its route, for 30 s."""
    sent = site.send("bea@example.com")
    site.arrives(sent, there=["bea@example.com"])


def test_case_90_wave(site: Site) -> None:
    """Runbook 16, case 90: here until the moment, there from then on, on all workers; removing it takes it back."""
    sent = site.send("carl@example.com", "a.smith@example.com")
    site.arrives(sent, here=["ann@example.com", "carl@example.com"])

    text, at = wave(site, 6, "there", "carl@example.com", "ann@example.com", "never.listed@example.com")
    before, after = (at - timedelta(seconds=1)).isoformat(), at.isoformat()
    foretold = [site.splitmx.run("explain", "carl@example.com", "--at", when).stdout for when in (before, after)]
    assert [line.splitlines()[1].split()[1] for line in foretold] == ["LOCAL", "RELAY"]
    assert "wave pilot" in foretold[1]

    relayed = f"relay:{site.secondary.nexthop}"
    wait_for(lambda: site.query("transport", "carl@example.com") == relayed, 30, site.tails)
    assert datetime.now(UTC) >= at
    wait_for(lambda: file_says(site, "carl@example.com") == relayed, 20, site.tails)
    wait_for(lambda: len(set(generations(site))) == 1, 10)
    assert len(generations(site)) == 2
    socket = f"socketmap:unix:{site.mta.socket_folder}/socketmap.sock:transport"
    for key in ("carl@example.com", "carl+x@example.com", "ann@example.com", "never.listed@example.com"):
        assert [site.mta.query(key, socket) for _ in range(4)] == [relayed] * 4

    another(site)
    sent = site.send("carl@example.com", "a.smith@example.com", "never.listed@example.com", "zed@example.com")
    assert list(sent.codes.values()) == [250, 250, 250, 550]
    site.arrives(sent, there=["ann@example.com", "carl@example.com", "never.listed@example.com"])

    undo(site, text)
    wait_for(lambda: site.query("transport", "carl@example.com") == site.store.transport, 20, site.tails)
    wait_for(lambda: file_says(site, "carl@example.com") == site.store.transport, 20, site.tails)
    another(site)
    sent = site.send("carl@example.com", "never.listed@example.com")
    assert list(sent.codes.values()) == [250, 550]
    site.arrives(sent, here=["carl@example.com"])


def test_wave_home(site: Site) -> None:
    """A wave to "local" brings home whom the directory still calls remote; it makes nobody out of nothing."""
    sent = site.send("back@example.com")
    site.arrives(sent, there=["back@example.com"])

    text, _ = wave(site, 2, "local", "back@example.com", "ghost@example.com")
    wait_for(lambda: site.query("transport", "back@example.com") == site.store.transport, 30, site.tails)
    another(site)
    sent = site.send("back@example.com", "ghost@example.com")

    assert list(sent.codes.values()) == [250, 550]
    site.arrives(sent, here=["back@example.com"])
    undo(site, text)
    wait_for(lambda: site.query("transport", "back@example.com") != site.store.transport, 20, site.tails)


def test_passed_waves_are_no_alarm(site: Site) -> None:
    """Moves of a passed wave are held back by no guard: the directory follows, nobody has to accept anything."""
    text, _ = wave(site, -5, "there", "carl@example.com")
    wait_for(lambda: site.query("transport", "carl@example.com").startswith("relay:"), 20, site.tails)
    site.remove("carl@example.com")
    site.list_remote("bob@example.com", "bea@example.com", "carl@example.com")
    wait_for(lambda: "carl@example.com (mailbox, active)" in site.explain("carl@example.com"), 20, site.tails)

    assert "held" not in site.splitmx.run("status").stdout
    undo(site, text)
    another(site)
    sent = site.send("carl@example.com")
    site.arrives(sent, there=["carl@example.com"])
