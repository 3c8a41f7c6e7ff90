# SPDX-License-Identifier: Apache-2.0
"""What a directory is to the rest of the program. Synchronous: the keeper calls it from its own threads."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from transport.record import Record

LIVE_MEMBERS = 500
"""Members of a group that are looked up one by one (LDAP) when it is asked for by its address."""


class DirectoryError(Exception):
    """The directory could not be read: down, refused, misconfigured. `hint` says what to do about it."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


class DirectoryTimeout(DirectoryError):  # noqa: N818  a time-out, as in TimeoutError
    """It did not answer in time. Only this, never a plain error, counts towards the circuit."""


_NAMED = 5  # domains that could not be read, when it is all of them


class PartsError(DirectoryError):
    """Of a directory that is read domain by domain none could be: the first ones' faults. parts: as in `Listing`."""

    def __init__(self, parts: Mapping[str, DirectoryError | None]) -> None:
        faults = [fault for fault in parts.values() if fault is not None]
        first, rest = faults[:_NAMED], len(faults) - _NAMED
        what = "; ".join(dict.fromkeys(fault.what for fault in first))
        more = f"; and {rest} more domains that could not be read" if rest > 0 else ""
        super().__init__(what + more, "; ".join(dict.fromkeys(fault.hint for fault in first)))
        self.parts = parts


@dataclass(slots=True)
class Skipped:
    """Nonsense found while listing: counted wholly, the first 1,000 kept."""

    count: int = 0
    first: list[tuple[str, str]] = field(default_factory=list)  # (what, why)

    def add(self, what: str, why: str) -> None:
        """Note one entry that is not used. `what` is cut to 200 characters and made printable."""
        self.count += 1
        if len(self.first) < 1000:
            self.first.append((_printable(what[:200]), _printable(why)))


def _printable(text: str) -> str:
    """Text that any log, terminal and database takes: no control characters, no lone surrogates."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(slots=True)
class Listing:
    """One full listing on its way. Iterate `records` to the end, then read the rest.

    server: which server answered (where `url` names several; "" else): a "no" of another one is not believed until a
        listing with it.
    content_time: unix time of the content (files: mtime or exported_at), None for live directories.
    cookie: where `changes` may go on after this listing, read *before* the first record (contextCSN, uSNChanged, the
        largest `changed` value); empty where the directory cannot tell of changes. Read it after the last record.
    parts: of a directory that is read domain by domain: each domain, and why it could not be read (None: it was). No
        record is of one that was not: what the index has of it stays, and an absence there means nothing.
    """

    records: Iterator[Record]
    skipped: Skipped
    server: str = ""
    content_time: float | None = None
    cookie: bytes = b""
    parts: Mapping[str, DirectoryError | None] = field(default_factory=dict)

    def close(self) -> None:
        """Read no further: what is still open for `records` ends now, and not when the memory is cleared up."""
        if isinstance(self.records, Generator):
            self.records.close()


@dataclass(frozen=True, slots=True)
class Changes:
    """What a directory says has changed since a cookie.

    upserts: (entry key, *all* records of that entry now); an entry's addresses that are no longer among them are
        removed. With key None (SQL) the records are taken one by one and remove nothing.
    deletes: keys of entries that are gone.
    present: with content sync's present phase: keys of all entries that exist; whatever entry of the index is neither
        here nor in upserts is gone. None where the directory names its deletions or cannot.
    cookie: where to go on next time.
    full_needed: the change stream cannot be trusted from here (other server, unknown cookie, too much): compare. `why`
        says so for the log.
    removals: whether entries that are gone would be among them; else only a compare finds those.
    additions: whether everybody who came would be; else an absence means nothing after it.
    """

    upserts: Sequence[tuple[bytes | None, Sequence[Record]]] = ()
    deletes: Sequence[bytes] = ()
    cookie: bytes = b""
    full_needed: bool = False
    why: str = ""
    present: frozenset[bytes] | None = None
    server: str = ""
    removals: bool = True
    additions: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """Answer of one live look-up: the records found among the addresses asked, and which server said so.

    people: of entries with several addresses, by `Record.entry`: all of them, asked or not.
    doubt: why who is not among the records may be there all the same (a standby that is behind), or "".
    """

    records: Sequence[Record]
    server: str = ""
    people: Mapping[bytes, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    doubt: str = ""


class Source(Protocol):
    """A connected directory. One thread at a time uses one Source; each thread opens its own."""

    def list(self) -> Listing:
        """Everyone, as a stream. Raises DirectoryError, also while iterating."""

    def ask(self, addresses: Sequence[tuple[str, str]], timeout: float) -> Found:
        """Those of the (local, domain) pairs, at most 50, that are listed. Raises DirectoryError/DirectoryTimeout."""

    def close(self) -> None:
        """Let go of the connection; never raises."""


class ChangeSource(Source, Protocol):
    """A directory that can tell of changes: `isinstance` is not used, `hasattr(source, "changes")` is."""

    def changes(self, cookie: bytes, limit: int) -> Changes:
        """What changed since `cookie`; more than `limit` entries: full_needed. Raises DirectoryError."""
