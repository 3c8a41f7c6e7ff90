# SPDX-License-Identifier: Apache-2.0
"""The statements made of an administrator's query: everyone, and those of a few addresses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, TextClause, bindparam, text

from transport.config.settings import SqlOptions

_ADDRESSES = re.compile(r"\(\s*:addresses\s*\)")
# MariaDB and MySQL: collations that compare without regard to case, for which lower() only hides the index
_CASELESS = re.compile(r"_ci$|_ci_|_ai_ci")
_COLLATION = "splitmx_collation"


def plain(query: str) -> str:
    """A query of the administrator's for `text()`: its colons are no bind parameters, a last `;` goes."""
    return query.strip().rstrip(";").rstrip().replace(":", r"\:")


def wrapped(query: str, condition: str) -> str:
    """The query narrowed by a condition on its columns, which are those of `q`."""
    # the line end closes a comment that ends the query
    return f"SELECT * FROM (\n{plain(query)}\n) q WHERE {condition}"  # noqa: S608  values are bound


def lookup_clause(lookup: str) -> TextClause:
    """The administrator's `lookup` with `:addresses` as a bound list, in parentheses or not."""
    query = _ADDRESSES.sub(" :addresses", lookup.strip().rstrip(";"))
    query = re.sub(r":(?!addresses\b)", r"\:", query)
    return text(query).bindparams(bindparam("addresses", expanding=True))


class LiveClause:
    """The live query of one source. collation: that it was made for (MariaDB and MySQL)."""

    def __init__(self, options: SqlOptions) -> None:
        """options: with the schema's queries."""
        self.collation = ""
        self._options = options
        self._statement: TextClause | None = None

    def of(self, connection: Connection) -> TextClause:
        """The live query: `lookup`, or the query with a condition; made once."""
        if self._statement is not None:
            return self._statement
        if self._options.lookup:
            self._statement = lookup_clause(self._options.lookup)
            return self._statement
        column, lasting = self._compared(connection)
        query = wrapped(self._options.query, f"{column} IN :addresses")
        if self.collation:
            query = query.replace("SELECT *", f"SELECT q.*, collation(q.address) AS {_COLLATION}", 1)
        clause = text(query).bindparams(bindparam("addresses", expanding=True))
        if lasting:
            self._statement = clause
        return clause

    def _compared(self, connection: Connection) -> tuple[str, bool]:
        """What is compared without regard to case, and whether that is known: an empty table tells nothing."""
        self.collation = ""
        if self._options.exact_case:
            return "q.address", True
        if connection.dialect.name not in ("mysql", "mariadb"):
            return "lower(q.address)", True
        self.collation = name = self._present_collation(connection)
        if _CASELESS.search(name):
            return "q.address", True
        if name == "binary":  # octets, which lower() leaves as they are
            return "lower(CONVERT(q.address USING utf8mb4))", True
        return "lower(q.address)", bool(name)

    def _present_collation(self, connection: Connection) -> str:
        """MariaDB's or MySQL's collation of the addresses, "" of an empty table."""
        one = f"SELECT collation(q.address) FROM (\n{plain(self._options.query)}\n) q LIMIT 1"  # noqa: S608  the configuration's own query
        return str(connection.execute(text(one)).scalar() or "")

    def compares_otherwise(self, connection: Connection, columns: Sequence[str], rows: Sequence[Any]) -> bool:
        """Whether the column was given another collation since we looked: the answer may lack people then.

        Canaries are in nearly every question, so that a row says it; none at all is asked about.
        """
        if not self.collation or _COLLATION not in columns:
            return False
        now = rows[0][columns.index(_COLLATION)] if rows else self._present_collation(connection)
        if now == self.collation or not now:
            return False
        self._statement = None
        return True
