# SPDX-License-Identifier: Apache-2.0
"""SMTP and LMTP servers that write down what reaches them: envelopes, their order, headers."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import cached_property
from pathlib import Path

from tests.mta.places import new_address, new_folder
from tests.mta.waiting import wait_for


@dataclass
class Mail:
    """One message as it arrived: envelope as it was on the wire, and its text.

    sender and recipients are without angle brackets, case kept; parameters are the ESMTP words behind them.
    """

    client: str
    helo: str
    tls: bool
    sender: str
    sender_parameters: str
    recipients: list[str] = field(default_factory=list)
    recipient_parameters: list[str] = field(default_factory=list)
    content: bytes = b""

    @property
    def message(self) -> EmailMessage:
        """The parsed message."""
        return message_from_bytes(self.content, policy=policy.default)

    @property
    def headers(self) -> dict[str, str]:
        """Header fields, the last of a name wins."""
        return {key: str(value) for key, value in self.message.items()}

    @cached_property
    def subject(self) -> str:
        """The Subject field; tests find their mail by it."""
        return self.headers.get("Subject", "")


class Recorder:
    """A threaded SMTP or LMTP server. `mails` are the accepted messages, `asked` every RCPT ever seen.

    replies: address (lower case, or `@domain`) -> reply such as `550 5.1.1 no such user`; `judge` is a function of
    the address that may say it too. `data_reply` replaces the answer to the end of DATA.
    """

    protocol = "SMTP"
    greeting = "recorder.test"

    def __init__(
        self,
        replies: Mapping[str, str] | None = None,
        *,
        judge: Callable[[str], str | None] | None = None,
        host: str = "",
        port: int = 25,
        path: Path | None = None,
        tls: ssl.SSLContext | None = None,
        extensions: tuple[str, ...] = ("PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"),
    ) -> None:
        self.replies = dict(replies or {})
        self.judge = judge
        self.tls = tls
        self.extensions = extensions
        self.mails: list[Mail] = []
        self.asked: list[str] = []
        self.data_reply = ""
        self.sessions = 0
        self.lock = threading.Lock()
        self.path = path
        self.host, self.port = host or new_address(), port
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.start()

    def start(self) -> None:
        """Listen; also again after `stop`."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(self.path))
            self.path.chmod(0o666)
        else:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self.port))
            self.port = listener.getsockname()[1]
        listener.listen(256)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def stop(self) -> None:
        """Close the listener and every connection: the host is down."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self.lock:
            for connection in list(self._open):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, peer), daemon=True).start()

    def _serve(self, connection: socket.socket, peer: object) -> None:
        with self.lock:
            self._open.add(connection)
            self.sessions += 1
        client = peer[0] if isinstance(peer, tuple) else ""
        try:
            _Session(self, connection, client).run()
        except (OSError, ValueError):
            pass
        finally:
            with self.lock:
                self._open.discard(connection)
            connection.close()

    def reply_to(self, address: str) -> str:
        """What RCPT TO gets."""
        folded = address.lower()
        if self.judge is not None:
            said = self.judge(folded)
            if said:
                return said
        return self.replies.get(folded) or self.replies.get("@" + folded.rpartition("@")[2]) or "250 2.1.5 Ok"

    # What tests ask.

    def of(self, subject: str) -> list[Mail]:
        """The mails with this subject."""
        with self.lock:
            return [mail for mail in self.mails if mail.subject == subject]

    def recipients(self, subject: str) -> list[str]:
        """Everyone who got the mail of this subject here, sorted, as often as they got it."""
        return sorted(address for mail in self.of(subject) for address in mail.recipients)

    def wait(self, subject: str, *recipients: str, seconds: float = 20.0) -> list[Mail]:
        """Wait until just these recipients have the mail of this subject, in any number of transactions."""
        wanted = sorted(recipients)
        wait_for(lambda: self.recipients(subject) == wanted, seconds,
                 lambda: f"{subject}: {self.recipients(subject)} instead of {wanted}")  # fmt: skip
        return self.of(subject)

    def wait_to(self, *recipients: str, seconds: float = 10.0) -> list[Mail]:
        """Wait until there is a mail to just these recipients, of any subject: a report. All such mails."""
        wanted = list(recipients)
        return wait_for(
            lambda: [mail for mail in self.mails if mail.recipients == wanted], seconds, f"mail to {wanted}"
        )


class RecordingSmtp(Recorder):
    """The secondary, the outside world, any next hop."""

    @property
    def nexthop(self) -> str:
        """As transport(5) writes it."""
        return f"[{self.host}]" if self.port == 25 else f"[{self.host}]:{self.port}"


class RecordingLmtp(Recorder):
    """A mailbox store. With `users`, everybody else gets 550 5.1.1; a `+extension` is not part of a name."""

    protocol = "LMTP"

    def __init__(
        self, users: set[str] | None = None, *, path: Path | None = None, host: str = "", port: int = 24
    ) -> None:
        self.users = users
        super().__init__(judge=self._known, path=path, host=host, port=port)

    def _known(self, address: str) -> str | None:
        local, _, domain = address.rpartition("@")
        if self.users is None or f"{local.partition('+')[0]}@{domain}" in self.users:
            return None
        return "550 5.1.1 no such mailbox"

    @property
    def transport(self) -> str:
        """As transport(5) writes it."""
        return f"lmtp:unix:{self.path}" if self.path else f"lmtp:[{self.host}]:{self.port}"


class _Session:
    """One connection."""

    def __init__(self, server: Recorder, connection: socket.socket, client: str) -> None:
        self.server, self.connection, self.client = server, connection, client
        self.file = connection.makefile("rb")
        self.helo, self.secure = "", False

    def say(self, *lines: str) -> None:
        self.connection.sendall("".join(f"{line}\r\n" for line in lines).encode())

    def run(self) -> None:
        self.say(f"220 {self.server.greeting} {'E' if self.server.protocol == 'SMTP' else 'L'}SMTP recorder")
        mail: Mail | None = None
        while line := self.file.readline(100_000):
            text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
            verb = text[:4].upper()
            if verb in ("EHLO", "LHLO", "HELO"):
                self.helo = text[5:]
                self.say(*self._hello(verb))
            elif verb == "STAR" and self.server.tls:
                self.say("220 2.0.0 go ahead")
                self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
                self.file, self.secure = self.connection.makefile("rb"), True
            elif verb == "MAIL":
                sender, parameters = _path(text[10:])
                mail = Mail(self.client, self.helo, self.secure, sender, parameters)
                self.say("250 2.1.0 Ok")
            elif verb == "RCPT" and mail is not None:
                self._rcpt(mail, text)
            elif verb == "DATA" and mail is not None:
                self._data(mail)
                mail = None
            elif verb == "RSET":
                mail = None
                self.say("250 2.0.0 Ok")
            elif verb == "QUIT":
                self.say("221 2.0.0 Bye")
                return
            elif verb == "NOOP":
                self.say("250 2.0.0 Ok")
            else:
                self.say("502 5.5.2 not understood")

    def _hello(self, verb: str) -> Iterator[str]:
        words = [self.server.greeting]
        if verb != "HELO":
            words += self.server.extensions
            if self.server.tls and not self.secure:
                words.append("STARTTLS")
        for word in words[:-1]:
            yield f"250-{word}"
        yield f"250 {words[-1]}"

    def _rcpt(self, mail: Mail, text: str) -> None:
        address, parameters = _path(text[8:])
        with self.server.lock:
            self.server.asked.append(address)
        reply = self.server.reply_to(address)
        if reply.startswith("2"):
            mail.recipients.append(address)
            mail.recipient_parameters.append(parameters)
        self.say(reply)

    def _data(self, mail: Mail) -> None:
        if not mail.recipients:
            self.say("554 5.5.1 no valid recipients")
            return
        self.say("354 go on")
        lines = []
        while (line := self.file.readline()) not in (b".\r\n", b""):
            lines.append(line[1:] if line.startswith(b".") else line)
        mail.content = b"".join(lines)
        reply = self.server.data_reply or "250 2.0.0 Ok"
        if reply.startswith("2"):
            with self.server.lock:
                self.server.mails.append(mail)
        self.say(*[reply] * (len(mail.recipients) if self.server.protocol == "LMTP" else 1))


def _path(text: str) -> tuple[str, str]:
    found = re.match(r'\s*<((?:"(?:\\.|[^"\\])*"|[^>"])*)>\s*(.*)', text)
    return (found[1], found[2]) if found else (text.strip(), "")


def certificate(name: str, *, authority: tuple[Path, Path] | None = None) -> tuple[Path, Path]:
    """Make a key and certificate for a name or address with openssl; `authority`: (cert, key) that signs."""
    folder = new_folder("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    kind = "IP" if re.fullmatch(r"[\d.]+", name) else "DNS"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", str(key), "-out", str(cert), "-days", "30", "-subj", f"/CN={name}",
             "-addext", f"subjectAltName={kind}:{name}"]  # fmt: skip
    if authority:
        words += [
            "-CA",
            str(authority[0]),
            "-CAkey",
            str(authority[1]),
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]
    subprocess.run(words, check=True, capture_output=True)
    key.chmod(0o644)
    return cert, key


def tls_context(cert: Path, key: Path) -> ssl.SSLContext:
    """A server's context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context
