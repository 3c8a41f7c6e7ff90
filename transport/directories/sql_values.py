# SPDX-License-Identifier: Apache-2.0
"""What PostgreSQL holds and psycopg cannot give: times and JSON that Python does not know, and text in no encoding.

A directory's times are nobody's address: one that Python cannot hold (`infinity`, before the year 1, 24:00) must not
hide its row and everybody else's. Only watermarks (`transport.directories.sql_changes`) need times as times.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

_TIMES = ("date", "timestamp", "timestamptz", "time", "timetz", "interval")
_TEXTS = ("text", "varchar", "bpchar", "name")
_OTHERS = (0, 705)  # every type that psycopg does not know (citext, an enum), and unknown


def prepare(connection: Any) -> None:
    """Make a fresh psycopg connection lenient. Two statements at most; raises what psycopg raises.

    A database of encoding SQL_ASCII holds whatever octets it was given, and refuses to call all of them UTF-8.
    """
    from psycopg import DataError
    from psycopg.adapt import Loader
    from psycopg.types import datetime as times
    from psycopg.types import json

    class Timestamptz(times.TimestamptzLoader):
        def load(self, data: Any) -> datetime:
            try:
                return super().load(data)
            except DataError:
                return _outermost(bytes(data)).replace(tzinfo=UTC)

    class Timestamp(times.TimestampLoader):
        def load(self, data: Any) -> datetime:
            try:
                return super().load(data)
            except DataError:
                return _outermost(bytes(data))

    class Date(times.DateLoader):
        def load(self, data: Any) -> date:
            try:
                return super().load(data)
            except DataError:
                return _outermost(bytes(data)).date()

    class Json(json.JsonLoader):
        def load(self, data: Any) -> Any:
            try:
                return super().load(data)
            except (ValueError, RecursionError):  # a number of thousands of digits, as many brackets
                return bytes(data).decode("utf-8", "surrogateescape")

    class Octets(Loader):
        def load(self, data: Any) -> str:
            return bytes(data).decode("utf-8", "surrogateescape")

    adapters = connection.adapters
    for name, loader in (
        ("timestamptz", Timestamptz),
        ("timestamp", Timestamp),
        ("date", Date),
        ("json", Json),
        ("jsonb", Json),
    ):
        adapters.register_loader(name, loader)
    if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
        with connection.cursor() as cursor:
            cursor.execute("SET client_encoding = 'SQL_ASCII'")
        for number in (*(adapters.types[name].oid for name in _TEXTS), *_OTHERS):
            adapters.register_loader(number, Octets)


def _outermost(written: bytes) -> datetime:
    """The last or the first moment that Python knows, for one beyond it as PostgreSQL writes it."""
    return datetime.min if written.startswith(b"-") or written.endswith(b"BC") else datetime.max  # noqa: DTZ901


def times_as_text(connection: Any) -> None:
    """Give times as they are written, whatever they are, from the next query on; of another driver's: nothing."""
    if type(connection).__module__.partition(".")[0] != "psycopg":
        return
    from psycopg.pq import Format

    adapters = connection.adapters
    plain = adapters.get_loader(adapters.types["text"].oid, Format.TEXT)
    for name in _TIMES:
        adapters.register_loader(name, plain)
