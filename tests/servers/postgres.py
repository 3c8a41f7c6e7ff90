# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL as a private process, on loopback and a socket of its own, without fsync."""

from __future__ import annotations

import shutil
import signal
from functools import partial
from pathlib import Path

from tests.servers.process import Process, free_port, run, scratch, stopped, tool, wait_until
from tests.servers.server import DatabaseServer

_FOLDERS = sorted((str(p) for p in Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
BINARY = tool("postgres", *_FOLDERS)
USER = "postgres"


class Postgres(DatabaseServer):
    """`url` for SQLAlchemy (user `postgres`, no password). `database(name)` makes a fresh one.

    `reader` with the password `s3cr/et:word` may connect and read; its password is asked for. standby_of: it follows
    that one by streaming replication, `delay` (recovery_min_apply_delay) behind.
    """

    reader_password = "s3cr/et:word"

    def __init__(self, standby_of: Postgres | None = None, delay: str = "0") -> None:
        self.folder = scratch("postgres", USER)
        self.port = free_port()
        self.host = "127.0.0.1"
        self.process = Process("postgres", self.folder / "log")
        self._data = self.folder / "data"
        if standby_of is not None:
            self._copy(standby_of, delay)
            self.start()
            return
        run(
            [
                tool("initdb", *_FOLDERS),
                "-D",
                str(self._data),
                "-U",
                USER,
                "-A",
                "trust",
                "--no-sync",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
            ],
            user=USER,
        )
        (self._data / "pg_hba.conf").write_text(
            "local all all trust\nhost all reader 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
            "host replication all 127.0.0.1/32 trust\n"
        )
        self.start()
        self.sql("CREATE ROLE reader LOGIN PASSWORD '{}'".format(self.reader_password.replace("'", "''")))
        self.sql("GRANT pg_read_all_data TO reader")

    def _copy(self, primary: Postgres, delay: str) -> None:
        """The primary's data, and how to follow it."""
        source = f"host={primary.host} port={primary.port} user={USER}"
        backup = [tool("pg_basebackup", *_FOLDERS), "-D", str(self._data), "-d", source, "-R", "-c", "fast", "-N"]
        run(backup, user=USER)
        with (self._data / "postgresql.auto.conf").open("a") as file:
            file.write(f"recovery_min_apply_delay = '{delay}'\nwal_retrieve_retry_interval = '100ms'\n")

    def promote(self) -> None:
        """Make a standby the primary."""
        self.sql("SELECT pg_promote()")

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the database `postgres`."""
        return self.url_of("postgres")

    def url_of(self, database: str, user: str = USER, password: str = "") -> str:
        """SQLAlchemy URL of a database; the password is quoted as a URL wants it."""
        from urllib.parse import quote

        secret = f":{quote(password, safe='')}" if password else ""
        return f"postgresql+psycopg://{user}{secret}@{self.host}:{self.port}/{database}"

    def database(self, name: str, script: str = "") -> str:
        """A fresh database with `script` run in it; gives its SQLAlchemy URL."""
        self.sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        self.sql(f'CREATE DATABASE "{name}"')
        if script:
            self.sql(script, name)
        return self.url_of(name)

    def sql(self, script: str, database: str = "postgres") -> str:
        """Run statements with psql; gives unaligned rows, `|` between columns."""
        return run(
            [
                tool("psql", *_FOLDERS),
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-h",
                str(self.folder),
                "-p",
                str(self.port),
                "-U",
                USER,
                "-d",
                database,
                "-f",
                "-",
            ],
            stdin=script,
        )

    def start(self) -> None:
        """Start on what the data folder holds."""
        self.process.launch(
            [
                BINARY,
                "-D",
                str(self._data),
                "-p",
                str(self.port),
                "-k",
                str(self.folder),
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "fsync=off",
                "-c",
                "synchronous_commit=off",
                "-c",
                "full_page_writes=off",
                "-c",
                "shared_buffers=64MB",
                "-c",
                "max_connections=60",
            ],
            self._ready,
            user=USER,
        )

    def hang(self) -> None:
        """SIGSTOP for the server and every backend."""
        self.process.hang()
        for child in _children(self.process.pid):
            _signal(child, signal.SIGSTOP)
            assert wait_until(partial(stopped, child)), "a backend does not stop"

    def cont(self) -> None:
        """SIGCONT for all of them."""
        self.process.cont()
        for child in _children(self.process.pid):
            _signal(child, signal.SIGCONT)

    def stop(self) -> None:
        """Fast shutdown; the data stays."""
        if self.process.running:
            self.cont()
        self.process.stop(signal.SIGINT)

    def close(self) -> None:
        """End it and remove its data."""
        if self.process.running:
            self.cont()
        self.process.stop(signal.SIGQUIT, 5)
        shutil.rmtree(self.folder, ignore_errors=True)


def _children(pid: int) -> list[int]:
    """The server's backends: each leads a process group of its own."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def _signal(pid: int, number: int) -> None:
    import os

    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
