# SPDX-License-Identifier: Apache-2.0
"""Content sync on a real slapd, uSNChanged on a real domain controller."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.servers import SambaAd, Slapd
from tests.servers.samba import SUFFIX
from transport.config.settings import LdapOptions
from transport.directories import ldap_connect, ldap_sync
from transport.directories.base import Changes
from transport.directories.ldap import LdapSource
from transport.record import Record

pytestmark = pytest.mark.directory


def people_of(samba_ad: SambaAd, tmp_path: Path) -> LdapOptions:
    """Those in the folder `people` of a domain of Active Directory."""
    return LdapOptions(
        (samba_ad.url,),
        bind_dn=samba_ad.admin,
        bind_password_file=str(samba_ad.secret_file(tmp_path)),
        base=f"OU=people,{SUFFIX}",
        schema="active-directory",
    )


class Mirror:
    """What an index would hold: records by entry, kept up to date by changes alone."""

    def __init__(self, source: LdapSource) -> None:
        self.source = source
        self.held: dict[bytes, set[Record]] = {}
        listing = source.list()
        for record in listing.records:
            assert record.entry is not None
            self.held.setdefault(record.entry, set()).add(record)
        self.cookie = listing.cookie

    def follow(self, limit: int = 1000) -> Changes:
        """Apply what changed."""
        changes = self.source.changes(self.cookie, limit)
        assert not changes.full_needed, changes.why
        for key, records in changes.upserts:
            assert key is not None
            self.held[key] = set(records)
        for key in changes.deletes:
            self.held.pop(key, None)
        if changes.present is not None:
            kept = changes.present | {key for key, _ in changes.upserts}
            self.held = {key: records for key, records in self.held.items() if key in kept}
        self.cookie = changes.cookie
        return changes

    @property
    def addresses(self) -> set[str]:
        """Everyone held."""
        return {f"{r.local}@{r.domain}" for records in self.held.values() for r in records}

    def is_true(self) -> bool:
        """Whether a full listing says the same."""
        return {r for records in self.held.values() for r in records} == set(self.source.list().records)


@pytest.fixture(params=["sessionlog", "no sessionlog"])
def server(request: pytest.FixtureRequest) -> Iterator[Slapd]:
    """A slapd of our own, with and without a log of deletions."""
    ldap_connect._rings.clear()
    made = Slapd(sessionlog=1000 if request.param == "sessionlog" else 0)
    yield made
    made.close()


def options_of(server: Slapd, folder: Path, **more: Any) -> LdapOptions:
    """People with an address, groups with members."""
    return LdapOptions(
        (server.url,),
        bind_dn=server.admin,
        bind_password_file=str(server.secret_file(folder)),
        base=server.suffix,
        schema="openldap",
        **more,
    )


def test_content_sync_follows_every_change(server: Slapd, tmp_path: Path) -> None:
    """Added, changed, renamed, out of the filter, deleted: the mirror is what a listing says, each time."""
    people = [server.person(f"u{i}", f"u{i}@example.com") for i in range(10)]
    mirror = Mirror(LdapSource("corp", options_of(server, tmp_path)))
    assert mirror.cookie
    mirror.follow()
    assert len(mirror.addresses) == 10
    assert mirror.follow().upserts == []

    server.person("new", "new@example.com")
    server.ldif(f"dn: {people[0]}\nchangetype: modify\nreplace: mail\nmail: other@example.com\nmail: u0b@example.com\n")
    mirror.follow()
    assert {"new@example.com", "other@example.com", "u0b@example.com"} <= mirror.addresses
    assert "u0@example.com" not in mirror.addresses
    assert mirror.is_true()

    server.delete(people[1])
    server.ldif(f"dn: {people[2]}\nchangetype: modify\ndelete: mail\n")
    server.ldif(f"dn: {people[3]}\nchangetype: modrdn\nnewrdn: uid=renamed\ndeleteoldrdn: 1\n")
    server.group("sales", "sales@example.com", [people[4], people[5]])
    mirror.follow()
    assert not {"u1@example.com", "u2@example.com"} & mirror.addresses
    assert mirror.is_true()


def test_a_moved_folder_is_compared(server: Slapd, tmp_path: Path) -> None:
    """Whoever is below a folder that moves into the base comes without a change of their own."""
    server.person("ann", "ann@example.com")
    for name in ("ou=away", "ou=team,ou=away"):
        server.ldif(f"dn: {name},{server.suffix}\nobjectClass: organizationalUnit\n")
    server.person("tom", "tom@example.com", ou="team,ou=away")
    mirror = Mirror(LdapSource("corp", replace(options_of(server, tmp_path), base=server.base)))
    mirror.follow()
    assert mirror.addresses == {"ann@example.com"}
    server.ldif(
        f"dn: ou=team,ou=away,{server.suffix}\nchangetype: modrdn\nnewrdn: ou=team\ndeleteoldrdn: 0\n"
        f"newsuperior: {server.base}\n"
    )
    assert "folder" in mirror.source.changes(mirror.cookie, 1000).why
    again = Mirror(mirror.source)
    assert again.addresses == {"ann@example.com", "tom@example.com"}
    again.follow()
    server.person("eve", "eve@example.com", ou="team,ou=people")
    again.follow()
    assert again.is_true()


def test_a_folder_that_is_moved_while_changes_are_read(
    server: Slapd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the look at contextCSN and before the changes themselves: it is compared all the same."""
    server.ldif(f"dn: ou=later,{server.suffix}\nobjectClass: organizationalUnit\nou: later\n")
    server.person("new", "new@example.com", ou="later")
    server.person("ann", "ann@example.com")
    options = replace(options_of(server, tmp_path), base=server.base)
    mirror = Mirror(LdapSource("corp", options))
    mirror.follow()
    look = ldap_sync.context_csn

    def look_then_move(*words: Any) -> list[str]:
        found = look(*words)
        move = f"changetype: modrdn\nnewrdn: ou=later\ndeleteoldrdn: 1\nnewsuperior: {server.base}\n"
        server.ldif(f"dn: ou=later,{server.suffix}\n{move}")
        return found

    monkeypatch.setattr(ldap_sync, "context_csn", look_then_move)
    changes = mirror.source.changes(mirror.cookie, 1000)
    assert changes.full_needed
    assert "folder" in changes.why


def test_members_come_and_go_unseen(tmp_path: Path) -> None:
    """A filter by `memberOf`: no change of the people themselves, so neither an absence nor a presence is for sure."""
    ldap_connect._rings.clear()
    server = Slapd(extra="moduleload memberof\noverlay memberof\n")
    try:
        people = [server.person(f"u{i}", f"u{i}@example.com") for i in range(3)]
        group = server.group("mail", "mail@example.com", people[:2])
        mirror = Mirror(LdapSource("corp", options_of(server, tmp_path, filter=f"(&(mail=*)(memberOf={group}))")))
        assert len(mirror.addresses) == 2
        server.ldif(f"dn: {group}\nchangetype: modify\nreplace: member\nmember: {people[2]}\n")
        changes = mirror.follow()
        assert not mirror.is_true()
        assert (changes.additions, changes.removals) == (False, False)
    finally:
        server.close()


def test_a_change_elsewhere_removes_nobody(server: Slapd, tmp_path: Path) -> None:
    """A write outside the filter may bring a present phase: everybody is present in it."""
    server.person("ann", "ann@example.com")
    mirror = Mirror(LdapSource("corp", options_of(server, tmp_path)))
    server.ldif(f"dn: ou=more,{server.suffix}\nobjectClass: organizationalUnit\nou: more\n")
    mirror.follow()
    assert mirror.addresses == {"ann@example.com"}
    server.delete(f"ou=more,{server.suffix}")
    mirror.follow()
    assert mirror.addresses == {"ann@example.com"}
    assert mirror.is_true()


def test_suspension_and_members_are_followed(server: Slapd, tmp_path: Path) -> None:
    """What a changed entry says of itself arrives with its change."""
    ann = server.person("ann", "ann@example.com")
    bob = server.person("bob", "bob@example.com")
    sales = server.group("sales", "sales@example.com", [ann])
    source = LdapSource("corp", options_of(server, tmp_path, suspended_filter="(accountStatus=disabled)"))
    mirror = Mirror(source)
    server.ldif(f"dn: {ann}\nchangetype: modify\nadd: accountStatus\naccountStatus: disabled\n")
    server.ldif(f"dn: {sales}\nchangetype: modify\nadd: member\nmember: {bob}\n")
    mirror.follow()
    assert mirror.is_true()
    assert [r.active for rs in mirror.held.values() for r in rs if r.local == "ann"] == [False]


def test_doubt_asks_for_a_compare(server: Slapd, tmp_path: Path) -> None:
    """Too much, garbage, another server, a server made empty and new: never a wrong set of deletions."""
    for i in range(30):
        server.person(f"u{i}", f"u{i}@example.com")
    source = LdapSource("corp", options_of(server, tmp_path))
    listing = source.list()
    assert sum(1 for _ in listing.records) == 30
    for i in range(12):
        server.person(f"n{i}", f"n{i}@example.com")
    assert source.changes(listing.cookie, 10).full_needed
    for garbage in (b"", b"garbage", b"[]", b'{"server": "ldap://other"}'):
        assert source.changes(garbage, 1000).full_needed
    later = source.list()
    list(later.records)
    server.restart(empty=True)
    changes = source.changes(later.cookie, 1000)
    assert (changes.full_needed, changes.present, changes.deletes) == (True, None, ())
    assert "no entry is present" in changes.why


def test_people_without_keys_are_not_followed_by_key(tmp_path: Path) -> None:
    """Where entryUUID may not be read, nobody knows whose deletion the server tells of: every sync is a compare."""
    hidden = (
        "access to attrs=entryUUID by * none\naccess to attrs=userPassword by anonymous auth\naccess to * by * read"
    )
    private = Slapd(extra=hidden)
    try:
        private.person("ann", "ann@example.com")
        reader = f"cn=reader,{private.suffix}"
        private.ldif(f"dn: {reader}\nobjectClass: person\ncn: reader\nsn: reader\nuserPassword: {private.password}\n")
        source = LdapSource("corp", replace(options_of(private, tmp_path), bind_dn=reader))
        listing = source.list()
        assert [(record.local, record.entry) for record in listing.records] == [("ann", None)]
        assert listing.cookie == b""
    finally:
        private.close()


def test_a_server_without_content_sync_has_no_cookie(tmp_path: Path) -> None:
    """Then every sync is a compare."""
    bare = Slapd(content_sync=False)
    try:
        bare.person("ann", "ann@example.com")
        source = LdapSource("corp", options_of(bare, tmp_path))
        listing = source.list()
        assert [r.local for r in listing.records] == ["ann"]
        assert listing.cookie == b""
        assert source.changes(listing.cookie, 10).full_needed
    finally:
        bare.close()


def test_active_directory(samba_ad: SambaAd, tmp_path: Path) -> None:
    """Added, changed, without an address any more, deleted: followed by uSNChanged and objectGUID."""
    ldap_connect._rings.clear()
    people = [samba_ad.user(f"u{i}", f"u{i}@example.com", [f"SMTP:u{i}@example.com"]) for i in range(6)]
    options = LdapOptions(
        (samba_ad.url,),
        bind_dn=samba_ad.admin,
        bind_password_file=str(samba_ad.secret_file(tmp_path)),
        base=samba_ad.base,
        schema="active-directory",
        suspended_filter="(description=suspended)",
    )
    mirror = Mirror(LdapSource("ad", options))
    assert mirror.cookie
    mirror.follow()
    assert len(mirror.addresses) == 6
    new = samba_ad.user("new", "new@example.com", ["SMTP:new@example.com", "smtp:alias@example.com"])
    samba_ad.group("sales", "sales@example.com", [people[0], new])
    samba_ad.ldif(f"dn: {people[1]}\nchangetype: modify\nadd: targetAddress\ntargetAddress: SMTP:x@cloud.example\n")
    samba_ad.ldif(f"dn: {people[2]}\nchangetype: modify\ndelete: mail\n-\ndelete: proxyAddresses\n")
    samba_ad.ldif(f"dn: {people[3]}\nchangetype: modify\nadd: description\ndescription: suspended\n")
    samba_ad.delete(people[4])
    mirror.follow()
    assert {"new@example.com", "alias@example.com", "sales@example.com"} <= mirror.addresses
    assert not {"u2@example.com", "u4@example.com"} & mirror.addresses
    assert mirror.is_true()
    assert mirror.follow(1000).upserts == []
    assert mirror.source.changes(mirror.cookie.replace(b'"service": "', b'"service": "x'), 1000).full_needed
    first = Mirror(mirror.source).cookie
    for i in range(3):
        samba_ad.user(f"n{i}", f"n{i}@example.com")
    assert mirror.source.changes(first, 2).full_needed


def test_keys_are_those_of_the_server(server: Slapd, tmp_path: Path) -> None:
    """The key of a record is its entry's entryUUID, which is what changes speak of."""
    server.person("ann", "ann@example.com")
    source = LdapSource("corp", options_of(server, tmp_path))
    (record,) = source.list().records
    assert record.entry is not None
    assert UUID(bytes=record.entry).version in (1, 4)


def test_a_moved_folder_of_active_directory_is_compared(samba_ad: SambaAd, tmp_path: Path) -> None:
    """An organizational unit that moves into the base changes no number of those below it."""
    ldap_connect._rings.clear()
    samba_ad.user("ann", "ann@example.com")
    samba_ad.ldif(f"dn: OU=team,{SUFFIX}\nchangetype: add\nobjectClass: organizationalUnit\nou: team\n")
    tom = samba_ad.user("tom", "tom@example.com")
    samba_ad.ldif(f"dn: {tom}\nchangetype: modrdn\nnewrdn: CN=tom\ndeleteoldrdn: 1\nnewsuperior: OU=team,{SUFFIX}\n")
    options = people_of(samba_ad, tmp_path)
    mirror = Mirror(LdapSource("ad", options))
    assert mirror.addresses == {"ann@example.com"}
    samba_ad.ldif(
        f"dn: OU=team,{SUFFIX}\nchangetype: modrdn\nnewrdn: OU=team\ndeleteoldrdn: 1\nnewsuperior: OU=people,{SUFFIX}\n"
    )
    try:
        assert "folder" in mirror.source.changes(mirror.cookie, 1000).why
        again = Mirror(mirror.source)
        assert again.addresses == {"ann@example.com", "tom@example.com"}
        again.follow()
    finally:
        for dn in (f"CN=tom,OU=team,OU=people,{SUFFIX}", f"OU=team,OU=people,{SUFFIX}", f"CN=ann,OU=people,{SUFFIX}"):
            samba_ad.delete(dn)
