# SPDX-License-Identifier: Apache-2.0
"""An index that is lost, and what is answered until it is whole again."""

from __future__ import annotations

import os
import signal
import sqlite3
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


def test_a_remote_listing_of_a_new_index_moves_nobody_who_may_be_here(sites: Callable[..., Site]) -> None:
    """While a rebuilt index holds only the other side, who is listed there is not relayed, whoever was before."""
    site = sites("both@example.com")
    names = site.folder / "names.txt"
    names.write_text("bob@example.com\nboth@example.com\n")
    more = f'[directories.there]\ntype = "file"\npath = "{names}"\nformat = "list"\n'
    site.splitmx.write(site.config(more=more, domain='remote = ["there"]'))
    site.start()
    site.answers("bob@example.com", REMOTE)
    assert site.ask("both@example.com") == ("OK", LOCAL)
    away = site.people.rename(site.folder / "away.db")
    os.truncate(site.folder / "state" / "index.sqlite", 4096)
    wait_for(lambda: _loaded(site) == {"here": False, "there": True}, 20, site.splitmx.tail)
    assert site.ask("both@example.com")[0] == "TEMP"
    away.rename(site.people)
    site.answers("bob@example.com", REMOTE)
    assert site.ask("both@example.com") == ("OK", LOCAL)


def test_one_wrong_octet_in_the_index_stops_nobody(sites: Callable[..., Site]) -> None:
    """An index whose tables have names that are no text is set aside at start, said, and read anew."""
    site = sites("ann@example.com").start()
    site.splitmx.stop()
    index = site.folder / "state" / "index.sqlite"
    data = index.read_bytes()
    assert b"tablerecipientrecipient" in data
    index.write_bytes(data.replace(b"tablerecipientrecipient", b"tablerec\xffpientrecipient"))
    site.start()
    assert site.ask("ann@example.com") == ("OK", LOCAL)
    assert "is rebuilt from the directories: damaged" in site.log()
    assert "is started again" not in site.log()
    assert "Traceback" not in site.log()


def _loaded(site: Site) -> dict[str, bool]:
    """Which directories the index holds, once the worker reads the same state of it."""
    status = site.status()
    if status["workers"]["running"][0]["generation"] != status["index"]["generation"]:
        return {}
    return {name: one["loaded"] for name, one in status["directories"].items()}


def test_an_index_whose_rows_belong_to_no_domain_moves_nobody(sites: Callable[..., Site]) -> None:
    """Files of two indexes that were mixed (rows, and no domain for them): who is listed is never taken for a
    stranger, and the index is made anew."""
    site = sites("ann@example.com", fresh_for="60s", sync_every="1s").start()
    assert site.ask("ann@example.com") == ("OK", LOCAL)
    index = sqlite3.connect(site.folder / "state" / "index.sqlite", isolation_level=None, timeout=10)
    index.execute("BEGIN IMMEDIATE")
    index.execute("DELETE FROM domain")
    index.execute("UPDATE state SET value = value + 1 WHERE key = 'generation'")
    index.execute("COMMIT")
    index.close()
    site.splitmx.signal(site.splitmx.pids("worker")[0], signal.SIGKILL)  # its successor reads the names anew
    answers = set()

    def rebuilt() -> bool:
        answers.add(site._ask_if_up("ann@example.com"))
        return "it has rows of a domain that it does not know" in site.log() and bool(site.status()["index"])

    wait_for(rebuilt, 40, site.splitmx.tail)
    site.answers("ann@example.com", LOCAL)
    assert ("OK", REMOTE) not in answers
