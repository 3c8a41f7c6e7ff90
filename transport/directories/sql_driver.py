# SPDX-License-Identifier: Apache-2.0
"""Small things about database drivers: what exceptions mean on the way, padded columns, an end that never waits."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from transport.directories.base import DirectoryError
from transport.directories.watchdog import shut

_BPCHAR = 1042  # PostgreSQL's OID of CHAR(n), whose values come padded with blanks


class NotUtf8(Exception):  # noqa: N818  a finding on the way, as the next ones
    """SQLite met text that is not UTF-8."""


class Fault(Exception):  # noqa: N818  as above
    """Something of which the caller has to see what it means; `fault` is what the database said."""

    def __init__(self, fault: DirectoryError) -> None:
        super().__init__(fault.what)
        self.fault = fault


class Untranslatable(Fault):
    """A word cannot be written in the database's encoding, or a row not in ours."""


class Disconnected(Fault):
    """The connection is gone."""


def original_of(error: BaseException) -> BaseException:
    """The driver's exception inside SQLAlchemy's."""
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def drivers_errors(raw: Any) -> type[BaseException]:
    """What fetches straight from the driver's cursor raise."""
    module = type(raw).__module__.partition(".")[0]
    if module == "psycopg":
        import psycopg

        return psycopg.Error
    if module == "pymysql":
        import pymysql

        return pymysql.MySQLError
    return sqlite3.Error


def padded_in(cursor: Any) -> list[int]:
    """The columns whose values come padded with blanks."""
    description = getattr(cursor, "description", None) or ()
    return [i for i, column in enumerate(description) if column[1] == _BPCHAR]


def unpadded(rows: Sequence[Any], padded: Sequence[int]) -> Iterator[Sequence[Any]]:
    """The rows without the blanks in these columns."""
    for row in rows:
        values = list(row)
        for i in padded:
            if isinstance(values[i], str):
                values[i] = values[i].rstrip(" ")
        yield values


def end_call(connection: Any) -> bool:
    """End what a DBAPI connection waits for, from another thread; whether that was possible."""
    if connection is None:
        return False
    if isinstance(connection, sqlite3.Connection):
        try:
            connection.interrupt()
        except sqlite3.Error:
            pass
        return True
    fileno = getattr(connection, "fileno", None)
    try:
        if fileno is not None:
            return shut(fileno())
        return shut(connection._sock.fileno())  # PyMySQL has no public way
    except Exception:
        return True  # closed already


def forget_rows(raw: Any) -> None:
    """Of a PyMySQL connection that is given up: its cursors would still read on, and print that they cannot."""
    result = getattr(raw, "_result", None)
    if result is not None and getattr(result, "unbuffered_active", False):
        result.unbuffered_active = False


def let_go(connection: Connection) -> None:
    """Close a connection that may be broken: never raises, never waits for an answer."""
    with contextlib.suppress(Exception):  # whatever it was, the connection is forgotten
        if connection.invalidated:  # SQLAlchemy would make a new one, to be closed
            connection.close()
            return
        raw = connection.connection.dbapi_connection
        forget_rows(raw)
        if not isinstance(raw, sqlite3.Connection):
            connection.invalidate()  # no ROLLBACK on a connection that may hang
        connection.close()
