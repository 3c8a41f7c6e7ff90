# SPDX-License-Identifier: Apache-2.0
"""When a listed address first came back from its peer, remembered for a day, over restarts too (DESIGN 5.5)."""

from __future__ import annotations

import json
import time
from pathlib import Path

from policyd.keeper import files

DAY = 86_400.0
_MOST = 50_000  # addresses; beyond, the oldest are forgotten: they are answered 451 anew


class Loops:
    """(local, domain) to unix time."""

    def __init__(self, state: Path) -> None:
        self.path = state / "loops.json"
        self.file = files.Saver(self.path)
        self.changed = False
        self.seen: dict[tuple[str, str], float] = {}
        for text, first in files.read_json(self.path).items():
            local, _, domain = text.rpartition("@")
            if isinstance(first, int | float):
                self.seen[local, domain] = float(first)

    def first(self, local: str, domain: str) -> float:
        """The first sight, which is now when it is not remembered."""
        now = time.time()
        first = self.seen.get((local, domain))
        if first is None or not 0 <= now - first < DAY:
            if len(self.seen) >= _MOST:
                del self.seen[next(iter(self.seen))]
            self.seen.pop((local, domain), None)
            first = self.seen[local, domain] = now
            self.changed = True
        return first

    def save(self) -> None:
        """Write what changed; call it now and then."""
        if news := self.news():
            self.file.save(news)

    def news(self) -> str:
        """What the file is to hold now; "" when nothing has changed since the last call."""
        if not self.changed:
            return ""
        self.changed = False
        now = time.time()
        for at in [at for at, first in self.seen.items() if now - first >= DAY]:
            del self.seen[at]
        lines = {f"{local}@{domain}": round(first, 1) for (local, domain), first in self.seen.items()}
        return json.dumps(lines)
