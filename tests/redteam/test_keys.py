# SPDX-License-Identifier: Apache-2.0
"""Keys that no sane mailer asks for, over the daemon's real sockets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.site import LOCAL, Site


@pytest.fixture
def site(folder: Path, cleaned: Callable[[Callable[[], object]], None]) -> Site:
    """A daemon that knows ann."""
    made = Site(folder, "ann@example.com")
    cleaned(made.stop)
    return made.start()


def test_a_long_key_is_not_found_and_its_connection_stays(site: Site) -> None:
    """Before 3.12 Postfix limits no key: ten and more kilobytes are "not found" at once, in every map."""
    client = site.client()
    for name in ("transport", "relay_recipients", "virtual_alias", "recipient_bcc", "here", "relay_domains"):
        for size in (9_990, 10_000, 10_240, 65_536, 90_000):
            assert client.ask(name, "a" * size + "@example.com") == ("NOTFOUND", ""), (name, size)
    assert client.ask("transport", "ann@example.com") == ("OK", LOCAL)
    done = site.splitmx.run("query", "transport", "a" * 20_000 + "@example.com")
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
