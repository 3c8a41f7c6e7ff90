# SPDX-License-Identifier: Apache-2.0
"""A machine that is suspended, where CLOCK_MONOTONIC stands still and CLOCK_BOOTTIME goes on; a clock that is set."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable

from tests.daemon.site import LOCAL, REMOTE, Site
from tests.mta.waiting import wait_for

# as it is after a suspension of so many seconds, and on a clock that was set forward by so many
ASLEEP = """
import time
boot, real = time.clock_gettime, time.time
def said(name): return int(open({folder!r} + name).read())
time.clock_gettime = lambda clock: boot(clock) + (said("asleep") if clock == time.CLOCK_BOOTTIME else 0)
time.time = lambda: real() + said("clock")
from policyd.cli import main
main()
"""

LOOPING = """
[destinations.other]
hosts = ["192.0.2.77"]
peers = ["203.0.113.7"]
exclusive = true

[directories.there]
type = "file"
format = "list"
path = "{folder}/there"

[domains."example.net"]
local = ["here"]
remote = ["there"]
destination = "other"
"""


def shifted(site: Site, what: str, seconds: int) -> None:
    """So long was the machine suspended (asleep), so far was the time set forward (clock)."""
    (site.folder / "new").write_text(str(seconds))
    (site.folder / "new").rename(site.folder / what)


def sleeper(sites: Callable[..., Site], **options: str) -> Site:
    """A site on a machine that can be suspended."""
    site = sites("ann@example.com", "bob@example.com", **options)
    (site.folder / "there").write_text("eve@example.net\n")
    site.splitmx.write(site.config(more=site.values["more"].format(folder=site.folder)))
    shifted(site, "asleep", 0)
    shifted(site, "clock", 0)
    site.splitmx.command = [sys.executable, "-I", "-c", ASLEEP.format(folder=f"{site.folder}/")]
    return site.start()


def asked(site: Site) -> str:
    """What the policy service says of a listed address that its own destination brings back."""
    attributes = {"recipient": "eve@example.net", "sender": "a@example.org", "client_address": "203.0.113.7"}
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(site.folder / "policy.sock"))
        lines = ["request=smtpd_access_policy", "protocol_state=RCPT", *map("=".join, attributes.items()), "", ""]
        client.sendall("\n".join(lines).encode())
        return client.recv(4096).decode()


def first_seen(site: Site) -> float:
    """What is remembered for the next start."""
    path = site.folder / "state" / "loops.json"
    return max(json.loads(path.read_text()).values()) if path.exists() else 0.0


def test_no_of_before_the_suspension(sites: Callable[..., Site]) -> None:
    """A "no" that was read before the machine slept is old when it wakes up: who came since is not relayed away."""
    site = sleeper(sites, fresh_for="10m", sync_every="1h")
    assert site.ask("new@example.com") == ("OK", REMOTE)
    site.add("new@example.com")
    assert site.ask("new@example.com") == ("OK", REMOTE), "the no is fresh"
    shifted(site, "asleep", 3600)
    assert site.ask("new@example.com") == ("OK", LOCAL)


def test_live_no_of_before_the_suspension(sites: Callable[..., Site]) -> None:
    """Neither does a live "no" outlast a suspension, in the worker or in the keeper."""
    site = sleeper(sites, fresh_for="10m", sync_every="1h")
    shifted(site, "asleep", 3600)
    assert site.ask("new@example.com") == ("OK", REMOTE), "asked live"
    site.add("new@example.com")
    shifted(site, "asleep", 7200)
    assert site.ask("new@example.com") == ("OK", LOCAL)


def test_read_again_after_the_suspension(sites: Callable[..., Site]) -> None:
    """Who left or moved while the machine slept is known when it is awake, not when `compare_every` is over."""
    site = sleeper(sites, sync_every="1h")
    assert site.ask("bob@example.com") == ("OK", LOCAL)
    site.remove("bob@example.com")
    shifted(site, "asleep", 60)
    site.answers("bob@example.com", REMOTE)
    assert "the machine was suspended" in site.log()


def test_a_clock_set_forward_ends_no_grace(sites: Callable[..., Site]) -> None:
    """A listed address that came back a moment ago is put off, not refused, though the clock was set an hour on; also
    after a restart."""
    site = sleeper(sites, more=LOOPING)
    assert asked(site).startswith("action=451 4.4.6")
    shifted(site, "clock", 3600)
    assert asked(site).startswith("action=451 4.4.6")
    wait_for(lambda: first_seen(site) > time.time() + 3000, 15)
    site.splitmx.stop()
    site.start()
    assert asked(site).startswith("action=451 4.4.6")
    shifted(site, "asleep", 3600)
    shifted(site, "clock", 7200)
    assert asked(site).startswith("action=550 5.4.6"), "an hour has passed"
