# SPDX-License-Identifier: Apache-2.0
"""Whether PostgreSQL's tables were exchanged between a transaction's snapshot and its first look at them.

A statement that waits for a table has taken its snapshot before. When what it waited for was a TRUNCATE with its COPY,
an ALTER TABLE that rewrites, or another table under the same name, the rows are younger than the snapshot: the table
looks empty (PostgreSQL's documentation, "Caveats" of concurrency control), without a word.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import InternalError, NotSupportedError, ProgrammingError

from transport.directories.base import DirectoryError
from transport.directories.sql_connect import BULK
from transport.directories.sql_driver import end_call
from transport.directories.watchdog import Guard

# The table pg_class is seen by the snapshot, names and files that functions give are those of now. Our locks, held to
# the end of the transaction, keep them so. The new rows of a materialized view are for every snapshot.
_EXCHANGED = text(
    "SELECT CAST(CAST(l.relation AS regclass) AS text) FROM pg_locks l LEFT JOIN pg_class c ON c.oid = l.relation"
    " WHERE l.locktype = 'relation' AND l.pid = pg_backend_pid()"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND (c.oid IS NULL OR (c.relkind = 'r'"
    " AND (c.relfilenode NOT IN (0, pg_relation_filenode(c.oid))"
    " OR NOT parse_ident(CAST(CAST(l.relation AS regclass) AS text)) @> ARRAY[CAST(c.relname AS text)]))) LIMIT 1"
)


def need_unexchanged(connection: Connection) -> None:
    """Ask it last in the transaction: raises DirectoryError when what was read may lack a table's rows, and what
    SQLAlchemy raises when the connection is lost. Another database than PostgreSQL: nothing.
    """
    if connection.dialect.name != "postgresql":
        return
    raw: Any = connection.connection.dbapi_connection
    try:
        with Guard(BULK, lambda: end_call(raw)):
            name = connection.execute(_EXCHANGED).scalar()
    except (InternalError, NotSupportedError, ProgrammingError) as error:
        if error.connection_invalidated:
            raise
        return  # a kin of PostgreSQL without these words, or a user who may not read them
    if name is not None:
        raise DirectoryError(
            f"the table {name} was emptied, rewritten or exchanged while it was read", "nothing to do: it is read again"
        )
