# SPDX-License-Identifier: Apache-2.0
"""The service manager's side: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3), without its library."""

from __future__ import annotations

import os
import socket
import time

_FIRST_FD = 3  # SD_LISTEN_FDS_START


def notify(*assignments: str) -> None:
    """Send `READY=1` and the like to $NOTIFY_SOCKET; nothing happens without a service manager."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path or path[0] not in "/@":
        return
    address = "\0" + path[1:] if path[0] == "@" else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(assignments).encode(), address)
    except OSError:
        pass  # a manager that does not listen is not our fault, and must not be ours


def ready(status: str) -> None:
    """Start-up or a reload is complete."""
    notify("READY=1", f"STATUS={status}")


def reloading() -> None:
    """A reload begins; the manager wants the moment of it (Type=notify-reload)."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def listen_fds() -> list[int]:
    """The descriptors of listening sockets handed over at start, and the variables removed from the environment."""
    try:
        mine = int(os.environ.get("LISTEN_PID", "0")) == os.getpid()
        count = int(os.environ.get("LISTEN_FDS", "0"))
    except ValueError:
        mine, count = False, 0
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    fds = list(range(_FIRST_FD, _FIRST_FD + count)) if mine else []
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds


def watchdog_seconds() -> float | None:
    """The time within which the manager wants a sign of life, or None."""
    try:
        if int(os.environ.get("WATCHDOG_PID", str(os.getpid()))) != os.getpid():
            return None
        value = int(os.environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return value / 1e6 if value > 0 else None
