# SPDX-License-Identifier: Apache-2.0
"""When a listed address first came back from its peer, remembered for a day, over restarts too (DESIGN 5.5).

By `policyd.clock` here, so that whoever sets the clock forward does not end anybody's `loop_grace`; in the file, for
the next start, as unix times.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from policyd import clock
from policyd.keeper import files

DAY = 86_400.0
_MOST = 50_000  # addresses; beyond, the oldest are forgotten: they are answered 451 anew


_SET = 1.0  # seconds by which the clock was set, at least


def _started() -> float:
    """Unix time at which `policyd.clock` was 0."""
    return time.time() - clock.now()


class Loops:
    """(local, domain) to `policyd.clock`."""

    def __init__(self, state: Path) -> None:
        self.path = state / "loops.json"
        self.file = files.Saver(self.path)
        self.changed = False
        self.seen: dict[tuple[str, str], float] = {}
        self._started = _started()
        for text, first in files.read_json(self.path).items():
            local, _, domain = text.rpartition("@")
            if isinstance(first, int | float):
                self.seen[local, domain] = float(first) - self._started

    def first(self, local: str, domain: str) -> float:
        """The first sight, which is now when it is not remembered."""
        now = clock.now()
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
        before, self._started = self._started, _started()
        if not self.changed and (not self.seen or abs(self._started - before) < _SET):
            return ""
        self.changed = False
        now = clock.now()
        for at in [at for at, first in self.seen.items() if now - first >= DAY]:
            del self.seen[at]
        lines = {f"{local}@{domain}": round(self._started + first, 1) for (local, domain), first in self.seen.items()}
        return json.dumps(lines)
