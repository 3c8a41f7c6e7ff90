# SPDX-License-Identifier: Apache-2.0
"""The watermark: rows whose `changed` column is not older than the largest value seen, less a minute.

Values are the database's own, never our clock's. The minute catches equal stamps and transactions that committed
late; taking a row twice does no harm. Rows that vanished or changed their address are found by the full compare alone.
A value in the future (by more than a minute; by more than a day, where time zones are not known) does not move the
watermark: it would hide everything that changes before that moment. So it is after a clock was set back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any

from sqlalchemy import Connection, TextClause, text

from transport.config.settings import SqlOptions
from transport.directories.base import Changes, DirectoryError, Skipped
from transport.record import Record

OVERLAP = timedelta(seconds=60)
_FUTURE = timedelta(days=1)
_NAME = re.compile(r'[A-Za-z_][A-Za-z0-9_$]*|"[^"]+"|`[^`]+`')
# Numbers that are times since 1970, and how many make a second; others are versions, as 20261201120000 is
_UNITS = (
    (range(10**9, 10**11), 1),
    (range(10**12, 2 * 10**13), 1_000),
    (range(10**15, 2 * 10**16), 1_000_000),
)
_SECONDS = len("2026-12-01 12:00:00")
_BEYOND = 1.7e308  # nearly the largest number of a double
_NOW = {"sqlite": "SELECT CAST(strftime('%s', 'now') AS INTEGER)", "postgresql": "SELECT extract(epoch from now())"}
_NOW_MYSQL = "SELECT unix_timestamp()"

Value = datetime | int | float | str


def _column(options: SqlOptions) -> str:
    if not _NAME.fullmatch(options.changed):
        raise DirectoryError(f"changed = {options.changed!r} is no column's name", "name a column that `query` gives")
    return f"q.{options.changed}"


def _from(options: SqlOptions) -> str:
    query = options.query.strip().rstrip(";").rstrip().replace(":", r"\:")
    return f"FROM (\n{query}\n) q"


def _plain(value: Any) -> Value | None:
    """A column's value as one of the few types we can subtract a minute from."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, Decimal):
        whole = value.is_finite() and value == value.to_integral_value()
        return int(value) if whole else float(value)  # a float would round a long version number up
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day)  # noqa: DTZ001  as the database has it
    return value if isinstance(value, (datetime, int, float, str)) else str(value)


def _moment(value: Value, now: float) -> tuple[datetime, datetime] | None:
    """The value as a time, and the database's now beside it; None for a version number or any other text."""
    try:
        if isinstance(value, (int, float)):
            unit = _unit(value)
            if not unit:
                return None
            return datetime.fromtimestamp(value / unit, UTC), datetime.fromtimestamp(now, UTC)
        stamp = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (ValueError, OverflowError, OSError):
        return None
    return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)), datetime.fromtimestamp(now, UTC)


def _unit(value: float) -> int:
    """How many of this number's units make a second, 0 where it is a version."""
    whole = int(value)
    return next((unit for numbers, unit in _UNITS if whole in numbers), 0)


def _largest(connection: Connection, options: SqlOptions) -> tuple[Value | None, bool]:
    """The largest `changed` that is not in the future, and whether there are some in the future."""
    column = _column(options)
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL datestyle = 'ISO'"))  # psycopg reads a timestamptz in no other
    largest = _plain(connection.execute(text(f"SELECT max({column}) {_from(options)}")).scalar())
    if largest is None or _before_time(largest):
        return None, False
    if isinstance(largest, float) and not isfinite(largest):  # NaN and Infinity are PostgreSQL's largest numbers
        return _largest_below(connection, options, _BEYOND), True
    now = float(connection.execute(text(_NOW.get(connection.dialect.name, _NOW_MYSQL))).scalar() or 0)
    moment = _moment(largest, now)
    # what stands in another time zone than UTC, without saying so, is up to a day ahead of itself
    ahead = _FUTURE if isinstance(largest, str) or getattr(largest, "tzinfo", UTC) is None else OVERLAP
    if moment is None or moment[0] <= moment[1] + ahead:
        return largest, False
    return _largest_below(connection, options, _like(moment[1] + ahead, largest)), moment[0] > moment[1] + _FUTURE


def _largest_below(connection: Connection, options: SqlOptions, bound: Value) -> Value | None:
    """The largest `changed` that is not beyond `bound`."""
    column = _column(options)
    query = f"SELECT max({column}) {_from(options)} WHERE {column} <= :bound"
    largest = _plain(connection.execute(text(query), {"bound": bound}).scalar())
    if largest is None or _before_time(largest) or (isinstance(largest, float) and not isfinite(largest)):
        return None
    return largest


def _before_time(value: Value) -> bool:
    """Whether all rows are from before the first time that Python knows (`transport.directories.sql_values`)."""
    return isinstance(value, datetime) and value.year == 1


def _like(stamp: datetime, pattern: Value) -> Value:
    """A time in the form that the column has."""
    if isinstance(pattern, int):
        return int(stamp.timestamp()) * _unit(pattern)
    if isinstance(pattern, float):
        return stamp.timestamp() * _unit(pattern)
    if isinstance(pattern, datetime):
        return stamp if pattern.tzinfo else stamp.replace(tzinfo=None)
    shape = datetime.fromisoformat(pattern)
    whole = stamp if shape.tzinfo else stamp.replace(tzinfo=None)
    written = whole.isoformat("T" if "T" in pattern else " ", "microseconds" if "." in pattern else "seconds")
    return written.replace("+00:00", "Z") if pattern.endswith("Z") else written


def _less_a_minute(value: Value) -> Value:
    """Where to read from. Text that is no time, and version numbers, are taken as they are."""
    if isinstance(value, datetime):
        return value - OVERLAP
    if isinstance(value, (int, float)):
        overlap = int(OVERLAP.total_seconds()) * _unit(value)
        return value - overlap if overlap else value
    head, rest = value[:_SECONDS], value[_SECONDS:]  # fractions, however many digits, and the zone stay
    try:
        stamp = datetime.fromisoformat(head)
        same = stamp.isoformat(head[10:11], "seconds") == head
    except (ValueError, TypeError):
        return value
    return f"{(stamp - OVERLAP).isoformat(head[10], 'seconds')}{rest}" if same else value


def _pack(value: Value | None) -> bytes:
    if value is None:
        return b""
    if isinstance(value, datetime):
        return json.dumps({"time": value.isoformat()}).encode()
    return json.dumps({"value": value}).encode()


def _unpack(cookie: bytes) -> Value | None:
    try:
        held = json.loads(cookie)
        found = datetime.fromisoformat(held["time"]) if "time" in held else held["value"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, (datetime, int, float, str)) else None


def _went_back(since: Any, largest: Any) -> bool:
    """Whether the table's largest value is less than the one seen, or of another sort, or there is none."""
    try:
        return largest is None or bool(largest < since)
    except TypeError:
        return True


def first_cookie(connection: Connection, options: SqlOptions, skipped: Skipped) -> bytes:
    """The watermark before a listing; rows that it will never cover are noted."""
    largest, future = _largest(connection, options)
    nulls = connection.execute(text(f"SELECT count(*) {_from(options)} WHERE {_column(options)} IS NULL")).scalar()
    if nulls:
        skipped.add(options.changed, f"NULL in {nulls} rows: changes of those are found by the full compare alone")
    if future:
        skipped.add(options.changed, "a value more than a day in the future: it does not move the watermark")
    return _pack(largest)


def changes_since(
    connection: Connection,
    options: SqlOptions,
    cookie: bytes,
    limit: int,
    rows: Callable[[TextClause, dict[str, Any]], Iterator[Record]],
) -> Changes:
    """The rows at or after the cookie's value less a minute, at most `limit` of them."""
    since = _unpack(cookie)
    largest, _ = _largest(connection, options)
    if since is None:
        return Changes(full_needed=True, why="no watermark yet", cookie=_pack(largest))
    if _went_back(since, largest):
        return Changes(
            full_needed=True,
            why=f"the largest value of {options.changed} went back: rows were removed, the table is another one, or "
            "the clock that writes it is ahead",
        )
    column = _column(options)
    clause = text(f"SELECT * {_from(options)} WHERE {column} >= :since")
    upserts: list[tuple[bytes | None, tuple[Record]]] = []
    for record in rows(clause, {"since": _less_a_minute(since)}):
        if len(upserts) >= limit:
            return Changes(full_needed=True, why=f"more than {limit} rows changed", cookie=_pack(largest))
        upserts.append((None, (record,)))
    return Changes(upserts=upserts, cookie=_pack(largest) or cookie, removals=False, additions=False)
