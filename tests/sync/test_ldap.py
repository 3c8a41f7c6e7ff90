# SPDX-License-Identifier: Apache-2.0
"""Compare, feed and question against a real slapd, up to the ways in which it can lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.servers.slapd import Slapd
from transport.config.settings import Directory, LdapOptions
from transport.directories import ldap_connect
from transport.directories.ldap import LdapSource
from transport.lookup import NO, Failed, ask, canaries_for
from transport.sync import SyncReport, apply_changes, compare

from .conftest import World

pytestmark = pytest.mark.directory

NOBODY = ("nobody", "example.com")


class Site:
    """A slapd with forty people, and the index over it. The directory binds as a reader with rights of its own."""

    def __init__(self, folder: Path) -> None:
        ldap_connect._rings.clear()
        self.server = Slapd()
        people = "\n".join(
            f"dn: uid=u{n:02d},ou=people,{self.server.suffix}\nobjectClass: inetOrgPerson\nobjectClass: mailPerson\n"
            f"cn: u{n:02d}\nsn: u{n:02d}\nmail: u{n:02d}@example.com\nmailAlternateAddress: a{n:02d}@example.com\n"
            for n in range(40)
        )
        self.server.load(people)
        (folder / "state").mkdir()
        self.world = World(folder / "state")
        options = LdapOptions(
            (self.server.url,),
            bind_dn=self.server.admin,
            bind_password_file=str(self.server.secret_file(folder)),
            base=f"ou=people,{self.server.suffix}",
            schema="openldap",
        )
        self.directory = replace(Directory("here", "ldap", options, b"here............"), deadline=10.0)
        self.world.settings = replace(
            self.world.settings, directories={**self.world.settings.directories, "here": self.directory}
        )
        self.source = LdapSource("here", options)

    def sync(self) -> SyncReport:
        report = compare(self.world.writer, self.directory, self.source, self.world.settings)
        self.world.reader.renew()
        return report

    def feed(self) -> SyncReport:
        report = apply_changes(self.world.writer, self.directory, self.source, self.world.settings)
        assert report is not None
        assert report.good, report.line()
        self.world.reader.renew()
        return report

    def close(self) -> None:
        self.source.close()
        self.world.close()
        self.server.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def test_feed_and_compare_agree(site: Site) -> None:
    """What content sync brings is what a compare would have brought: nothing is left to do for it."""
    assert site.sync().added == 80
    server = site.server
    server.person("new", "new@example.com", mailAlternateAddress="new.a@example.com")
    server.delete(f"uid=u03,ou=people,{server.suffix}")
    server.ldif(
        f"dn: uid=u04,ou=people,{server.suffix}\nchangetype: modify\nreplace: mailAlternateAddress\n"
        "mailAlternateAddress: other@example.com\n"
    )
    report = site.feed()
    assert (report.added, report.removed, report.rows) == (3, 3, 80)
    assert site.feed().generation is None
    generation = site.world.reader.generation
    assert site.sync().unchanged == 80
    assert site.world.reader.generation == generation


def test_half_gone_is_held_by_the_feed_too(site: Site) -> None:
    """Twenty of forty people deleted at once: held by the feed, which asks for a compare, which holds them too."""
    site.sync()
    for n in range(20):
        site.server.delete(f"uid=u{n:02d},ou=people,{site.server.suffix}")
    report = site.feed()
    assert (report.removed, report.held, report.full_needed) == (0, 40, True)
    assert site.sync().held == 40
    assert len(site.world.listed()) == 80


def test_restarted_empty(site: Site) -> None:
    """A server that comes back with nobody in it: held, disbelieved, and well again with its data."""
    site.sync()
    site.server.restart(empty=True)
    feed = apply_changes(site.world.writer, site.directory, site.source, site.world.settings)
    assert feed is not None
    assert (feed.full_needed, feed.removed) == (True, 0)
    report = site.sync()
    assert (report.held, report.believable) == (80, False)
    canaries = canaries_for(site.world.reader, site.directory, ["example.com"])
    answers = ask(site.source, site.directory, [NOBODY], canaries, 10.0)
    assert answers.lying
    assert isinstance(answers.found[NOBODY], Failed)
    assert len(site.world.listed()) == 80


def test_questions(site: Site) -> None:
    """Listed and unlisted in one query, whatever the address holds."""
    site.sync()
    canaries = canaries_for(site.world.reader, site.directory, ["example.com"])
    wanted = [("a07", "example.com"), NOBODY, ("*)(uid=*", "example.com"), ("\\2a", "example.com")]
    answers = ask(site.source, site.directory, wanted, canaries, 10.0)
    assert answers.found[wanted[0]] not in (NO,)
    assert [answers.found[key] for key in wanted[1:]] == [NO, NO, NO]
