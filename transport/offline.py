# SPDX-License-Identifier: Apache-2.0
"""What a command knows without a daemon: the state index where it can be read, else the directories themselves.

Who is listed in a usable index is taken from it; every other look-up is made on the spot, one after the other, with
the same canaries and the same judgement as the daemon's. Files are read whole, since a command has the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from transport.address import parse
from transport.config.settings import Directory, Settings
from transport.decision import Decision, Verdict
from transport.directories import open_source
from transport.directories.base import DirectoryError, Source
from transport.index.reader import Reader
from transport.index.states import Canary
from transport.lookup import NO, Answer, Answers, Failed, ask, canaries_for, one
from transport.record import Record, Row

ROUNDS = 60
"""Rounds of questions that one decision may take: an alias of aliases asks level by level."""

Triple = tuple[str, str, str]
"""(directory, local, domain), as `Decision.ask` names them."""


class OfflineKnowledge:
    """The router's `Knowledge` for a process of its own. Use `settle` around every decision; close it in the end.

    state: the directory of the index, None: do not look for one. faults: directory name -> why it could not be asked,
    for people. answers: how the live answers of one directory came about (lying, timeout), last one.
    """

    def __init__(self, settings: Settings, state: Path | None = None) -> None:
        self.settings = settings
        self.faults: dict[str, str] = {}
        self.answers: dict[str, Answers] = {}
        self.networks: Mapping[str, Sequence[str]] = {}
        self._asked: dict[Triple, Answer] = {}
        self._beside: dict[Triple, tuple[tuple[str, str], ...]] = {}
        self._sources: dict[str, Source] = {}
        self._files: dict[str, dict[tuple[str, str], Record]] = {}
        self._content: dict[str, float | None] = {}
        self._parts: dict[str, Mapping[str, DirectoryError | None]] = {}  # as in `Listing`
        self.reader = Reader(state) if state is not None else None
        if self.reader is not None:
            self.reader.use({name: found.fingerprint for name, found in settings.directories.items()})
            self.reader.renew()

    @property
    def indexed(self) -> bool:
        """Whether an index with rows of this configuration is read."""
        return self.reader is not None and any(self.reader.loaded(name) for name in self.settings.directories)

    def settle(self, decide: Callable[[], Decision]) -> Decision:
        """Decide, look up what the decision asks for, and again, until it asks no more."""
        decision = decide()
        for _ in range(ROUNDS):
            if decision.verdict is not Verdict.ASK:
                break
            self.resolve(decision.ask)
            decision = decide()
        return decision

    def resolve(self, wanted: Sequence[Triple]) -> None:
        """Ask the directories now; every one of these has an answer afterwards."""
        by_directory: dict[str, list[tuple[str, str]]] = {}
        for name, local, domain in wanted:
            if (name, local, domain) not in self._asked:
                by_directory.setdefault(name, []).append((local, domain))
        for name, keys in by_directory.items():
            for key, answer in self._ask(self.settings.directories[name], keys).items():
                self._asked[(name, *key)] = answer
                if isinstance(answer, Failed):
                    self.faults.setdefault(name, answer.reason)

    # --- Knowledge

    def rows(self, domain: str, local: str) -> Sequence[Row]:
        """Index rows, what was asked live meanwhile, and the files as they are now."""
        found: dict[str, Row] = {}
        if self.reader is not None:
            found = {row.directory: row for row in self.reader.rows(domain, local)}
        for name, directory in self.settings.directories.items():
            if not directory.live:
                record = self._file(directory).get((local, domain))
                if record is not None:
                    found[name] = _row(name, record)
                elif name in self._content and self._read(name, domain):
                    found.pop(name, None)
                continue
            answer = self._asked.get((name, local, domain))
            if isinstance(answer, Record):
                found[name] = _row(name, answer)._replace(beside=self._beside.get((name, local, domain), ()))
            elif answer is NO:
                found.pop(name, None)
        return tuple(found.values())

    def targets(self, domain: str, local: str, directory: str) -> Sequence[str]:
        """The targets of that row."""
        record = self._files.get(directory, {}).get((local, domain))
        answer = record if record is not None else self._asked.get((directory, local, domain))
        if isinstance(answer, Record):
            return answer.targets
        return self.reader.targets(domain, local, directory) if self.reader is not None else ()

    def loaded(self, directory: str, domain: str) -> bool:
        """Whether the directory's people of this domain were listed with its present fingerprint: by the daemon once,
        or (a file) just now."""
        found = self.settings.directories.get(directory)
        if found is not None and not found.live:
            self._file(found)
            if directory in self._content and self._read(directory, domain):
                return True
        return self.reader is not None and self.reader.loaded(directory, domain)

    def no(self, directory: str, domain: str, local: str) -> bool | None:
        """True: believed; False: could not be asked, or not believed; None: to be asked (`resolve`)."""
        found = self.settings.directories[directory]
        if found.live:
            answer = self._asked.get((directory, local, domain))
            return None if answer is None else answer is NO
        self._file(found)
        if directory not in self._content or not self._read(directory, domain):
            return False
        return found.young(self._content[directory], time.time())

    def same_entry(self, directory: str, entry: int) -> Sequence[tuple[str, str]]:
        """All addresses of one entry, as the index has them."""
        return self.reader.addresses_of_entry(directory, entry) if self.reader is not None else ()

    def spf_networks(self, name: str) -> Sequence[str]:
        """Networks that whoever made this has put into `networks`."""
        return self.networks.get(name, ())

    def loop_first_seen(self, local: str, domain: str) -> float | None:
        """Only the daemon remembers."""
        return None

    # --- inner

    def _source(self, directory: Directory) -> Source:
        source = self._sources.get(directory.name)
        if source is None:
            source = self._sources[directory.name] = open_source(directory)
        return source

    def _ask(self, directory: Directory, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Answer]:
        if not directory.live:
            return {key: self._file(directory).get(key, NO) for key in keys}
        server, emptied = "", False
        known: tuple[Canary, ...] = ()
        if self.reader is not None and self.reader.loaded(directory.name):
            state = next((s for s in self.reader.directories() if s.name == directory.name), None)
            server = state.server if state is not None else ""
            emptied = state is not None and state.emptied_on_purpose
            known = canaries_for(
                self.reader, directory, {domain for _, domain in keys}, configured=configured(directory)
            )
        try:
            source = self._source(directory)
            if not known:
                known = configured(directory) or self._some(directory, source)
            answers = ask(source, directory, keys, known, directory.deadline, server=server, emptied_on_purpose=emptied)
        except DirectoryError as error:
            self.faults[directory.name] = f"{error.what}; {error.hint}" if error.hint else error.what
            return dict.fromkeys(keys, Failed(error.what))
        self.answers[directory.name] = answers
        for key, addresses in answers.beside.items():
            self._beside[directory.name, *key] = addresses
        if answers.lying:
            self.faults[directory.name] = answers.lying
        return answers.found

    def _some(self, directory: Directory, source: Source) -> tuple[Canary, ...]:
        """Without an index: a few addresses that the directory lists now. Raises DirectoryError.

        The listing is left where it stands as soon as there are enough.
        """
        chosen: list[Canary] = []
        listing = source.list()
        for record in listing.records:
            if all(record.entry is None or record.entry != other.entry for other in chosen):
                chosen.append(Canary(record.local, record.domain, record.entry))
            if len(chosen) == 3:
                break
        listing.close()
        source.close()
        self._sources.pop(directory.name, None)
        return tuple(chosen)

    def _read(self, directory: str, domain: str) -> bool:
        """Whether this domain's part of a file directory (or that of the one it is below) could be read just now."""
        parts = self._parts.get(directory, {})
        while domain and domain not in parts:
            domain = domain.partition(".")[2]
        return parts.get(domain) is None

    def _file(self, directory: Directory) -> Mapping[tuple[str, str], Record]:
        """A file's records by address; empty, and a fault noted, when it cannot be read."""
        known = self._files.get(directory.name)
        if known is not None:
            return known
        records: dict[tuple[str, str], list[Record]] = {}
        try:
            listing = self._source(directory).list()
            for record in listing.records:
                records.setdefault((record.local, record.domain), []).append(record)
            self._parts[directory.name] = listing.parts
            for domain, fault in listing.parts.items():
                if fault is not None:
                    self.faults[directory.name] = f"{domain} could not be read: {fault}; {fault.hint}"
            if records or directory.may_be_empty:
                self._content[directory.name] = listing.content_time
            else:
                self.faults[directory.name] = "it lists nobody: its absence proves nothing"
        except DirectoryError as error:
            records = {}
            self.faults[directory.name] = f"{error.what}; {error.hint}" if error.hint else error.what
        found = {key: one(several) for key, several in records.items()}
        self._files[directory.name] = found
        return found

    def close(self) -> None:
        """Let go of index and directories. Never raises."""
        for source in self._sources.values():
            source.close()
        self._sources.clear()
        if self.reader is not None:
            self.reader.close()


def configured(directory: Directory) -> tuple[Canary, ...]:
    """The canaries that the configuration names."""
    found = (parse(text) for text in directory.canary)
    return tuple(Canary(address.local, address.domain) for address in found if address is not None)


def _row(name: str, record: Record) -> Row:
    return Row(name, record.kind, record.active, record.location, len(record.targets), live=True)
