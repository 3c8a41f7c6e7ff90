# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL with certificates on both sides: they expire, and each fault names its own cure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.mta.waiting import wait_for
from tests.servers import Authority, Postgres
from transport.config.settings import SqlOptions
from transport.directories.base import DirectoryError
from transport.directories.sql import SqlSource

pytestmark = pytest.mark.directory

ANN = [("ann", "example.com")]


class Secured:
    """The run's PostgreSQL with TLS, where the user `holder` logs in by a certificate."""

    def __init__(self, postgres: Postgres, authority: Authority, keys: Path) -> None:
        self.postgres, self.authority, self.keys = postgres, authority, keys
        postgres.database("secured", "CREATE TABLE r (address text); INSERT INTO r VALUES ('ann@example.com')")
        postgres.sql("DROP ROLE IF EXISTS holder; CREATE ROLE holder LOGIN; GRANT pg_read_all_data TO holder")

    def serve(self, days: int = 30) -> None:
        """Show a certificate that ends so many days from now."""
        certificate, key = self.authority.issue("database", "IP:127.0.0.1", days=days)
        for source, name in ((certificate, "server.crt"), (key, "server.key"), (self.authority.ca, "root.crt")):
            path = Path(shutil.copy(source, self.postgres.folder / "data" / name))
            path.chmod(0o600)
            if os.geteuid() == 0:
                shutil.chown(path, "postgres")
        for setting in ("ssl = off", "ssl_ca_file = 'root.crt'", "ssl = on"):
            self.postgres.sql(f"ALTER SYSTEM SET {setting}")
            self.postgres.sql("SELECT pg_reload_conf()")
            name, _, value = setting.replace("'", "").partition(" = ")
            wait_for(partial(self._is, name, value), 30)

    def _is(self, name: str, value: str) -> bool:
        return self.postgres.sql(f"SHOW {name}").strip() == value

    def ask(self, name: str = "holder", days: int = 30, mode: int = 0o600) -> None:
        """As `holder`, with a certificate for this name; both ways to read."""
        certificate, key = self.authority.issue(name, f"DNS:{name}", days=days)
        key = Path(shutil.copy(key, self.keys / name))
        key.chmod(mode)
        words = f"sslmode=verify-full&sslrootcert={self.authority.ca}&sslcert={certificate}&sslkey={key}"
        options = SqlOptions(self.postgres.url_of("secured", "holder") + f"?{words}", "SELECT address FROM r")
        with closing(SqlSource("here", options)) as source:
            assert len(source.ask(ANN, 2).records) == len(list(source.list().records)) == 1


@pytest.fixture
def secured(postgres: Postgres, authority: Authority, tmp_path: Path) -> Iterator[Secured]:
    """It shows a good certificate; without TLS again behind the test."""
    hba = postgres.folder / "data" / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text(f"hostssl all holder 127.0.0.1/32 cert\n{before}")
    made = Secured(postgres, authority, tmp_path)
    made.serve()
    yield made
    hba.write_text(before)
    postgres.sql("ALTER SYSTEM RESET ssl")
    postgres.sql("ALTER SYSTEM RESET ssl_ca_file")
    postgres.sql("SELECT pg_reload_conf()")


def test_each_fault_of_a_certificate_names_its_cure(secured: Secured) -> None:
    """Expired, another user's, or with a key that others may read: not "is it running", nor a password."""
    secured.ask()
    with pytest.raises(DirectoryError) as caught:
        secured.ask(days=-1)
    assert "expired" in caught.value.hint
    with pytest.raises(DirectoryError) as caught:
        secured.ask("somebody")
    assert "another user's" in caught.value.hint
    with pytest.raises(DirectoryError) as caught:
        secured.ask(mode=0o644)
    assert "chmod" in caught.value.hint
    secured.serve(days=-1)
    with pytest.raises(DirectoryError, match="verify failed") as caught:
        secured.ask()
    assert "expired" in caught.value.hint
    secured.serve()
    secured.ask()
