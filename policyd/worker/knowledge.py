# SPDX-License-Identifier: Apache-2.0
"""What a worker knows: the index in its held snapshot, what was learned live, and how old each directory is.

A live answer outranks the index row of the same directory while it is younger than that directory's last reading,
and until its end. Ages come from the keeper on `policyd.clock`, which is one clock for all processes: when the keeper
is gone they simply run out, and a stale "no" is then "could not be asked".
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from policyd import clock
from policyd.link import Age, Live, Told
from transport.config.settings import Settings
from transport.index.reader import Reader
from transport.record import Record, Row

_TURN = 30.0  # seconds after which the new generation of live answers becomes the old one
_DAY = 86_400.0
_LOOK_AGAIN = 1.0  # seconds between two looks for the successor of an index that is gone
_HOLD = 600.0  # seconds after which an index that is gone counts no more, whatever became of its successor
_LIVE = 25_000  # addresses in one of the two generations of live answers

Triple = tuple[str, str, str]
"""(directory, local, domain), as `Outcome.ask` names them."""


class LiveKnowledge:
    """The `Knowledge` of a worker.

    overlay: set while a request that waited is answered; its own live answers count for it however old.
    mark: the keeper's (instance, generation) of the index when it told the ages: a file that is another one or older
    (an old copy of it, put back) counts for nothing. None: it told none yet.
    """

    def __init__(self, settings: Settings, state: Path) -> None:
        self.overlay: Mapping[Triple, Live] = {}
        self.keeper = False
        self.ages: dict[str, Age] = {}
        self.mark: tuple[str, int] | None = None
        self.networks: dict[str, tuple[str, ...]] = {}
        self.loops: dict[tuple[str, str], float] = {}
        # live answers by address and directory: two generations of short ones, and the few that hold longer
        self._new: _Known = {}
        self._old: _Known = {}
        self._long: _Known = {}
        self._turned = 0.0
        # when the index is gone: since when, when its successor was last looked for, and the ages at that moment
        self._gone_at = self._looked_at = 0.0
        self._gone_ages: dict[str, Age] = {}
        self.settings = settings
        self.state = state
        self.reader = Reader(state, hold=True)
        self._use(self.reader)

    def configure(self, settings: Settings) -> None:
        """Take new settings: another set of directories, perhaps with other fingerprints."""
        self.settings = settings
        self._use(self.reader)
        self.forget(None, None)

    def _use(self, reader: Reader) -> None:
        directories = self.settings.directories
        reader.use({name: one.fingerprint for name, one in directories.items()}, entries=bool(self.settings.waves))

    # --- the snapshot -----------------------------------------------------------------------------------------

    def renew(self, *, at_once: bool = False) -> bool:
        """Take the present snapshot of the index; True when answers may differ from before.

        A snapshot older than what the keeper wrote (somebody restored the file) is not used. The index was deleted or
        replaced: its last snapshot goes on saying who is listed until the new one holds every directory that the old
        one held, or `_HOLD` is over.
        """
        reader = self.reader
        if not reader.gone:
            changed = reader.renew(at_once=at_once)
            if self.reader.gone:
                self._gone_at = clock.now()
                self._gone_ages = dict(self.ages)  # of readings that are in our snapshot: it was renewed before
            elif self.mark is not None and reader.generation >= 0 and not reader.holds(self.mark):
                reader.lose("it is not what was last written: an older or another one was put in its place")
                return True
            return changed
        now = clock.now()
        if not at_once and now - self._looked_at < _LOOK_AGAIN:
            return False
        self._looked_at = now
        successor = Reader(self.state, hold=True)
        self._use(successor)
        successor.renew()
        ours = self.mark is not None and successor.holds(self.mark)  # else it is a copy that somebody put there
        if (ours and successor.covers(reader) and self._read_since(reader)) or now - self._gone_at > _HOLD:
            reader.close()
            self.reader = successor
            return True
        successor.close()
        return False

    def _read_since(self, gone: Reader) -> bool:
        """Whether the keeper has read what the lost index held: one that was started since may have found a copy."""
        ages = [self.ages.get(name) for name in gone.complete]
        return all(age is not None and age.read_at is not None for age in ages)

    # --- Knowledge --------------------------------------------------------------------------------------------

    def rows(self, domain: str, local: str) -> Sequence[Row]:
        """Index rows, with those of directories that were asked live replaced by what they said."""
        rows = self.reader.rows(domain, local)
        if not (self._new or self._old or self._long or self.overlay):
            return rows
        live = self._live(domain, local)
        if not live:
            return rows
        merged = [row for row in rows if row.directory not in live]
        for directory, result in live.items():
            merged.extend(
                Row(
                    directory,
                    record.kind,
                    record.active,
                    record.location,
                    len(record.targets),
                    live=True,
                    beside=result.beside,
                )
                for record in result.records or ()
            )
        return merged

    def targets(self, domain: str, local: str, directory: str) -> Sequence[str]:
        """The targets of that row: live ones where the row is a live one."""
        if self._new or self._old or self._long or self.overlay:
            result = self._live(domain, local).get(directory)
            if result is not None and result.records:
                return result.records[0].targets
        return self.reader.targets(domain, local, directory)

    def loaded(self, directory: str, domain: str) -> bool:
        """Whether the index holds the directory's people of this domain, with its present fingerprint."""
        return self.reader.loaded(directory, domain)

    def no(self, directory: str, domain: str, local: str) -> bool | None:
        """True: believed. False: cannot be asked now. None: ask live."""
        triple = (directory, local, domain)
        result = self.overlay.get(triple) or self._remembered(directory, domain, local)
        if result is not None:
            return result.records is not None
        options = self.settings.directories[directory]
        age = self.ages.get(directory)
        read_at = age.read_at if age is not None else None
        if self.reader.gone:  # a later reading is not in this snapshot: its "no" is as old as the snapshot
            held = self._gone_ages.get(directory)
            held_at = held.read_at if held is not None else None
            if not options.live and held_at != read_at:
                return False
            read_at = held_at
        if not options.live:
            if read_at is None or not self.reader.loaded(directory):
                return False  # not read since the start: it may have changed while nobody looked
            if not self.reader.read_last(directory, domain):
                return False  # nor this domain's part of it in the last reading
            return options.young(age.content_time if age is not None else None, time.time())
        if age is not None:
            if age.closed:
                return False
            fresh = read_at is not None and clock.now() - read_at < options.fresh_for
            if fresh and self.reader.loaded(directory):
                return True
        return None if self.keeper else False

    def same_entry(self, directory: str, entry: int) -> Sequence[tuple[str, str]]:
        """All addresses of one person in one directory."""
        return self.reader.addresses_of_entry(directory, entry)

    def spf_networks(self, name: str) -> Sequence[str]:
        """The networks of an `spf:` name as the keeper last resolved it."""
        return self.networks.get(name, ())

    def loop_first_seen(self, local: str, domain: str) -> float | None:
        """When this listed address first came back, as the keeper remembers: for a day."""
        first = self.loops.get((local, domain))
        age = clock.now() - first if first is not None else _DAY
        return time.time() - age if 0 <= age < _DAY else None

    # --- what the keeper tells --------------------------------------------------------------------------------

    def learn(self, triple: Triple, result: Live) -> None:
        """Remember a live answer until its end."""
        directory, local, domain = triple
        at = (local, domain)
        if result.end - clock.now() > _TURN:
            if len(self._long) >= _LIVE:
                del self._long[next(iter(self._long))]
            self._long.setdefault(at, {})[directory] = result
            return
        if len(self._new) >= _LIVE:
            self._turn()
        self._new.setdefault(at, {})[directory] = result
        if self._long and directory in self._long.get(at, _NOTHING):
            del self._long[at][directory]

    def lasting(self) -> list[Told]:
        """The live answers that hold longer (of a `flush`), for a worker that began later."""
        return [(name, *at, live) for at, known in self._long.items() for name, live in known.items()]

    def _turn(self) -> None:
        self._old, self._new = self._new, {}
        self._turned = clock.now()

    def loop_seen(self, local: str, domain: str, first: float) -> None:
        """Remember when an address first came back."""
        if len(self.loops) >= _LIVE:
            self.loops.clear()  # the keeper still knows
        self.loops[(local, domain)] = first

    def forget(self, local: str | None, domain: str | None) -> None:
        """Drop what was learned live: of one address, of one domain (local None), or all."""
        if domain is None:
            self._new, self._old, self._long = {}, {}, {}
            return
        for known in (self._new, self._old, self._long):
            for key in [key for key in known if key[1] == domain and (local is None or key[0] == local)]:
                del known[key]

    def expire(self) -> None:
        """Drop what has ended, in no time: called each second, so that the maps are empty in quiet times."""
        now = clock.now()
        if (self._new or self._old) and now - self._turned > _TURN:
            self._turn()
        while self._long:
            first = next(iter(self._long))
            if any(one.end > now for one in self._long[first].values()):
                break
            del self._long[first]

    # --- inner ------------------------------------------------------------------------------------------------

    def _remembered(self, directory: str, domain: str, local: str) -> Live | None:
        """A live answer that still counts."""
        for known in (self._new, self._old, self._long):
            result = known.get((local, domain), _NOTHING).get(directory)
            if result is not None and self._counts(directory, result):
                return result
        return None

    def _counts(self, directory: str, result: Live) -> bool:
        if result.end <= clock.now():
            return False
        age = self.ages.get(directory)
        # what was read after that question is newer than its answer, and stands in the index
        return age is None or age.read_at is None or result.asked_at >= age.read_at

    def _live(self, domain: str, local: str) -> dict[str, Live]:
        """Live answers about this address that say yes or no, by directory."""
        at = (local, domain)
        if not self.overlay and at not in self._new and at not in self._old and at not in self._long:
            return _NOTHING
        found: dict[str, Live] = {}
        for known in (self._long, self._old, self._new):
            for directory, result in known.get(at, _NOTHING).items():
                if result.records is not None and self._counts(directory, result):
                    found[directory] = result
        for (directory, one, of), result in self.overlay.items():
            if one == local and of == domain and result.records is not None:
                found[directory] = result
        return found


_Known = dict[tuple[str, str], dict[str, Live]]
_NOTHING: dict[str, Live] = {}


def matching(records: Sequence[Record], local: str, domain: str) -> tuple[Record, ...]:
    """Those of a live answer that are about this very address."""
    return tuple(record for record in records if record.local == local and record.domain == domain)
