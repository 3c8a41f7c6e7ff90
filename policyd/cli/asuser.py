# SPDX-License-Identifier: Apache-2.0
"""A command that root runs, run again as the daemon's user: what root may read says nothing of what the daemon may."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transport.config.settings import Daemon

USUAL = "splitmx"
"""The daemon's user, as systemd/splitmx.sysusers makes it."""


@dataclass(frozen=True)
class User:
    """Whom the daemon runs as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def daemons_user(daemon: Daemon) -> User | None:
    """The owner of the state directory, or the usual user before there is one.

    None when we are not root, when the daemon is root's, and when its unit lets it read all that root may.

    Its groups are its own and those of the listeners: the daemon has to be in these to give them its sockets
    (SupplementaryGroups= of the unit).
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwuid(daemon.state.stat().st_uid) if daemon.state.exists() else pwd.getpwnam(USUAL)
    except (KeyError, OSError):
        return None
    if entry.pw_uid == 0 or _reads_everything():
        return None
    groups = set(os.getgrouplist(entry.pw_name, entry.pw_gid))
    for listener in (*daemon.socketmap, *daemon.policy, *daemon.exim, *daemon.tcp_table.values(), daemon.control):
        try:
            groups.add(int(listener.group) if listener.group.isdigit() else grp.getgrnam(listener.group).gr_gid)
        except KeyError:
            continue
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, tuple(sorted(groups)), entry.pw_dir)


def _reads_everything() -> bool:
    """Whether the unit lets the daemon read what root may (systemd/splitmx-cpanel.conf)."""
    try:
        done = subprocess.run(
            ["systemctl", "show", "--property=AmbientCapabilities", "splitmx.service"],
            capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and "cap_dac_read_search" in done.stdout.lower()


def again(user: User, config: Path, words: Sequence[str]) -> int:
    """Run `splitmx WORDS` as `user` in a process of its own, with our own output; its exit code.

    Forked, not started anew: modules that are loaded already need not be read by that user once more.
    """
    from policyd.cli import EXIT_LATER, main

    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code if code >= 0 else EXIT_LATER
    code = EXIT_LATER
    try:
        os.setgroups(user.groups)
        os.setgid(user.gid)
        os.setuid(user.uid)
        os.environ["HOME"] = user.home
        code = main.main(["--config", str(config), *words], prog_name="splitmx", standalone_mode=False)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
