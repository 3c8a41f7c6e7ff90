# SPDX-License-Identifier: Apache-2.0
"""The answer cache: whole replies that stay true for the generation, in two dictionaries of bounded size."""

from __future__ import annotations

from typing import Any

from transport.outcome import Outcome

SIZE = 50_000
"""Entries of one dictionary; a full new one becomes the old one (cheaper than any order of use)."""

MAX_FRAME = 512
"""Octets of the longest frame that is kept: longer ones come from nobody's mail, and cost memory."""

Entry = tuple[bytes, list[int]]
"""The reply, and the counter to raise when it is sent."""


class Cache:
    """One kind of listener's answers. `new` may be read directly on the hot path.

    shared: entries of the outcomes that many addresses share, by the outcome's identity, which the reference beside
    the entry keeps from being given to another object.
    """

    __slots__ = ("new", "old", "shared")

    def __init__(self) -> None:
        self.new: dict[Any, Entry] = {}
        self.old: dict[Any, Entry] = {}
        self.shared: dict[int, tuple[Entry, Outcome]] = {}

    def get(self, key: Any) -> Entry | None:
        """The entry; one found among the old ones becomes a new one again."""
        entry = self.new.get(key)
        if entry is None:
            entry = self.old.get(key)
            if entry is not None:
                self.put(key, entry)
        return entry

    def put(self, key: Any, entry: Entry) -> None:
        """Keep `entry`."""
        if len(self.new) >= SIZE:
            self.old = self.new
            self.new = {}
        self.new[key] = entry

    def clear(self) -> None:
        """Forget everything: the generation or the settings changed."""
        self.new = {}
        self.old = {}
        self.shared = {}

    def __len__(self) -> int:
        return len(self.new) + len(self.old)
