# SPDX-License-Identifier: Apache-2.0
"""LDAP directories behind a proxy: what it drops on the way must not make a directory smaller."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import Slapd
from tests.servers import slapd as servers
from tests.servers.process import Process, accepts, free_port, scratch
from transport.config.settings import LdapOptions
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


@pytest.mark.parametrize("kind", ["ldap", "meta", "asyncmeta"])
@pytest.mark.parametrize("many", [30, 500, 1300])
def test_a_proxy_that_drops_the_paging_control_is_no_small_directory(kind: str, many: int) -> None:
    """back_asyncmeta gives the first page with success and without the control that says there are more, back_meta
    everything at once without it."""
    if not servers.BINARY:
        pytest.skip("slapd is not installed")
    behind = Slapd()
    try:
        behind.load(
            "".join(
                f"dn: uid=u{i},ou=people,{behind.suffix}\nobjectClass: inetOrgPerson\ncn: u\nsn: u\n"
                f"mail: u{i}@example.com\n\n"
                for i in range(many)
            )
        )
        with proxy(kind, behind) as url:
            source = LdapSource("corp", LdapOptions((url,), base=behind.suffix, filter="(mail=*)"))
            assert len(list(source.list().records)) == many
    finally:
        behind.close()
