# SPDX-License-Identifier: Apache-2.0
"""Asks one directory about some addresses, and judges whether its "no" may be believed. Synchronous, one thread.

Used by the keeper's live queue and by commands that run without a daemon. Time-outs are only reported here; the
circuit that they open is the keeper's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from transport.config.settings import Directory
from transport.directories.base import DirectoryError, DirectoryTimeout, Found, Source
from transport.index.states import Canary
from transport.record import Kind, Record

BATCH = 50
"""Addresses in one query, canaries included: beyond it directories get slower again, not faster."""

CANARIES_ASKED = 2

Key = tuple[str, str]
"""(local, domain)."""

_HARMLESS: Key = ("postmaster", "splitmx.invalid")
"""Asked where no canary is known: it is not listed, but the directory has to answer."""


class Said(Enum):
    """A directory's believed answer about an address that it does not list."""

    NO = "no"


NO = Said.NO


@dataclass(frozen=True, slots=True)
class Failed:
    """The directory could not be asked about an address, or what it said is not believed: TEMP."""

    reason: str


Answer = Record | Said | Failed


@dataclass(slots=True)
class Answers:
    """What came of one call of `ask`: an answer for every address.

    beside: all addresses of the person of one that was found, when there are several.
    timeout: the deadline passed (this counts towards the circuit). lying: the alarm's text when the directory lost all
    canaries, or "". down: it refuses everything (the text), or "". server: who answered. queries: how many were made.
    """

    found: dict[Key, Answer] = field(default_factory=dict)
    beside: dict[Key, tuple[Key, ...]] = field(default_factory=dict)
    timeout: bool = False
    lying: str = ""
    down: str = ""
    hint: str = ""
    server: str = ""
    queries: int = 0
    took: float = 0.0


class HasCanaries(Protocol):
    """`transport.index.reader.Reader`, as far as canaries go."""

    def canaries(self, directory: str, domain: str = "") -> tuple[Canary, ...]:
        """Canaries of a directory: of this domain, or a few of any."""


def canaries_for(
    reader: HasCanaries, directory: Directory, domains: Iterable[str], *, configured: Sequence[Canary] = ()
) -> tuple[Canary, ...]:
    """The canaries for a query about addresses in these domains, best first.

    First those of the domains themselves, in random order so that one deleted address is not asked for ever; then the
    directory's others, which speak for a domain that has nobody in it.
    """
    wanted = list(dict.fromkeys(domains))
    own = [canary for domain in wanted[:4] for canary in reader.canaries(directory.name, domain)]
    own += [canary for canary in configured if canary.domain in wanted]
    random.shuffle(own)
    others = [canary for canary in (*reader.canaries(directory.name), *configured) if canary.domain not in wanted]
    random.shuffle(others)
    return tuple(dict.fromkeys((*own, *others)))


def ask(
    source: Source,
    directory: Directory,
    addresses: Sequence[Key],
    canaries: Sequence[Canary],
    deadline: float,
    *,
    server: str = "",
    emptied_on_purpose: bool = False,
) -> Answers:
    """Ask about these addresses (folded) within `deadline` seconds; every one gets an answer.

    canaries: best first (`canaries_for`); none: the "no" is believed only of a directory that may be empty.
    server: the one last synced from: a "no" of another one is not believed.
    No addresses: only the canaries are asked, which is the probe of an open circuit.
    """
    began = time.monotonic()
    answers = Answers()
    asker = _Asker(source, directory, list(canaries), began + deadline, server, emptied_on_purpose, answers)
    wanted = list(dict.fromkeys(addresses))
    if not wanted:
        asker.batch([])
    for start in range(0, len(wanted), BATCH - CANARIES_ASKED):
        asker.batch(wanted[start : start + BATCH - CANARIES_ASKED])
    answers.took = time.monotonic() - began
    return answers


class _Asker:
    """One call of `ask`."""

    def __init__(
        self,
        source: Source,
        directory: Directory,
        canaries: list[Canary],
        until: float,
        server: str,
        emptied: bool,
        answers: Answers,
    ) -> None:
        self.source, self.directory, self.until, self.server = source, directory, until, server
        self.may_be_empty = directory.may_be_empty or emptied
        self.answers = answers
        self.first, self.rest = _two(canaries)
        self.probed = False

    def batch(self, wanted: list[Key]) -> None:
        """Ask about at most 48 addresses, with two canaries."""
        answers = self.answers
        if answers.timeout:
            self._fail(wanted, self._late())
            return
        if answers.down:
            self._fail(wanted, answers.down)
            return
        keys = [(canary.local, canary.domain) for canary in self.first]
        try:
            found = self._query(list(dict.fromkeys((*wanted, *keys))) or [_HARMLESS])
        except DirectoryTimeout as error:
            answers.timeout = True
            answers.hint = error.hint
            self._fail(wanted, self._late())
            return
        except DirectoryError as error:
            self._halves(wanted, error)
            return
        self._judge(wanted, keys, found)

    def _query(self, keys: list[Key]) -> Found:
        remaining = self.until - time.monotonic()
        if remaining <= 0:
            raise DirectoryTimeout(self._late())
        self.answers.queries += 1
        found = self.source.ask(keys, remaining)
        self.answers.server = found.server
        return found

    def _halves(self, wanted: list[Key], error: DirectoryError) -> None:
        """An error may be one address's doing: first see whether the directory answers at all, then ask in halves."""
        answers = self.answers
        if not self.probed and wanted:
            self.probed = True
            try:
                self._query([(canary.local, canary.domain) for canary in self.first] or [_HARMLESS])
            except DirectoryTimeout as late:
                answers.timeout, answers.hint = True, late.hint
                self._fail(wanted, self._late())
                return
            except DirectoryError as again:
                error = again
                answers.down, answers.hint = again.what, again.hint
                self._fail(wanted, again.what)
                return
        if len(wanted) <= 1:
            self._fail(wanted, error.what)
            if not wanted:
                answers.down, answers.hint = error.what, error.hint
            return
        middle = len(wanted) // 2
        self.batch(wanted[:middle])
        self.batch(wanted[middle:])

    def _judge(self, wanted: list[Key], canaries: list[Key], found: Found) -> None:
        records: dict[Key, list[Record]] = {}
        for record in found.records:
            records.setdefault((record.local, record.domain), []).append(record)
        doubt, domains = (found.doubt, frozenset[str]()) if found.doubt else self._doubt(canaries, records)
        for key in wanted:
            mine = records.get(key)
            doubted = doubt and (not domains or key[1] in domains)
            self.answers.found[key] = one(mine) if mine else Failed(doubt) if doubted else NO
            person = mine[0].entry if mine else None
            if person is not None and person in found.people:
                self.answers.beside[key] = found.people[person]

    def _doubt(self, canaries: list[Key], records: Mapping[Key, object]) -> tuple[str, frozenset[str]]:
        """Why a "no" of this answer is not believed, or ""; and of which domains it is not, none: of all."""
        name, every = self.directory.name, frozenset[str]()
        if self.server and self.answers.server != self.server:
            return f"{self.answers.server or 'another server'} answered, the index was read from {self.server}", every
        if not canaries:
            if self.may_be_empty:
                return "", every
            return f'directory {name} is not known to list anyone: its "no" proves nothing', every
        if any(key in records for key in canaries):
            return "", every
        missing = {key[1] for key in canaries}
        if self.rest:
            third = self.rest[0]
            missing.add(third.domain)
            # a tenant who closes is no directory that lies: somebody of another domain is still there
            other = next((canary for canary in self.rest[1:] if canary.domain not in missing), None)
            for witness in (third, other):
                if witness is None:
                    continue
                key = (witness.local, witness.domain)
                try:
                    again = self._query([key])
                except DirectoryTimeout as error:
                    self.answers.timeout, self.answers.hint = True, error.hint
                    return self._late(), every
                except DirectoryError as error:
                    return error.what, every
                if any((record.local, record.domain) == key for record in again.records):
                    if witness is third:
                        return "", every
                    gone = ", ".join(sorted(missing))
                    return f"directory {name} finds nobody any more whom it listed in {gone}", frozenset(missing)
        self.answers.lying = (
            f"directory {name} no longer finds addresses that it listed a moment ago"
            f' ({", ".join("@".join(key) for key in canaries)}): its "no" is not believed; check its access rights,'
            " base and whether its replica is complete"
        )
        return f"directory {name} does not find its known addresses", every

    def _late(self) -> str:
        return f"directory {self.directory.name} did not answer within {self.directory.deadline:g} s"

    def _fail(self, wanted: list[Key], reason: str) -> None:
        for key in wanted:
            self.answers.found[key] = Failed(reason)


def _two(canaries: list[Canary]) -> tuple[list[Canary], list[Canary]]:
    """The two canaries that are asked, of different entries, and the others in their order."""
    chosen: list[Canary] = []
    rest: list[Canary] = []
    for canary in canaries:
        same = canary.entry is not None and any(canary.entry == other.entry for other in chosen)
        if len(chosen) < CANARIES_ASKED and not same:
            chosen.append(canary)
        else:
            rest.append(canary)
    entries = {canary.entry for canary in chosen if canary.entry is not None}
    rest.sort(key=lambda canary: canary.entry in entries)
    return chosen, rest


def one(records: Sequence[Record]) -> Record:
    """One record of several of the same address, as the index merges them: a mailbox beats an alias, targets unite."""
    if len(records) == 1:
        return records[0]
    best = min(record.kind for record in records)
    same = [record for record in records if record.kind == best or best != Kind.MAILBOX]
    same.sort(key=lambda record: record.kind)
    return same[0]._replace(
        kind=max(record.kind for record in same),
        active=any(record.active for record in same),
        location=next((record.location for record in same if record.location is not None), None),
        targets=tuple(dict.fromkeys(target for record in same for target in record.targets)),
    )
