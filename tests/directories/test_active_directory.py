# SPDX-License-Identifier: Apache-2.0
"""Active Directory, as Samba's domain controller speaks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.directories.databases import listed, names
from tests.servers import Authority, SambaAd, samba
from tests.servers.process import run
from transport.config.settings import LdapOptions
from transport.directories import ldap_connect
from transport.directories.base import DirectoryError, DirectoryTimeout
from transport.directories.ldap import LdapSource
from transport.record import Kind, Record

pytestmark = pytest.mark.directory

Make = Callable[..., LdapSource]


@pytest.fixture
def make(samba_ad: SambaAd, tmp_path: Path) -> Iterator[Make]:
    """Sources with the preset on the run's domain controller."""
    ldap_connect._rings.clear()
    secret = str(samba_ad.secret_file(tmp_path))
    made: list[LdapSource] = []

    def source(url: str = "", **options: Any) -> LdapSource:
        known: dict[str, Any] = {
            "schema": "active-directory",
            "bind_dn": samba_ad.admin,
            "bind_password_file": secret,
            "base": samba_ad.base,
        }
        made.append(LdapSource("ad", LdapOptions((url or samba_ad.url,), **(known | options))))
        return made[-1]

    yield source
    for one in made:
        one.close()


def plain(records: dict[str, Record]) -> dict[str, Record]:
    """Without the entries' keys, which the server makes."""
    assert all(r.entry is not None and len(r.entry) == 16 for r in records.values())
    return {address: record._replace(entry=None) for address, record in records.items()}


def test_preset(samba_ad: SambaAd, make: Make) -> None:
    """Mailboxes, a shared one (disabled), one that has moved to the cloud, a contact, a group; listed and live."""
    ann = samba_ad.user("ann", "Ann@example.com", ["SMTP:Ann@example.com", "smtp:a@example.com", "X500:/o=x"])
    samba_ad.user("info", "info@example.com", ["SMTP:info@example.com"], disabled=True)
    cloud = samba_ad.user("bob", "bob@example.com", ["SMTP:bob@example.com"], target="SMTP:bob@X.onmicrosoft.com")
    samba_ad.contact("zoe", "zoe@example.com", "SMTP:Zoe@elsewhere.example", ["SMTP:zoe@example.com"])
    samba_ad.group("sales", "sales@example.com", [ann, cloud], ["SMTP:sales@example.com"])
    samba_ad.user("nomail")
    samba_ad.contact("card", "card@example.com", "")
    wanted = {
        "ann@example.com": Record("ann", "example.com"),
        "a@example.com": Record("a", "example.com"),
        "info@example.com": Record("info", "example.com"),
        "bob@example.com": Record("bob", "example.com", location="@x.onmicrosoft.com"),
        "zoe@example.com": Record("zoe", "example.com", Kind.ALIAS, targets=("zoe@elsewhere.example",)),
        "sales@example.com": Record("sales", "example.com", Kind.GROUP, targets=("ann@example.com", "bob@example.com")),
    }
    source = make()
    listing = source.list()
    found = {a: r._replace(targets=tuple(sorted(r.targets))) for a, r in plain(listed(listing)).items()}
    assert found == wanted
    assert listing.skipped.first == [
        (f"CN=card,OU=people,{samba_ad.suffix}", "a contact without a target: nobody's mailbox")
    ]
    live = source.ask([(r.local, r.domain) for r in wanted.values()], 2)
    assert {
        f"{r.local}@{r.domain}": r._replace(entry=None, targets=tuple(sorted(r.targets))) for r in live.records
    } == wanted
    assert live.server == listing.server == samba_ad.url


def test_members_outside_the_base_are_members_live_too(samba_ad: SambaAd, make: Make) -> None:
    """A new group of more than are asked one by one: those who are found by memberOf, and those of other folders."""
    inside = [samba_ad.user(f"u{i}", f"u{i}@example.com") for i in range(21)]
    zoe = samba_ad.contact("zoe", "zoe@example.com", "SMTP:zoe@example.com")
    samba_ad.ldif(
        f"dn: {zoe}\nchangetype: modrdn\nnewrdn: CN=zoe\ndeleteoldrdn: 1\nnewsuperior: OU=groups,{samba_ad.suffix}\n"
    )
    group = samba_ad.group("all", "all@example.com", [*inside, f"CN=zoe,OU=groups,{samba_ad.suffix}"])
    samba_ad.ldif(
        f"dn: {group}\nchangetype: modrdn\nnewrdn: CN=all\ndeleteoldrdn: 1\nnewsuperior: OU=people,{samba_ad.suffix}\n"
    )
    source = make(base=f"OU=people,{samba_ad.suffix}")
    (live,) = source.ask([("all", "example.com")], 5).records
    everyone = {f"u{i}@example.com" for i in range(21)} | {"zoe@example.com"}
    assert set(live.targets) == everyone
    assert set(listed(source.list())["all@example.com"].targets) == everyone


def test_more_members_than_a_range_and_more_people_than_a_page(make: Make) -> None:
    """1,600 members come in ranges of 1,500, and 1,600 people in pages; listed and live the group has them all."""
    samba_ad = SambaAd()  # one of its own: a quick end beats 1,600 deletions
    try:
        many_members(samba_ad, make(samba_ad.url))
    finally:
        samba_ad.close()


def many_members(samba_ad: SambaAd, source: LdapSource) -> None:
    """The test above."""
    people = [f"CN=u{i},OU=people,{samba_ad.suffix}" for i in range(1600)]
    samba_ad.ldif(
        "".join(
            f"dn: {dn}\nobjectClass: contact\nmail: u{i}@example.com\nproxyAddresses: SMTP:u{i}@example.com\n"
            f"targetAddress: SMTP:u{i}@elsewhere.example\n\n"
            for i, dn in enumerate(people)
        )
    )
    samba_ad.group("all", "all@example.com", people)
    found = listed(source.list())
    assert len(found) == 1601
    everyone = {f"u{i}@example.com" for i in range(1600)}
    assert set(found["all@example.com"].targets) == everyone
    live = source.ask([("all", "example.com")], 20).records
    assert [set(record.targets) for record in live] == [everyone]


def test_fifty_addresses_are_one_answer(samba_ad: SambaAd, make: Make) -> None:
    """A full batch with prefixes is answered wholly, whatever the case."""
    samba_ad.ldif(
        "".join(
            f"dn: CN=u{i},OU=people,{samba_ad.suffix}\nobjectClass: contact\nproxyAddresses: smtp:U{i}@Example.com\n"
            f"targetAddress: SMTP:u{i}@elsewhere.example\n\n"
            for i in range(50)
        )
    )
    found = make().ask([(f"u{i}", "example.com") for i in range(50)], 5)
    assert names(found) == {f"u{i}@example.com" for i in range(50)}


@pytest.mark.parametrize("secure", ["ldaps", "starttls"])
def test_tls(samba_ad: SambaAd, make: Make, authority: Authority, secure: str) -> None:
    """With the domain's CA it works, without it is refused by name."""
    samba_ad.user("ann", "ann@example.com")
    url = samba_ad.ldaps if secure == "ldaps" else samba_ad.url
    source = make(url, starttls=secure == "starttls", ca_file=str(authority.ca))
    assert names(source.ask([("ann", "example.com")], 5)) == {"ann@example.com"}
    with pytest.raises(DirectoryError) as caught:
        make(url, starttls=secure == "starttls").ask([("ann", "example.com")], 5)
    assert "ca_file" in caught.value.hint


def test_an_anonymous_search_is_explained(samba_ad: SambaAd, make: Make) -> None:
    """Active Directory wants a bind: the fault says so."""
    with pytest.raises(DirectoryError) as caught:
        make(bind_dn="", bind_password_file="").ask([("ann", "example.com")], 5)
    assert "bind_dn" in caught.value.hint


def test_a_hung_controller_is_a_timeout_and_comes_back(samba_ad: SambaAd, make: Make) -> None:
    """SIGSTOP and SIGCONT."""
    samba_ad.user("ann", "ann@example.com")
    source = make()
    assert names(source.ask([("ann", "example.com")], 5)) == {"ann@example.com"}
    samba_ad.hang()
    try:
        with pytest.raises(DirectoryTimeout):
            source.ask([("ann", "example.com")], 0.3)
    finally:
        samba_ad.cont()
    assert names(source.ask([("ann", "example.com")], 5)) == {"ann@example.com"}


def test_a_controller_that_does_not_say_which_one_it_is(tmp_path: Path) -> None:
    """Where invocationId may not be read nobody knows whose change numbers these are: listed and asked as ever, and
    every sync is a compare."""
    if not samba.BINARY:
        pytest.skip("samba is not installed")
    ldap_connect._rings.clear()
    server = SambaAd()
    try:
        server.user("ann", "ann@example.com")
        bind: dict[str, Any] = {"bind_dn": server.admin, "bind_password_file": str(server.secret_file(tmp_path))}
        source = LdapSource("ad", LdapOptions((server.url,), base=server.base, schema="active-directory", **bind))
        before = source.list()
        assert (len(list(before.records)), before.cookie == b"") == (1, False)
        root = server._run("ldapsearch", "-LLL", "-o", "ldif-wrap=no", "-s", "base", "-b", "", "dsServiceName")
        service = root.partition("dsServiceName: ")[2].splitlines()[0]
        where = f"tdb://{server._data}/private/sam.ldb"
        hidden = "(OD;;RP;bf96798e-0de6-11d0-a285-00aa003049e2;;AU)"  # invocationId, to whoever is logged in
        tool = ["samba-tool", "dsacl", "set", "-s", f"{server._data}/smb.conf"]
        run([*tool, "-H", where, f"--objectdn={service}", f"--sddl={hidden}"])
        listing = source.list()
        assert (len(list(listing.records)), listing.cookie) == (1, b"")
        assert names(source.ask([("ann", "example.com")], 2)) == {"ann@example.com"}
        source.close()
    finally:
        server.close()
