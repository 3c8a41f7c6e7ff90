# SPDX-License-Identifier: Apache-2.0
"""An index that is lost while a long reading runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.daemon.site import LOCAL, REMOTE, Site
from tests.mta.waiting import wait_for

pytestmark = pytest.mark.slow


def test_a_reading_that_a_rebuild_overtook_is_done_again_at_once(sites: Callable[..., Site]) -> None:
    """A second directory, whose reading began before the index was lost, is in the new index without a long wait."""
    site = sites("ann@example.com", fresh_for="1s")
    names = site.folder / "names.txt"
    names.write_text("zoe@example.com\n")
    more = f'[directories.names]\ntype = "file"\npath = "{names}"\nformat = "list"\n'
    text = site.config(more=more).replace('local = ["here"]', 'local = ["here", "names"]')
    site.splitmx.write(text)
    site.start()
    names.write_text("zoe@example.com\n" + "".join(f"n{n}@example.com\n" for n in range(150_000)))
    wait_for(lambda: site.status()["directories"]["names"].get("reading_for"), 20, site.splitmx.tail)
    for path in (site.folder / "state").glob("index.sqlite*"):
        path.unlink()
    site.answers("n149999@example.com", LOCAL, 60)
    site.answers("who@example.com", REMOTE, 60)
    assert site.ask("zoe@example.com") == ("OK", LOCAL)
    assert "Traceback" not in site.log()
