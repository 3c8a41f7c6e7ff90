# SPDX-License-Identifier: Apache-2.0
"""The index as a file: whose it is, what is wrong with it, and how one that is broken is put aside."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
from pathlib import Path

from transport.index import schema
from transport.index.faults import IndexBusy, IndexFault, fault_of


def own(path: Path) -> int:
    """The descriptor whose lock makes us the only writer. Raises IndexBusy, IndexFault."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise IndexFault(
            f"cannot open {path}: {error.strerror}",
            "check daemon.state, its owner and mode, and whether its disk is read-only",
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise IndexBusy(
                f"{path.parent} belongs to another running splitmx",
                "give each its own daemon.state; one that was killed and waits for its disk keeps it until then",
            ) from None
        raise IndexFault(f"cannot lock {path}: {error.strerror}", "") from None
    return handle


def make_private(path: Path) -> None:
    """People's addresses are nobody else's, in the log as in the file: SQLite gives the log the file's mode."""
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for end in ("", "-wal", "-shm"):
        with contextlib.suppress(OSError):  # not there, or not our file system's way
            path.with_name(schema.FILE + end).chmod(0o600)


def fault(path: Path) -> str | None:
    """Why the file cannot be used; "" when it can; None when there is none. Raises IndexFault: it cannot be read."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return "it was a link to nothing" if path.is_symlink() else None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "it was a link to itself"
        raise IndexFault(f"cannot read {path}: {error.strerror}", "check daemon.state") from None
    if not path.is_file():
        return "it is no file"
    if size == 0:
        return "it was empty"
    try:
        connection = sqlite3.connect(f"file:{quoted(path)}?mode=rw", uri=True, isolation_level=None)
        try:
            connection.execute("PRAGMA mmap_size = 0")
            found = schema.fault(connection)
            if not found:
                answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                found = "" if answer == "ok" else f"damaged: {str(answer).splitlines()[0]}"
            return found
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        if "readonly" in str(error) or "unable to open" in str(error) or "locked" in str(error):
            raise fault_of(error, path) from error
        return f"damaged: {error}"


def set_aside(path: Path) -> None:
    """Keep one broken file for whoever wants to look; its log must never be read into the new one."""
    aside = path.with_name(schema.FILE + ".broken")
    try:
        path.replace(aside)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
    remove_logs(path)


def remove_logs(path: Path) -> None:
    """What SQLite keeps beside a file that is no more."""
    for end in ("-wal", "-shm", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(schema.FILE + end).unlink()


def quoted(path: Path) -> str:
    """A path inside an SQLite `file:` URI (sqlite.org/uri.html)."""
    text = str(path.absolute())
    return text.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
