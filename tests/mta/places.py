# SPDX-License-Identifier: Apache-2.0
"""Folders and addresses of the tests' servers: private, and usable by the servers' own users."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import socket
import tempfile
from pathlib import Path

_HOSTS = 254  # of one net 127.x.y.0/24
_numbers = itertools.count(random.SystemRandom().randrange(90 * 256) * _HOSTS)


def new_folder(name: str) -> Path:
    """An empty folder that every user may enter. pytest's own are closed to the user postfix."""
    folder = Path(tempfile.mkdtemp(prefix=f"smx-{name[:12]}-", dir=_base()))
    folder.chmod(0o755)
    return folder


def _base() -> str:
    """Memory where there is enough of it: Postfix flushes each queue file to the disk."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 256 << 20:
        return str(memory)
    return "/var/tmp"


def new_address() -> str:
    """A loopback address nobody else uses, each once: 127.1.0.1 to 127.98.255.254; Linux binds all of 127/8."""
    for _ in range(1000):
        net, last = divmod(next(_numbers), _HOSTS)
        host = f"127.{net // 256 % 98 + 1}.{net % 256}.{last + 1}"
        with socket.socket() as sock:
            try:
                sock.bind((host, 25 if os.geteuid() == 0 else 0))
            except OSError:
                continue
        return host
    raise AssertionError("no free loopback address")
