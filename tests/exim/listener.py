# SPDX-License-Identifier: Apache-2.0
"""An exim listener: asking one, and being one."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path


def ask(path: Path, recipient: str, words: str = "") -> dict[str, str]:
    """One question at an exim listener; the pairs of the answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(f"decide {words}{' ' if words else ''}recipient={recipient}\n".encode())
        connection.shutdown(socket.SHUT_WR)
        reply = connection.makefile("rb").read().decode()
    return {key: value.strip('"') for key, value in re.findall(r'(\w+)=("[^"]*"|\S*)', reply)}


class Stub:
    """Listens where the daemon would and answers as a function says; None closes without a word."""

    def __init__(self, path: Path, answer: Callable[[bytes], bytes | None]) -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self.path = path
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        path.chmod(0o666)
        self._listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            line = connection.makefile("rb").readline()
            self.asked.append(line)
            reply = self.answer(line)
            if reply is not None:
                connection.sendall(reply)

    def close(self) -> None:
        """Nobody listens there any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink(missing_ok=True)
