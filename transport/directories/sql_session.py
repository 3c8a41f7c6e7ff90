# SPDX-License-Identifier: Apache-2.0
"""Where a database session has come out, for as long as it lasts.

A host's name leads to another server tomorrow (a migration whose old server goes on running), and what is set for a
user, `search_path` above all, counts from the next session on. Each listing is a new session; look-ups that went on in
an old one, which may last for weeks, would deny whom only the other server or schema has.
"""

from __future__ import annotations

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from transport.config import secrets
from transport.directories.sql_pooler import is_pooled

_MYSQL = "SELECT concat_ws(' ', @@hostname, @@port, @@server_id, @@datadir)"
_PLACES = {
    "postgresql": "SELECT concat_ws(' ', inet_server_addr(), inet_server_port(), pg_postmaster_start_time(),"
    " current_user, current_schemas(false))",
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
}
_PLACE, _AFTER = "place", "after"  # among what SQLAlchemy keeps beside a DBAPI connection
_listed: dict[str, tuple[int, str]] = {}  # URL without its password -> number and place of the last listing's session


def note(connection: Connection, url: str, *, listing: bool) -> Connection:
    """Remember where this new connection has come out. Raises what SQLAlchemy raises when it is lost.

    Behind a pooler each transaction may be elsewhere; a kin of these databases may not know these words: nothing then.
    """
    place = "" if is_pooled(connection) else _place_of(connection)
    url = secrets.without_password(url)
    number = _listed.get(url, (0, ""))[0]
    if listing and place:
        number += 1
        _listed[url] = (number, place)
    connection.info[_PLACE], connection.info[_AFTER] = place, number
    return connection


def is_outlived(connection: Connection, url: str) -> bool:
    """Whether a listing that began after this connection was made has come out elsewhere."""
    place, after = connection.info.get(_PLACE), connection.info.get(_AFTER, 0)
    number, listed = _listed.get(secrets.without_password(url), (0, ""))
    # once a listing: servers that share a name would take turns else
    return bool(place) and number > after and listed != place


def _place_of(connection: Connection) -> str:
    query = _PLACES.get(connection.dialect.name)
    if query is None:
        return ""
    try:
        return str(connection.execute(text(query)).scalar() or "")
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        return ""
    finally:
        if not connection.invalidated:
            connection.rollback()  # a listing's snapshot is of later
