# SPDX-License-Identifier: Apache-2.0
"""What `check` finds in directories of each kind, with real servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checks.zone import Zone
from tests.servers.mariadb import MariaDb
from tests.servers.postgres import Postgres
from tests.servers.slapd import Slapd
from transport.checks import directories, overview
from transport.checks.directories import DirectoryResult
from transport.checks.dns import Dns
from transport.config.load import load_text

Cleaned = Callable[[Callable[[], object]], None]

MANY = """
CREATE TABLE recipients (address varchar(200) NOT NULL);
INSERT INTO recipients VALUES ('ann@example.com'), ('bob@example.com');
"""


def read(text: str) -> DirectoryResult:
    """Check the one directory `d` of a domain."""
    settings = load_text(
        f'[directories.d]\n{text}\n[destinations.s]\nhosts = ["s.example"]\n'
        '[domains."example.com"]\nlocal = ["d"]\ndestination = "s"\n',
        "x",
    )
    with directories.read_all(settings) as ((result,), _):
        return result


def said(result: DirectoryResult) -> str:
    """Errors and warnings as one text."""
    return "\n".join(f"{f.text} {f.hint}" for f in result.findings if f.level != "note")


def ldap(slapd: Slapd, secret: Path, more: str = "") -> str:
    """A directory on slapd."""
    return (
        f'type = "ldap"\nurl = "{slapd.url}"\nbind_dn = "{slapd.admin}"\nbind_password_file = "{secret}"\n'
        f'base = "{slapd.base}"\nfilter = "(objectClass=inetOrgPerson)"\n{more}'
    )


@pytest.mark.directory
def test_openldap(slapd: Slapd, ldap_secret: Path) -> None:
    """An LDAP directory is read, counted, and asked live."""
    slapd.person("ann", "ann@example.com", "ann.smith@example.com")
    slapd.person("bob", "bob@example.com", "no address")
    result = read(ldap(slapd, ldap_secret))
    assert (result.reached, result.recipients, result.skipped) == (True, 3, 1)
    assert result.live is not None
    assert said(result) == ""


@pytest.mark.directory
def test_ldap_that_is_empty_or_refuses(slapd: Slapd, ldap_secret: Path, tmp_path: Path) -> None:
    """An empty tree is a warning; a wrong password, a wrong base, a stopped server are errors."""
    assert "may_be_empty" in said(read(ldap(slapd, ldap_secret)))
    wrong = tmp_path / "wrong.secret"
    wrong.write_text("wrong")
    wrong.chmod(0o600)
    result = read(ldap(slapd, wrong))
    assert not result.reached
    assert result.findings[0].level == "error"
    result = read(ldap(slapd, ldap_secret).replace("ou=people", "ou=nobody"))
    assert not result.reached
    slapd.stop()
    result = read(ldap(slapd, ldap_secret))
    assert not result.reached
    assert "directory d" in said(result)


@pytest.mark.directory
def test_postgresql_without_an_index(postgres: Postgres) -> None:
    """PostgreSQL's plan of a live look-up is shown, and the index that ends a scan of a large table."""
    more = "INSERT INTO recipients SELECT 'u' || n || '@example.com' FROM generate_series(1, 30000) n; ANALYZE;"
    url = postgres.database("check_scan", MANY + more)
    text = f'type = "sql"\nurl = "{url}"\nquery = "SELECT address FROM recipients"\n'
    result = read(text)
    assert result.recipients == 30002
    assert "reads whole tables: recipients" in said(result)
    assert "CREATE INDEX" in said(result)
    postgres.sql("CREATE INDEX ON recipients (lower(address)); ANALYZE;", "check_scan")
    result = read(text)
    assert said(result) == ""
    assert any("Index" in line for line in result.plan)


@pytest.mark.directory
def test_mariadb(mariadb: MariaDb) -> None:
    """MariaDB is read and asked; small tables need no index."""
    url = mariadb.database("check_small", MANY)
    text = f'type = "sql"\nurl = "{url}"\nquery = "SELECT address FROM recipients"\n'
    result = read(text)
    assert (result.reached, result.recipients) == (True, 2)
    assert said(result) == ""
    assert result.plan
    assert "no matter while they are small: " in result.findings[0].text
    mariadb.sql("CREATE INDEX by_address ON recipients (address)", "check_small")
    assert read(text).findings == []


@pytest.mark.directory
def test_postgresql_with_a_small_table(postgres: Postgres) -> None:
    """A small table is read whole even beside an index: only without one is that said, as a note."""
    url = postgres.database("check_small", MANY)
    text = f'type = "sql"\nurl = "{url}"\nquery = "SELECT address FROM recipients"\n'
    assert "no matter while they are small: recipients (2 rows)" in read(text).findings[0].text
    postgres.sql("CREATE INDEX ON recipients (lower(address))", "check_small")
    assert read(text).findings == []


def test_what_the_daemon_looks_at_daily(cleaned: Cleaned) -> None:
    """Each day names are looked up again: a destination that became this host is found without any SMTP."""
    settings = load_text('[destinations.d]\nhosts = ["moved.example"]\n', "x")
    with Zone({"moved.example": {"A": ["192.0.2.7"]}}) as zone:
        dns = Dns(2.0, (zone.host,), zone.port)
        assert overview.daily(settings, dns) == []
        zone.records = {"moved.example": {"A": ["127.0.0.1"]}}
        (found,) = overview.daily(settings, Dns(2.0, (zone.host,), zone.port))
        assert "this host" in found.text
