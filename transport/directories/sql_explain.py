# SPDX-License-Identifier: Apache-2.0
"""What the database makes of the live query: its own EXPLAIN, the tables it reads whole, and the cure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, TextClause, text
from sqlalchemy.exc import SQLAlchemyError

from transport.config.settings import SqlOptions

MANY = 10_000
"""Rows of a table from which reading it whole for one recipient is a fault."""

_NAME = r'[\w$."`\[\]]+'
_TABLE = re.compile(rf"\b(?:FROM|JOIN)\s+({_NAME})(?:\s+(?:AS\s+)?({_NAME}))?", re.IGNORECASE)
_ADDRESS = re.compile(rf"({_NAME}(?:\([^()]*\))?)\s+(?:AS\s+)?[\"`]?address[\"`]?\s*(?:,|\bFROM\b)", re.IGNORECASE)
_SQLITE_SCAN = re.compile(r"^SCAN (?:TABLE )?(\S+)")
_NO_ALIAS = frozenset(("where", "left", "right", "inner", "outer", "join", "on", "order", "group", "union", "limit"))


@dataclass(frozen=True, slots=True)
class Explained:
    """plan: the database's own words, a line each. scans: table -> rows read whole for one look-up, beyond MANY
    only. cure: statements (and configuration) that end it, "" when nothing needs a cure. ok: no such scan.
    small: the same for tables up to MANY rows that no index serves: no matter now, but when they grow."""

    plan: tuple[str, ...]
    scans: Mapping[str, int]
    cure: str = ""
    small: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether no large table is read whole."""
        return not self.scans


def explain(connection: Connection, clause: TextClause, options: SqlOptions) -> Explained:
    """Ask the database how it runs the live query for two addresses that nobody has."""
    sample = {"addresses": ["nobody.of.us@splitmx.invalid", "nor.here@splitmx.invalid"]}
    kind = connection.dialect.name
    unserved: set[str] = set()
    if kind == "postgresql":
        rows: Any = connection.execute(_prefixed("EXPLAIN (FORMAT JSON) ", clause), sample).scalar()
        tree = (json.loads(rows) if isinstance(rows, str) else rows)[0]["Plan"]
        plan = tuple(_postgresql_lines(tree))
        tables = {node["Relation Name"]: -1 for node in _nodes(tree) if node["Node Type"].endswith("Seq Scan")}
    elif kind == "sqlite":
        details = [str(row[3]) for row in connection.execute(_prefixed("EXPLAIN QUERY PLAN ", clause), sample)]
        plan = tuple(details)
        found = (match[1] for line in details if (match := _SQLITE_SCAN.match(line)))
        names = _aliases(options.lookup or options.query)
        tables = {names.get(name.strip('"`').lower(), name): -1 for name in found if not name.startswith("(")}
    else:
        result = connection.execute(_prefixed("EXPLAIN ", clause), sample)
        lines = [dict(row._mapping) for row in result]
        plan = tuple(" ".join(f"{key}={value}" for key, value in line.items() if value is not None) for line in lines)
        tables = {
            str(line["table"]): int(line.get("rows") or 0)
            for line in lines
            if line.get("type") in ("ALL", "index") and line.get("table")
        }
        unserved = {str(line["table"]) for line in lines if line.get("table") and not line.get("possible_keys")}
    counts = {table: rows_ if rows_ >= 0 else _count(connection, table) for table, rows_ in tables.items()}
    scans = {table: count for table, count in counts.items() if count > MANY}
    small = {table: count for table, count in counts.items() if count <= MANY}
    if small and kind == "postgresql":  # it reads small tables whole even where an index would serve
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        forced: Any = connection.execute(_prefixed("EXPLAIN (FORMAT JSON) ", clause), sample).scalar()
        tree = (json.loads(forced) if isinstance(forced, str) else forced)[0]["Plan"]
        unserved = {node["Relation Name"] for node in _nodes(tree) if node["Node Type"].endswith("Seq Scan")}
    if kind != "sqlite":
        small = {table: count for table, count in small.items() if table in unserved}
    return Explained(plan, scans, _cure(kind, options) if scans or small else "", small)


def _prefixed(prefix: str, clause: TextClause) -> TextClause:
    made = text(prefix + clause.text)
    return made.bindparams(*clause._bindparams.values())


def _nodes(tree: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield tree
    for child in tree.get("Plans", ()):
        yield from _nodes(child)


def _postgresql_lines(tree: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    words = [tree["Node Type"]]
    words += [f"using {tree['Index Name']}"] if "Index Name" in tree else []
    words += [f"on {tree['Relation Name']}"] if "Relation Name" in tree else []
    words += [f"{key.lower()} {tree[key]}" for key in ("Index Cond", "Filter") if key in tree]
    yield "  " * depth + " ".join(words) + f" (rows {tree.get('Plan Rows')}, cost {tree.get('Total Cost')})"
    for child in tree.get("Plans", ()):
        yield from _postgresql_lines(child, depth + 1)


def _aliases(query: str) -> dict[str, str]:
    """Alias in lower case -> table, as far as the query's text shows them."""
    found = {}
    for table, alias in _TABLE.findall(query):
        found[table.strip('"`').lower()] = table
        if alias and alias.lower() not in _NO_ALIAS:
            found[alias.strip('"`').lower()] = table
    return found


def _count(connection: Connection, table: str) -> int:
    """How many rows a table has, counted to MANY + 1; MANY + 1 as well when it cannot be counted."""
    for name in (table, connection.dialect.identifier_preparer.quote(table)):
        try:
            with connection.begin_nested() if connection.in_transaction() else connection.begin():
                query = f"SELECT count(*) FROM (SELECT 1 FROM {name} LIMIT {MANY + 1}) q"  # noqa: S608  a table that EXPLAIN named
                return int(connection.execute(text(query)).scalar() or 0)
        except SQLAlchemyError:
            continue
    return MANY + 1


def _cure(kind: str, options: SqlOptions) -> str:
    """The index that the live query needs; names are guessed from the query and to be checked."""
    if options.lookup:
        return "give every column that `lookup` compares with :addresses an index"
    table = next((t for t, _ in _TABLE.findall(options.query)), "recipients")
    named = _ADDRESS.search(options.query)
    column = named[1].rpartition(".")[2] if named and named[1].lower() not in ("select", "distinct") else "address"
    index = re.sub(r"\W+", "_", table.strip('"`')) + "_address"
    simple = (
        "\nthe index helps only a plain query: with UNION, DISTINCT, LIMIT or GROUP BY in `query`, set `lookup` too"
    )
    tail = simple if re.search(r"\b(UNION|DISTINCT|LIMIT|GROUP\s+BY)\b", options.query, re.IGNORECASE) else ""
    if options.exact_case:
        return f"CREATE INDEX {index} ON {table} ({column});{tail}"
    if kind in ("mysql", "mariadb"):
        return (
            f"CREATE INDEX {index} ON {table} ({column});  -- where the column's collation ends in _ci\n"
            '-- else, with lookup = "SELECT … WHERE address_lower IN :addresses":\n'
            f"ALTER TABLE {table} ADD COLUMN address_lower VARCHAR(320) AS (lower({column})) STORED, "
            f"ADD INDEX {index}_lower (address_lower);{tail}"
        )
    return f"CREATE INDEX {index}_lower ON {table} (lower({column}));{tail}"
