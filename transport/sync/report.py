# SPDX-License-Identifier: Apache-2.0
"""What a sync did, or would do: for the log, `status`, `sync --dry-run` and metrics."""

from __future__ import annotations

from dataclasses import dataclass, field

EXAMPLES = 20
"""Addresses named of each sort of change."""


@dataclass(frozen=True, slots=True)
class HeldChange:
    """Changes of one domain that a guard holds back. domain "" is the whole directory.

    what: removed, moved, suspended, or targets (all of an alias's or group's are gone).
    """

    domain: str
    what: str
    count: int
    first: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class UnreadPart:
    """A domain whose part of the directory could not be read. why, hint: what is wrong, and what to do about it."""

    domain: str
    why: str
    hint: str


@dataclass(slots=True)
class SyncReport:
    """One sync of one directory.

    Counts are addresses. moved: taken changes of side (LOCAL or RELAY); changed: other taken changes; held: changes
    that a guard holds back. first: up to 20 addresses of each sort, by its name. unread: domains of it that could not
    be read, unlike others.
    removals: whether this reading saw who is gone; a table's feed does not.
    error, hint: why nothing was taken, and what to do; "" when the directory was read well. timeout: it did not answer
    in time. broken: the index file itself is damaged. unwritten: it is good, and could not be written to.
    believable: an absence from this reading means something: the directory's "no" is fresh from now.
    full_needed: a feed cannot go on from here (`why`): compare. generation: the index's after it, None if it did not
    change.
    duration: seconds; listing: seconds of it that the directory took. cookie: where a feed goes on.
    """

    directory: str
    added: int = 0
    removed: int = 0
    moved: int = 0
    changed: int = 0
    held: int = 0
    unchanged: int = 0
    skipped: int = 0
    rows: int = 0
    first: dict[str, tuple[str, ...]] = field(default_factory=dict)
    held_changes: tuple[HeldChange, ...] = ()
    unread: tuple[UnreadPart, ...] = ()
    first_load: bool = False
    dry_run: bool = False
    believable: bool = False
    full_needed: bool = False
    why: str = ""
    generation: int | None = None
    duration: float = 0.0
    listing: float = 0.0
    server: str = ""
    content_time: float | None = None
    cookie: bytes = b""
    error: str = ""
    hint: str = ""
    timeout: bool = False
    broken: bool = False
    unwritten: bool = False
    removals: bool = True

    @property
    def good(self) -> bool:
        """Whether the directory was read well and the index took it."""
        return not self.error

    def fail(self, error: str, hint: str, *, broken: bool, unwritten: bool) -> None:
        """Nothing was taken: the index could not be used."""
        self.error, self.hint, self.broken, self.unwritten = error, hint, broken, unwritten

    def line(self) -> str:
        """The report as one line for the log."""
        if self.error:
            return f"directory {self.directory}: not synced: {self.error}" + (f"; {self.hint}" if self.hint else "")
        parts = [
            f"{count} {word}"
            for word, count in (
                ("added", self.added),
                ("removed", self.removed),
                ("moved", self.moved),
                ("changed", self.changed),
                ("held back", self.held),
                ("skipped", self.skipped),
            )
            if count
        ]
        text = ", ".join(parts) or "no change"
        if self.why:
            text += f"; {self.why}"
        if self.unread:
            first = self.unread[0]
            text += f"; {len(self.unread)} domains could not be read, for example {first.domain}: {first.why}"
        return f"directory {self.directory}: {self.rows} addresses, {text} ({self.duration:.2f} s)"
