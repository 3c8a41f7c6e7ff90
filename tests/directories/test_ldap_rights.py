# SPDX-License-Identifier: Apache-2.0
"""A right that is lost for one attribute or one part of the tree: what is hidden is not what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Slapd
from tests.servers.slapd import PASSWORD, SUFFIX
from transport.config.settings import LdapOptions
from transport.directories import ldap_connect
from transport.directories.base import DirectoryError
from transport.directories.ldap import LdapSource
from transport.directories.ldap_rights import Rights

pytestmark = pytest.mark.directory

READER = f"cn=reader,{SUFFIX}"
_REST = "access to attrs=userPassword by anonymous auth\naccess to * by * read\n"
ANN, NEW = ("ann", "example.com"), ("new", "example.com")


class Guarded:
    """A slapd that is read by a bind DN whose rights can be changed."""

    def __init__(self, folder: Path) -> None:
        ldap_connect._rings.clear()
        self.server = Slapd(extra=f"#rights\n{_REST}")
        self.folder = folder
        self.server.ldif(f"dn: {READER}\nobjectClass: person\ncn: reader\nsn: reader\nuserPassword: {PASSWORD}\n")

    def allow(self, rights: str) -> None:
        """Other rights from now on, before those that let everybody read everything."""
        head, _, tail = self.server.conf.read_text().partition("#rights\n")
        tail = tail[tail.index(_REST) :]
        self.server.conf.write_text(f"{head}#rights\n{rights}{tail}")
        self.server.restart()

    def source(self, **more: Any) -> LdapSource:
        """It, as the bind DN sees it."""
        known: dict[str, Any] = {
            "bind_dn": READER,
            "bind_password_file": str(self.server.secret_file(self.folder)),
            "base": self.server.base,
            "address_attributes": ("mail", "mailAlternateAddress"),
        }
        return LdapSource("corp", LdapOptions((self.server.url,), **known | more))


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    made = Guarded(tmp_path)
    yield made
    made.server.close()


@pytest.mark.parametrize(
    ("hidden", "keys"),
    [
        ("mailHost", {"location_attribute": "mailHost"}),
        ("accountStatus", {"suspended_filter": "(&(objectClass=mailPerson)(accountStatus=disabled))"}),
        ("mailAlternateAddress", {}),
        ("mailForwardingAddress", {"target_attributes": ("mailForwardingAddress",)}),
        ("mailKind", {"kind_attribute": "mailKind"}),
        ("mailHost", {"filter": "(&(mail=*)(!(mailHost=gone)))"}),
    ],
)
def test_an_attribute_that_is_hidden_is_not_missing(guarded: Guarded, hidden: str, keys: dict[str, Any]) -> None:
    """Nobody is listed as here, active or gone, and nobody is found or denied, while an attribute that says so cannot
    be read; whether anybody has it or not."""
    server = guarded.server
    server.person("ann", "ann@example.com", mailHost="cloud", mailAlternateAddress="a@example.com")
    server.person("bob", "bob@example.com", accountStatus="disabled", mailKind="mailbox")
    source = guarded.source(**keys)
    before = set(source.list().records)
    assert len(before) == 3
    guarded.allow(f"access to attrs={hidden} by * none\n")
    for asked in (ANN, NEW):
        with pytest.raises(DirectoryError, match=f"may not read {hidden} of"):
            source.ask([asked], 5)
    with pytest.raises(DirectoryError, match=f"may not read {hidden} of"):
        list(source.list().records)
    guarded.allow("")
    assert set(source.list().records) == before
    assert [record.local for record in source.ask([ANN, NEW], 5).records] == ["ann"]


def test_an_attribute_that_is_hidden_in_one_part_of_the_tree(guarded: Guarded) -> None:
    """Rights of one folder alone count as those of all."""
    server = guarded.server
    server.ldif(f"dn: ou=sales,{server.base}\nobjectClass: organizationalUnit\nou: sales\n")
    server.person("ann", "ann@example.com")
    server.person("sue", "sue@example.com", ou="sales,ou=people", mailHost="cloud")
    guarded.allow(f'access to dn.subtree="ou=sales,{server.base}" attrs=mailHost by * none\n')
    with pytest.raises(DirectoryError, match="may not read mailHost of uid=sue"):
        list(guarded.source(location_attribute="mailHost").list().records)


def test_a_change_is_not_taken_while_an_attribute_is_hidden(guarded: Guarded) -> None:
    """Who changes meanwhile does not come over to this side by it."""
    server = guarded.server
    ann = server.person("ann", "ann@example.com", mailHost="cloud")
    source = guarded.source(location_attribute="mailHost")
    listing = source.list()
    assert [record.location for record in listing.records] == ["cloud"]
    guarded.allow("access to attrs=mailHost by * none\n")
    server.ldif(f"dn: {ann}\nchangetype: modify\nadd: mail\nmail: ann2@example.com\n")
    with pytest.raises(DirectoryError, match="may not read mailHost of"):
        source.changes(listing.cookie, 1000)


@pytest.mark.parametrize(
    "rights",
    [
        'access to dn.children="ou=sales,{base}" by * none\n',
        'access to dn.subtree="ou=sales,{base}" by * none\n',
        'access to dn.subtree="ou=sales,{base}" by * disclose\n',
        'access to dn.base="uid=sam,ou=sales,{base}" by * none\n',
        'access to dn.base="uid=sam,ou=sales,{base}" attrs=mail by * none\n',
    ],
)
def test_who_is_hidden_has_not_left(guarded: Guarded, rights: str) -> None:
    """A folder or a person that bind_dn may no longer see is no removal, nobody is a stranger by it, and a group keeps
    its members."""
    server = guarded.server
    server.ldif(f"dn: ou=sales,{server.base}\nobjectClass: organizationalUnit\nou: sales\n")
    people = [server.person("ann", "ann@example.com")]
    people += [server.person(uid, f"{uid}@example.com", ou="sales,ou=people") for uid in ("sue", "sam")]
    server.group("all", "all@example.com", people)
    source = guarded.source(base=server.suffix, filter="(mail=*)", member_attribute="member")
    before = set(source.list().records)
    assert len(before) == 4
    guarded.allow(rights.format(base=server.base))
    with pytest.raises(DirectoryError, match=r"none of them|fewer|insufficient"):
        list(source.list().records)
    assert source.ask([("sam", "example.com"), NEW], 5).doubt
    guarded.allow("")
    assert set(source.list().records) == before
    assert source.ask([NEW], 5).doubt == ""
    server.delete(people[2])
    assert len(list(source.list().records)) == 3


def test_a_folder_that_became_a_referral_has_not_left(guarded: Guarded) -> None:
    """Its people are on another server now, for which the referral stands: that is no removal."""
    server = guarded.server
    folder = f"ou=sales,{server.base}"
    server.ldif(f"dn: {folder}\nobjectClass: organizationalUnit\nou: sales\n")
    server.person("ann", "ann@example.com")
    sue = server.person("sue", "sue@example.com", ou="sales,ou=people")
    source = guarded.source(filter="(mail=*)")
    assert len(list(source.list().records)) == 2
    server.delete(sue)
    server.delete(folder)
    server.ldif(
        f"dn: {folder}\nobjectClass: referral\nobjectClass: extensibleObject\nou: sales\n"
        f"ref: ldap://other.example.com/{folder}\n"
    )
    with pytest.raises(DirectoryError, match="referral"):
        list(source.list().records)
    assert "referral" in source.ask([NEW], 5).doubt


def test_an_attribute_that_the_server_does_not_have_is_missing(guarded: Guarded) -> None:
    """A name that no schema of the server knows hides nothing."""
    guarded.server.person("ann", "ann@example.com")
    source = guarded.source(location_attribute="noSuchThing", suspended_filter="(|(noSuchLock=TRUE)(mailHost=off))")
    assert [record.local for record in source.list().records] == ["ann"]
    assert [record.local for record in source.ask([ANN, NEW], 5).records] == ["ann"]


class _Plain:
    """A connection to a server that knows no `(!…)`, as some simple ones, and no comparison."""

    server = "plain"
    read_at = 0.0

    def search(self, dn: str, wanted: str, *_: object, **__: object) -> list[dict[str, Any]]:
        """Entries, where the filter is understood."""
        return [] if "!" in wanted else [{"type": "searchResEntry", "dn": dn, "raw_attributes": {}}]

    def compared(self, *_: object) -> int:
        """unwillingToPerform."""
        return 53


def test_a_server_that_knows_no_not() -> None:
    """Where the server cannot say what it hides, nothing is taken for hidden, and the directory is read."""
    rights = Rights(LdapOptions(("ldap://plain.example.com",), address_attributes=("mail",)))
    plain: Any = _Plain()
    rights.listed(plain, {b"ou=people": "uid=ann,ou=people"})
