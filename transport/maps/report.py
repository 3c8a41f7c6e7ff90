# SPDX-License-Identifier: Apache-2.0
"""What a build of static maps did, or would do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from transport.maps import postmap
from transport.maps.population import Survey


@dataclass(slots=True)
class MapReport:
    """One map. types: under which main.cf may name it. added, removed, differences: only with `check`."""

    name: str
    path: Path
    types: tuple[str, ...]
    lines: int = 0
    changed: bool = False
    written: bool = False
    added: int = 0
    removed: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def files(self) -> tuple[Path, ...]:
        """The text, and what is made of it."""
        return (self.path, *(postmap.index_path(self.path, kind) for kind in self.types))


@dataclass(slots=True)
class BuildReport:
    """What a build did, or would do (`check`).

    held: why the per-recipient maps were left as they are. unread: directories that were never read, so that who
    only they list has no line. reload: whether a running Postfix needs `postfix reload` to see everything.
    waiting: domains that enter `relay_domains` at the next build, after that reload. warnings: lines for people.
    """

    output: Path
    maps: list[MapReport] = field(default_factory=list)
    guard_changed: bool = False
    survey: Survey = field(default_factory=Survey)
    held: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    reload: bool = False
    waiting: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def changed(self) -> bool:
        """Whether any file changed, or would."""
        return self.guard_changed or any(report.changed for report in self.maps)

    @property
    def complete(self) -> bool:
        """Whether the files hold all that they should."""
        return not (self.held or self.unread or self.survey.left_out or self.waiting)
