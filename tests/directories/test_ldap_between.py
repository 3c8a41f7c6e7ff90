# SPDX-License-Identifier: Apache-2.0
"""LDAP through something between that has bad moments, or cannot answer every question."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import closing
from threading import Thread

import pytest

from tests.servers import Slapd
from tests.servers import slapd as servers
from transport.config.settings import LdapOptions
from transport.directories.base import DirectoryError
from transport.directories.ldap import LdapSource

pytestmark = pytest.mark.directory

MANY = 600
_PAGED = b"1.2.840.113556.1.4.319"
_SUBTREE = b"\x0a\x01\x02\x0a\x01\x00"  # the scope, and aliases as they are, on the wire


class Between:
    """Passes a server's LDAP on. mixing: the second page is asked for on another connection; cutting: a search for
    people without pages ends the connection; refusing: whoever asks for this has the answer `other` (80)."""

    def __init__(self, behind: Slapd) -> None:
        self.mixing = self.cutting = False
        self.refusing = b""
        self._behind = behind.url.removeprefix("ldap://").split(":")
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"ldap://127.0.0.1:{self._listening.getsockname()[1]}"
        Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                Thread(target=self._serve, args=(self._listening.accept()[0],), daemon=True).start()

    def _upstream(self, client: socket.socket) -> socket.socket:
        made = socket.create_connection((self._behind[0], int(self._behind[1])))
        Thread(target=self._back, args=(made, client), daemon=True).start()
        return made

    def _back(self, made: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := made.recv(65536):
                client.sendall(data)

    def _serve(self, client: socket.socket) -> None:
        made, pages = [self._upstream(client)], 0
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                pages += _PAGED in data
                if self.cutting and _SUBTREE in data and _PAGED not in data:
                    break
                if self.refusing and self.refusing in data:
                    client.sendall(_other(data))
                    continue
                if self.mixing and pages == 2:
                    made.append(self._upstream(client))
                made[-1].sendall(data)
        for one in (client, *made):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        """Accept nobody any more."""
        self._listening.close()


def _other(request: bytes) -> bytes:
    """The end of a search with `other`, for the number of this request."""
    at = 2 + (request[1] & 0x7F if request[1] & 0x80 else 0)  # behind its length
    body = request[at : at + 2 + request[at + 1]] + b"\x65\x07\x0a\x01\x50\x04\x00\x04\x00"
    return bytes((0x30, len(body))) + body


@pytest.fixture(scope="module")
def behind() -> Iterator[Slapd]:
    if not servers.BINARY:
        pytest.skip("slapd is not installed")
    with closing(Slapd()) as made:
        made.load(
            "".join(
                f"dn: uid=u{i},ou=people,{made.suffix}\nobjectClass: inetOrgPerson\ncn: u\nsn: u\n"
                f"mail: u{i}@example.com\n\n"
                for i in range(MANY)
            )
        )
        yield made


@pytest.fixture
def between(behind: Slapd) -> Iterator[Between]:
    with closing(Between(behind)) as made:
        yield made


def test_pages_are_tried_again_where_a_listing_without_them_breaks_off(behind: Slapd, between: Between) -> None:
    """One mixed-up page, and a listing at once that is too long for what stands between: no listing for ever."""
    with closing(LdapSource("corp", LdapOptions((between.url,), base=behind.suffix, filter="(mail=*)"))) as source:
        between.mixing = True
        with pytest.raises(DirectoryError) as caught:
            list(source.list().records)
        assert "mixes up" in caught.value.hint
        between.mixing, between.cutting = False, True
        with pytest.raises(DirectoryError):
            list(source.list().records)
        assert len(list(source.list().records)) == MANY


def test_a_server_that_cannot_tell_its_state_is_asked_all_the_same(behind: Slapd, between: Between) -> None:
    """Look-ups and listings go on where the suffix's contextCSN has the answer `other`, as of a proxy."""
    between.refusing = b"contextCSN"
    with closing(LdapSource("corp", LdapOptions((between.url,), base=behind.suffix, filter="(mail=*)"))) as source:
        assert [one.local for one in source.ask([("u1", "example.com")], 2).records] == ["u1"]
        assert len(list(source.list().records)) == MANY
