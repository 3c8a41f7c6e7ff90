# SPDX-License-Identifier: Apache-2.0
"""A small name server for tests: it knows a few records, says NXDOMAIN to the rest, and can fall silent."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest


class Zone:
    """Answers over UDP at `host`:`port`. records: name without trailing dot -> type -> texts. silent: never answers."""

    def __init__(
        self, records: Mapping[str, Mapping[str, Sequence[str]]], host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.records = records
        self.silent = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, port))
        self.host, self.port = self._socket.getsockname()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Zone:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR) if self._socket.fileno() < 0 else self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                packet, peer = self._socket.recvfrom(4096)
            except OSError:
                return
            if not self.silent:
                self._socket.sendto(self._answer(packet), peer)

    def _answer(self, packet: bytes) -> bytes:
        query = dns.message.from_wire(packet)
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.AA | dns.flags.RA
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        known = self.records.get(name)
        if known is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        else:
            kind = dns.rdatatype.to_text(question.rdtype)
            if texts := known.get(kind):
                reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *texts))
        return reply.to_wire()


def asking_only(zone: Zone, folder: Path, options: str) -> list[str]:
    """Words before a command that let it ask this name server alone, with these options of resolv.conf(5)."""
    own = folder / "resolv.conf"
    own.write_text(f"nameserver {zone.host}\noptions {options}\n")
    words = ["unshare", "-m", "sh", "-c", f'mount --bind {own} /etc/resolv.conf && exec "$@"', "sh"]
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace is needed")
    return words
