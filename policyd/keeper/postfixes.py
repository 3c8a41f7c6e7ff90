# SPDX-License-Identifier: Apache-2.0
"""Reloads every Postfix that reads our tables: several instances may stand on a host (MULTI_INSTANCE_README)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

_WAIT = 20.0  # seconds for one `postfix reload`


def configurations(maps: Path, proc: Path = Path("/proc")) -> list[Path]:
    """The configuration folder of each running Postfix that names our folder of tables. Never raises.

    It is told by master(8)'s environment, which postfix(1) sets, and which root alone may read.
    """
    return [folder for folder in dict.fromkeys(_running(proc)) if _names(folder, f"{maps}/")]


def _running(proc: Path) -> Iterator[Path]:
    for process in sorted(proc.glob("[0-9]*")):
        try:
            if (process / "comm").read_text() != "master\n":
                continue
            words = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        yield from (Path(os.fsdecode(word[12:])).resolve() for word in words if word.startswith(b"MAIL_CONFIG="))


def _names(folder: Path, text: str) -> bool:
    """Whether main.cf, or a file that `postfix show` put beside it, names a folder."""
    for path in (folder / "main.cf", *sorted(folder.glob("splitmx-*"))):
        try:
            if text in path.read_text(errors="replace"):
                return True
        except OSError:
            continue
    return False


def reload(maps: Path) -> list[str]:
    """`postfix reload` for the usual one, and for others that read our tables; the commands that failed.

    The usual one need not run where there are others.
    """
    usual = Path(os.environ.get("MAIL_CONFIG") or "/etc/postfix").resolve()
    found = configurations(maps)
    failed = [] if _done(["postfix", "reload"]) or (found and usual not in found) else ["postfix reload"]
    others = (["postfix", "-c", str(folder), "reload"] for folder in found if folder != usual)
    return failed + [" ".join(command) for command in others if not _done(command)]


def _done(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=_WAIT, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
