# SPDX-License-Identifier: Apache-2.0
"""What could be read of a file so far, and what is wrong with it: the ground on which `cross` judges."""

from __future__ import annotations

from dataclasses import dataclass, field

from transport.config import model
from transport.config.errors import Keys


@dataclass(slots=True)
class Draft:
    """Tables by name; None stands for one that is there but could not be read (references to it are fine).

    domains: by A-label; `spelled` holds how each is written in the file. problems: (path, found, allowed).
    """

    daemon: model.DaemonTable | None = None
    static: model.StaticTable | None = None
    directories: dict[str, model.DirectoryTable | None] = field(default_factory=dict)
    destinations: dict[str, model.DestinationTable | None] = field(default_factory=dict)
    domains: dict[str, model.DomainTable | None] = field(default_factory=dict)
    waves: dict[str, model.WaveTable | None] = field(default_factory=dict)
    spelled: dict[str, str] = field(default_factory=dict)
    problems: list[tuple[Keys, str, str]] = field(default_factory=list)
    dropped: dict[Keys, set[int]] = field(default_factory=dict)  # positions of wrong items, taken out of their list
    _bad: set[Keys] = field(default_factory=set)

    def add(self, path: Keys, found: str, allowed: str) -> None:
        """Note a mistake. path: the top table, the name in it, the key, and what is inside that."""
        for position in sorted(self.dropped.get(path[:-1], ())):
            if isinstance(path[-1], int) and path[-1] >= position:
                path = (*path[:-1], path[-1] + 1)
        self.problems.append((path, found, allowed))
        for end in range(2, len(path) + 1):
            self._bad.add(path[:end])

    def good(self, path: Keys) -> bool:
        """Whether a key is without mistakes so far."""
        return path not in self._bad

    def domain_path(self, name: str) -> tuple[str, str]:
        """The path of a domain's table, as the file spells it."""
        return ("domains", self.spelled.get(name, name))
