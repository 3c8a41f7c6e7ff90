# SPDX-License-Identifier: Apache-2.0
"""A directory that answers live, while it cannot be listed: nothing is decided without it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.daemon.site import LOCAL, REMOTE, Site
from tests.mta.waiting import wait_for

ASKED = 'lookup = "SELECT address, kind, targets, location, active FROM recipients WHERE address IN :addresses"\n'
DOMAIN = 'remote = ["there"]\ngroup_members = false\nlocations = { cloud = "m365" }'
NOT_LISTED = ASKED + 'canary = ["ann@example.com"]\n'


@pytest.fixture
def unlisted(sites: Callable[..., Site]) -> Site:
    """ann, both and postmaster (at the other side) are here; bob and both are there. Here was never read."""
    site = sites("ann@example.com", "both@example.com", directory=NOT_LISTED, fresh_for="1m")
    site.add("postmaster@example.com", location="cloud")
    names = site.folder / "names.txt"
    names.write_text("bob@example.com\nboth@example.com\n")
    more = f'[directories.there]\ntype = "file"\npath = "{names}"\nformat = "list"\n'
    text = site.config(more=more, domain=DOMAIN)
    site.splitmx.write(text.replace('active FROM recipients"', 'active FROM lost"', 1))
    site.splitmx.start()
    wait_for(lambda: site.status()["directories"]["there"].get("good_at"), 20, site.splitmx.tail)
    return site


def test_one_answer_is_not_lent_to_who_was_not_asked_for(unlisted: Site) -> None:
    """That bob is not here says nothing of others whom the other side lists."""
    unlisted.answers("bob@example.com", REMOTE)
    assert unlisted.ask("both@example.com") == ("OK", LOCAL)
    unlisted.add("bob@example.com")
    unlisted.control("flush", what="bob@example.com")
    assert unlisted.ask("bob@example.com") == ("OK", LOCAL)


def test_postmaster_is_asked_for(unlisted: Site) -> None:
    """postmaster@ whom a directory lists at the other side is not delivered here because it was not read yet."""
    unlisted.answers("bob@example.com", REMOTE)
    assert unlisted.ask("postmaster@example.com") == ("OK", REMOTE)
    unlisted.people.rename(unlisted.folder / "away.db")
    unlisted.control("flush", what="postmaster@example.com")
    assert unlisted.ask("postmaster@example.com")[0] == "TEMP"


def test_a_groups_members_are_asked_for_one_by_one(unlisted: Site) -> None:
    """group_members = false leaves out who is at the other side, not others whom that side lists as well."""
    unlisted.answers("bob@example.com", REMOTE)
    unlisted.add("all@example.com", "group", "bob@example.com both@example.com")
    assert unlisted.ask("all@example.com", "virtual_alias") == ("OK", "both@example.com")


def test_a_tagged_address_of_its_own_is_asked_for(unlisted: Site) -> None:
    """ann+x that is listed apart from ann does not get into ann's mailbox because ann is known already."""
    unlisted.add("ann+x@example.com", location="cloud")
    unlisted.answers("ann@example.com", LOCAL)
    assert unlisted.ask("ann+x@example.com") == ("OK", REMOTE)
    assert unlisted.ask("ann+y@example.com") == ("OK", LOCAL)
    unlisted.people.rename(unlisted.folder / "away.db")
    assert unlisted.ask("ann+z@example.com")[0] == "TEMP"
