# SPDX-License-Identifier: Apache-2.0
"""What breaks, and how it is mended again."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from tests.chaos.site import ChaosSite
from tests.mta.waiting import wait_for
from tests.servers.slapd import SUFFIX

Step = Callable[[ChaosSite], object]


@dataclass(frozen=True)
class Drill:
    """One drill. known: who is listed does not even notice (no recipient of ours that is listed is put off).
    strangers_wait: the fault makes it impossible to say who is a stranger, so some of them have to be put off.
    foreign: the longest that mail for other domains may wait for its answer, in seconds. short: part of CI."""

    name: str
    breaks: Step
    mends: Step = lambda site: None
    known: bool = True
    strangers_wait: bool = False
    foreign: float = 3.0
    short: bool = True
    letters: int = 60


def send_signal(role: str, number: int) -> Step:
    """To every process of a role."""

    def act(site: ChaosSite) -> None:
        for pid in site.pids(role):
            os.kill(pid, number)

    return act


def kill_and_replaced(role: str) -> Step:
    """SIGKILL, and others in their place."""

    def act(site: ChaosSite) -> None:
        old = site.pids(role)
        send_signal(role, signal.SIGKILL)(site)
        site.wait_replaced(role, old)

    return act


def _hang_and_replaced(role: str) -> Step:
    def act(site: ChaosSite) -> None:
        old = site.pids(role)
        send_signal(role, signal.SIGSTOP)(site)
        site.wait_replaced(role, old, 30)

    return act


def _service_manager_restarts(site: ChaosSite) -> None:
    """What systemd does: SIGKILL for the whole control group, then a new start."""
    site.splitmx.kill()
    site.splitmx.start()


def _hang_supervisor(site: ChaosSite) -> None:
    send_signal("supervisor", signal.SIGSTOP)(site)


def _keeper_dies_again_and_again(site: ChaosSite) -> None:
    for _ in range(4):
        kill_and_replaced("keeper")(site)


def _lose_acl(site: ChaosSite) -> None:
    """Searches succeed and find nothing."""
    text = site.slapd.conf.read_text()
    denied = f'access to dn.children="ou=people,{SUFFIX}" by * none\naccess to * by * read\n'
    site.slapd.conf.with_suffix(".good").write_text(text)
    site.slapd.conf.write_text(text.replace("\noverlay syncprov", f"\n{denied}overlay syncprov"))
    site.slapd.restart()


def _regain_acl(site: ChaosSite) -> None:
    shutil.copy(site.slapd.conf.with_suffix(".good"), site.slapd.conf)
    site.slapd.restart()


def _empty_slapd(site: ChaosSite) -> None:
    site.slapd.restart(empty=True)


def _refill_slapd(site: ChaosSite) -> None:
    from tests.chaos.site import CROWD

    for number in range(1, CROWD + 1):
        site.slapd.person(f"p{number}", f"person{number}@example.com")


def sql(script: str) -> Step:
    """Run in PostgreSQL."""

    def act(site: ChaosSite) -> None:
        site.postgres.sql(script, "chaos")

    return act


def _restart_postgres(site: ChaosSite) -> None:
    site.postgres.restart()


_VANISH = (
    "CREATE TABLE kept AS SELECT * FROM recipients; "
    "DELETE FROM recipients WHERE substr(address, 7, 1) IN ('3', '4') OR address LIKE 'office1_@%';"
)
_RETURN = "DELETE FROM recipients; INSERT INTO recipients SELECT * FROM kept; DROP TABLE kept;"


def _swap_sqlite(site: ChaosSite) -> None:
    """Another file under the same name, with the table and nobody in it."""
    site.people.rename(site.people.with_suffix(".good"))
    with closing(sqlite3.connect(site.people)) as db:
        db.execute("CREATE TABLE recipients (address TEXT, kind TEXT, targets TEXT, location TEXT, active INT)")
        db.commit()


def _swap_back(site: ChaosSite) -> None:
    site.people.with_suffix(".good").replace(site.people)


def _keep_list(site: ChaosSite) -> None:
    shutil.copy(site.remote, site.remote.with_suffix(".good"))


def _empty_list(site: ChaosSite) -> None:
    _keep_list(site)
    site.list_remote()


def _remove_list(site: ChaosSite) -> None:
    _keep_list(site)
    site.remote.unlink()


def _restore_list(site: ChaosSite) -> None:
    site.remote.with_suffix(".good").replace(site.remote)


def _index_files(site: ChaosSite) -> list[str]:
    return [str(path) for path in site.state.glob("index.sqlite*")]


def _delete_index(site: ChaosSite) -> None:
    for path in _index_files(site):
        os.unlink(path)


def _truncate_index(site: ChaosSite) -> None:
    os.truncate(site.state / "index.sqlite", 4096)


def _restore_old_index(site: ChaosSite) -> None:
    """A copy of an hour ago, as it were, in the place of today's: without half of those who are listed."""
    old = site.state / "restored"
    with closing(sqlite3.connect(site.state / "index.sqlite")) as today, closing(sqlite3.connect(old)) as copy:
        today.backup(copy)
        copy.execute("DELETE FROM recipient WHERE local NOT IN ('ann', 'bob')")
        copy.execute("UPDATE state SET value = value - 1 WHERE key = 'generation'")
        copy.commit()
    old.rename(site.state / "index.sqlite")


def _full_disk(site: ChaosSite) -> None:
    """No file of the keeper may grow: what a full disk does to it, without filling one."""
    for pid in site.pids("keeper"):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    site.add(*((f"late{n}@example.com", "mailbox", "", None, 1) for n in range(500)))


def _free_disk(site: ChaosSite) -> None:
    for pid in site.pids("keeper"):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _reload_broken(site: ChaosSite) -> None:
    good = site.text
    site.splitmx.write(good + "\n[domains.nonsense\n")
    site.splitmx.reload()
    wait_for(lambda: site.logged("nonsense") or site.logged("TOML"), 10, site.splitmx.tail)
    site.splitmx.write(good)


def _reload_good(site: ChaosSite) -> None:
    site.splitmx.reload()


def _remove_sockets(site: ChaosSite) -> None:
    """A clean-up of the folders where they stand."""
    sockets = [*site.mta.socket_folder.glob("*.sock"), *site.folder.glob("*.sock")]
    assert len(sockets) >= 3
    for path in sockets:
        path.unlink()
    wait_for(lambda: all(path.exists() for path in sockets), 10, site.splitmx.tail)


DRILLS = (
    Drill("a worker is killed", kill_and_replaced("worker"), known=False),
    Drill("the keeper is killed", kill_and_replaced("keeper")),
    Drill("the whole service is killed and started again", _service_manager_restarts, known=False),
    Drill("a worker hangs", _hang_and_replaced("worker"), known=False, foreign=6.0),
    Drill("the keeper hangs", _hang_and_replaced("keeper"), short=False, letters=300),
    Drill("the supervisor hangs", _hang_supervisor, _service_manager_restarts, known=False, short=False),
    Drill("the keeper dies again and again", _keeper_dies_again_and_again, short=False),
    Drill("the socket files are removed", _remove_sockets, known=False),
    Drill("slapd is stopped", lambda s: s.slapd.stop(), lambda s: s.slapd.start(), strangers_wait=True),
    Drill("slapd hangs", lambda s: s.slapd.hang(), lambda s: s.slapd.cont(), strangers_wait=True),
    Drill("slapd comes back empty", _empty_slapd, _refill_slapd, strangers_wait=True),
    Drill("slapd loses its ACL", _lose_acl, _regain_acl, short=False, strangers_wait=True),
    Drill("PostgreSQL restarts", _restart_postgres),
    Drill("PostgreSQL hangs", lambda s: s.postgres.hang(), lambda s: s.postgres.cont(), short=False,
          strangers_wait=True),
    Drill("a table disappears", sql("ALTER TABLE recipients RENAME TO away"),
          sql("ALTER TABLE away RENAME TO recipients"), strangers_wait=True),
    Drill("40 % of the rows vanish", sql(_VANISH), sql(_RETURN)),
    Drill("the SQLite file is swapped for an empty one", _swap_sqlite, _swap_back),
    Drill("the remote list is emptied", _empty_list, _restore_list),
    Drill("the remote list is gone", _remove_list, _restore_list, short=False),
    Drill("the index is deleted", _delete_index),
    Drill("an older index is put back", _restore_old_index, short=False),
    Drill("the index is truncated", _truncate_index, known=False),
    Drill("the disk is full", _full_disk, _free_disk, short=False),
    Drill("a broken configuration is reloaded", _reload_broken, _reload_good),
)  # fmt: skip
