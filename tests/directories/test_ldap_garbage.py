# SPDX-License-Identifier: Apache-2.0
"""A server whose answers are no LDAP is one that failed: the next one is asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.servers import Slapd
from transport.config.settings import LdapOptions
from transport.directories import ldap_connect
from transport.directories.base import DirectoryError
from transport.directories.ldap import LdapSource

pytestmark = pytest.mark.directory

BOUND = bytes.fromhex("300c02010161070a010004000400")
# a balancer's error page, an operation that RFC 4511 does not have, a bind response of unknown parts, an empty one, a
# list of responses that is none
GARBAGE = {
    "http": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "operation": bytes.fromhex("30070201017d020500"),
    "parts": bytes.fromhex("3009020101610454020500"),
    "empty": bytes.fromhex("30050201016100"),
    "no list": bytes.fromhex("3006020101040100"),
}


class Stub:
    """Answers the first request with `first`, and the next one with `later`; closes behind nonsense."""

    def __init__(self, first: bytes, later: bytes) -> None:
        self.answers = (first, later)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"ldap://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        first = True
        try:
            with client:
                while request := client.recv(65536):
                    answer = bytearray(self.answers[0 if first else 1])
                    if answer[:1] == b"\x30" and request[2:4] == b"\x02\x01":
                        answer[4] = request[4]  # the request's message ID
                    client.sendall(answer)
                    if answer[5:] != BOUND[5:]:
                        return
                    first = False
        except OSError:
            pass

    def close(self) -> None:
        self.server.close()


@pytest.fixture(params=[(bind, name) for bind in (True, False) for name in GARBAGE], ids=str)
def stub(request: pytest.FixtureRequest) -> Iterator[Stub]:
    """Garbage instead of the bind's answer, or behind a good one."""
    at_bind, name = request.param
    with closing(Stub(GARBAGE[name] if at_bind else BOUND, GARBAGE[name])) as made:
        yield made


def test_another_server_is_asked(slapd: Slapd, stub: Stub) -> None:
    """It listens first and answers nonsense: the second one is listed, and asked live."""
    slapd.person("ann", "ann@example.org")
    options = LdapOptions(url=(stub.url, slapd.url), base=slapd.base, filter="(objectClass=inetOrgPerson)")
    with closing(LdapSource("corp", options)) as source:
        listing = source.list()
        try:
            names = [record.local for record in listing.records]
        except DirectoryError:  # what listed badly is not begun with the next time
            listing = source.list()
            names = [record.local for record in listing.records]
        assert names == ["ann"]
        assert listing.server == slapd.url
    ldap_connect._rings.clear()  # nothing has failed yet
    with closing(LdapSource("corp", options)) as source:
        found = source.ask([("ann", "example.org")], 1)
        assert [record.local for record in found.records] == ["ann"]


def test_it_alone_is_a_fault_with_a_hint(stub: Stub) -> None:
    """A listing, a live look-up and changes say so, and what to look at."""
    with closing(LdapSource("corp", LdapOptions(url=(stub.url,), base="dc=example"))) as source:
        for attempt in (
            lambda: list(source.list().records),
            lambda: source.ask([("ann", "example.org")], 1),
            lambda: source.changes(b'{"server": "%s", "sync": "rid=000,csn=1"}' % stub.url.encode(), 10),
        ):
            with pytest.raises(DirectoryError) as caught:
                attempt()
            assert caught.value.hint
