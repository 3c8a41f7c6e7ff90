# SPDX-License-Identifier: Apache-2.0
"""What the index remembers of directories besides recipients: their state, what is held back, canaries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DirectoryState:
    """What the index knows of one directory. Times are unix times; `current`: its rows count."""

    name: str
    rows: int
    loaded_at: float | None
    content_time: float | None
    server: str
    took: float
    skipped: int
    believable: bool
    emptied_on_purpose: bool
    current: bool


@dataclass(frozen=True, slots=True)
class Held:
    """Changes that a guard holds back. what: "removed", "moved" or "suspended"; first: up to 20 addresses; since:
    unix time."""

    directory: str
    domain: str
    what: str
    count: int
    first: tuple[str, ...]
    since: float
    why: str


@dataclass(frozen=True, slots=True)
class Unread:
    """A domain that the last reading of a directory could not read. known: an earlier one could, and what it found
    counts. why, hint: what is wrong, and what to do about it. since: unix time."""

    directory: str
    domain: str
    known: bool
    why: str
    hint: str
    since: float


@dataclass(frozen=True, slots=True)
class Canary:
    """A listed address that a live query must find. entry: the directory's key, None where it has none."""

    local: str
    domain: str
    entry: bytes | None = None
