# SPDX-License-Identifier: Apache-2.0
"""PgBouncer as a private process in front of a Postgres: clients share few server connections."""

from __future__ import annotations

from tests.servers.postgres import USER, Postgres
from tests.servers.process import Process, accepts, free_port, scratch, tool
from tests.servers.server import Server

BINARY = tool("pgbouncer")


class PgBouncer(Server):
    """`url_of(database)` leads through it. mode: session or transaction. size: server connections a database has."""

    def __init__(self, server: Postgres, mode: str = "transaction", size: int = 1) -> None:
        self.folder = scratch("pgbouncer", USER)
        self.port = free_port()
        self.host = "127.0.0.1"
        self.process = Process("pgbouncer", self.folder / "log")
        self._conf = self.folder / "pgbouncer.ini"
        self._conf.write_text(
            f"[databases]\n* = host={server.host} port={server.port} user={USER}\n[pgbouncer]\nauth_type = any\n"
            f"listen_addr = {self.host}\nlisten_port = {self.port}\nunix_socket_dir =\npool_mode = {mode}\n"
            f"default_pool_size = {size}\n"
        )
        self.start()

    def url_of(self, database: str) -> str:
        """SQLAlchemy URL of a database behind it."""
        return f"postgresql+psycopg://{USER}@{self.host}:{self.port}/{database}"

    def start(self) -> None:
        """Start it; its clients' connections are made when they ask."""
        self.process.launch([BINARY, str(self._conf)], lambda: accepts(self.host, self.port), user=USER)
