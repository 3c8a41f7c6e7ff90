# SPDX-License-Identifier: Apache-2.0
"""The whole way from each kind of directory server to the mailbox, and through its faults: nothing is ever lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.site import PEOPLE, Cleaned, Site
from tests.mta.waiting import wait_for
from tests.servers import MariaDb, Postgres, SambaAd, Slapd
from tests.servers.sqlite import QUERY

SCRIPT = (
    "CREATE TABLE recipients (address VARCHAR(190), kind VARCHAR(10), targets TEXT, location VARCHAR(20), active INT);"
    + "".join(
        "INSERT INTO recipients VALUES ('{}', '{}', '{}', {}, {});".format(*row[:3], "NULL", row[4]) for row in PEOPLE
    )
)


def sql(url: str) -> dict[str, str]:
    """A database as `directories.here`."""
    return {"type": '"sql"', "url": f'"{url}"', "query": f'"{QUERY}"'}


def ldap(server: Slapd | SambaAd, site_folder: str, schema: str) -> dict[str, str]:
    """An LDAP server as `directories.here`."""
    return {
        "type": '"ldap"',
        "url": f'["{server.url}"]',
        "bind_dn": f'"{server.admin}"',
        "bind_password_file": f'"{site_folder}"',
        "base": f'"{server.suffix}"',
        "schema": f'"{schema}"',
    }


def try_main(site: Site) -> None:
    """Here, there, unknown and a mixed group, in one message."""
    sent = site.send("ann@example.com", "bob@example.com", "zed@example.com", "sales@example.com")
    assert sent.codes == {
        "ann@example.com": 250,
        "bob@example.com": 250,
        "zed@example.com": 550,
        "sales@example.com": 250,
    }
    site.arrives(sent, here=["ann@example.com"], there=["bob@example.com"], out=["outside@world.test"])


@pytest.mark.directory
def test_postgresql(cleaned: Cleaned, postgres: Postgres) -> None:
    """PostgreSQL says who is here."""
    url = postgres.database("e2e", SCRIPT).replace("postgresql://", "postgresql+psycopg://")

    try_main(Site(cleaned, here=sql(url)).install())


@pytest.mark.directory
def test_mariadb(cleaned: Cleaned, mariadb: MariaDb) -> None:
    """MariaDB says who is here."""
    url = mariadb.database("e2e", SCRIPT)

    try_main(Site(cleaned, here=sql(url)).install())


def fill(server: Slapd) -> None:
    """The same people in OpenLDAP."""
    ann = server.person("ann", "ann@example.com")
    server.person("carl", "carl@example.com")
    outside = server.person("outside", "outside@world.test")
    bob = server.person("bobext", "bob@elsewhere.test")
    del outside, bob
    server.ldif(
        f"dn: cn=sales,ou=groups,{server.suffix}\nobjectClass: groupOfNames\nobjectClass: mailPerson\ncn: sales\n"
        f"mail: sales@example.com\nmember: {ann}\nmailForwardingAddress: bob@example.com\n"
        "mailForwardingAddress: outside@world.test\n"
    )


def openldap(server: Slapd, secret: str) -> dict[str, str]:
    """OpenLDAP with people and groups."""
    return ldap(server, secret, "openldap") | {
        "filter": '"(|(objectClass=inetOrgPerson)(objectClass=groupOfNames))"',
        "target_attributes": '["mailForwardingAddress"]',
        "member_attribute": '"member"',
    }


@pytest.mark.directory
def test_openldap(cleaned: Cleaned, slapd: Slapd, ldap_secret: object) -> None:
    """OpenLDAP says who is here; a group has members by DN and outside addresses."""
    fill(slapd)

    try_main(Site(cleaned, here=openldap(slapd, str(ldap_secret))).install())


@pytest.mark.directory
def test_active_directory(cleaned: Cleaned, samba_ad: SambaAd) -> None:
    """A domain controller lists people by proxyAddresses, a disabled shared mailbox and a group among them."""
    site_secret = samba_ad.secret_file(samba_ad.folder)
    ann = samba_ad.user("ann", "ann@example.com", ["SMTP:ann@example.com", "smtp:a.smith@example.com"])
    samba_ad.user("shared", "shared@example.com", disabled=True)
    samba_ad.group("sales", "sales@example.com", [ann])
    site = Site(cleaned, here=ldap(samba_ad, str(site_secret), "active-directory")).install()

    sent = site.send(
        "ann@example.com",
        "a.smith@example.com",
        "shared@example.com",
        "sales@example.com",
        "bob@example.com",
        "zed@example.com",
    )

    assert list(sent.codes.values()) == [250, 250, 250, 250, 250, 550]
    site.arrives(
        sent,
        here=["ann@example.com", "a.smith@example.com", "shared@example.com"],
        there=["bob@example.com"],
    )


@pytest.fixture
def own_slapd(cleaned: Cleaned) -> Slapd:
    """A slapd that may be broken."""
    server = Slapd()
    cleaned(server.close)
    return server


def break_stop(server: Slapd) -> None:
    """The server is down."""
    server.stop()


def break_hang(server: Slapd) -> None:
    """The server accepts and is silent."""
    server.hang()


def break_empty(server: Slapd) -> None:
    """The server comes back with nobody in it."""
    server.restart(empty=True)


MEND: dict[Callable[[Slapd], None], Callable[[Slapd], None]] = {
    break_stop: lambda server: server.start(),
    break_hang: lambda server: server.cont(),
}


@pytest.mark.directory
@pytest.mark.parametrize("fault", [break_stop, break_hang, break_empty])
def test_directory_fault(
    cleaned: Cleaned, own_slapd: Slapd, ldap_secret: object, fault: Callable[[Slapd], None]
) -> None:
    """slapd stopped, hung, empty: the listed flow, the unlisted are deferred, and get their answer afterwards."""
    fill(own_slapd)
    site = Site(
        cleaned,
        here=openldap(own_slapd, str(ldap_secret)) | {"fresh_for": '"1s"', "sync_every": '"1s"'},
    ).install()
    fault(own_slapd)

    sent = site.send("ann@example.com", "bob@example.com", "sales@example.com")
    assert set(sent.codes.values()) == {250}
    site.arrives(sent, here=["ann@example.com"], there=["bob@example.com"], out=["outside@world.test"])
    # As soon as what was known is older than fresh_for, a stranger is deferred, and never refused again.
    numbers = iter(range(1000))

    def deferred() -> bool:
        name = f"zed{next(numbers)}@example.com"
        return site.send(name, probe=True).codes[name] in (450, 451)

    wait_for(deferred, 30, site.tails)
    assert [deferred() for _ in range(5)] == [True] * 5
    sent = site.send("ann@example.com", "bob@example.com")
    site.arrives(sent, here=["ann@example.com"], there=["bob@example.com"])

    if fault is break_empty:
        own_slapd.stop()
        own_slapd.restart()
        fill(own_slapd)
    else:
        MEND[fault](own_slapd)

    def settled() -> bool:
        name = f"zed{next(numbers)}@example.com"
        return site.send(name, probe=True).codes[name] == 550

    wait_for(settled, 60, site.tails)
    own_slapd.person("late", "late@example.com")
    wait_for(lambda: site.send("late@example.com", probe=True).codes["late@example.com"] == 250, 30, site.tails)


@pytest.mark.directory
def test_what_waited_is_delivered(cleaned: Cleaned, own_slapd: Slapd, ldap_secret: object) -> None:
    """Mail accepted before a fault waits in the queue, and is delivered when the directory is back."""
    fill(own_slapd)
    site = Site(
        cleaned,
        here=openldap(own_slapd, str(ldap_secret)) | {"fresh_for": '"1s"'},
        domain={"unknown": '"relay"', "remote": "[]"},
    ).install()
    site.secondary.stop()
    sent = site.send("zed@example.com")
    assert sent.codes == {"zed@example.com": 250}
    wait_for(lambda: site.mta.delayed(), 20, site.tails)

    own_slapd.hang()

    def asked_in_vain() -> bool:
        site.mta.flush()
        return "address resolver failure" in str(site.mta.delayed())

    wait_for(asked_in_vain, 60, site.tails, step=0.5)  # Postfix keeps its last route for 30 s
    site.secondary.start()
    own_slapd.cont()

    def delivered() -> bool:
        site.mta.flush()
        return site.secondary.recipients(sent.subject) == ["zed@example.com"]

    wait_for(delivered, 60, site.tails, step=0.5)
