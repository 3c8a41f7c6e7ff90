# SPDX-License-Identifier: Apache-2.0
"""LDAP directories behind a proxy: what it drops on the way must not make a directory smaller."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import Slapd
from tests.servers import slapd as servers
from tests.servers.process import Process, accepts, free_port, scratch
from transport.config.settings import LdapOptions
from transport.directories.base import DirectoryError
from transport.directories.ldap import LdapSource

pytestmark = pytest.mark.directory


@contextmanager
def proxy(kind: str, behind: Slapd) -> Iterator[str]:
    """The URL of a slapd that passes everything on by its backend `kind`."""
    if not Path(f"/usr/lib/ldap/back_{kind}.so").exists():
        pytest.skip(f"slapd has no back_{kind}")
    folder, port = scratch("proxy"), free_port()
    modules = "".join(f"moduleload back_{name}\n" for name in dict.fromkeys(("ldap", kind)))  # all rest on the first
    schemas = "".join(f"include /etc/ldap/schema/{name}.schema\n" for name in ("core", "cosine", "inetorgperson"))
    where = behind.url if kind == "ldap" else f"{behind.url}/{behind.suffix}"
    conf = folder / "slapd.conf"
    conf.write_text(
        f"{schemas}include {behind.folder}/mail.schema\npidfile {folder}/pid\nmodulepath /usr/lib/ldap\n"
        f"{modules}sizelimit unlimited\ndatabase {kind}\nsuffix {behind.suffix}\nuri {where}\n"
    )
    process = Process("proxy", folder / "log")
    process.launch(
        [servers.BINARY, "-f", str(conf), "-h", f"ldap://127.0.0.1:{port}/", "-d", "0"],
        lambda: accepts("127.0.0.1", port),
    )
    try:
        yield f"ldap://127.0.0.1:{port}"
    finally:
        process.stop()
        shutil.rmtree(folder, ignore_errors=True)


def people(many: int, suffix: str) -> str:
    """LDIF of so many people with an address."""
    return "".join(
        f"dn: uid=u{i},ou=people,{suffix}\nobjectClass: inetOrgPerson\ncn: u\nsn: u\nmail: u{i}@example.com\n\n"
        for i in range(many)
    )


@pytest.mark.parametrize("kind", ["ldap", "meta", "asyncmeta"])
@pytest.mark.parametrize("many", [30, 500, 1300])
def test_a_proxy_that_drops_the_paging_control_is_no_small_directory(kind: str, many: int) -> None:
    """back_asyncmeta gives the first page with success and without the control that says there are more, back_meta
    everything at once without it."""
    if not servers.BINARY:
        pytest.skip("slapd is not installed")
    behind = Slapd()
    try:
        behind.load(people(many, behind.suffix))
        with proxy(kind, behind) as url:
            source = LdapSource("corp", LdapOptions((url,), base=behind.suffix, filter="(mail=*)"))
            assert len(list(source.list().records)) == many
    finally:
        behind.close()


def test_a_proxy_that_asks_for_each_page_on_another_connection() -> None:
    """back_ldap has several connections as soon as several look-ups come at once, and a server knows its pages by the
    connection: that listing is a fault, the next one has everybody."""
    if not servers.BINARY:
        pytest.skip("slapd is not installed")
    behind = Slapd()
    try:
        behind.load(people(1300, behind.suffix))
        with proxy("ldap", behind) as url:
            options = LdapOptions((url,), base=behind.suffix, filter="(mail=*)")
            with ThreadPoolExecutor(8) as pool:
                busy = [pool.submit(look_up, options) for _ in range(8)]
                assert all(one.result() == 100 for one in busy)
            source = LdapSource("corp", options)
            counts = [listed(source) for _ in range(6)]
            assert set(counts) <= {0, 1300}
            assert 0 in counts, "the proxy has one connection: nothing was tried"
            assert counts.count(0) == 1
    finally:
        behind.close()


def look_up(options: LdapOptions) -> int:
    """A hundred look-ups on one connection; how many found who was asked for."""
    source = LdapSource("corp", options)
    try:
        return sum(len(source.ask([("u1", "example.com")], 5).records) for _ in range(100))
    finally:
        source.close()


def listed(source: LdapSource) -> int:
    """How many a listing gives, 0 for a fault of its pages."""
    try:
        return len(list(source.list().records))
    except DirectoryError as fault:
        return 0 if "mixes up connections" in fault.hint else -1
