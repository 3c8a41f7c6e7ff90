# SPDX-License-Identifier: Apache-2.0
"""Real directory servers as private processes; see README.md beside."""

from __future__ import annotations

from tests.servers.mariadb import MariaDb
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres
from tests.servers.samba import SambaAd
from tests.servers.slapd import Slapd
from tests.servers.tls import Authority

__all__ = ["Authority", "MariaDb", "PgBouncer", "Postgres", "SambaAd", "Slapd"]
