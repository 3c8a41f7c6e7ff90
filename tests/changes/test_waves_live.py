# SPDX-License-Identifier: Apache-2.0
"""A person who moves by a wave has moved under addresses, too, that were asked for live."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.changes.directories import THERE, Tree, config, wait_steady
from tests.daemon.site import Site
from tests.servers import Slapd

WAVE = """
[waves.pilot]
at = 2020-01-01T00:00:00Z
domain = "example.org"
to = "m365"
addresses = ["bob@example.org"]
"""


def test_a_wave_covers_a_persons_new_address(sites: Callable[..., Site], slapd: Slapd) -> None:
    """An address that a moved person got since the last reading goes where the person is, not to the old mailbox."""
    world = Tree(slapd)
    world.add("ann")
    slapd.person("bob", "bob@example.org", "b.smith@example.org")
    table = config(world.table).replace('sync_every = "1s"', 'sync_every = "1h"')
    site = sites("x@example.com", more=table + WAVE).start()
    wait_steady(site)
    assert site.ask("bob@example.org") == site.ask("b.smith@example.org") == THERE
    slapd.ldif(f"dn: {world.dn('bob')}\nchangetype: modify\nadd: mail\nmail: bs@example.org\n")
    site.answers("bs@example.org", THERE[1])
    site.stop()
    for path in (site.folder / "state").glob("index.sqlite*"):
        path.unlink()
    for name in ("bob", "b.smith", "bs"):  # without an index, by a command alone
        report = json.loads(site.splitmx.run("explain", "--json", f"{name}@example.org").stdout)
        assert report["decision"] == "RELAY", name
