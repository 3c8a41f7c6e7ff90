# SPDX-License-Identifier: Apache-2.0
"""A stand-in for Dovecot's authentication service: smtpd(8) asks it who may log in."""

from __future__ import annotations

import base64
import contextlib
import socketserver
import threading
from pathlib import Path


class DovecotAuth:
    """Takes every login with PLAIN (Dovecot's authentication protocol 1.1). `settings`: what main.cf needs for it."""

    def __init__(self, path: Path) -> None:
        self._server = socketserver.ThreadingUnixStreamServer(str(path), _Session)
        self._server.daemon_threads = True
        path.chmod(0o666)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.settings = {
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": str(path),
        }

    def stop(self) -> None:
        """No more logins."""
        self._server.shutdown()
        self._server.server_close()


class _Session(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self.wfile.write(b"VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t0\nDONE\n")
            for line in self.rfile:
                words = line.rstrip(b"\n").split(b"\t")
                if words[0] == b"AUTH":
                    given = next(word[5:] for word in words if word.startswith(b"resp="))
                    user = base64.b64decode(given).split(b"\0")[1]
                    self.wfile.write(b"OK\t%b\tuser=%b\n" % (words[1], user))
