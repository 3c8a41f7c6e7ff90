# SPDX-License-Identifier: Apache-2.0
"""Fixtures: each server is started once a run, at its first use; a missing program skips by name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers import mariadb as _mariadb
from tests.servers import postgres as _postgres
from tests.servers import samba as _samba
from tests.servers import slapd as _slapd
from tests.servers.process import scratch
from tests.servers.tls import Authority


@pytest.fixture(scope="session")
def authority() -> Iterator[Authority]:
    """A certification authority whose certificates `slapd` and `samba_ad` show."""
    folder = scratch("ca")
    yield Authority(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def slapd_server(authority: Authority) -> Iterator[_slapd.Slapd]:
    """The run's slapd, as the test before left it."""
    if not _slapd.BINARY:
        pytest.skip("slapd is not installed")
    with closing(_slapd.Slapd(authority=authority)) as server:
        yield server


@pytest.fixture
def slapd(slapd_server: _slapd.Slapd) -> _slapd.Slapd:
    """The run's slapd, running and empty."""
    if not slapd_server.process.running:
        slapd_server.start()
    slapd_server.cont()
    slapd_server.clear()
    return slapd_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[_postgres.Postgres]:
    """The run's PostgreSQL; make a database per test with `.database(name, script)`."""
    if not _postgres.BINARY:
        pytest.skip("postgres is not installed")
    with closing(_postgres.Postgres()) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[_mariadb.MariaDb]:
    """The run's MariaDB; make a database per test with `.database(name, script)`."""
    if not _mariadb.BINARY:
        pytest.skip("mariadbd is not installed")
    with closing(_mariadb.MariaDb()) as server:
        yield server


@pytest.fixture(scope="session")
def samba_server(authority: Authority) -> Iterator[_samba.SambaAd]:
    """The run's Active Directory, as the test before left it."""
    if not _samba.BINARY:
        pytest.skip("samba-ad-dc is not installed")
    if os.geteuid() != 0:
        pytest.skip("samba-ad-dc needs root")
    with closing(_samba.SambaAd(authority=authority)) as server:
        yield server


@pytest.fixture
def samba_ad(samba_server: _samba.SambaAd) -> _samba.SambaAd:
    """The run's Active Directory, running and with nobody in it."""
    if not samba_server.process.running:
        samba_server.start()
    samba_server.cont()
    samba_server.clear()
    return samba_server


@pytest.fixture
def ldap_secret(tmp_path: Path) -> Path:
    """A file with slapd's admin password, mode 0600."""
    path = tmp_path / "ldap.secret"
    path.write_text(_slapd.PASSWORD + "\n")
    path.chmod(0o600)
    return path
