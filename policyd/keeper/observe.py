# SPDX-License-Identifier: Apache-2.0
"""Decisions of observed domains, one JSON line each, in `state`/observe/YYYY-MM-DD.jsonl (UTC), bounded.

Keys: time (unix), domain, recipient, sender, client, queue_id, instance, verdict, reason, destination, directory,
listed, rule (of the policy service: NONE, LOOP, SUSPENDED, REFUSE, VERIFY, TEMP), code.
`splitmx observe report` reads them.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from policyd import log

KEEP_DAYS = 14
DAY_BYTES = 64 * 1024 * 1024
"""What one day may take; beyond, decisions are only counted."""


class Observations:
    """Appends; the keeper calls it once a second with all workers' decisions."""

    def __init__(self, state: Path) -> None:
        self.folder = state / "observe"
        self.written = 0
        self.dropped = 0
        self._day = ""

    def add(self, decisions: list[dict[str, Any]]) -> None:
        """Write them down; never raises."""
        day = time.strftime("%Y-%m-%d", time.gmtime())
        path = self.folder / f"{day}.jsonl"
        text = "".join(json.dumps(one, ensure_ascii=True) + "\n" for one in decisions)
        try:
            if day != self._day:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._prune(day)
                self._day = day
            if path.exists() and path.stat().st_size + len(text) > DAY_BYTES:
                self.dropped += len(decisions)
                log.limited(log.WARNING, "observe full", "today's file of observed decisions is full",
                            file=path)  # fmt: skip
                return
            with path.open("a", encoding="ascii") as file:
                file.write(text)
            self.written += len(decisions)
        except OSError as error:
            self.dropped += len(decisions)
            log.limited(log.WARNING, "observe write", "cannot write observed decisions", file=path, error=error)

    def _prune(self, today: str) -> None:
        days = sorted(path for path in self.folder.glob("????-??-??.jsonl") if path.stem < today)
        for path in days[: max(0, len(days) - KEEP_DAYS + 1)]:
            path.unlink(missing_ok=True)
