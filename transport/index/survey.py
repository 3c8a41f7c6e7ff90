# SPDX-License-Identifier: Apache-2.0
"""What an index tells administrators of itself: directories, changes that are held back, what was skipped, canaries."""

from __future__ import annotations

from typing import Any

from transport.index.states import Canary, DirectoryState, Held, Unread


class Survey:
    """The part of a reader that no answer needs."""

    _names: dict[int, str]

    def _all(self, sql: str, values: tuple[object, ...] = ()) -> list[Any]:
        raise NotImplementedError

    def counts(self) -> dict[str, int]:
        """Rows of each directory whose rows count."""
        return {state.name: state.rows for state in self.directories() if state.current}

    def directories(self) -> tuple[DirectoryState, ...]:
        """All directories the index has heard of, also those whose rows do not count now."""
        current = set(self._names.values())
        return tuple(
            DirectoryState(
                str(name),
                int(rows),
                loaded_at,
                content,
                str(server),
                float(took),
                int(skipped),
                bool(believable),
                bool(emptied),
                name in current,
            )
            for name, rows, loaded_at, content, server, took, skipped, believable, emptied in self._all(
                "SELECT name, rows, loaded_at, content_time, server, took, skipped, believable, emptied_on_purpose"
                " FROM directory ORDER BY name"
            )
        )

    def held(self) -> tuple[Held, ...]:
        """Changes held back by a guard, for `status`."""
        return tuple(
            Held(
                str(name),
                str(domain),
                str(what),
                int(count),
                tuple(str(first).split("\n")) if first else (),
                float(since),
                str(why),
            )
            for name, domain, what, count, first, since, why in self._all(
                "SELECT n.name, coalesce(d.name, ''), h.what, h.count, h.first, h.since, h.why FROM held h"
                " JOIN directory n ON n.id = h.directory LEFT JOIN domain d ON d.id = h.domain"
                " ORDER BY n.name, d.name, h.what"
            )
        )

    def unread(self) -> tuple[Unread, ...]:
        """Domains that the last reading of their directory could not read, for `status`."""
        return tuple(
            Unread(str(name), str(domain), bool(known), str(why), str(hint), float(since))
            for name, domain, known, why, hint, since in self._all(
                "SELECT n.name, d.name, p.known, p.why, p.hint, p.since FROM part p"
                " JOIN directory n ON n.id = p.directory JOIN domain d ON d.id = p.domain"
                " WHERE p.why <> '' ORDER BY n.name, d.name"
            )
        )

    def skipped(self, directory: str) -> tuple[tuple[str, str], ...]:
        """(what, why) of the first 1,000 listed things that are not used."""
        return tuple(
            (str(what), str(why))
            for what, why in self._all(
                "SELECT s.what, s.why FROM skipped s JOIN directory n ON n.id = s.directory WHERE n.name = ?",
                (directory,),
            )
        )

    def canaries(self, directory: str, domain: str = "") -> tuple[Canary, ...]:
        """Canaries of a directory: of this domain, or (without one) a few of any domain."""
        return tuple(
            Canary(str(local), str(name), entry)
            for local, name, entry in self._all(
                "SELECT c.local, d.name, c.entry FROM canary c JOIN directory n ON n.id = c.directory"
                " JOIN domain d ON d.id = c.domain WHERE n.name = ?1 AND (?2 = '' OR d.name = ?2) LIMIT 10",
                (directory, domain),
            )
        )
