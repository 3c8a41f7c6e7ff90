# SPDX-License-Identifier: Apache-2.0
"""Values that a server makes itself, and those that are no text."""

from __future__ import annotations

from base64 import b64encode
from contextlib import closing
from pathlib import Path

import pytest

from tests.directories.databases import listed
from tests.directories.test_ldap_changes import options_of
from tests.servers import Slapd
from tests.servers.slapd import SUFFIX
from transport.directories import ldap_connect
from transport.directories.ldap import LdapSource

pytestmark = pytest.mark.directory


@pytest.fixture(autouse=True)
def fresh() -> None:
    """No server failed in a test before."""
    ldap_connect._rings.clear()


def test_a_dynamic_group_has_its_members_in_a_listing_too(tmp_path: Path) -> None:
    """slapo-dynlist makes them when the group is read: a listing and a look-up say the same."""
    server = Slapd(start=False)
    text = server.conf.read_text()
    schema = "inetorgperson.schema\n"
    assert schema in text
    text = text.replace(schema, f"{schema}include /etc/ldap/schema/dyngroup.schema\n")
    dynamic = "moduleload dynlist\noverlay dynlist\ndynlist-attrset groupOfURLs memberURL member\n"
    server.conf.write_text(text + dynamic)
    server.start()
    with closing(server):
        for uid in ("ann", "bob"):
            server.person(uid, f"{uid}@example.com")
        server.ldif(
            f"dn: cn=all,ou=groups,{SUFFIX}\nobjectClass: groupOfURLs\nobjectClass: mailPerson\ncn: all\n"
            f"mail: all@example.com\nmemberURL: ldap:///ou=people,{SUFFIX}??sub?(mail=*)\n"
        )
        source = LdapSource("corp", options_of(server, tmp_path))
        group = listed(source.list())["all@example.com"]
        assert sorted(group.targets) == ["ann@example.com", "bob@example.com"]
        assert source.ask([("all", "example.com")], 5).records == [group]
        source.close()


def test_a_location_that_is_no_text_leaves_nobody_out(slapd: Slapd, tmp_path: Path) -> None:
    """Who has one is somewhere that nobody explained, and no stranger."""
    slapd.person("ann", "ann@example.com")
    word = b64encode(b"cloud\xff").decode()
    slapd.ldif(f"dn: uid=ann,{slapd.base}\nchangetype: modify\nadd: userPassword\nuserPassword:: {word}\n")
    source = LdapSource("corp", options_of(slapd, tmp_path, location_attribute="userPassword"))
    (record,) = source.list().records
    assert record.location == "cloud?"
    assert list(source.ask([("ann", "example.com")], 5).records) == [record]
    source.close()


@pytest.mark.parametrize("word", ["X400:c=us;a= ;p=example;s=ann", "notes:ann@example.org@example"])
def test_a_location_that_is_an_address_of_another_kind(slapd: Slapd, tmp_path: Path, word: str) -> None:
    """It is a word like any other that nobody configured, in a listing and live."""
    slapd.person("ann", "ann@example.com", targetAddress=word)
    source = LdapSource("corp", options_of(slapd, tmp_path, location_attribute="targetAddress"))
    (record,) = source.list().records
    assert record.location == word
    assert list(source.ask([("ann", "example.com")], 5).records) == [record]
    source.close()
