# SPDX-License-Identifier: Apache-2.0
"""More drills, most for the long form alone: what administrators, backups and other programs do to a site."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from typing import Protocol

import psycopg

from tests.chaos.drills import Drill, Step, kill_and_replaced, send_signal, sql
from tests.chaos.site import ChaosSite
from tests.mta.waiting import wait_for


class _Open(Protocol):
    """A connection of sqlite3 or psycopg."""

    def close(self) -> None: ...


def _hold(open_it: Callable[[ChaosSite], _Open]) -> tuple[Step, Step]:
    """Something that is open while the drill goes on, and its end."""
    held = contextlib.ExitStack()

    def begin(site: ChaosSite) -> None:
        held.callback(open_it(site).close)

    return begin, lambda site: held.close()


def _lock_table(site: ChaosSite) -> _Open:
    """ALTER TABLE in a transaction that somebody forgot."""
    connection = psycopg.connect(host=site.postgres.host, port=site.postgres.port, user="postgres", dbname="chaos")
    connection.execute("LOCK TABLE recipients IN ACCESS EXCLUSIVE MODE")
    return connection


def _lock_index(site: ChaosSite) -> _Open:
    connection = sqlite3.connect(site.state / "index.sqlite", isolation_level=None, timeout=30)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


_EMPTY_AND_FILL = (
    "CREATE TABLE kept AS SELECT * FROM recipients; TRUNCATE recipients; SELECT pg_sleep(3);"
    "INSERT INTO recipients SELECT * FROM kept; DROP TABLE kept;"
)


def _new_database(site: ChaosSite) -> None:
    """Dropped under everybody's connections, made anew, empty for a while."""
    rows = site.postgres.sql("SELECT address FROM recipients", "chaos").split()
    site.postgres.database("chaos", "CREATE TABLE recipients (address text)")
    site.postgres.sql("SELECT pg_sleep(3)")
    site.postgres.sql(f"INSERT INTO recipients VALUES {', '.join(f'({row!r})' for row in rows)}", "chaos")


def _cut_log(site: ChaosSite) -> None:
    """The index's write-ahead log, as a clean-up of large files does it."""
    os.truncate(site.state / "index.sqlite-wal", 0)
    wait_for(lambda: site.logged("was cut"), 20, site.splitmx.tail)


def _cut_map(site: ChaosSite) -> None:
    """The shared memory of the index, in which every process has it mapped: a read beyond it is SIGBUS."""
    os.truncate(site.state / "index.sqlite-shm", 0)


def _move_state(site: ChaosSite) -> None:
    site.state.rename(site.state.with_name("elsewhere"))


def _cover_state(site: ChaosSite) -> None:
    """Something is mounted over it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(site.state)], check=True)


def _uncover_state(site: ChaosSite) -> None:
    subprocess.run(["umount", "-l", str(site.state)], check=True)


def _lose_configuration(site: ChaosSite) -> None:
    """A link to nowhere, a reload, and a keeper that begins without it."""
    site.splitmx.config.unlink()
    site.splitmx.config.symlink_to("/nonexistent/splitmx.toml")
    site.splitmx.reload()
    kill_and_replaced("keeper")(site)


def _find_configuration(site: ChaosSite) -> None:
    site.splitmx.config.unlink()
    site.splitmx.write(site.text)
    site.splitmx.reload()


def _reload_often(site: ChaosSite) -> None:
    for _ in range(100):
        site.splitmx.reload()


def _rename_directories(site: ChaosSite) -> None:
    """A reload in which the same directories have other names: nothing that was read counts for them."""
    text = site.text
    for old, new in (("corp", "staff"), ("office", "bureau")):
        text = text.replace(f"directories.{old}]", f"directories.{new}]").replace(f'"{old}"', f'"{new}"')
    site.splitmx.write(text)
    site.splitmx.reload()


def _rename_back(site: ChaosSite) -> None:
    site.splitmx.write(site.text)
    site.splitmx.reload()


def _kill_keeper_and_worker(site: ChaosSite) -> None:
    """At once, while a large listing is being written."""
    for number in range(3):
        site.add(*((f"bulk{number}x{n}@example.com", "mailbox", "", None, 1) for n in range(5000)))
        keepers, workers = site.pids("keeper"), site.pids("worker")[:1]
        for pid in (*keepers, *workers):
            os.kill(pid, signal.SIGKILL)
        site.wait_replaced("keeper", keepers)
        site.wait_replaced("worker", workers)


def _kill_workers_behind_a_hung_supervisor(site: ChaosSite) -> None:
    """Nobody replaces them, and what listens is the supervisor's: until the service manager ends it all."""
    send_signal("supervisor", signal.SIGSTOP)(site)
    send_signal("worker", signal.SIGKILL)(site)
    site.splitmx.kill()
    site.splitmx.start()


def _restart_often(site: ChaosSite) -> None:
    for _ in range(5):
        site.splitmx.stop()
        site.splitmx.start()
        wait_for(lambda: site.query("relay_recipients", "ann@example.com"), 20, site.splitmx.tail)


_BEGIN_TABLE, _END_TABLE = _hold(_lock_table)
_BEGIN_INDEX, _END_INDEX = _hold(_lock_index)

MORE = (
    Drill("a table is locked", _BEGIN_TABLE, _END_TABLE, strangers_wait=True, short=False),
    Drill("a table is emptied and filled again", sql(_EMPTY_AND_FILL), short=False),
    Drill("a column is renamed", sql("ALTER TABLE recipients RENAME address TO mail"),
          sql("ALTER TABLE recipients RENAME mail TO address"), strangers_wait=True, short=False),
    Drill("the database is made anew", _new_database, short=False),
    Drill("another program locks the index", _BEGIN_INDEX, _END_INDEX, short=False),
    Drill("the index's log is cut", _cut_log, known=False),
    Drill("the index's shared memory is cut", _cut_map, known=False, short=False),
    Drill("the state folder is moved away", _move_state, short=False),
    Drill("something is mounted over the state folder", _cover_state, _uncover_state, short=False),
    Drill("the configuration leads nowhere", _lose_configuration, _find_configuration, short=False),
    Drill("a hundred reloads", _reload_often, short=False),
    Drill("directories are renamed", _rename_directories, _rename_back, known=False, short=False),
    Drill("keeper and worker are killed while they write", _kill_keeper_and_worker, known=False, short=False),
    Drill("workers are killed behind a hung supervisor", _kill_workers_behind_a_hung_supervisor, known=False,
          short=False),
    Drill("the service is restarted again and again", _restart_often, known=False, short=False),
)  # fmt: skip
