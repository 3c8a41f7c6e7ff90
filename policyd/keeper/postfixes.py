# SPDX-License-Identifier: Apache-2.0
"""Reloads every Postfix that reads our tables: several instances may stand on a host (MULTI_INSTANCE_README)."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from policyd import log

_WAIT = 20.0  # seconds for one `postfix reload`


def configurations(maps: Path, proc: Path = Path("/proc"), left_out: Callable[[], None] = lambda: None) -> list[Path]:
    """The configuration folder of each running Postfix that names our folder of tables. Never raises.

    left_out: called for each of root's that may be one, and is not looked at.
    It is told by master(8)'s environment, which postfix(1) sets, and which root alone may read. Any user may have a
    process of that name, and postfix(1) runs programs that main.cf names: a folder counts only where all is root's.
    """
    return [folder for folder in dict.fromkeys(_running(proc, left_out)) if _names(folder, f"{maps}/")]


def _running(proc: Path, left_out: Callable[[], None]) -> Iterator[Path]:
    for process in sorted(proc.glob("[0-9]*")):
        try:
            if (process / "comm").read_text() != "master\n" or process.stat().st_uid != 0:
                continue
            words = (process / "environ").read_bytes().split(b"\0")
            for folder in (
                Path(os.fsdecode(word[12:])).resolve() for word in words if word.startswith(b"MAIL_CONFIG=")
            ):
                main = folder / "main.cf"
                if not main.samefile(process / "root" / main.relative_to("/")):
                    continue  # it is in a container
                if _roots(folder):
                    yield folder
                else:
                    log.limited(log.WARNING, "postfix of others", "a Postfix is not reloaded: others than root may "
                                "write its configuration, or a folder above it", folder=folder,
                                hint="if it is yours: let root alone write there, then reload it")  # fmt: skip
                    left_out()
        except (OSError, ValueError, RuntimeError):
            continue  # it has ended, or leads nowhere


def _roots(folder: Path) -> bool:
    """Whether nobody but root decides what main.cf in this folder says."""
    for path in (folder / "main.cf", folder, *folder.parents):
        status = path.stat()
        others = stat.S_IWOTH | (stat.S_IWGRP if status.st_gid else 0)
        sticky = path in folder.parents and status.st_mode & stat.S_ISVTX  # what is root's there stays so
        if status.st_uid != 0 or (status.st_mode & others and not sticky):
            return False
    return True


def _names(folder: Path, text: str) -> bool:
    """Whether main.cf, or a file that `postfix show` put beside it, names a folder."""
    for path in (folder / "main.cf", *sorted(folder.glob("splitmx-*"))):
        try:
            if text in path.read_text(errors="replace"):
                return True
        except OSError:
            continue
    return False


def reload(maps: Path, left_out: Callable[[], None]) -> list[str]:
    """`postfix reload` for the usual one, and for others that read our tables; the commands that failed.

    The usual one need not run where there are others. left_out: as of `configurations`.
    """
    usual = Path(os.environ.get("MAIL_CONFIG") or "/etc/postfix").resolve()
    found = configurations(maps, left_out=left_out)
    failed = [] if _done(["postfix", "reload"]) or (found and usual not in found) else ["postfix reload"]
    others = (["postfix", "-c", str(folder), "reload"] for folder in found if folder != usual)
    return failed + [" ".join(command) for command in others if not _done(command)]


def _done(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=_WAIT, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
