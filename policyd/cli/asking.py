# SPDX-License-Identifier: Apache-2.0
"""Ask a running daemon one map question, over the same listener and in the same protocol as the MTA."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from policyd.protocols import ProtocolError, socketmap

if TYPE_CHECKING:
    from transport.config.settings import Listener

CONNECT_S = 2.0
"""Time to wait for a connection."""

ANSWER_S = 20.0
"""Time to wait for the answer: longer than any live look-up; Postfix itself waits 100 s."""


class NoDaemonError(Exception):
    """No daemon answers at this listener; the text says why."""


class SilentDaemonError(Exception):
    """A daemon took the connection, and gave no answer."""

    hint = "is it hung? splitmx status, and the log, may tell"


class ForeignError(SilentDaemonError):
    """Something answered, and it was not splitmx."""

    hint = ""


def connect(listener: Listener, timeout: float = CONNECT_S) -> socket.socket:
    """A connection to a listener. Raises NoDaemonError."""
    try:
        if listener.kind == "unix":
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(timeout)
            try:
                sock.connect(listener.path)
            except OSError:
                sock.close()
                raise
            return sock
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listener.host, listener.host)  # noqa: S104  asks, binds nothing
        return socket.create_connection((host, listener.port), timeout)
    except OSError as error:
        raise NoDaemonError(f"{listener.name}: {error.strerror or error}") from None


def ask_map(listener: Listener, name: str, key: str) -> tuple[str, str]:
    """Status and value of one key. Raises NoDaemonError, SilentDaemonError, and ValueError for a hopeless question."""
    request = socketmap.request(name, key)
    with connect(listener) as sock:
        sock.settimeout(ANSWER_S)
        try:
            sock.sendall(request)
            data = bytearray()
            while (end := socketmap.next_reply(data)) is None:
                piece = sock.recv(65536)
                if not piece:
                    raise SilentDaemonError(f"{listener.name}: the connection was closed without an answer")
                data += piece
            return socketmap.parse_reply(bytes(data[:end]))
        except TimeoutError:
            raise SilentDaemonError(f"{listener.name}: no answer within {ANSWER_S:.0f} s") from None
        except ProtocolError as error:
            raise ForeignError(f"{listener.name}: another program answers there, not splitmx: {error}") from None
        except OSError as error:
            raise SilentDaemonError(f"{listener.name}: {error.strerror or error}") from None
