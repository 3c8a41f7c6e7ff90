# SPDX-License-Identifier: Apache-2.0
"""A replica that is being filled again: it answers, and shows only those who have come so far."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.servers import Slapd
from tests.servers import slapd as servers
from tests.servers.process import ServerError, wait_until
from tests.servers.slapd import PASSWORD, SUFFIX
from transport.config.settings import LdapOptions
from transport.directories import ldap_connect
from transport.directories.base import DirectoryError
from transport.directories.ldap import LdapSource

pytestmark = pytest.mark.directory

READER = f"cn=reader,{SUFFIX}"
MANY = 10
ANN, BOB = ("u0", "example.com"), ("u9", "example.com")  # the first and the last one to come
_READ = "access to attrs=userPassword by anonymous auth\naccess to * by * read\n"


class Pair:
    """A provider with ten people, and a server that gets them from it. kind: replica, syncprov (a replica that others
    may follow), multiprovider (one of two that are written to)."""

    def __init__(self, kind: str) -> None:
        ldap_connect._rings.clear()
        self.provider = Slapd(extra=f'limits dn.exact="{READER}" size=unlimited\n{_READ}')
        self.provider.ldif(f"dn: {READER}\nobjectClass: person\ncn: reader\nsn: reader\nuserPassword: {PASSWORD}\n")
        for number in range(MANY):
            self.provider.person(f"u{number}", f"u{number}@example.com")
        role = "multiprovider on" if kind == "multiprovider" else f"updateref {self.provider.url}"
        follows = f'syncrepl rid=001 provider={self.provider.url} type=refreshAndPersist searchbase="{SUFFIX}"'
        bind = f'bindmethod=simple binddn="{READER}" credentials={PASSWORD} retry="1 +"'
        self.replica = Slapd(start=False, content_sync=kind != "replica", extra=f"{follows} {bind}\n{role}\n{_READ}")
        if kind == "multiprovider":
            self.replica.conf.write_text(f"serverID 1\n{self.replica.conf.read_text()}")

    def give(self, limit: str) -> None:
        """The provider gives its replica so many entries of its 14 from now on, and no more."""
        head, _, tail = self.provider.conf.read_text().partition(" size=")
        self.provider.conf.write_text(f"{head} size={limit}\n{tail.partition(chr(10))[2]}")
        self.provider.restart()

    def refill(self, limit: str) -> None:
        """Begin with an empty replica; it has ann when this returns."""
        self.give(limit)
        self.replica.stop()
        shutil.rmtree(self.replica._data)
        self.replica._data.mkdir()
        self.replica.start()
        assert wait_until(lambda: "mail: u0@" in self._shown("mail"))

    def finish(self) -> None:
        """Let everybody come."""
        self.give("unlimited")
        assert wait_until(lambda: "contextCSN: " in self._shown("contextCSN"))

    def _shown(self, attribute: str) -> str:
        try:
            return self.replica._run("ldapsearch", "-LLL", "-b", SUFFIX, "(objectClass=*)", attribute)
        except ServerError:
            return ""

    def source(self, *more: str) -> LdapSource:
        """The replica as a directory, and other servers behind it."""
        return LdapSource("corp", LdapOptions((self.replica.url, *more), base=SUFFIX, filter="(mail=*)"))

    def close(self) -> None:
        """End both."""
        self.replica.close()
        self.provider.close()


@pytest.fixture(params=["replica", "syncprov", "multiprovider"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    if not servers.BINARY:
        pytest.skip("slapd is not installed")
    made = Pair(request.param)
    yield made
    made.close()


def test_a_replica_that_is_being_filled_is_no_small_directory(pair: Pair) -> None:
    """Nobody has left whom it does not have yet, nobody is a stranger by it, and when it is full it counts again."""
    pair.refill("unlimited")
    pair.finish()
    source = pair.source()
    assert len(list(source.list().records)) == MANY
    assert [record.local for record in source.ask([ANN, BOB], 2).records] == ["u0", "u9"]
    pair.refill("8")
    for asked in (lambda: list(source.list().records), lambda: source.ask([ANN, BOB], 2)):
        with pytest.raises(DirectoryError, match="contextCSN") as caught:
            asked()
        assert "filled" in caught.value.hint
    pair.finish()
    assert len(list(source.list().records)) == MANY
    assert [record.local for record in source.ask([ANN, BOB], 2).records] == ["u0", "u9"]
    source.close()


def test_the_next_server_is_asked_instead(pair: Pair) -> None:
    """Another server that has everybody answers while the first one is filled."""
    pair.refill("unlimited")
    pair.finish()
    source = pair.source(pair.provider.url)
    assert len(list(source.list().records)) == MANY
    pair.refill("8")
    listing = source.list()
    assert (len(list(listing.records)), listing.server) == (MANY, pair.provider.url)
    found = source.ask([ANN, BOB], 2)
    assert ([record.local for record in found.records], found.server) == (["u0", "u9"], pair.provider.url)
    source.close()


@pytest.mark.parametrize("instead", ["nothing", "a referral", "a refusal"])
def test_a_server_without_the_base(instead: str) -> None:
    """A server that lost its database, sends us elsewhere or does not let us look is left for the next one, which is
    listed and asked."""
    ldap_connect._rings.clear()
    first, second = Slapd(), Slapd()
    try:
        second.person("u0", "u0@example.com")
        first.stop()
        shutil.rmtree(first._data)
        first._data.mkdir()
        if instead == "a referral":
            text = first.conf.read_text().replace(SUFFIX, "dc=other,dc=com")
            first.conf.write_text(f"referral {second.url}\n{text}")
        if instead == "a refusal":
            first.conf.write_text(f"require authc\n{first.conf.read_text()}")
        first.start()
        source = LdapSource("corp", LdapOptions((first.url, second.url), base=first.base, filter="(mail=*)"))
        for _ in range(2):
            listing = source.list()
            assert ([record.local for record in listing.records], listing.server) == (["u0"], second.url)
            found = source.ask([ANN, BOB], 2)
            assert ([record.local for record in found.records], found.server) == (["u0"], second.url)
        source.close()
        alone = LdapSource("corp", LdapOptions((first.url,), base=first.base, filter="(mail=*)"))
        for asked in (lambda: list(alone.list().records), lambda: alone.ask([ANN], 2)):
            with pytest.raises(DirectoryError, match=r"\((32|10|53)\)"):
                asked()
        alone.close()
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("kind", ["syncprov", "multiprovider"])
def test_a_start_beside_a_replica_that_is_being_filled(kind: str) -> None:
    """Where the server itself can tell how far it is, nothing needs to be known of it from before."""
    made = Pair(kind)
    try:
        made.refill("8")
        with pytest.raises(DirectoryError, match="contextCSN"):
            list(made.source().list().records)
    finally:
        made.close()
