# SPDX-License-Identifier: Apache-2.0
"""Recipients in a SQL database: SQLite, PostgreSQL, MariaDB and MySQL, by SQLAlchemy Core.

One definition serves both ways: `query` lists everyone, and the same query wrapped in a condition (or `lookup`) answers
for a few addresses. Values are always bound, and what comes back counts only when our own parser finds it equal to
what was asked, so that no collation decides.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

from sqlalchemy import Connection, TextClause, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from transport.config.settings import SqlOptions
from transport.directories.base import Changes, DirectoryError, DirectoryTimeout, Found, Listing, Skipped
from transport.directories.reading import dotless, matching, records_of, spellings
from transport.directories.schemas import sql_options
from transport.directories.sql_clause import LiveClause, plain
from transport.directories.sql_connect import (
    BULK,
    LIVE,
    clean,
    fault_of,
    is_untranslatable,
    lenient_text,
)
from transport.directories.sql_driver import (
    Disconnected,
    NotUtf8,
    Untranslatable,
    drivers_errors,
    end_call,
    forget_rows,
    let_go,
    original_of,
    padded_in,
    unpadded,
)
from transport.directories.sql_explain import Explained, explain
from transport.directories.sql_file import Untouched
from transport.directories.sql_pooler import DOTLESS, give_back
from transport.directories.sql_rewritten import need_unexchanged
from transport.directories.sql_servers import CATCHES_UP_TO_LIST, Servers, behind, is_standby, server_of
from transport.directories.sql_values import times_as_text
from transport.directories.watchdog import Guard
from transport.record import Record

_ROWS = 2000  # rows a fetch
_SURROGATE = re.compile("[\ud800-\udfff]")
_STANDBY = "name the primary in `url`, or see to its replication (pg_stat_wal_receiver, recovery_min_apply_delay)"


class SqlSource:
    """One SQL directory, for one thread. Keeps one connection to a server for live look-ups, and one while it lists."""

    def __init__(self, name: str, options: SqlOptions) -> None:
        self.name = name
        self._servers = Servers(sql_options(options))
        self._live: Connection | None = None
        self._clause = LiveClause(self._servers.options)

    @property
    def options(self) -> SqlOptions:
        """As configured, with the schema's queries and the password of now."""
        return self._servers.options

    def list(self) -> Listing:
        """Everyone, as a stream out of one read-only transaction; the same address may come twice."""
        listing = Listing(iter(()), Skipped())
        listing.records = self._records(listing)
        return listing

    def _records(self, listing: Listing) -> Iterator[Record]:
        """The rows; once more from the start, leniently, when SQLite holds text that is not UTF-8."""
        try:
            yield from self._stream(listing, lenient=False)
        except NotUtf8:
            listing.skipped.count = 0
            listing.skipped.first.clear()
            yield from self._stream(listing, lenient=True)

    def _stream(self, listing: Listing, *, lenient: bool) -> Iterator[Record]:
        connection = self._servers.connect(live=False, rewind=True)
        try:
            raw: Any = connection.connection.dbapi_connection
            listing.server = server_of(connection)
            with Guard(BULK, lambda: end_call(raw)):
                why = behind(connection, CATCHES_UP_TO_LIST)
            if why:
                raise DirectoryError(why, _STANDBY)
            if lenient and isinstance(raw, sqlite3.Connection):
                raw.text_factory = lenient_text
            untouched = Untouched(raw, self._servers.path, self.options.url)
            if self.options.changed:
                listing.cookie = self._first_cookie(connection, listing.skipped)
            yield from self._rows(connection, raw, text(plain(self.options.query)), {}, listing.skipped)
            untouched.need()
            self._need_unexchanged(connection)
            give_back(connection, LIVE)
        finally:
            let_go(connection)

    def _rows(
        self, connection: Connection, raw: Any, clause: TextClause, values: dict[str, Any], skipped: Skipped
    ) -> Iterator[Record]:
        """Run a query on a server-side cursor and read its rows as records."""
        expired = False
        times_as_text(raw)
        try:
            with Guard(BULK, lambda: end_call(raw)) as guard:
                # of this statement alone: behind a pooler another one begins the transaction
                options = {"stream_results": True, "yield_per": _ROWS}
                result = connection.execute(clause, values, execution_options=options)
            expired = guard.expired
            columns = list(result.keys())
            self._need_address(columns)
            padded = padded_in(result.cursor)
            # SQLAlchemy's result holds the first rows of a server-side cursor; SQLite's own is read directly
            source: Any = result.cursor if isinstance(raw, sqlite3.Connection) else result
            while True:
                with Guard(BULK, lambda: end_call(raw)) as guard:
                    rows: Sequence[Any] = source.fetchmany(_ROWS)
                expired = guard.expired
                if not rows:
                    break
                yield from records_of(unpadded(rows, padded) if padded else rows, columns, skipped)
            result.close()
        except (SQLAlchemyError, OSError, drivers_errors(raw)) as error:
            if isinstance(original_of(error), sqlite3.OperationalError) and "decode to UTF-8" in str(error):
                raise NotUtf8 from None
            raise fault_of(error, self.options.url, expired=expired) from None
        finally:
            forget_rows(raw)  # of who reads no further: the connection is given up

    def _need_address(self, columns: Sequence[str]) -> None:
        if "address" not in (name.lower() for name in columns):
            names = ", ".join(columns)
            raise DirectoryError(
                f"the query gives no column address (but {names})", "write `name AS address` in `query`"
            )

    def ask(self, addresses: Sequence[tuple[str, str]], timeout: float) -> Found:
        """Those of the addresses that are listed. timeout: seconds, at most 2 count."""
        if not addresses:
            return Found(())
        timeout = min(timeout, LIVE)
        end = monotonic() + timeout
        wanted = [word for local, domain in addresses for word in spellings(local, domain, upper=True)]
        # what no database can hold none lists; drivers raise on it
        values = [word for word in dict.fromkeys(wanted) if "\0" not in word and not _SURROGATE.search(word)]
        if not values:
            return Found(())
        reused = self._live is not None and not self._servers.left(self._live)
        while True:
            try:
                found = matching(self._ask_each(values, end), addresses)
                lacks = len(found) < len(set(addresses))
                answer = self._judged(found, lacks, end)
                if answer.doubt or not lacks or self._live is None or not is_standby(self._live):
                    return answer
                # that a standby shows all it had received is true of its next answer, not of the last one
                return replace(answer, records=self._again(values, addresses, end))
            except DirectoryTimeout:
                self._drop()
                raise
            except Disconnected as error:
                self._drop()
                # a connection that was kept may have been closed by the other side long ago
                if not reused or monotonic() > end:
                    raise error.fault from None
                reused = False

    def _again(self, values: Sequence[str], addresses: Sequence[tuple[str, str]], end: float) -> Sequence[Record]:
        """What the server that was just judged says now."""
        connection = self._live
        found = matching(self._ask_each(values, end), addresses)
        if self._live is not connection:
            raise DirectoryError("another server answers than the one that was judged", "it is asked again")
        return found

    def _judged(self, found: Sequence[Record], lacks: bool, end: float) -> Found:
        """The answer, who gave it, and whether who it `lacks` may be somebody after all."""
        connection = self._live
        if connection is None:
            return Found(found)
        if connection.invalidated:  # behind the answer
            return Found(found, doubt="the connection to the database ended" if lacks else "")
        doubt = ""
        if lacks:
            raw = connection.connection.dbapi_connection
            with Guard(max(0.001, end - monotonic()), lambda: end_call(raw)) as guard:
                doubt = behind(connection)
            if guard.expired:
                raise DirectoryTimeout("the database did not answer in time", "is it overloaded or hung?")
        return Found(found, server_of(connection), doubt=f"{doubt}: {_STANDBY}" if doubt else "")

    def _ask_each(self, values: Sequence[str], end: float) -> Sequence[Record]:
        """The records among these spellings; those that the database's encoding cannot hold are nobody's.

        A row whose text the server cannot give is no such spelling: whoever stands in it is there.
        """
        try:
            return self._ask(values, end)
        except Untranslatable:
            pass
        plain_ = [word for word in values if word.isascii()]
        try:
            records = [*self._ask(plain_, end)] if plain_ else []
        except Untranslatable as found:
            raise found.fault from None
        for word in values:
            if not word.isascii():
                try:
                    records += self._ask([word], end)
                except Untranslatable as found:
                    if self._holds(word, end):
                        raise found.fault from None
        return records

    def _holds(self, word: str, end: float) -> bool:
        """Whether PostgreSQL's encoding can hold this word, so that it was a row of its that could not be told.

        MariaDB and MySQL turn what they cannot tell into question marks: there it was the word.
        """
        connection = self._live
        if connection is None or connection.dialect.name != "postgresql":
            return False
        raw = connection.connection.dbapi_connection
        try:
            with Guard(max(0.001, end - monotonic()), lambda: end_call(raw)) as guard:
                connection.execute(text("SELECT length(CAST(:word AS text))"), {"word": word})
        except (SQLAlchemyError, OSError, drivers_errors(raw)) as error:
            if is_untranslatable(error):
                return False
            self._drop()
            raise fault_of(error, self.options.url, expired=guard.expired) from None
        finally:
            give_back(self._live, end - monotonic())
        return True

    def _ask(self, values: Sequence[str], end: float) -> Sequence[Record]:
        if self._live is not None and self._servers.left(self._live):
            self._drop()
        raw: Any = None
        guard = Guard(max(0.001, end - monotonic()), lambda: end_call(raw))
        try:
            with guard:
                if self._live is None:
                    self._live = self._servers.connect(live=True)
                connection = self._live
                raw = connection.connection.dbapi_connection
                if isinstance(raw, sqlite3.Connection):
                    raw.execute(f"PRAGMA busy_timeout = {max(1, int(1000 * guard.left))}")
                for again in (True, False):
                    clause = self._clause.of(connection)
                    turkish = "turkish" in self._clause.collation or connection.info.get(DOTLESS)
                    words = [form for word in values for form in dotless(word)] if turkish else [*values]
                    result = connection.execute(clause, {"addresses": words})
                    columns = list(result.keys())
                    self._need_address(columns)
                    padded = padded_in(result.cursor)
                    rows: Sequence[Any] = result.fetchall()
                    if not (again and self._clause.compares_otherwise(connection, columns, rows)):
                        break
        except (SQLAlchemyError, OSError, ValueError, drivers_errors(raw)) as error:
            if is_untranslatable(error):
                raise Untranslatable(fault_of(error, self.options.url)) from None
            fault = fault_of(error, self.options.url, expired=guard.expired)
            if guard.expired:
                raise fault from None
            # before its words are looked at: PostgreSQL and poolers end idle connections "due to a timeout"
            if not isinstance(error, DBAPIError) or error.connection_invalidated or raw is None:
                raise Disconnected(fault) from None
            raise fault from None
        finally:
            if isinstance(raw, sqlite3.Connection):
                # kept, it would answer out of pages and a log that a copy over the file, or a restore, has made void
                self._drop()
            give_back(self._live, end - monotonic())
        return tuple(records_of(unpadded(rows, padded) if padded else rows, columns, Skipped()))

    def explain_live(self) -> Explained:
        """The database's plan of the live query, what it scans, and the index that cures it."""
        connection = self._servers.connect(live=False)
        raw: Any = connection.connection.dbapi_connection
        try:
            with Guard(30.0, lambda: end_call(raw)):
                return explain(connection, self._clause.of(connection), self.options)
        except (SQLAlchemyError, OSError, drivers_errors(raw)) as error:
            raise fault_of(error, self.options.url) from None
        finally:
            let_go(connection)

    def changes(self, cookie: bytes, limit: int) -> Changes:
        """Rows whose `changed` is at or after the watermark less a minute (`transport.directories.sql_changes`)."""
        from transport.directories.sql_changes import changes_since

        if not self.options.changed:
            return Changes(full_needed=True, why="no `changed` column is configured")
        connection = self._servers.connect(live=False)
        raw: Any = connection.connection.dbapi_connection
        try:
            with Guard(BULK, lambda: end_call(raw)) as guard:

                def rows(clause: TextClause, values: dict[str, Any]) -> Iterator[Record]:
                    return self._rows(connection, raw, clause, values, Skipped())

                changes = changes_since(connection, self.options, cookie, limit, rows)
            give_back(connection, LIVE)
            return replace(changes, server=server_of(connection))
        except NotUtf8:
            return Changes(full_needed=True, why="text that is not UTF-8 among the changed rows")
        except (SQLAlchemyError, OSError, drivers_errors(raw)) as error:
            raise fault_of(error, self.options.url, expired=guard.expired) from None
        finally:
            let_go(connection)

    def _first_cookie(self, connection: Connection, skipped: Skipped) -> bytes:
        from transport.directories.sql_changes import first_cookie

        try:
            return first_cookie(connection, self.options, skipped)
        except SQLAlchemyError as error:
            raise fault_of(error, self.options.url) from None

    def _need_unexchanged(self, connection: Connection) -> None:
        try:
            need_unexchanged(connection)
        except SQLAlchemyError as error:
            raise fault_of(error, self.options.url) from None

    def _drop(self) -> None:
        if self._live is not None:
            let_go(self._live)
            self._live = None

    def close(self) -> None:
        """Let go of every connection."""
        self._drop()
        self._servers.close()

    def __repr__(self) -> str:
        return f"SqlSource({self.name!r}, {clean(self.options.url, self.options.url)!r})"
