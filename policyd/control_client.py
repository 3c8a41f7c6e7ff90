# SPDX-License-Identifier: Apache-2.0
"""Talks to a running daemon over its control socket; the protocol is described in `policyd.keeper.control`.

Imports next to nothing, so that `splitmx status` and `flush` answer at once.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transport.config.settings import Listener

CONNECT = 2.0
"""Seconds for the connection: a daemon whose keeper is being replaced refuses or is back within them."""

LINE = 1 << 26
"""Octets of one line: the status of a hundred thousand domains takes half of them."""


class ControlError(Exception):
    """No answer of the daemon. `running` is False where nobody listens: no daemon, or not this configuration's."""

    def __init__(self, what: str, running: bool) -> None:
        super().__init__(what)
        self.what = what
        self.running = running


def request(
    where: Listener | str,
    message: dict[str, Any],
    timeout: float = 30.0,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Send one request and return its answer, whose key `ok` says whether it went well (else see `error`).

    where: the control listener, or a unix socket's path. timeout: seconds between two lines of the daemon.
    progress: called with each progress message before the answer. Raises ControlError.
    """
    for line in stream(where, message, timeout):
        if "progress" not in line:
            return line
        if progress is not None:
            progress(line["progress"])
    raise ControlError("the daemon closed the connection without an answer", True)


def name_of(where: Listener | str) -> str:
    """What messages call it."""
    return where if isinstance(where, str) else where.name


def stream(where: Listener | str, message: dict[str, Any], timeout: float = 30.0) -> Iterator[dict[str, Any]]:
    """All lines that answer one request, progress included. Raises ControlError."""
    sock = _connect(where)
    try:
        sock.settimeout(timeout)
        sock.sendall(json.dumps(message).encode() + b"\n")
        with sock.makefile("rb") as lines:
            while line := lines.readline(LINE):
                value = _understood(line, where)
                yield value
                if "progress" not in value:
                    return
    except TimeoutError:
        raise ControlError(f"the daemon did not answer within {timeout:.0f} s", True) from None
    except OSError as error:
        raise ControlError(f"the daemon's answer broke off: {error.strerror or error}", True) from None
    finally:
        sock.close()


def _understood(line: bytes, where: Listener | str) -> dict[str, Any]:
    """One line: progress, or an answer that says whether it went well. Raises ControlError for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        if line.startswith(b"{") and not line.endswith(b"\n") and len(line) < LINE:
            raise ControlError("the daemon's answer broke off", True) from None
        value = None
    if isinstance(value, dict):
        good = isinstance(value["progress"], dict) if "progress" in value else isinstance(value.get("ok"), bool)
        if good:
            return value
    raise ControlError(f"{name_of(where)}: another program answers there, not splitmx: {line[:60]!r}", True)


def _connect(where: Listener | str) -> socket.socket:
    inet = not isinstance(where, str) and where.kind == "inet"
    name = name_of(where)
    end = time.monotonic() + CONNECT
    while True:
        try:
            if inet:
                assert not isinstance(where, str)
                return socket.create_connection((where.host, where.port), CONNECT)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(CONNECT)
                sock.connect(where if isinstance(where, str) else where.path)
            except BaseException:
                sock.close()
                raise
            return sock
        except (BlockingIOError, InterruptedError):
            if time.monotonic() >= end:
                raise ControlError(f"{name}: busy", True) from None
            time.sleep(0.02)
        except PermissionError:
            raise ControlError(f"{name}: only its owner may use it (run as that user, or as root)", True) from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise ControlError(f"{name}: no daemon listens there", False) from None
        except OSError as error:
            raise ControlError(f"{name}: {error.strerror or error}", False) from None
