# SPDX-License-Identifier: Apache-2.0
"""Small files in the state directory, replaced whole: what the keeper remembers over a restart."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from policyd import log


def replace(path: Path, text: str) -> bool:
    """Put `text` in place of the file, readable by us alone; False (and a log line) when the disk refuses."""
    aside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        log.limited(log.WARNING, f"write {path.name}", "cannot write a state file: make room, check its owner",
                    file=path, error=error.strerror)  # fmt: skip
        return False
    return True


def read(path: Path) -> str:
    """The file's text, "" when there is none or it cannot be read."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def read_json(path: Path) -> dict[str, Any]:
    """The file's JSON object, {} when there is none or it is damaged."""
    try:
        value = json.loads(read(path) or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
