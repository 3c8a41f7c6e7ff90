# SPDX-License-Identifier: Apache-2.0
"""A machine that is suspended: CLOCK_MONOTONIC stands still, CLOCK_BOOTTIME goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tests.daemon.site import LOCAL, REMOTE, Site

# as it is after a suspension of so many seconds as the file says
ASLEEP = """
import time
real, file = time.clock_gettime, {file!r}
time.clock_gettime = lambda clock: real(clock) + (int(open(file).read()) if clock == time.CLOCK_BOOTTIME else 0)
from policyd.cli import main
main()
"""


def suspended(site: Site, seconds: int) -> None:
    """So long was the machine suspended."""
    (site.folder / "asleep.new").write_text(str(seconds))
    (site.folder / "asleep.new").rename(site.folder / "asleep")


def sleeper(sites: Callable[..., Site], **options: str) -> Site:
    """A site on a machine that can be suspended."""
    site = sites("ann@example.com", "bob@example.com", **options)
    suspended(site, 0)
    site.splitmx.command = [sys.executable, "-I", "-c", ASLEEP.format(file=str(site.folder / "asleep"))]
    return site.start()


def test_no_of_before_the_suspension(sites: Callable[..., Site]) -> None:
    """A "no" that was read before the machine slept is old when it wakes up: who came since is not relayed away."""
    site = sleeper(sites, fresh_for="10m", sync_every="1h")
    assert site.ask("new@example.com") == ("OK", REMOTE)
    site.add("new@example.com")
    assert site.ask("new@example.com") == ("OK", REMOTE), "the no is fresh"
    suspended(site, 3600)
    assert site.ask("new@example.com") == ("OK", LOCAL)


def test_live_no_of_before_the_suspension(sites: Callable[..., Site]) -> None:
    """Neither does a live "no" outlast a suspension, in the worker or in the keeper."""
    site = sleeper(sites, fresh_for="10m", sync_every="1h")
    suspended(site, 3600)
    assert site.ask("new@example.com") == ("OK", REMOTE), "asked live"
    site.add("new@example.com")
    suspended(site, 7200)
    assert site.ask("new@example.com") == ("OK", LOCAL)


def test_read_again_after_the_suspension(sites: Callable[..., Site]) -> None:
    """Who left or moved while the machine slept is known when it is awake, not when `compare_every` is over."""
    site = sleeper(sites, sync_every="1h")
    assert site.ask("bob@example.com") == ("OK", LOCAL)
    site.remove("bob@example.com")
    suspended(site, 60)
    site.answers("bob@example.com", REMOTE)
    assert "the machine was suspended" in site.log()
