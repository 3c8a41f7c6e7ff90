# SPDX-License-Identifier: Apache-2.0
"""Decide without a daemon: read the directories, then answer with the same code as a worker."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from policyd.cli.common import note

if TYPE_CHECKING:
    from transport.answerer import Outcome


class Alone:
    """What a directory could not be read for counts as it does in the daemon: listed people stay, a "no" is TEMP."""

    source = "no daemon: the directories, read now"

    def __init__(self, config: Path) -> None:
        from policyd.cli import index
        from transport.answerer import Answerer
        from transport.config.load import load
        from transport.maps.snapshot import Snapshot

        self._stack = ExitStack()
        settings = load(config)
        self._opened = self._stack.enter_context(index.opened(settings, own=True))
        for fault in self._opened.faults:
            note(fault)
        snapshot = Snapshot(settings, self._opened.reader, time.time(), doubted=self._opened.failed)
        self._answerer = Answerer(settings, snapshot)

    def __enter__(self) -> Alone:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def map(self, name: str, key: str) -> Outcome:
        """One map's answer."""
        return self._answerer.map(name, key, time.time())

    def explain(self, address: str, client: dict[str, str], at: float | None) -> dict[str, Any]:
        """The report of `transport.explain`."""
        from transport.explain import explain

        report = explain(self._answerer, address, time.time() if at is None else at, client)
        domain = self._answerer.settings.domains.get(str(report.get("domain", "")))
        states = {state.name: state for state in self._opened.reader.directories()}
        report["directories"] = [
            {
                "name": name,
                "loaded": name in states and states[name].current,
                "rows": states[name].rows if name in states else 0,
                "age": None,
            }
            for name in ((*domain.local, *domain.remote) if domain else ())
        ]
        return {**report, "source": self.source}
