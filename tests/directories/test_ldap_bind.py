# SPDX-License-Identifier: Apache-2.0
"""A bind DN that a server no longer lets in: it is not locked by us, and another server may let it in."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.servers import Slapd
from tests.servers.slapd import SUFFIX
from transport.config.settings import LdapOptions
from transport.directories import ldap_connect
from transport.directories.base import DirectoryError
from transport.directories.ldap import LdapSource

pytestmark = pytest.mark.directory

READER = f"cn=reader,{SUFFIX}"
ANN = ("ann", "example.com")
_POLICY = (
    "moduleload ppolicy\naccess to attrs=userPassword by anonymous auth\naccess to * by * read\n"
    f"overlay ppolicy\nppolicy_default cn=policy,{SUFFIX}\n"
)


class Locking(Slapd):
    """It locks an account whose password was wrong three times."""

    def __init__(self) -> None:
        super().__init__(extra=_POLICY)
        self.ldif(
            f"dn: cn=policy,{SUFFIX}\nobjectClass: person\nobjectClass: pwdPolicy\ncn: policy\nsn: policy\n"
            "pwdAttribute: userPassword\npwdLockout: TRUE\npwdMaxFailure: 3\n"
        )
        self.ldif(f"dn: {READER}\nobjectClass: person\ncn: reader\nsn: reader\nuserPassword: one\n")
        self.person("ann", "ann@example.com")

    def change_password(self, word: str) -> None:
        """An administrator gives the account another one."""
        self.ldif(f"dn: {READER}\nchangetype: modify\nreplace: userPassword\nuserPassword: {word}\n")


class Site:
    """Locking servers and sources on them, with a password file."""

    def __init__(self, folder: Path) -> None:
        ldap_connect._rings.clear()
        self.secret = folder / "secret"
        self.secret.write_text("one\n")
        self._open = ExitStack()

    def server(self) -> Locking:
        return self._open.enter_context(closing(Locking()))

    def source(self, *servers: Slapd) -> LdapSource:
        urls = tuple(server.url for server in servers)
        options = LdapOptions(urls, bind_dn=READER, bind_password_file=str(self.secret), base=SUFFIX, filter="(mail=*)")
        return self._open.enter_context(closing(LdapSource("corp", options)))

    def close(self) -> None:
        self._open.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def test_a_password_that_is_refused_does_not_lock_the_account(site: Site) -> None:
    """Whoever asks meanwhile, in however many threads; the new password works as soon as it is in the file."""
    server = site.server()
    sources = [site.source(server) for _ in range(4)]
    assert len(sources[0].ask([ANN], 5).records) == 1
    server.change_password("two")

    def asks(source: LdapSource) -> None:
        source.close()
        for _ in range(5):
            with pytest.raises(DirectoryError, match="invalidCredentials") as caught:
                source.ask([ANN], 5)
            assert "bind_password_file" in caught.value.hint
            assert "lest the account be locked" in caught.value.hint
        with pytest.raises(DirectoryError, match="invalidCredentials"):
            list(source.list().records)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(asks, sources))
    site.secret.write_text("two\n")
    assert [len(source.ask([ANN], 5).records) for source in sources] == [1, 1, 1, 1]
    assert len(list(sources[0].list().records)) == 1


def test_another_server_may_let_the_bind_dn_in(site: Site) -> None:
    """One server has the new password not yet, or locked the account: the next one is asked and listed."""
    first, second = site.server(), site.server()
    source = site.source(first, second)
    assert source.ask([ANN], 5).server == first.url
    first.change_password("two")
    source.close()
    assert source.ask([ANN], 5).server == second.url
    listing = source.list()
    assert (len(list(listing.records)), listing.server) == (1, second.url)
