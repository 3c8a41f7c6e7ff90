# SPDX-License-Identifier: Apache-2.0
"""An OpenLDAP whose clock was ahead once: its change stamps are of a time to come."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.directories.test_ldap_changes import options_of
from tests.servers import Slapd
from tests.servers import slapd as servers
from tests.servers.process import run, tool
from transport.directories import ldap_connect
from transport.directories.ldap import LdapSource

pytestmark = pytest.mark.directory


@pytest.fixture
def ahead() -> Iterator[Slapd]:
    """A slapd that has a write of tomorrow."""
    if not servers.BINARY:
        pytest.skip("slapd is not installed")
    ldap_connect._rings.clear()
    server = Slapd(start=False)
    stamp = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y%m%d%H%M%S.000000Z#000000#000#000000")
    person = f"dn: uid=ann,{server.base}\nobjectClass: inetOrgPerson\ncn: ann\nsn: ann\nmail: ann@example.com\n"
    run([tool("slapadd"), "-q", "-w", "-f", str(server.conf)], stdin=f"{person}entryCSN: {stamp}\n")
    server.start()
    yield server
    server.close()


def test_what_is_written_before_the_last_stamp_is_not_told(ahead: Slapd, tmp_path: Path) -> None:
    """Content sync says "nothing" of whoever comes and goes until its stamps are of today again: nobody's absence is
    believed by that, and removals are left to the compare."""
    gone = ahead.person("gone", "gone@example.com")
    source = LdapSource("corp", options_of(ahead, tmp_path))
    listing = source.list()
    assert {record.local for record in listing.records} == {"ann", "gone"}
    ahead.person("new", "new@example.com")
    ahead.delete(gone)
    cookie = listing.cookie
    for _ in range(2):
        changes = source.changes(cookie, 1000)
        assert (changes.upserts, changes.deletes, changes.full_needed) == ([], [], False)
        assert (changes.additions, changes.removals) == (False, False)
        cookie = changes.cookie


def test_a_clock_that_went_ahead_behind_the_listing(ahead: Slapd, tmp_path: Path) -> None:
    """It is seen in the changes, and remembered until the next compare."""
    source = LdapSource("corp", options_of(ahead, tmp_path))
    listing = source.list()
    assert len(list(listing.records)) == 1
    cookie = listing.cookie.replace(b', "part": true', b"")
    changes = source.changes(cookie, 1000)
    assert (changes.additions, changes.removals, changes.full_needed) == (False, False, False)
    assert b'"part": true' in changes.cookie
