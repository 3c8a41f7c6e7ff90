# SPDX-License-Identifier: Apache-2.0
"""Trees of several databases, and people who are moved out of the base: nobody's absence is believed too early."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.directories.test_ldap_changes import Mirror, options_of, people_of
from tests.servers import SambaAd, Slapd
from tests.servers.process import run, tool
from tests.servers.samba import SUFFIX
from transport.config.settings import LdapOptions
from transport.directories import ldap_connect
from transport.directories.base import DirectoryError
from transport.directories.ldap import LdapSource

pytestmark = pytest.mark.directory


@pytest.fixture(autouse=True)
def fresh() -> None:
    """No server failed in a test before."""
    ldap_connect._rings.clear()


def test_who_is_moved_out_of_the_base_of_active_directory(samba_ad: SambaAd, tmp_path: Path) -> None:
    """One by one into a folder for leavers, with and without the address, and back again: followed as it happens."""
    people = [samba_ad.user(f"u{i}", f"u{i}@example.com") for i in range(4)]
    base = f"OU=people,{SUFFIX}"
    options = LdapOptions(
        (samba_ad.url,),
        bind_dn=samba_ad.admin,
        bind_password_file=str(samba_ad.secret_file(tmp_path)),
        base=base,
        schema="active-directory",
    )

    def move(name: str, to: str) -> None:
        samba_ad.ldif(
            f"dn: {name}\nchangetype: modrdn\nnewrdn: {name.partition(',')[0]}\ndeleteoldrdn: 1\nnewsuperior: {to}\n"
        )

    mirror = Mirror(LdapSource("ad", options))
    mirror.follow()
    for name in people[:2]:
        move(name, f"OU=groups,{SUFFIX}")
    samba_ad.ldif(f"dn: {people[1].replace('OU=people', 'OU=groups')}\nchangetype: modify\ndelete: mail\n")
    assert mirror.follow().removals
    assert mirror.addresses == {"u2@example.com", "u3@example.com"}
    move(people[0].replace("OU=people", "OU=groups"), base)
    mirror.follow()
    assert mirror.addresses == {"u0@example.com", "u2@example.com", "u3@example.com"}
    assert mirror.is_true()


def test_many_who_are_deleted_at_once_in_active_directory(
    samba_ad: SambaAd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a page of them are all told; more than is followed ends in a compare, and never in silence."""
    monkeypatch.setattr(ldap_connect, "PAGE", 2)
    people = [samba_ad.user(f"u{i}", f"u{i}@example.com") for i in range(6)]
    options = people_of(samba_ad, tmp_path)
    mirror = Mirror(LdapSource("ad", options))
    mirror.follow()
    for name in people[:5]:
        samba_ad.delete(name)
    assert mirror.source.changes(mirror.cookie, 4).full_needed
    changes = mirror.follow(5)
    assert (len(changes.deletes), changes.removals, mirror.addresses) == (5, True, {"u5@example.com"})


@pytest.mark.parametrize("glue", ["", "overlay glue\n"])
def test_a_tree_that_is_glued_together(tmp_path: Path, glue: str) -> None:
    """Where a database below has no content sync of its own, "nothing has changed" proves nothing: nobody's absence is
    believed after it, and removals are left to the compare."""
    server = Slapd(start=False)
    below = f"ou=below,{server.base}"
    (server.folder / "below").mkdir()
    head, _, tail = server.conf.read_text().partition("database mdb\n")
    database = f"database mdb\nsuffix {below}\nsubordinate\nrootdn {server.admin}\ndirectory {server.folder}/below\n"
    tail = tail.replace("overlay syncprov\n", f"{glue}overlay syncprov\n")
    server.conf.write_text(f"{head}{database}database mdb\n{tail}")
    server.start()
    try:
        server.ldif(f"dn: {below}\nobjectClass: organizationalUnit\nou: below\n")
        server.person("ann", "ann@example.com")
        server.person("bob", "bob@example.com", ou="below,ou=people")
        server.person("last", "last@example.com")
        source = LdapSource("corp", options_of(server, tmp_path))
        mirror = Mirror(source)
        assert mirror.addresses == {"ann@example.com", "bob@example.com", "last@example.com"}
        server.person("new", "new@example.com", ou="below,ou=people")
        changes = mirror.follow()
        assert (changes.additions, changes.removals) == (False, False)
        server.person("eve", "eve@example.com")
        changes = mirror.follow()
        assert (changes.additions, changes.removals) == (False, False)
        assert {"eve@example.com", "new@example.com"} <= mirror.addresses
    finally:
        server.close()


def test_a_tree_whose_parts_have_content_sync_of_their_own(tmp_path: Path) -> None:
    """What changes below is not in the contextCSN above: nobody's absence is believed, though both parts have one."""
    server = Slapd(start=False)
    below = f"ou=below,{server.base}"
    (server.folder / "below").mkdir()
    head, _, tail = server.conf.read_text().partition("database mdb\n")
    database = f"database mdb\nsuffix {below}\nsubordinate\nrootdn {server.admin}\ndirectory {server.folder}/below\n"
    server.conf.write_text(f"{head}{database}overlay syncprov\ndatabase mdb\n{tail}")
    server.start()
    try:
        server.ldif(f"dn: {below}\nobjectClass: organizationalUnit\nou: below\n")
        server.person("bob", "bob@example.com", ou="below,ou=people")
        server.person("ann", "ann@example.com")
        mirror = Mirror(LdapSource("corp", options_of(server, tmp_path)))
        server.person("new", "new@example.com", ou="below,ou=people")
        changes = mirror.follow()
        assert (changes.additions, changes.removals) == (False, False)
    finally:
        server.close()


def test_a_part_of_the_tree_that_is_down(tmp_path: Path) -> None:
    """A proxy glued into the tree whose server is down gives nobody, and the search succeeds: that is a fault, of the
    listing and of who is not found, and nobody leaves the index."""
    remote, server = Slapd(), Slapd(start=False)
    below = f"ou=below,{server.base}"
    head, _, tail = (
        server.conf.read_text().replace("back_mdb", "back_mdb\nmoduleload back_ldap").partition("database mdb\n")
    )
    bind = f"idassert-bind bindmethod=simple binddn={remote.admin} credentials={remote.password} mode=none"
    proxy = f'database ldap\nsuffix {below}\nsubordinate\nuri {remote.url}\n{bind}\nidassert-authzFrom "*"\n'
    server.conf.write_text(f"{head}{proxy}database mdb\n{tail}")
    try:
        remote.ldif(f"dn: {below}\nobjectClass: organizationalUnit\nou: below\n")
        remote.person("bob", "bob@example.com", ou="below,ou=people")
        server.start()
        server.person("ann", "ann@example.com")
        source = LdapSource("corp", options_of(server, tmp_path))
        names = [("ann", "example.com"), ("stranger", "example.com")]
        assert len(list(source.list().records)) == 2
        assert source.ask(names, 2).doubt == ""
        remote.stop()
        with pytest.raises(DirectoryError, match=r"below,.* does not answer"):
            list(source.list().records)
        found = source.ask(names, 2)
        assert ([record.local for record in found.records], "below" in found.doubt) == (["ann"], True)
        remote.start()
        assert len(list(source.list().records)) == 2
        assert source.ask(names, 2).doubt == ""
        remote.delete(f"uid=bob,{below}")
        assert [record.local for record in source.list().records] == ["ann"]
        source.close()
    finally:
        server.close()
        remote.close()


def test_content_sync_of_another_database_is_none(tmp_path: Path) -> None:
    """A replica, with a contextCSN and without syncprov, beside a database that has it: every sync is a compare."""
    server = Slapd(start=False, content_sync=False)
    (server.folder / "other").mkdir()
    other = f"database mdb\nsuffix dc=other\ndirectory {server.folder}/other\noverlay syncprov\n"
    server.conf.write_text(server.conf.read_text() + other)
    stamp = "20260101000000.000000Z#000000#000#000000"
    server.load(
        f"dn: uid=ann,{server.base}\nobjectClass: inetOrgPerson\nuid: ann\ncn: ann\nsn: ann\nmail: ann@example.com\n"
        f"entryCSN: {stamp}\n"
    )
    run(
        [tool("slapadd"), "-q", "-w", "-f", str(server.conf)],
        stdin=f"dn: ou=more,{server.suffix}\nobjectClass: organizationalUnit\n",
    )
    server.start()
    try:
        source = LdapSource("corp", options_of(server, tmp_path))
        listing = source.list()
        assert [record.local for record in listing.records] == ["ann"]
        assert listing.cookie == b""
    finally:
        server.close()
