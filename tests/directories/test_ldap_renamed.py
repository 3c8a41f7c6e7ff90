# SPDX-License-Identifier: Apache-2.0
"""Entries that get another name or place while they are listed, page by page and search by search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.directories.test_ldap_changes import options_of
from tests.servers import Slapd
from tests.servers.slapd import SUFFIX
from transport.directories import ldap_connect
from transport.directories.ldap import LdapSource
from transport.directories.ldap_connect import Link
from transport.directories.ldap_entries import Entries, Entry
from transport.record import Record

pytestmark = pytest.mark.directory


@pytest.fixture
def source(slapd: Slapd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LdapSource]:
    """Twenty people in pages of two."""
    ldap_connect._rings.clear()
    monkeypatch.setattr(ldap_connect, "PAGE", 2)
    for i in range(20):
        slapd.person(f"u{i}", f"u{i}@example.com", **({"accountStatus": "disabled"} if i > 15 else {}))
    made = LdapSource("corp", options_of(slapd, tmp_path, suspended_filter="(accountStatus=disabled)"))
    yield made
    made.close()


def renamed(slapd: Slapd, dn: str, rdn: str) -> str:
    """Another name and, of people, another folder; gives the new DN."""
    to = f"ou=groups,{SUFFIX}"
    slapd.ldif(f"dn: {dn}\nchangetype: modrdn\nnewrdn: {rdn}\ndeleteoldrdn: 1\nnewsuperior: {to}\n")
    return f"{rdn},{to}"


def rest(first: Record, records: Iterator[Record]) -> dict[str, Record]:
    """All of a listing by local part."""
    return {record.local: record for record in (first, *records)}


def test_a_member_that_is_renamed_meanwhile_stays_in_its_group(slapd: Slapd, source: LdapSource) -> None:
    """The group names it anew when the listing comes to it."""
    last = f"uid=u19,{slapd.base}"
    group = slapd.group("all", "all@example.com", [f"uid=u0,{slapd.base}", last])
    records = iter(source.list().records)
    first = next(records)
    new = renamed(slapd, last, "uid=other")
    slapd.ldif(f"dn: {group}\nchangetype: modify\ndelete: member\nmember: {last}\n-\nadd: member\nmember: {new}\n")
    found = rest(first, records)
    assert sorted(found["all"].targets) == ["u0@example.com", "u19@example.com"]


def test_a_group_that_is_renamed_meanwhile_keeps_its_members(slapd: Slapd, source: LdapSource) -> None:
    """And stays a group of them."""
    group = slapd.group("all", "all@example.com", [f"uid=u0,{slapd.base}"])
    records = iter(source.list().records)
    first = next(records)
    renamed(slapd, group, "cn=everybody")
    assert rest(first, records)["all"].targets == ("u0@example.com",)


def test_a_group_that_is_made_meanwhile_has_its_members(slapd: Slapd, source: LdapSource) -> None:
    """It is no group of nobody until the next listing."""
    records = iter(source.list().records)
    first = next(records)
    slapd.group("all", "all@example.com", [f"uid=u0,{slapd.base}"])
    assert rest(first, records)["all"].targets == ("u0@example.com",)


def test_many_groups_of_nobody_are_not_asked_one_by_one(
    slapd: Slapd, source: LdapSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is made meanwhile has its members, and the others cost no question each."""
    for i in range(30):
        slapd.person(f"empty{i}", f"empty{i}@example.com", mailKind="group")
    source = LdapSource("corp", replace(source.options, kind_attribute="mailKind"))
    asked: list[str] = []
    again = Entries.members_again

    def counted(self: Entries, link: Link, entry: Entry) -> Sequence[bytes]:
        asked.append(entry.primary)
        return again(self, link, entry)

    monkeypatch.setattr(Entries, "members_again", counted)
    records = iter(source.list().records)
    first = next(records)
    slapd.ldif(f"dn: uid=empty29,{slapd.base}\nchangetype: delete\n")
    made = slapd.group("empty29", "empty29@example.com", [f"uid=u0,{slapd.base}"])
    slapd.ldif(f"dn: {made}\nchangetype: modify\nadd: mailKind\nmailKind: group\n")
    found = rest(first, records)
    assert asked == ["empty29@example.com"]
    assert [found[f"empty{i}"].targets for i in (28, 29)] == [(), ("u0@example.com",)]
    assert len(found) == 50


def test_who_is_renamed_meanwhile_stays_suspended(slapd: Slapd, source: LdapSource) -> None:
    """A name does not make anybody active."""
    records = iter(source.list().records)
    first = next(records)
    renamed(slapd, f"uid=u19,{slapd.base}", "uid=other")
    assert not rest(first, records)["u19"].active
