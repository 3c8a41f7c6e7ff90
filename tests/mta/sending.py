# SPDX-License-Identifier: Apache-2.0
"""Send a message over SMTP and say what each recipient was told."""

from __future__ import annotations

import itertools
import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage

_numbers = itertools.count(1)

OUTSIDE = "127.99.9.9"
"""A client address that no test counts among its own networks."""


@dataclass
class Sent:
    """What the server said: codes and texts by recipient, and the code at the end of DATA."""

    subject: str
    codes: dict[str, int] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    sender: tuple[int, str] = (0, "")
    data: int = 0
    data_text: str = ""


def send(
    host: str,
    sender: str,
    recipients: str | Sequence[str],
    *,
    port: int = 25,
    client: str = OUTSIDE,
    subject: str = "",
    to: str = "",
    header_from: str = "",
    options: Sequence[str] = (),
    rcpt_options: Sequence[str] = (),
    starttls: ssl.SSLContext | None = None,
    login: tuple[str, str] | None = None,
    probe: bool = False,
    timeout: float = 60.0,
) -> Sent:
    """One SMTP transaction from the loopback address `client`; nothing is raised for refusals.

    `probe` ends with RSET after the recipients. The subject is unique unless given: recorders find it.
    """
    names = [recipients] if isinstance(recipients, str) else list(recipients)
    sent = Sent(subject or f"mail {next(_numbers)}")
    message = EmailMessage()
    message["Subject"] = sent.subject
    message["From"] = header_from or sender or "postmaster@outside.test"
    message["To"] = to or names[0]
    message["Message-Id"] = f"<{sent.subject.replace(' ', '.')}@client.test>"
    message.set_content("Hello.\n")
    with smtplib.SMTP(host, port, local_hostname="client.test", timeout=timeout, source_address=(client, 0)) as smtp:
        smtp.ehlo()
        if starttls is not None:
            smtp.starttls(context=starttls)
            smtp.ehlo()
        if login is not None:
            smtp.login(*login)
        if any(ord(c) > 127 for name in (sender, *names) for c in name):
            options = [*options, "SMTPUTF8"]
            smtp.command_encoding = "utf-8"
        code, text = smtp.docmd("MAIL", " ".join([f"FROM:<{sender}>", *options]))
        sent.sender = (code, text.decode(errors="replace"))
        if code != 250:
            return sent
        for name in names:
            code, text = smtp.docmd("RCPT", " ".join([f"TO:<{name}>", *rcpt_options]))
            sent.codes[name], sent.texts[name] = code, text.decode(errors="replace")
        if probe or not any(code == 250 for code in sent.codes.values()):
            smtp.rset()
            return sent
        code, text = smtp.data(bytes(message))
        sent.data, sent.data_text = code, text.decode(errors="replace")
    return sent
