# SPDX-License-Identifier: Apache-2.0
"""Which version runs, and whether its files are still those that it was started from.

pip replaces the files below a running daemon. Its own modules stay what they were (`policyd.kept`), its libraries'
later imports do not: so the version is asked for once, at the start, and the processes forked from there inherit it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path


def _stamp() -> tuple[int, int] | None:
    """This file's inode and mtime, which every installation gives it anew; None when it is gone."""
    try:
        status = Path(__file__).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


_STARTED_FROM = _stamp()


@cache
def running() -> str:
    """The version at the time of the first call, "" when the program is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("splitmx")
    except PackageNotFoundError:
        return ""


def replaced() -> bool:
    """Whether another installation has taken the place of the files that this process was started from."""
    return _stamp() != _STARTED_FROM
