# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL's LISTEN: a database that says by itself that recipients have changed.

An optional trigger (contrib/postgresql/notify.sql) notifies the channel `splitmx`. Its payload is the addresses
concerned, one a line; anything else means that something has changed somewhere. A notification only says when to
read: it is never believed, so that nobody who may NOTIFY can change an answer.
"""

from __future__ import annotations

import contextlib
from typing import Any

from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import PoolProxiedConnection

from transport.address import parse
from transport.config.settings import Directory, SqlOptions
from transport.directories.base import DirectoryError
from transport.directories.schemas import sql_options
from transport.directories.sql_connect import LIVE, engine_of, fault_of, opened, with_present_password
from transport.directories.sql_driver import drivers_errors, end_call
from transport.directories.sql_pooler import is_pooled, passes_notifications_on
from transport.directories.watchdog import Guard

CHANNEL = "splitmx"

_NEVER = ("0A000", "25006", "42501")  # a standby, a pooler or a user that cannot LISTEN

Address = tuple[str, str]


def can_listen(directory: Directory) -> bool:
    """Whether this directory is a PostgreSQL by psycopg, as far as its URL says."""
    options = directory.options
    scheme = options.url.partition(":")[0].lower() if isinstance(options, SqlOptions) else ""
    return scheme in ("postgresql", "postgresql+psycopg")


class CannotListenError(Exception):
    """The database refuses LISTEN (a standby does); it will not change its mind soon."""


class Listener:
    """One connection that listens. `fileno()` is readable when there may be something for `received()`.

    Making it waits for the server, 2 s at most for each step; raises DirectoryError and CannotListenError.
    """

    def __init__(self, directory: Directory) -> None:
        assert isinstance(directory.options, SqlOptions)
        options = with_present_password(sql_options(directory.options))
        proxied: PoolProxiedConnection | None = None
        raw: Any = None
        try:
            engine = engine_of(options.url, live=True)
            proxied = opened(engine, engine.raw_connection, LIVE, options.url)
            raw = proxied.dbapi_connection
            pooled = is_pooled(proxied)
            proxied.detach()
            raw.autocommit = True
            if pooled and not self._is_passed_on(engine, raw, options.url):
                raise CannotListenError("a pooler stands before it that passes no notifications on")
            with Guard(LIVE, lambda: end_call(raw)):
                if not pooled:  # it is idle by its nature; PostgreSQL 13 and older do not know this word
                    with contextlib.suppress(drivers_errors(raw)):
                        raw.execute("SET idle_session_timeout = 0")
                raw.execute(f"LISTEN {CHANNEL}")
            self.fileno: int = raw.fileno()
        except (DirectoryError, CannotListenError):
            if raw is not None:
                raw.close()
            raise
        except Exception as error:  # drivers raise what they like while connecting
            if raw is not None:
                raw.close()
            original = error.orig if isinstance(error, SQLAlchemyError) and hasattr(error, "orig") else error
            if getattr(original, "sqlstate", None) in _NEVER:
                raise CannotListenError(str(original).strip().splitlines()[0]) from None
            raise fault_of(error, options.url) from None
        self._raw = raw

    @staticmethod
    def _is_passed_on(engine: Engine, raw: Any, url: str) -> bool:
        """Whether a notification that another connection sends reaches this one."""
        proxied = opened(engine, engine.raw_connection, LIVE, url)
        other: Any = proxied.dbapi_connection
        proxied.detach()
        try:
            other.autocommit = True
            with Guard(2 * LIVE, lambda: end_call(raw) and end_call(other)):
                return passes_notifications_on(raw, other)
        finally:
            other.close()

    def received(self) -> list[frozenset[Address] | None] | None:
        """Each notification that is there, without waiting: the addresses it names, or None for "something".

        None instead of a list: the connection is lost.
        """
        pgconn = self._raw.pgconn
        found: list[frozenset[Address] | None] = []
        try:
            pgconn.consume_input()
            while (one := pgconn.notifies()) is not None:
                if one.relname == CHANNEL.encode():
                    found.append(named(bytes(one.extra)))
        except Exception:  # psycopg's OperationalError, and what libpq may add
            return None
        return found

    def close(self) -> None:
        """Let go; never raises."""
        with contextlib.suppress(Exception):  # whatever it was, the connection is forgotten
            self._raw.close()


def named(payload: bytes) -> frozenset[Address] | None:
    """The addresses in a payload, None when it holds anything else."""
    found = set()
    for line in payload.split(b"\n"):
        if not line.strip():
            continue
        address = parse(line.strip())
        if address is None:
            return None
        found.add((address.local, address.domain))
    return frozenset(found) or None
