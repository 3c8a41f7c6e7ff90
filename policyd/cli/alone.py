# SPDX-License-Identifier: Apache-2.0
"""Decide without a daemon: from the index where there is one, else from the directories, by a worker's own code."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transport.answerer import Outcome

_ROUNDS = 60  # of look-ups for one answer


class Alone:
    """One command's own answers. Use as a context manager."""

    def __init__(self, config: Path) -> None:
        from transport.answerer import Answerer
        from transport.config.load import load
        from transport.offline import OfflineKnowledge

        self._settings = load(config)
        self._knowledge = OfflineKnowledge(self._settings, self._settings.daemon.state)
        self._answerer = Answerer(self._settings, self._knowledge)

    @property
    def source(self) -> str:
        """Where the answers come from."""
        return "no daemon: index and directories" if self._knowledge.indexed else "no daemon: directories"

    @property
    def faults(self) -> list[str]:
        """Directories that could not be asked, a line each."""
        return [f"directory {name}: {why}" for name, why in self._knowledge.faults.items()]

    def __enter__(self) -> Alone:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._knowledge.close()

    def map(self, name: str, key: str) -> Outcome:
        """One map's answer."""
        for _ in range(_ROUNDS):
            outcome = self._answerer.map(name, key, time.time())
            if not outcome.ask:
                break
            self._knowledge.resolve(outcome.ask)
        return outcome

    def explain(self, address: str, client: dict[str, str], at: float | None) -> dict[str, Any]:
        """The report of `transport.explain`."""
        from transport.explain import explain

        for _ in range(_ROUNDS):
            report = explain(self._answerer, address, time.time() if at is None else at, client)
            if not report["ask"]:
                break
            self._knowledge.resolve([tuple(item) for item in report["ask"]])
        report["directories"] = self._directories(str(report.get("domain", "")))
        return {**report, "source": self.source}

    def _directories(self, name: str) -> list[dict[str, Any]]:
        domain = self._settings.domains.get(name)
        reader = self._knowledge.reader
        states = {state.name: state for state in reader.directories()} if reader is not None else {}
        found = []
        for directory in (*domain.local, *domain.remote) if domain is not None else ():
            state = states.get(directory)
            current = state is not None and state.current
            read = state.loaded_at if state is not None and current else None
            found.append(
                {
                    "name": directory,
                    "loaded": current,
                    "rows": state.rows if state is not None and current else 0,
                    "age": time.time() - read if read is not None else None,
                }
            )
        return found
