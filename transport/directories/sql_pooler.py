# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL behind a pooler, which lends one server connection to a client for a transaction, and to others then.

What a session sets would stay on a connection that another program gets next: `default_transaction_read_only` would
refuse its writes, `statement_timeout` end its queries. There every setting ends with our transaction, and a transaction
with our question. A pooler that lends for a whole session looks the same, and is treated so.
"""

from __future__ import annotations

import contextlib
import select
from secrets import token_hex
from time import monotonic
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.pool import PoolProxiedConnection

from transport.directories.sql_driver import end_call
from transport.directories.watchdog import Guard

DOTLESS = "dotless"
"""Among what SQLAlchemy keeps beside a DBAPI connection: lower() is Turkish there, of I it makes ı."""

_POOLED = "pooled"  # likewise: milliseconds for a statement
_PROBE = "splitmx_probe"  # a channel
_READ_COMMITTED = 2  # psycopg.IsolationLevel


def begin_session(raw: Any, record: Any, milliseconds: int) -> None:
    """Set a fresh connection of psycopg (or psycopg2) up: it only reads, and no statement takes longer. Raises what
    the driver raises.

    record: SQLAlchemy's of this connection.
    """
    with raw.cursor() as cursor:
        known = getattr(getattr(raw, "info", None), "backend_pid", None)
        cursor.execute("SELECT pg_backend_pid(), lower('I')")
        process, small = cursor.fetchone()
        record.info[DOTLESS] = small == "ı"
        # a pooler gives each client a key of its own to cancel by; a server's holds its process
        if known is None or process == known:
            cursor.execute("SET default_transaction_read_only = on")
            # a snapshot that a transaction keeps is older than what a look-up waited for
            cursor.execute("SET default_transaction_isolation = 'read committed'")
            cursor.execute(f"SET statement_timeout = {milliseconds}")
            return
    raw.rollback()
    raw.autocommit = False
    if hasattr(raw, "read_only"):
        raw.read_only = True
        if raw.isolation_level is None:
            raw.isolation_level = _READ_COMMITTED
    else:  # psycopg2
        raw.readonly = True
    record.info[_POOLED] = milliseconds


def begin_transaction(connection: Connection) -> None:
    """SQLAlchemy calls this before a transaction's first statement. Raises as that does, when it cannot be begun."""
    milliseconds = connection.info.get(_POOLED)
    if milliseconds is not None:
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")


def is_pooled(connection: Connection | PoolProxiedConnection) -> bool:
    """Whether a pooler stands before the server: the next transaction may be on another one."""
    if isinstance(connection, Connection) and (connection.closed or connection.invalidated):
        return False
    return _POOLED in connection.info


def give_back(connection: Connection | None, seconds: float) -> None:
    """End the transaction behind a pooler, so that others get the server connection; else nothing. Never raises."""
    if connection is None or not is_pooled(connection):
        return
    raw: Any = connection.connection.dbapi_connection
    with contextlib.suppress(Exception), Guard(max(0.001, seconds), lambda: end_call(raw)):
        connection.rollback()


def passes_notifications_on(raw: Any, other: Any) -> bool:
    """Whether what one psycopg connection notifies reaches another one that waits: not where a pooler lends a server
    connection for a transaction. There LISTEN would be left to other programs, which nobody tells to read on.

    Both in autocommit. Raises what psycopg raises.
    """
    word = token_hex(8).encode()
    raw.execute(f"LISTEN {_PROBE}")
    other.execute("SELECT pg_notify(%s, %s)", (_PROBE, word.decode()))
    waiting = select.poll()
    waiting.register(raw.fileno(), select.POLLIN)
    end = monotonic() + 1.0
    heard = False
    while not heard and (left := end - monotonic()) > 0:
        if waiting.poll(1000 * left):
            raw.pgconn.consume_input()
            while (one := raw.pgconn.notifies()) is not None:
                heard = heard or bytes(one.extra) == word
    (raw if heard else other).execute(f"UNLISTEN {_PROBE}")
    return heard
