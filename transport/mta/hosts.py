# SPDX-License-Identifier: Apache-2.0
"""Which names and addresses are this host's own. No DNS."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path


def is_own_address(text: str) -> bool:
    """Whether an IP address stands on an interface of this host (or is the unspecified one).

    The kernel is asked which source it would use to reach the address: itself, when it is its own. Nothing is sent.
    In 127.0.0.0/8 only 127.0.0.1 counts: the others are used to tell servers on one host apart.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        address = mapped
    if address.is_unspecified or str(address) in ("127.0.0.1", "::1"):
        return True
    if address.is_loopback or address.is_multicast:
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            source = probe.getsockname()[0]
    except OSError:
        return False
    return ipaddress.ip_address(source.partition("%")[0]) == address


def own_names(hosts_file: Path = Path("/etc/hosts")) -> frozenset[str]:
    """The names this host has for itself, in lower case: its host name, and what hosts(5) says of its addresses."""
    names = {"localhost", "localhost.localdomain", "ip6-localhost", socket.gethostname().lower().rstrip(".")}
    try:
        lines = hosts_file.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        words = line.partition("#")[0].split()
        # 127.0.1.1 is how Debian gives a host without a fixed address its name
        if len(words) > 1 and (words[0] == "127.0.1.1" or is_own_address(words[0])):
            names.update(word.lower().rstrip(".") for word in words[1:])
    return frozenset(names - {""})
