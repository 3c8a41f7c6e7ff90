# SPDX-License-Identifier: Apache-2.0
"""Whether a running Postfix was reloaded after a file was put in place.

The daemon, which is not root and sees no other user's processes, cannot know: it asks for a `postfix reload`, and this
answers. master(8) ends qmgr(8) at a reload and starts it anew, so that its age is that of the last reload.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path


def since(file: Path, proc: Path = Path("/proc")) -> bool:
    """Whether every queue manager of this host started after `file` was put there; False without one, or in doubt."""
    try:
        written = file.stat().st_ctime  # a rename changes it, unlike the mtime
        started = list(_started(proc))
    except (OSError, ValueError, IndexError):
        return False
    return bool(started) and min(started) > written


def _started(proc: Path) -> Iterator[float]:
    """When each qmgr(8) was started, in seconds since 1970. Raises OSError, ValueError, IndexError."""
    booted = time.time() - float((proc / "uptime").read_text().split()[0])
    for process in proc.glob("[0-9]*"):
        try:
            if (process / "comm").read_text() != "qmgr\n":
                continue
            stat = (process / "stat").read_text()
        except OSError:
            continue  # it has ended
        # proc(5): the name in brackets, then the state as field 3; starttime is field 22, in clock ticks
        yield booted + int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
