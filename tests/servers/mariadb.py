# SPDX-License-Identifier: Apache-2.0
"""MariaDB as a private process, on loopback and a socket of its own."""

from __future__ import annotations

from tests.servers.process import Process, free_port, run, scratch, tool
from tests.servers.server import DatabaseServer

BINARY = tool("mariadbd") or tool("mysqld")
USER = "mysql"
PASSWORD = "pa55/w:rd"


class MariaDb(DatabaseServer):
    """`url` for SQLAlchemy with user `app` and PASSWORD. `database(name)` makes a fresh one."""

    password = PASSWORD

    def __init__(self) -> None:
        self.folder = scratch("mariadb", USER)
        self.port = free_port()
        self.host = "127.0.0.1"
        self.process = Process("mariadbd", self.folder / "log")
        self._data = self.folder / "data"
        self._socket = self.folder / "sock"
        run(
            [
                tool("mariadb-install-db") or tool("mysql_install_db"),
                "--no-defaults",
                f"--datadir={self._data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                f"--user={USER}",
                "--skip-name-resolve",
            ]
        )
        self.start()
        self.sql(f"CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON *.* TO app@'%'")

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the database `mysql`."""
        return self.url_of("mysql")

    def url_of(self, database: str, user: str = "app", password: str = PASSWORD) -> str:
        """SQLAlchemy URL of a database; the password is quoted as a URL wants it."""
        from urllib.parse import quote

        where = f"{self.host}:{self.port}/{database}?charset=utf8mb4"
        return f"mysql+pymysql://{user}:{quote(password, safe='')}@{where}"

    def database(self, name: str, script: str = "", collation: str = "utf8mb4_general_ci") -> str:
        """A fresh database with `script` run in it; gives its SQLAlchemy URL."""
        self.sql(f"DROP DATABASE IF EXISTS `{name}`")
        self.sql(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4 COLLATE {collation}")
        if script:
            self.sql(script, name)
        return self.url_of(name)

    def sql(self, script: str, database: str = "mysql") -> str:
        """Run statements as root; gives rows, tabs between columns."""
        client = tool("mariadb") or tool("mysql")
        words = [client, "--no-defaults", "-N", "-B", "-u", "root", f"--socket={self._socket}"]
        return run([*words, "--default-character-set=utf8mb4", database], stdin=script)

    def start(self) -> None:
        """Start on what the data folder holds."""
        self.process.launch(
            [
                BINARY,
                "--no-defaults",
                f"--datadir={self._data}",
                f"--socket={self._socket}",
                f"--port={self.port}",
            ]
            + [
                "--bind-address=127.0.0.1",
                f"--pid-file={self.folder}/pid",
                "--skip-name-resolve",
                "--skip-log-bin",
            ]
            + [
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-buffer-pool-size=64M",
                "--innodb-fast-shutdown=2",
            ]
            + ["--innodb-flush-method=fsync", "--performance-schema=OFF", "--max-connections=60"]
            + ([f"--user={USER}"] if _is_root() else []),
            self._ready,
        )


def _is_root() -> bool:
    import os

    return os.geteuid() == 0
