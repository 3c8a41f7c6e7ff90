# SPDX-License-Identifier: Apache-2.0
"""Loads the configuration in a child process, so that the supervisor stays small and a bad file harms nothing.

pydantic and all that checks the file cost 200 ms and 15 MB; the child takes them with it when it ends, and the
supervisor uses the time for what its workers need.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import select
import signal
import stat
import time
from pathlib import Path
from typing import NamedTuple

from policyd.children import belong
from policyd.loop import step_back
from policyd.sockets import passes
from policyd.version import replaced
from transport.config.settings import Daemon, Settings

_DESCRIPTORS = 1 << 20  # more than we ever open
_WRITING = 0.1  # seconds until a file that is being written is loaded again
_PATIENCE = 30.0  # seconds for reading the configuration, waves' files included
_FIXED = ("socketmap", "policy", "exim", "tcp_table", "control", "metrics", "state", "workers")


class Loaded(NamedTuple):
    """What came of loading: `settings` and the file's text, or one line for each mistake in `errors`.

    later: it is no mistake in the file, and another attempt may succeed.
    """

    settings: Settings | None
    text: str
    errors: tuple[str, ...]
    later: bool = False


class Loader:
    """One loading on its way. Read when `fileno` is readable, until `finished` gives the result."""

    def __init__(self, path: Path) -> None:
        reap()
        self.started = time.monotonic()
        self._data = bytearray()
        self._pipe, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        parent = os.getpid()
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _child(path, parent, writing)
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            os.close(writing)

    def fileno(self) -> int:
        """The reading end of the pipe."""
        return self._pipe

    def finished(self) -> Loaded | None:
        """Read what is there; the result once it is complete or the child is overdue."""
        while True:
            try:
                data = os.read(self._pipe, 1 << 20)
            except BlockingIOError:
                if time.monotonic() - self.started < _PATIENCE:
                    return None
                too_long = Loaded(None, "", ("loading takes too long: is a file on a dead mount?",), True)
                return self._end(too_long, late=True)
            if not data:
                break
            self._data += data
        try:
            result = Loaded(*pickle.loads(bytes(self._data)))  # noqa: S301  written by our own child
        except (pickle.UnpicklingError, EOFError, TypeError, AttributeError, ImportError):
            result = Loaded(
                None, "", ("loading the configuration was cut off: was its process killed for want of memory?",), True
            )
        return self._end(result)

    def _end(self, result: Loaded, late: bool = False) -> Loaded:
        os.close(self._pipe)
        try:
            os.kill(self.pid, signal.SIGKILL)
            if late:
                _hanging.add(self.pid)  # in a dead mount it may stay until that is back: not waited for
            else:
                os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        return result

    def wait(self) -> Loaded:
        """Block until the result is there."""
        while (result := self.finished()) is None:
            select.select([self._pipe], [], [], 1.0)
        return result


_hanging: set[int] = set()  # children that were killed, and have not ended yet


def reap() -> None:
    """Let go of children that were given up, once they have ended."""
    for pid in list(_hanging):
        try:
            ended = os.waitpid(pid, os.WNOHANG)[0]
        except ChildProcessError:
            ended = pid
        if ended:
            _hanging.discard(pid)


def _child(path: Path, parent: int, writing: int) -> None:
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        belong(parent, "loader")
        step_back()
        # the lock and the listeners are the daemon's: where this process outlives it, the next one must get them
        os.closerange(3, writing)
        os.closerange(writing + 1, _DESCRIPTORS)
        data = pickle.dumps(tuple(load(path)), pickle.HIGHEST_PROTOCOL)
        os.set_blocking(writing, True)
        view = memoryview(data)
        while view:
            view = view[os.write(writing, view) :]
    finally:
        os._exit(0)


def load(path: Path) -> Loaded:
    """Load and check `path` here and now; every mistake becomes one line, nothing is raised for a bad file.

    One that is written meanwhile is loaded again: half a configuration looks like one with fewer domains, whose mail
    would be refused. Who waits (`Loader`) gives up a file that is written on and on.
    """
    while True:
        before = _stamp(path)
        loaded = _load(path)
        if before is None or before == _stamp(path):
            return loaded
        time.sleep(_WRITING)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What another content of a file changes; None when it is no file (a FIFO can be read but once)."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _load(path: Path) -> Loaded:
    if replaced():  # half of what checks the file would be of the one version, half of the other
        return Loaded(None, "", ("the program's files have changed (another version?): restart it instead",))
    try:
        from transport.config.errors import ConfigErrors
        from transport.config.load import empty, is_empty, load_text, read_text, unreadable
    except ImportError as error:  # the files on disk are of another version than what runs
        return Loaded(None, "", (f"the program's files have changed ({error}): restart it instead",))
    try:
        text = read_text(path)
        if is_empty(text):
            return Loaded(None, "", (str(empty(path)),), True)
        return Loaded(load_text(text, str(path), path.parent), text, ())
    except ConfigErrors as errors:
        return Loaded(None, "", tuple(str(error) for error in errors.errors) or (str(errors),))
    except OSError as error:
        return Loaded(None, "", (str(unreadable(path, error)),), passes(error))
    except MemoryError:
        return Loaded(None, "", (f"{path}: cannot be checked: out of memory",), True)
    except Exception as error:
        return Loaded(None, "", (f"{path}: cannot be checked: {type(error).__name__}: {error}",))


def needs_restart(old: Daemon, new: Daemon) -> list[str]:
    """The keys of `[daemon]` that differ and cannot change while the daemon runs."""
    return [
        field.name
        for field in dataclasses.fields(Daemon)
        if field.name in _FIXED and getattr(old, field.name) != getattr(new, field.name)
    ]
