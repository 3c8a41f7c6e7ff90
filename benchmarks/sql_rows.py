# SPDX-License-Identifier: Apache-2.0
"""The rows beside Postfix's own `pgsql:` and `sqlite:` maps, on the same rows."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from benchmarks.daemon import DOMAIN, Daemon, users
from benchmarks.ldap_rows import PEOPLE, at_once, strangers_file, timed_postmap
from benchmarks.tools import Bench, Result, fastest, least
from tests.servers.postgres import BINARY, Postgres

MANY = 50  # connections at once; the PostgreSQL of the tests allows 60
PER = 400  # keys of each postmap process
_TABLE = "CREATE TABLE recipients (address TEXT PRIMARY KEY)"
_INDEX = "CREATE INDEX by_address ON recipients (lower(address))"  # what `splitmx check` advises
_QUERY = "SELECT address FROM recipients"


@contextmanager
def _pgsql(bench: Bench) -> Iterator[tuple[str, str]]:
    """(SQLAlchemy URL, Postfix's map) of a PostgreSQL with PEOPLE rows."""
    server = Postgres()
    try:
        fill = f"INSERT INTO recipients SELECT 'first.last' || to_char(n, 'FM0000000') || '@{DOMAIN}'"
        fill = f"{_TABLE}; {_INDEX}; {fill} FROM generate_series(0, {PEOPLE - 1}) n; ANALYZE recipients"
        url = server.database("bench", fill)
        path = bench.work / "pgsql.cf"
        path.write_text(
            f"hosts = postgresql://postgres@{server.host}:{server.port}/bench\nuser = postgres\ndbname = bench\n"
            f"query = {_QUERY} WHERE address = '%s'\n"
        )
        yield url, f"pgsql:{path}"
    finally:
        server.close()


@contextmanager
def _sqlite(bench: Bench) -> Iterator[tuple[str, str]]:
    """The same of an SQLite file."""
    database = bench.work / "people.db"
    database.unlink(missing_ok=True)
    with closing(sqlite3.connect(database)) as db:
        db.execute(_TABLE)
        db.execute(_INDEX)
        db.executemany("INSERT INTO recipients VALUES (?)", ((f"{user}@{DOMAIN}",) for user in users(PEOPLE)))
        db.commit()
    path = bench.work / "sqlite.cf"
    path.write_text(f"dbpath = {database}\nquery = {_QUERY} WHERE address = '%s'\n")
    yield f"sqlite:///{database}", f"sqlite:{path}"


def databases(bench: Bench) -> list[Result]:
    """Known keys through one `postmap -q -`, and live misses of many at once, beside each database's own map."""
    keys = bench.work / "keys"
    keys.write_text("".join(f"{user}@{DOMAIN}\n" for user in users(PEOPLE)))
    for number in range(MANY):
        names = (f"stranger{number * PER + n}@{DOMAIN}\n" for n in range(PER))
        (bench.work / f"keys{number}").write_text("".join(names))
    found = []
    for name, made in (("pgsql", _pgsql), ("sqlite", _sqlite)):
        if name == "pgsql" and not shutil.which(BINARY):
            found.append(Result(f"beside `{name}:`", "skipped: no PostgreSQL", "", "", "none set"))
            continue
        with made(bench) as (url, table):
            found += _rows(bench, name, url, table)
    return found


def _rows(bench: Bench, name: str, url: str, table: str) -> list[Result]:
    directories = f'[directories.here]\ntype = "sql"\nurl = "{url}"\nquery = "{_QUERY}"\nfresh_for = "0s"\n'
    frames = strangers_file(bench)
    daemon = Daemon(bench.work / name, directories, pin=False).start_loaded()
    known: tuple[list[float], list[float]] = [], []
    ours: list[dict[str, float]] = []
    its: list[float] = []
    try:
        socketmap = f"socketmap:unix:{daemon.socketmap}:relay_recipients"
        timed_postmap(socketmap, bench.work / "keys")
        bench.load(daemon.socketmap, frames, MANY, seconds=1)
        for number in range(bench.rounds):
            known[1].append(timed_postmap(table, bench.work / "keys"))
            known[0].append(timed_postmap(socketmap, bench.work / "keys"))
            one = bench.load(daemon.socketmap, frames, MANY, offset=(number + 1) * 150_000, pid=daemon.pid)
            one["rate"] *= 1 - one["temp"] / one["answers"]
            ours.append(one)
            its.append(MANY * PER / at_once(bench, table, MANY))
    finally:
        daemon.stop()
        shutil.rmtree(daemon.work)
    return [
        Result(
            f"20,000 keys through `postmap -q -`, beside `{name}:`",
            f"{min(known[0]):.2f} s",
            f"Postfix's `{name}:` {min(known[1]):.2f} s",
            f"{min(known[0]) / min(known[1]):.2f} × its time",
            "none set",
        ),
        Result(
            f"live misses, {MANY} connections, beside `{name}:`",
            f"{fastest(ours) / 1000:.1f} k/s, {least(ours, 'cpu'):.0f} µs CPU, "
            f"{sum(one['temp'] for one in ours):.0f} TEMP",
            f"Postfix's `{name}:`, {MANY} processes: {max(its) / 1000:.1f} k/s",
            f"{fastest(ours) / max(its):.2f} × as many",
            "none set",
        ),
    ]
