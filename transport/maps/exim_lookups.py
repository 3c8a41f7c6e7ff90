# SPDX-License-Identifier: Apache-2.0
"""How Exim looks into the static files: expansions for its macros. The files themselves: `transport.maps.exim`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

RECIPIENTS = "exim_recipients"
LAST = "\U0010fffd"
"""Begins the key of a domain's last line: it sorts behind every address, so that a text that was cut lacks it."""


def lookup_texts(folder: Path, map_type: str) -> tuple[Callable[[str], str], Callable[[str], str]]:
    """The look-ups as expansion text: (by the whole address, by what stands before the extension); each takes the
    text that is used when nothing is found."""
    file = f"{folder}/{RECIPIENTS}{'.cdb' if map_type == 'cdb' else ''}"

    def exact(otherwise: str) -> str:
        # `*@`: an envelope domain, and one that is switched off, has one line, `*@DOMAIN`; no recipient has such a key
        return f"${{lookup{{${{lc:$local_part}}@${{lc:$domain}}}}{map_type}*@{{{file}}}{{$value}}{{{otherwise}}}}}"

    def base(otherwise: str) -> str:
        key = "${sg{${lc:$local_part}}{SPLITMX_EXTENSION}{}}@${lc:$domain}"
        return f"${{lookup{{{key}}}{map_type}{{{file}}}{{$value extended=yes}}{{{otherwise}}}}}"

    return exact, base


def unlisted_text(folder: Path, map_type: str) -> str:
    """The answer for who is in no line, as expansion text: unknown only while the file is whole and knows the domain.
    A file that was cut, emptied by a crash, or built before the domain was there puts off instead."""
    file = f"{folder}/{RECIPIENTS}{'.cdb' if map_type == 'cdb' else ''}"
    key = "".join(f"\\x{octet:02x}" for octet in LAST.encode()) + "${lc:$domain}"
    whole = "${if eq{$value}{whole}{decision=unknown }{decision=temp }}"
    lost = f'decision=temp text="{file} has nothing of ${{lc:$domain}}: splitmx build --for exim"'
    return f"${{lookup{{{key}}}{map_type}{{{file}}}{{{whole}}}{{{lost}}}}}"


def extension_pattern(delimiters: str) -> str:
    """A pattern for the extension of a local part, with its delimiter (as `transport.address.forms` splits it)."""
    if not delimiters:
        return r"\N(?!)\N"
    signs = "".join(re.escape(sign) for sign in delimiters)
    whole = "postmaster$|mailer-daemon$|double-bounce$" + ("|owner-|.*-request$" if "-" in delimiters else "")
    return rf"\N(?i)^(?!{whole})[^{signs}]+\K[{signs}].*$\N"
