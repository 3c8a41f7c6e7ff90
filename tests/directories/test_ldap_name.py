# SPDX-License-Identifier: Apache-2.0
"""One name in `url`, several servers behind it: a domain of Active Directory, a pool of replicas."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Slapd
from transport.config.settings import LdapOptions
from transport.directories import ldap_connect
from transport.directories.base import DirectoryTimeout
from transport.directories.ldap import LdapSource

pytestmark = pytest.mark.directory

NAME = "dc.example"
ANN, LATE = ("ann", "example.com"), ("late", "example.com")


class Pool:
    """Two servers at one port; the second one has not heard of `late` yet. addresses: what the name stands for now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        ldap_connect._rings.clear()
        self.first, self.second = Slapd(host="127.0.0.2"), Slapd(host="127.0.0.3", start=False)
        self.second.port = self.first.port
        self.second.url = f"ldap://127.0.0.3:{self.first.port}"
        self.second.start()
        for server in (self.first, self.second):
            server.person("ann", "ann@example.com")
        self.first.person("late", "late@example.com")
        self.addresses = [self.first.host, self.second.host]
        self.sources: list[LdapSource] = []
        self._secret = str(self.first.secret_file(folder))
        real = socket.getaddrinfo

        def look_up(host: Any, port: Any, *more: Any, **words: Any) -> Any:
            if host != NAME:
                return real(host, port, *more, **words)
            return [found for one in self.addresses for found in real(one, port, *more, **words)[:1]]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    def source(self) -> LdapSource:
        """What another thread opens; each time the name's addresses come in the other order."""
        self.addresses.reverse()
        options = LdapOptions(
            (f"ldap://{NAME}:{self.first.port}",),
            bind_dn=self.first.admin,
            bind_password_file=self._secret,
            base=self.first.base,
            schema="openldap",
        )
        self.sources.append(LdapSource("here", options))
        return self.sources[-1]

    def close(self) -> None:
        for source in self.sources:
            source.close()
        self.first.close()
        self.second.close()


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Pool]:
    made = Pool(monkeypatch, tmp_path)
    yield made
    made.close()


def test_every_connection_goes_to_the_server_that_was_listed(pool: Pool) -> None:
    """In whatever order the addresses come: a replica that lags behind denies nobody whom the other one has."""
    pool.addresses.reverse()
    listing = pool.source().list()
    assert {record.local for record in listing.records} == {"ann", "late"}
    for _ in range(4):
        found = pool.source().ask([ANN, LATE], 2)
        assert (found.server, len(found.records)) == (listing.server, 2)
    again = pool.source()
    assert {record.local for record in again.list().records} == {"ann", "late"}
    assert not again.changes(listing.cookie, 100).full_needed


def test_another_server_of_the_name_is_another_server(pool: Pool) -> None:
    """When the one is gone the other takes over at once, under its own name: its no does not count before a listing."""
    pool.addresses.reverse()
    listing = pool.source().list()
    list(listing.records)
    source = pool.source()
    assert source.ask([LATE], 2).server == listing.server
    pool.first.stop()
    for asked in (source, pool.source(), pool.source()):
        found = asked.ask([ANN, LATE], 2)
        assert [record.local for record in found.records] == ["ann"]
        assert found.server != listing.server
    pool.first.start()
    assert pool.source().ask([ANN], 2).server == found.server


def test_a_server_of_the_name_that_hangs_is_left_alone(pool: Pool) -> None:
    """It costs one look-up its time; the next ones go to the other address."""
    source = pool.source()
    pool.addresses = [pool.first.host, pool.second.host]
    assert len(source.ask([ANN, LATE], 2).records) == 2
    pool.first.hang()
    try:
        with pytest.raises(DirectoryTimeout):
            source.ask([ANN], 0.5)
        assert len(source.ask([ANN], 2).records) == 1
    finally:
        pool.first.cont()
