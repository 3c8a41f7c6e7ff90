# SPDX-License-Identifier: Apache-2.0
"""Which server of a database a connection leads to, and whether its "no" may be believed.

A PostgreSQL URL may name several hosts. libpq would begin with the first one at each connection, and wait for it each
time: here all threads agree on one, and go on with the next when it fails. A standby knows what its primary has told
it, and lists whoever it lists; that it does *not* know somebody proves nothing while it is behind.
"""

from __future__ import annotations

import contextlib
import stat
import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import NotSupportedError, ProgrammingError, SQLAlchemyError

from transport.config.settings import SqlOptions
from transport.directories.base import DirectoryError
from transport.directories.sql_connect import LIVE, engine_of, fault_of, opened, sqlite_path, with_present_password
from transport.directories.sql_pooler import is_pooled
from transport.directories.sql_session import is_outlived, note

_RETRY_AFTER = 30.0  # seconds before a host that failed is begun with again
_FIRST_WORDS = 30.0  # seconds for a server to say its first words to a listing
_NEXT = 5  # seconds for one of several hosts to let a listing in
_CATCHES_UP = 0.1  # seconds; the last moment's changes are on their way on any standby
CATCHES_UP_TO_LIST = 10.0
"""Seconds that a standby may take to show what it has received, before it is listed."""
_IS_STANDBY = "standby"  # among what SQLAlchemy keeps beside a DBAPI connection
_PAIR = tuple[str, str]  # host and port as libpq takes them

# Functions that a server does not have (Aurora's readers) make it an error: such a standby cannot tell.
_STANDBY = (
    "SELECT pg_is_in_recovery(), pg_last_wal_receive_lsn(),"
    " extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()),"
    " EXISTS (SELECT 1 FROM pg_stat_wal_receiver)"
)
_REACHED = "SELECT pg_last_wal_replay_lsn() >= CAST(:mark AS pg_lsn)"


class _Hosts:
    """The hosts of one URL, shared by the sources of all threads."""

    def __init__(self, hosts: tuple[_PAIR, ...]) -> None:
        self.hosts = hosts
        self.current = hosts[0]
        self._bad: dict[_PAIR, float] = {}

    def order(self) -> list[_PAIR]:
        """Which to try, best first: the current one, then the others in order, failed ones last."""
        now = time.monotonic()
        return sorted(self.hosts, key=lambda one: (self._bad.get(one, 0.0) > now, one != self.current))

    def rewind(self) -> None:
        """Go back to the first one that did not fail lately; called when a new listing begins."""
        now = time.monotonic()
        self.current = next((one for one in self.hosts if self._bad.get(one, 0.0) <= now), self.current)

    def failed(self, host: _PAIR) -> None:
        """Leave it alone for a while."""
        self._bad[host] = time.monotonic() + _RETRY_AFTER
        if host == self.current:
            self.current = self.order()[0]

    def good(self, host: _PAIR) -> None:
        """It answers."""
        self._bad.pop(host, None)
        self.current = host


_known: dict[tuple[_PAIR, ...], _Hosts] = {}


def _hosts_of(url: str) -> _Hosts | None:
    """The hosts of a PostgreSQL URL that names several, None for any other URL."""
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.drivername != "postgresql+psycopg":
            return None
        arguments: Any = parsed.get_dialect()().create_connect_args(parsed)[1]
    except Exception:  # whatever is wrong with it is said by who makes the engine
        return None
    names = str(arguments.get("host") or "").split(",")
    ports = str(arguments.get("port") or "").split(",")
    if len(names) < 2 or arguments.get("hostaddr") or len(ports) not in (1, len(names)):
        return None
    ports = ports * len(names) if len(ports) == 1 else ports
    pairs = tuple(zip(names, (port or "5432" for port in ports), strict=True))
    return _known.setdefault(pairs, _Hosts(pairs))


class Servers:
    """Opens one source's connections. `options` holds the password of now."""

    def __init__(self, options: SqlOptions) -> None:
        self.options = options
        self.path = sqlite_path(options.url)
        self._engines: dict[tuple[bool, _PAIR | None, str], Engine] = {}
        self._hosts = _hosts_of(options.url)

    def connect(self, *, live: bool, rewind: bool = False) -> Connection:
        """A new connection; of several hosts to the first that lets us in. Raises DirectoryError.

        rewind: begin with the first host again, as a listing does.
        """
        options = with_present_password(self.options)
        if options.url != self.options.url:
            self.options = options
            self._engines.clear()  # they hold no connections
        hosts = self._hosts
        if hosts is None:
            return self._open(live, None, "", listing=rewind)
        if rewind:
            hosts.rewind()
        began = time.monotonic()
        fault: DirectoryError | None = None
        for host, kind in self._attempts(hosts):
            # one that does not answer has used up a live look-up's time: the next call begins with the next host
            if live and fault is not None and time.monotonic() - began > LIVE / 2:
                break
            try:
                connection = self._open(live, host, kind, listing=rewind)
            except DirectoryError as error:
                fault = error
                if kind != "standby":
                    hosts.failed(host)
                continue
            hosts.good(host)
            connection.info["host"] = host
            return connection
        assert fault is not None
        raise fault

    def _attempts(self, hosts: _Hosts) -> Iterator[tuple[_PAIR, str]]:
        """Hosts in order, with the `target_session_attrs` that is not the URL's own."""
        wanted = make_url(self.options.url).query.get("target_session_attrs")
        order = hosts.order()
        if wanted == "prefer-standby":
            yield from ((host, "standby") for host in order)
            yield from ((host, "any") for host in order)
        else:
            yield from ((host, "") for host in order)

    def _open(self, live: bool, host: _PAIR | None, kind: str, *, listing: bool) -> Connection:
        engine = self._engines.get((live, host, kind))
        if engine is None:
            more: dict[str, Any] = {}
            if host is not None:
                more = {"host": host[0], "port": host[1]}
                if not live and "connect_timeout" not in make_url(self.options.url).query:
                    more["connect_timeout"] = _NEXT
            if kind:
                more["target_session_attrs"] = kind
            engine = self._engines[live, host, kind] = engine_of(self.options.url, live=live, more=more)
        try:
            # a missing file would only be "unable to open database file"; for a pipe's writer SQLite waits for ever
            if self.path is not None and not stat.S_ISREG(self.path.stat().st_mode):
                raise DirectoryError(f"{self.path} is no file", "check the path in `url`")
            # not a look-up's own deadline, which a slow one would never meet
            seconds, url = LIVE if live else _FIRST_WORDS, self.options.url
            return opened(engine, lambda: note(engine.connect(), url, listing=listing), seconds, url)
        except FileNotFoundError:
            raise DirectoryError(f"{self.path} does not exist", "check the path in `url`") from None
        except PermissionError:
            raise DirectoryError(f"{self.path} cannot be read", "check the permissions of file and folder") from None
        except ModuleNotFoundError as error:
            raise DirectoryError(f"the Python package {error.name} is not installed") from None
        except Exception as error:  # drivers raise what they like while connecting
            raise fault_of(error, self.options.url) from None

    def left(self, connection: Connection) -> bool:
        """Whether a new connection would come out elsewhere: all others have gone on to another host, the last listing
        did so, or this one has ended. An old one would answer for ever."""
        if connection.closed or connection.invalidated:  # SQLAlchemy would make a new one by itself, with no end set
            return True
        if self._hosts is not None and connection.info.get("host") != self._hosts.current:
            return True
        return is_outlived(connection, self.options.url)

    def close(self) -> None:
        """Forget the engines; connections are closed by who opened them."""
        for engine in self._engines.values():
            engine.dispose()
        self._engines.clear()


def server_of(connection: Connection) -> str:
    """Which server of several this is, HOST:PORT; "" where the URL names one."""
    host = connection.info.get("host")
    return "" if host is None else f"{host[0]}:{host[1]}"


def behind(connection: Connection, patience: float = _CATCHES_UP) -> str:
    """Why a PostgreSQL's "no" proves nothing, "" when the next one does. Asks a standby alone; in a transaction, begins
    it anew.

    It is behind when it does not show within `patience` seconds what it had received, however young that is, or when
    nobody tells it of changes any more. An answer that it gave before this question is as old as it was then:
    `is_standby`.
    """
    if connection.dialect.name != "postgresql":
        return ""
    raw: Any = connection.connection.dbapi_connection
    known = getattr(getattr(raw, "info", None), "parameter_status", lambda _: None)("in_hot_standby")
    pooled = is_pooled(connection)  # what a pooler says of a server it said of another one, long ago
    connection.info.pop(_IS_STANDBY, None)
    if known == "off" and not pooled:  # PostgreSQL 14 and later say it by themselves, a promotion too
        return ""
    if connection.info.get("primary"):  # a primary becomes a standby by a restart only, which ends the connection
        return ""
    try:
        standby, mark, age, told = connection.execute(text(_STANDBY)).one()
        if not standby and not pooled:
            connection.info["primary"] = True
        if not standby or mark is None:
            return ""
        connection.info[_IS_STANDBY] = True
        if not told:
            return "the server is a standby and hears nothing from its primary"
        if _reaches(connection, str(mark), patience):
            return ""
        return f"the server is a standby and {'' if age is None else f'{float(age):.1f} s '}behind its primary"
    except (NotSupportedError, ProgrammingError):
        return ""  # it has no such functions: it can never tell
    except SQLAlchemyError:
        if pooled:
            return "the server behind the pooler did not say whether it is a standby"
        return "the server is a standby that did not say how far it is"  # cancelled by the replay, perhaps
    finally:
        _end_transaction(connection, raw)


def is_standby(connection: Connection) -> bool:
    """Whether `behind` found a standby there that tells how far it is."""
    return not connection.closed and not connection.invalidated and _IS_STANDBY in connection.info


def _reaches(connection: Connection, mark: str, patience: float) -> bool:
    """Whether the standby shows what it had received, now or in a moment."""
    end = time.monotonic() + patience
    while True:
        if connection.execute(text(_REACHED), {"mark": mark}).scalar():
            return True
        if time.monotonic() > end:
            return False
        _end_transaction(connection, connection.connection.dbapi_connection)  # the replay may wait for it
        time.sleep(0.02)


def _end_transaction(connection: Connection, raw: Any) -> None:
    if not raw.autocommit:
        with contextlib.suppress(SQLAlchemyError):  # whoever uses it next is told
            connection.rollback()
