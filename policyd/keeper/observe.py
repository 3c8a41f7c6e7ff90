# SPDX-License-Identifier: Apache-2.0
"""Decisions of observed domains, one JSON line each, in `state`/observe/YYYY-MM-DD.jsonl (UTC), bounded.

Keys: time (unix), domain, recipient, sender, client, queue_id, instance, verdict, reason, destination, directory,
listed, rule (of the policy service: NONE, LOOP, SUSPENDED, REFUSE, VERIFY, TEMP), code.
`splitmx observe report` reads them.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

from policyd import log, threads
from policyd.keeper import files

KEEP_DAYS = 14
DAY_BYTES = 64 * 1024 * 1024
"""What one day may take; beyond, decisions are only counted."""


_WAITING = 50_000  # decisions that wait for the disk at most; beyond, they are only counted


class Observations:
    """Appends, in a thread; the keeper calls it once a second with all workers' decisions."""

    def __init__(self, state: Path) -> None:
        self.folder = state / "observe"
        self.written = 0
        self.dropped = 0
        self._day = ""
        self._waiting: deque[dict[str, Any]] = deque()
        self._task: asyncio.Task[None] | None = None

    def add(self, decisions: list[dict[str, Any]]) -> None:
        """Write them down soon; never raises and never waits."""
        room = _WAITING - len(self._waiting)
        self.dropped += max(0, len(decisions) - room)
        self._waiting.extend(decisions[: max(0, room)])
        if self._waiting and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._waiting:
            batch = list(self._waiting)
            self._waiting.clear()
            if await self._written(batch):
                self.written += len(batch)
            else:
                self.dropped += len(batch)

    async def _written(self, batch: list[dict[str, Any]]) -> bool:
        try:
            return await threads.to_thread(self._write, batch)
        except Exception as error:  # no thread can be started
            log.limited(log.WARNING, "observe write", "cannot write observed decisions", error)
            return False

    async def finish(self, seconds: float) -> None:
        """Wait until all is written, at most so long."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=seconds)

    def _write(self, decisions: list[dict[str, Any]]) -> bool:
        """In the thread; whether they stand in the file."""
        day = time.strftime("%Y-%m-%d", time.gmtime())
        path = self.folder / f"{day}.jsonl"
        text = "".join(json.dumps(one, ensure_ascii=True) + "\n" for one in decisions)
        try:
            files.make_folder(self.folder.parent)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            if day != self._day:
                self._prune(day)
                self._day = day
            with os.fdopen(files.append(path), "a", encoding="ascii") as file:
                if os.fstat(file.fileno()).st_size + len(text) > DAY_BYTES:
                    log.limited(log.WARNING, "observe full", "today's file of observed decisions is full",
                                file=path)  # fmt: skip
                    return False
                file.write(text)
        except OSError as error:
            log.limited(log.WARNING, "observe write", "cannot write observed decisions", file=path, error=error)
            return False
        return True

    def _prune(self, today: str) -> None:
        days = sorted(path for path in self.folder.glob("????-??-??.jsonl") if path.stem < today)
        for path in days[: max(0, len(days) - KEEP_DAYS + 1)]:
            path.unlink(missing_ok=True)
