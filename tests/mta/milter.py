# SPDX-License-Identifier: Apache-2.0
"""A small milter (the Sendmail Mail Filter protocol, version 6, as MILTER_README has Postfix speak it)."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterable

from tests.mta.places import new_address

_CHANGES = 0x01 | 0x04 | 0x08 | 0x20  # SMFIF_ADDHDRS, ADDRCPT, DELRCPT, QUARANTINE


class Milter:
    """Takes recipients off, adds some, or puts the message on hold, when its end has come; refuses some at RCPT."""

    def __init__(
        self, remove: Iterable[str] = (), add: Iterable[str] = (), refuse: Iterable[str] = (), hold: str = ""
    ) -> None:
        self.remove, self.added, self.refuse, self.hold = set(remove), list(add), set(refuse), hold
        self.host = new_address()
        self._listener = socket.create_server((self.host, 10025), backlog=64)
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def place(self) -> str:
        """As smtpd_milters names it."""
        return f"inet:{self.host}:10025"

    def stop(self) -> None:
        """Listen no longer."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as reader:
            while head := reader.read(5):
                length, word = struct.unpack("!Ic", head)
                for answer in self._answers(word, reader.read(length - 1)):
                    connection.sendall(struct.pack("!I", len(answer)) + answer)

    def _answers(self, word: bytes, data: bytes) -> list[bytes]:
        if word == b"O":
            return [b"O" + struct.pack("!III", 6, _CHANGES, 0)]
        if word in b"DAQK":  # macros, abort, quit: nobody waits for an answer
            return []
        if word == b"R" and _address(data) in self.refuse:
            return [b"r"]
        if word != b"E":
            return [b"c"]
        changes = [b"-<" + name.encode() + b">\0" for name in sorted(self.remove)]
        changes += [b"+<" + name.encode() + b">\0" for name in self.added]
        changes += [b"q" + self.hold.encode() + b"\0"] if self.hold else []
        return [*changes, b"c"]


def _address(data: bytes) -> str:
    return data.partition(b"\0")[0].decode(errors="replace").strip("<>")
