# SPDX-License-Identifier: Apache-2.0
"""A first look at an SMTP server: is it there, who does it say it is, does it offer TLS, and with what certificate."""

from __future__ import annotations

import smtplib
import socket
import ssl
import time
from dataclasses import dataclass

TIMEOUT = 8.0
"""Seconds for the connection and for each reply."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a server showed. error: why there is nothing to show, "" when it answered.

    greeting: the name in its greeting or reply to EHLO. offered: whether STARTTLS is. tls: what came of it, such as
    "TLSv1.3", "" when none was made. distrust: why its certificate is not believed, "" when it is or was not asked.
    """

    host: str
    address: str
    error: str = ""
    greeting: str = ""
    offered: bool = False
    tls: str = ""
    distrust: str = ""
    took: float = 0.0


def look(host: str, address: str, port: int, tls: str, timeout: float = TIMEOUT, ca_file: str = "") -> Seen:
    """Connect, EHLO, STARTTLS where `tls` (the destination's word) wants it, QUIT. Never raises.

    The certificate is verified for `ca` (against ca_file, else the system's CAs) and `ca+name` (and the host's name).
    """
    start = time.monotonic()
    greeting, offered, made = "", False, ""
    try:
        with smtplib.SMTP(timeout=timeout) as session:
            code, text = session.connect(address, port)
            if code != 220:
                raise smtplib.SMTPResponseException(code, text)
            greeting = _first_word(text)
            code, text = session.ehlo()
            if code != 250:
                raise smtplib.SMTPResponseException(code, text)
            greeting = greeting or _first_word(text)
            offered = session.has_extn("starttls")
            if offered and tls != "none":
                session.starttls(context=_context(tls, session, host, ca_file))
                made = session.sock.version() or "" if isinstance(session.sock, ssl.SSLSocket) else ""
                session.ehlo()
    except ssl.SSLCertVerificationError as error:
        why = error.verify_message or str(error)
        return Seen(host, address, "", greeting, offered, "", why, time.monotonic() - start)
    except smtplib.SMTPResponseException as error:
        said = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        what = f"it answers {error.smtp_code} {' '.join(said.split())[:150]}"
        return Seen(host, address, what, greeting, offered, took=time.monotonic() - start)
    except (OSError, smtplib.SMTPException, ValueError) as error:
        return Seen(host, address, _words(error), greeting, offered, took=time.monotonic() - start)
    return Seen(host, address, "", greeting, offered, made, "", time.monotonic() - start)


def _context(tls: str, session: smtplib.SMTP, host: str, ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file or None)
    context.check_hostname = tls == "ca+name"
    if tls not in ("ca", "ca+name"):
        context.verify_mode = ssl.CERT_NONE
    # smtplib verifies the name it connected to; that was the address
    session._host = host  # type: ignore[attr-defined]  # private, but all that smtplib offers
    return context


def _first_word(text: bytes) -> str:
    words = text.decode("ascii", "replace").split()
    return words[0].lower().rstrip(".") if words else ""


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, (smtplib.SMTPServerDisconnected, ConnectionResetError)):
        return "it hung up"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, socket.gaierror):
        return "it cannot be resolved"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:200]
