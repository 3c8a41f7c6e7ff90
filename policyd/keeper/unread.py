# SPDX-License-Identifier: Apache-2.0
"""Domains of a directory that could not be read, in the log: each by its name, and never many at once."""

from __future__ import annotations

from policyd import log
from transport.sync import SyncReport
from transport.sync.report import UnreadPart

_SAID = 5  # of one reading: `status` has them all


class Unread:
    """What was said of each directory."""

    def __init__(self) -> None:
        self._said: dict[str, set[tuple[str, str]]] = {}

    def say(self, report: SyncReport) -> None:
        """The next few that were not named yet; when all were, the first ones again."""
        parts = {_kind(part): part for part in report.unread}
        said = self._said.get(report.directory, set()) & parts.keys()
        new = [kind for kind in parts if kind not in said]
        for kind in (new or list(parts))[:_SAID]:
            part = parts[kind]
            log.limited(
                log.WARNING,
                f"part {report.directory} {' '.join(kind)}",
                "a domain of the directory was not read: what was last read of it counts, strangers are put off",
                directory=report.directory,
                domain=part.domain,
                error=part.why,
                hint=part.hint,
            )
            said.add(kind)
        self._said[report.directory] = said


def _kind(part: UnreadPart) -> tuple[str, str]:
    """Domain and fault, without what changes from one reading to the next."""
    return part.domain, log.kind_of(part.why)
