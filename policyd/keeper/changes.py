# SPDX-License-Identifier: Apache-2.0
"""The change log of the configuration, and the texts that `rollback` goes back to.

`state`/changes.jsonl: one line a start or reload that brought another text: time (unix), by ("start", "reload"),
digest, config, differs (lines `key: old -> new`). `state`/settings/current.toml and previous.toml: the texts, readable
by us alone. Secrets are never in the log: a value under `url` loses its passwords, others that may be secret are "***".
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from policyd import log, threads
from policyd.keeper import files
from transport.config.settings import Settings

_LINES = 1000
_PASSWORD = re.compile(r"(://[^:/@\s]*):[^@]*@")  # with blanks too: SQLAlchemy takes them
_PARAMETER = re.compile(r"([?&][^=&]*(?:pass|pwd|secret|token)[^=&]*)=[^&]*", re.IGNORECASE)
_SECRET = re.compile(r"password|secret|token", re.IGNORECASE)


def current_path(state: Path) -> Path:
    """The text in use."""
    return state / "settings" / "current.toml"


def previous_path(state: Path) -> Path:
    """The text in use before the last change."""
    return state / "settings" / "previous.toml"


def log_path(state: Path) -> Path:
    """The change log."""
    return state / "changes.jsonl"


def record(settings: Settings, text: str, by: str) -> list[str]:
    """Note that `text` is in use now; the differences, empty when it was in use already."""
    state = settings.daemon.state
    before = files.read(current_path(state))
    if before == text:
        return []
    differs = differences(before, text)
    if before:
        files.replace(previous_path(state), before)
    files.replace(current_path(state), text)
    line = {
        "time": round(time.time(), 3),
        "by": by,
        "digest": settings.digest.hex(),
        "config": settings.source,
        "differs": differs[:500],
    }
    lines = files.read(log_path(state)).splitlines()[-(_LINES - 1) :]
    files.replace(log_path(state), "\n".join([*lines, json.dumps(line)]) + "\n")
    log.say(log.INFO, "settings changed", by=by, digest=settings.digest.hex()[:12], differences=len(differs))
    return differs


class ChangeLog:
    """`record` in a thread, one after the other: comparing long texts takes a second, and the disk may stand still."""

    def __init__(self) -> None:
        self._alone = asyncio.Lock()

    async def note(self, settings: Settings, text: str, by: str) -> None:
        """Write down that `text` is in use now; never raises."""
        try:
            async with self._alone:
                await threads.to_thread(record, settings, text, by)
        except Exception as error:
            log.limited(log.ERROR, "changes", "fault in the change log; the settings are in use all the same", error)


def differences(before: str, after: str) -> list[str]:
    """What differs between two configuration texts, one line a key; comments and order do not count."""
    old, new = dict(_flat(_parsed(before), "")), dict(_flat(_parsed(after), ""))
    lines = []
    for key in sorted(old.keys() | new.keys()):
        if key not in old:
            lines.append(f"{key}: + {_shown(key, new[key])}")
        elif key not in new:
            lines.append(f"{key}: - {_shown(key, old[key])}")
        elif old[key] != new[key]:
            lines.append(f"{key}: {_shown(key, old[key])} -> {_shown(key, new[key])}")
    return lines


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            name = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"'
            yield from _flat(inner, f"{path}.{name}" if path else name)
    else:
        yield path, value


def _open(value: Any) -> Any:
    """The value without the passwords of URLs."""
    if isinstance(value, list):
        return [_open(one) for one in value]
    return _PARAMETER.sub(r"\1=***", _PASSWORD.sub(r"\1:***@", value)) if isinstance(value, str) else value


def _shown(key: str, value: Any) -> str:
    if _SECRET.search(key.rpartition(".")[2]) and not key.endswith("_file"):
        return "***"
    text = json.dumps(_open(value), default=str)
    return text if len(text) <= 200 else text[:197] + "..."
