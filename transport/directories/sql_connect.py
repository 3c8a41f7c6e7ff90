# SPDX-License-Identifier: Apache-2.0
"""Connections to SQL databases: read-only, with the driver's own time-outs, and their faults in plain words."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import create_engine, event, exc
from sqlalchemy.engine import URL, Dialect, Engine, make_url
from sqlalchemy.pool import NullPool

from transport.config import secrets
from transport.config.errors import Wrong
from transport.config.settings import SqlOptions
from transport.directories import sql_pooler
from transport.directories.base import DirectoryError, DirectoryTimeout
from transport.directories.sql_driver import end_call
from transport.directories.sql_values import prepare, times_as_text
from transport.directories.watchdog import Guard

LIVE = 2.0
"""Seconds after which the database itself ends a live query (DESIGN 4: no query takes more)."""

BULK = 120.0
"""Seconds without a row after which a listing is given up."""

# MariaDB's and MySQL's own settings would cut a listing, or a group's members out of GROUP_CONCAT (MySQL's default:
# 1024 octets), without a word, and hide every address of a CHAR column behind blanks.
_ALL_ROWS = "SET SESSION sql_select_limit = 18446744073709551615"
_WHOLE_VALUES = (
    "SET SESSION group_concat_max_len = 4294967295,"
    " SESSION sql_mode = REPLACE(@@SESSION.sql_mode, 'PAD_CHAR_TO_FULL_LENGTH', '')"
)
_Made = TypeVar("_Made")
_EXTRAS = {"psycopg": "postgresql", "pymysql": "mysql"}
# (what stands in `url` -> what is meant by it) of other programs' drivers and SQLAlchemy's former names
_MEANT = {
    "postgres": "postgresql+psycopg", "pgsql": "postgresql+psycopg", "psycopg2": "postgresql+psycopg",
    "mysqldb": "mysql+pymysql", "sqlite3": "sqlite",
}  # fmt: skip
# (what the driver says, lower case) -> what to do about it; the first that fits
_HINTS: tuple[tuple[str, str], ...] = (
    (
        r"certificate authentication failed",
        "the certificate that `sslcert` names is another user's than the one in `url`",
    ),
    (r"private key file", "`sslkey`: let the key belong to splitmx's user, and chmod 600 it (root's may be 640)"),
    (
        r"certificate (verify failed|expired)|certificate has expired",
        "has the certificate of the server, or of `sslcert`, expired? else see which CA `sslrootcert` (`ssl_ca`) names",
    ),
    (
        r"password authentication failed|access denied for user|no password supplied|authentication",
        "check the user in `url` and its `password_file`",
    ),
    (r"no pg_hba\.conf entry|is not allowed to connect", "let this host and user in: pg_hba.conf, or the grant's host"),
    (
        r"no such table|relation .* does not exist|table .* doesn't exist|unknown table|not a database",
        "check the database in `url` and the tables in `query`",
    ),
    (
        r"no such column|unknown column|column .* does not exist|no column",
        "`query` must give a column named address (and `changed`, where that is set); write `name AS address`",
    ),
    (r"unknown database|database .* does not exist", "check the database's name in `url`"),
    (
        r"row-level security policy",
        "let this user read all rows: a policy for it, or BYPASSRLS (row_security = off refuses to read a part)",
    ),
    (r"permission denied|command denied|insufficient privilege", "GRANT SELECT on the query's tables to this user"),
    (
        r"readonly database",  # nothing of ours writes: SQLite would have to roll back what a killed writer left behind
        "a write was not ended (is there a -journal beside the file?): let its own program open the database once",
    ),
    (
        r"unable to open database",
        "check the path in `url` and that this user may read the file, its folder and its -wal and -shm files",
    ),
    (r"syntax error|error in your sql syntax|near \"", "`query` or `lookup` is not valid for this database"),
    (
        r"too many (clients|connections)|remaining connection slots|max_user_connections|max_connections_per_hour",
        "see who holds the connections, or raise the limit of the server or of this user (splitmx needs six)",
    ),
    (r"\bwsrep\b", "this node has left its cluster (wsrep_cluster_status): let it join again, or name another one"),
    (
        r"conflict with recovery",
        "set hot_standby_feedback = on there, or a longer max_standby_streaming_delay; or name the primary",
    ),
    (
        r"serializable mode in a hot standby",
        "for this user: ALTER ROLE … SET default_transaction_isolation = 'read committed'",
    ),
    (
        r"function lower\(.*does not exist",
        "`query` must give the address as text: write `CAST(name AS text) AS address`",
    ),
    (r"is malformed|disk i/o error", "restore the file from a backup, or save what it holds with sqlite3's `.recover`"),
    (r"max_queries_per_hour", "lift this user's limit of queries"),
    (r"not permitted to log in|account is locked", "let this user log in, or name another one in `url`"),
    (r"must set password", "its password has expired: set a new one, also in `password_file`"),
    (
        r"starting up|shutting down|recovery mode|not currently accepting|administrator command",
        "it is being started, stopped or worked on: nothing to do here, it is asked again",
    ),
    (r"connection refused|no route|unreachable|no such file", "is the database running, and reachable from here?"),
    (r"resolve|name or service not known|getaddrinfo", "check the host in `url` and this machine's resolver"),
    (r"certificate|\bssl\b|\btls\b", "check the TLS parameters in `url`"),
    (
        r"refused|can't connect|could not connect|connection failed",
        "is the database running, and reachable from here?",
    ),
)
# statement time-outs: PostgreSQL query_canceled and lock_not_available, MariaDB, MySQL, InnoDB's lock wait
_TIMEOUT = re.compile(
    r"timeout|timed out|statement timeout|max_statement_time|maximum statement execution time|interrupted"
    r"|database is locked|database table is locked|lock wait"
)


def with_present_password(options: SqlOptions) -> SqlOptions:
    """The options with what `password_file` holds now: who changes a password writes it there, and reloads nobody.

    A file that cannot be read, or is open to others, changes nothing.
    """
    if not options.password_file:
        return options
    try:
        password = secrets.check_file(Path(options.password_file))
    except Wrong:
        return options
    return replace(options, url=secrets.with_password(secrets.without_password(options.url), password))


def engine_of(url: str, *, live: bool, more: Mapping[str, Any] | None = None) -> Engine:
    """An engine whose connections only read. live: one look-up, ended by the database after LIVE; else a listing.

    more: arguments of PostgreSQL's driver instead of those in the URL. Raises DirectoryError for a URL that cannot be
    read and for a driver that is not installed.
    """
    parsed = _parsed(url)
    if parsed is None:
        raise DirectoryError("the url is no SQLAlchemy URL", "write e.g. postgresql+psycopg://user@host/db")
    isolation: Any = "AUTOCOMMIT" if live else None
    try:
        if parsed.get_backend_name() == "sqlite":
            engine = _sqlite(parsed, live)
        elif parsed.get_backend_name() == "postgresql":
            parsed = _driver(parsed, "postgresql", "postgresql+psycopg")
            engine = create_engine(
                parsed,
                poolclass=NullPool,
                isolation_level=isolation or "REPEATABLE READ",
                connect_args=_postgresql_arguments(parsed, live) | dict(more or {}),
            )
            event.listen(engine, "connect", _postgresql_session(parsed, live))
            event.listen(engine, "begin", sql_pooler.begin_transaction)
        elif parsed.get_backend_name() in ("mysql", "mariadb"):
            name = parsed.get_backend_name()
            parsed = _driver(parsed, name, f"{name}+pymysql")
            engine = create_engine(
                parsed,
                poolclass=NullPool,
                isolation_level=isolation or "REPEATABLE READ",
                connect_args=_mysql_arguments(parsed, live),
            )
            event.listen(engine, "connect", _mysql_session(live))
        else:
            engine = create_engine(parsed, poolclass=NullPool)
    except ModuleNotFoundError as error:
        name = (error.name or "").lower()
        hint = f"install the Python package {error.name}"
        if name in _EXTRAS:
            hint = f"pip install 'splitmx[{_EXTRAS[name]}]'"
        elif name in _MEANT:
            hint = f"write {_MEANT[name]}:// in `url`"
        raise DirectoryError(f"the database driver {error.name} is not installed", hint) from None
    except (exc.ArgumentError, exc.NoSuchModuleError, ValueError) as error:
        meant = _MEANT.get(parsed.get_backend_name())
        raise DirectoryError(clean(str(error), url), f"write {meant}:// in `url`" if meant else "check `url`") from None
    return engine


def _parsed(url: str) -> URL | None:
    """The URL taken apart, None when it is none (a port that is no number, among others)."""
    try:
        return make_url(url)
    except (exc.ArgumentError, ValueError):
        return None


def _driver(url: URL, bare: str, full: str) -> URL:
    """SQLAlchemy's default drivers are not ours."""
    return url.set(drivername=full) if url.drivername == bare else url


def _postgresql_arguments(url: URL, live: bool) -> dict[str, Any]:
    if url.get_driver_name() != "psycopg":
        return {}
    wanted: dict[str, Any] = {
        "connect_timeout": ceil(LIVE) if live else 10,
        "tcp_user_timeout": int(1000 * (LIVE if live else BULK)),
        "keepalives_idle": 30,
        "prepare_threshold": None,  # a pooler between does not know prepared statements
        "application_name": "splitmx",
        "client_encoding": "utf8",
    }
    return {key: value for key, value in wanted.items() if key not in url.query}


def _postgresql_session(url: URL, live: bool) -> Callable[[Any, Any], None]:
    # whoever names an encoding in the URL has it
    chosen = bool(_postgresql_arguments(url, live).get("client_encoding"))
    limit = int(1000 * (LIVE if live else BULK))

    def begin(connection: Any, record: Any) -> None:
        sql_pooler.begin_session(connection, record, limit)
        if chosen:
            prepare(connection)
        if live:
            times_as_text(connection)
        if not connection.autocommit:
            connection.commit()

    return begin


def _mysql_arguments(url: URL, live: bool) -> dict[str, Any]:
    if url.get_driver_name() != "pymysql":
        return {}
    wait = LIVE if live else BULK
    wanted = {
        "connect_timeout": LIVE if live else 10,
        "read_timeout": wait,
        "write_timeout": wait,
        "charset": "utf8mb4",
    }
    return {key: value for key, value in wanted.items() if key not in url.query}


def _mysql_session(live: bool) -> Callable[[Any, Any], None]:
    seconds = LIVE if live else 20 * BULK
    # the first is MariaDB's, the second MySQL's
    limits = (f"SET SESSION max_statement_time = {seconds}", f"SET SESSION max_execution_time = {int(seconds * 1000)}")

    def begin(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            # what a server is set to may be READ UNCOMMITTED: half of a reload is no answer
            cursor.execute(f"SET SESSION TRANSACTION {'ISOLATION LEVEL READ COMMITTED, ' if live else ''}READ ONLY")
            cursor.execute(_ALL_ROWS)
            with contextlib.suppress(Exception):  # a kin of MariaDB that knows them not has no such limits
                cursor.execute(_WHOLE_VALUES)
            for statement in limits:
                with contextlib.suppress(Exception):  # an unknown variable: the other product
                    cursor.execute(statement)
                    break

    return begin


def sqlite_path(url: str) -> Path | None:
    """The database file of a SQLite URL, None for anything else."""
    parsed = _parsed(url)
    if parsed is None:
        return None
    name = parsed.database or ""
    if parsed.get_backend_name() != "sqlite" or name in ("", ":memory:") or name.startswith("file:"):
        return None
    return Path(name)


def _sqlite(url: URL, live: bool) -> Engine:
    # mode=ro: a missing file is a fault, never a new empty database
    path = sqlite_path(url.render_as_string(hide_password=False))
    if path is None:
        if (url.database or "").startswith("file:") and "mode" not in url.query:
            url = url.update_query_dict({"mode": "ro"})
        return create_engine(url, poolclass=NullPool)
    uri = f"file:{quote(str(path))}?mode=ro"

    def connect() -> sqlite3.Connection:
        made = sqlite3.connect(uri, uri=True, timeout=1.0 if live else 30.0, check_same_thread=False)
        if live:  # a listing begins strictly, which is faster
            made.text_factory = lenient_text
        return made

    return create_engine("sqlite://", creator=connect, poolclass=NullPool)


def lenient_text(value: bytes) -> str:
    """SQLite's text, whatever its octets are: one odd column must not hide its row."""
    return value.decode("utf-8", "surrogateescape")


def opened(engine: Engine, make: Callable[[], _Made], seconds: float, url: str) -> _Made:
    """What `make` (`engine.connect`) gives. Raises what it raises, DirectoryTimeout after `seconds`.

    Behind the login a server's first words may take for ever: those of a pooler that has no connection free, say.
    """
    made: list[Any] = []

    def connect(dialect: Dialect, _: Any, words: Any, more: Any) -> Any:
        made.append(dialect.connect(*words, **more))
        return made[-1]

    guard = Guard(seconds, lambda: bool(made) and end_call(made[-1]))
    event.listen(engine, "do_connect", connect)
    try:
        with guard:
            return make()
    except Exception as error:  # drivers raise what they like while connecting
        if guard.expired:
            raise fault_of(error, url, expired=True) from None
        raise
    finally:
        event.remove(engine, "do_connect", connect)


def clean(text: str, url: str) -> str:
    """A driver's message in one line, without the password that stands in `url`."""
    text = re.sub(r"\s+", " ", text).strip()
    parsed = _parsed(url)
    if parsed is not None and parsed.password:
        secret = str(parsed.password)
        for form in (secret, quote(secret, safe=""), repr(secret)[1:-1]):
            text = text.replace(form, "***")
    return text[:300]


def is_untranslatable(error: BaseException) -> bool:
    """Whether a value cannot be written in the database's encoding, so that nothing there can be equal to it.

    PostgreSQL's untranslatable_character and character_not_in_repertoire, MariaDB's mix of collations.
    """
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        error = error.orig
    if getattr(error, "sqlstate", None) in ("22P05", "22021"):
        return True
    number = error.args[0] if error.args else None
    return isinstance(error, UnicodeEncodeError) or number in (1267, 1270, 1271)


def fault_of(error: BaseException, url: str, *, expired: bool = False) -> DirectoryError:
    """A driver's exception as a directory's, with what to do about it."""
    if isinstance(error, DirectoryError):
        return error
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        error = error.orig
    words = str(error)
    if len(getattr(error, "args", ())) >= 2 and isinstance(error.args[0], int):
        words = f"{error.args[1]} ({error.args[0]})"  # PyMySQL: number and text
    words = clean(words, url) or type(error).__name__
    low = words.lower()
    if expired or _TIMEOUT.search(low) or isinstance(error, TimeoutError):
        return DirectoryTimeout(
            "the database did not answer in time" if expired else words,
            "is it overloaded or hung? `splitmx check` shows whether the live query scans a table",
        )
    for pattern, hint in _HINTS:
        if re.search(pattern, low):
            return DirectoryError(words, hint)
    return DirectoryError(words)
