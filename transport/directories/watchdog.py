# SPDX-License-Identifier: Apache-2.0
"""A hard end for a call that waits on a socket, whatever the driver thinks of time-outs.

Drivers count each read anew, round to seconds, or wait for ever (libpq). One thread shuts the connection's socket
down when its time is over: the driver then sees an end of file at once, in whatever call it is.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from time import monotonic

_RETRY = 0.05  # seconds; a socket that does not exist yet (name look-up, TLS handshake) is tried again so often


class Guard:
    """One running deadline; `expired` says whether it struck. Use it with `with`."""

    __slots__ = ("_action", "_at", "_done", "expired")

    def __init__(self, seconds: float, action: Callable[[], bool]) -> None:
        """action: ends the call and says whether it could; it runs in the watchdog's thread, again until it could."""
        self._at = monotonic() + seconds
        self._action = action
        self._done = False
        self.expired = False

    @property
    def left(self) -> float:
        """Seconds until it strikes, never negative."""
        return max(0.0, self._at - monotonic())

    def __enter__(self) -> Guard:
        _watch(self)
        return self

    def __exit__(self, *_: object) -> None:
        with _lock:
            self._done = True
            _guards.discard(self)

    def strike(self) -> None:
        """End the call. Called with the lock held, so that a finished call's connection is never touched."""
        self.expired = True
        if self._action():
            self._done = True
            _guards.discard(self)
        else:
            self._at = monotonic() + _RETRY


def shut(fileno: int) -> bool:
    """Shut a connection down below its driver's object; whether there was one."""
    if fileno < 0:
        return False
    try:
        twin = socket.socket(fileno=os.dup(fileno))
    except OSError:
        return False
    try:
        twin.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # not connected yet, or over already
    finally:
        twin.close()
    return True


_lock = threading.Condition()
_guards: set[Guard] = set()
_thread: threading.Thread | None = None
_pid = 0
_wakes_at = 0.0


def _watch(guard: Guard) -> None:
    global _thread, _pid
    with _lock:
        _guards.add(guard)
        if _thread is None or not _thread.is_alive() or _pid != os.getpid():
            _pid = os.getpid()
            _thread = threading.Thread(target=_run, name="directory-watchdog", daemon=True)
            _thread.start()
        elif guard._at < _wakes_at:
            _lock.notify()


def _run() -> None:
    global _wakes_at
    with _lock:
        while True:
            now = monotonic()
            for guard in [g for g in _guards if g._at <= now]:
                guard.strike()
            _wakes_at = min((g._at for g in _guards), default=now + 60)
            _lock.wait(max(0.0, _wakes_at - monotonic()))
