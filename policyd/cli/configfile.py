# SPDX-License-Identifier: Apache-2.0
"""Put a new text in the place of the configuration: checked first, replaced whole, owner and mode kept."""

from __future__ import annotations

import os
from pathlib import Path

from policyd.cli.common import Later, note


def install(config: Path, text: str) -> None:
    """Check `text` as this configuration, then replace the file. Raises ConfigErrors, and the old one stays.

    Of a symbolic link the file behind it is replaced.
    """
    from transport.config.load import load

    config = config.resolve()
    aside = config.with_name(f".{config.name}.new")
    kept = config.stat()
    try:
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        load(aside)
        aside.chmod(kept.st_mode & 0o7777)
        if os.geteuid() == 0:
            os.chown(aside, kept.st_uid, kept.st_gid)
        aside.replace(config)
    finally:
        aside.unlink(missing_ok=True)


def reload_daemon(config: Path) -> None:
    """Have the running daemon take the file, if there is one."""
    from policyd.cli.control import NoDaemonError, call

    try:
        call(config, "reload", timeout=60)
    except NoDaemonError:
        note("no daemon is running: the file counts from its next start")
    except Later as fault:
        raise Later(f"the file is in place, but the daemon was not told: {fault.message}", "reload it") from None
