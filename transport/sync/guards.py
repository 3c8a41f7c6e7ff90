# SPDX-License-Identifier: Apache-2.0
"""Guards hold back: which changes of a sync are too many at once to be believed without a human.

They work on the temporary tables of `stage`: `diff` holds every difference (A added, C changed, D gone), the index its
accepted state. What a guard holds gets `hold = 1`: the old row stays, everything else of the same sync is taken.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from transport.address import external, parse
from transport.config.settings import Directory, Domain, Settings
from transport.sync.report import EXAMPLES, HeldChange
from transport.sync.side import Place, domain_of, moves, relays_strangers, side

LEAST_MOVED = 10
"""So many changes of side of a domain in one sync are always taken."""


@dataclass(slots=True)
class Case:
    """One sync to be judged. number: the directory's id; rows: how many it had; now: unix time.

    accept: None, or the directories and domains whose changes a human has accepted; empty: all.
    before: held removals of earlier feed batches by domain id, which count with the present ones.
    new: domains of it that are read for the first time: nobody there was on a side before.
    """

    connection: sqlite3.Connection
    number: int
    directory: Directory
    settings: Settings
    rows: int
    now: float
    name_of: Callable[[int], str]
    accept: Sequence[str] | None = None
    before: dict[int, int] = field(default_factory=dict)
    new: frozenset[int] = frozenset()
    held: list[HeldChange] = field(default_factory=list)
    emptied: bool = False  # it lists nobody any more, and that was accepted
    lost: bool = False  # it lists nobody any more, and that is not believed

    def accepts(self, domain: str) -> bool:
        """Whether a human accepted this domain's changes in this directory."""
        if self.accept is None:
            return False
        return not self.accept or self.directory.name in self.accept or domain in self.accept


def judge(case: Case) -> None:
    """Mark in `diff` what is held back, and say it in `case.held`."""
    _exempt_waves(case)
    counts: dict[int, dict[str, int]] = {}
    for domain, what, count in case.connection.execute(
        "SELECT domain, what, count(*) FROM temp.diff GROUP BY domain, what"
    ):
        counts.setdefault(domain, {})[what] = count
    gone = sum(found.get("D", 0) for found in counts.values())
    added = sum(found.get("A", 0) for found in counts.values())
    if case.rows and gone == case.rows and not added:
        _directory_emptied(case, counts)
        return
    held = _removals(case, counts)
    _moves(case, counts, held)
    if any("C" in found for found in counts.values()):
        _targets_lost(case)
        _suspensions(case)


def _exempt_waves(case: Case) -> None:
    """Addresses of a passed wave, and all addresses of the same directory entries, never count."""
    connection = case.connection
    addresses = {
        (address.local, address.domain)
        for wave in case.settings.waves
        if wave.at <= case.now
        for text in wave.addresses
        if (address := parse(text)) is not None
    }
    if not addresses:
        return
    connection.executemany(
        "INSERT OR IGNORE INTO temp.waved SELECT id, ?1 FROM domain WHERE name = ?2", list(addresses)
    )
    keys = {
        key
        for (key,) in connection.execute(
            "SELECT e.key FROM temp.waved w JOIN recipient r ON r.domain = w.domain AND r.local = w.local"
            " JOIN entry e ON e.id = r.entry WHERE r.directory = ?1"
            " UNION SELECT s.entry FROM temp.waved w JOIN temp.staged s ON s.domain = w.domain AND s.local = w.local"
            " WHERE s.entry IS NOT NULL",
            (case.number,),
        )
    }
    if keys:
        more = [
            (domain, local)
            for domain, local, old, new in connection.execute(
                "SELECT x.domain, x.local, e.key, s.entry FROM temp.diff x"
                " LEFT JOIN temp.staged s ON s.domain = x.domain AND s.local = x.local"
                " LEFT JOIN recipient r ON r.domain = x.domain AND r.local = x.local AND r.directory = ?1"
                " LEFT JOIN entry e ON e.id = r.entry",
                (case.number,),
            )
            if old in keys or new in keys
        ]
        connection.executemany("INSERT OR IGNORE INTO temp.waved VALUES (?, ?)", more)


def _directory_emptied(case: Case, counts: dict[int, dict[str, int]]) -> None:
    waved = case.connection.execute(
        "SELECT count(*) FROM temp.diff x JOIN temp.waved w ON w.domain = x.domain AND w.local = x.local"
    ).fetchone()[0]
    accepted = case.accept is not None and (
        case.accepts("") or all(case.accepts(case.name_of(domain)) for domain in counts)
    )
    if case.directory.may_be_empty or accepted or waved == case.rows:
        case.emptied = True
        return
    case.lost = True
    case.connection.execute("UPDATE temp.diff SET hold = 1")
    case.held.append(
        HeldChange(
            "",
            "removed",
            case.rows,
            examples(case, "hold = 1"),
            f"the directory lists nobody any more, {case.rows} before; if that is so: sync --accept"
            f" {case.directory.name}",
        )
    )


def _removals(case: Case, counts: dict[int, dict[str, int]]) -> set[int]:
    """Hold removals that are too many; the domains concerned."""
    connection, directory = case.connection, case.directory
    held: set[int] = set()
    emptied: list[tuple[int, int]] = []
    for domain, found in counts.items():
        gone = found.get("D", 0)
        if not gone or case.accepts(case.name_of(domain)):
            continue
        counted = gone + case.before.get(domain, 0) - _waved(case, domain, "D")
        if counted <= 0:
            continue
        few = counted <= directory.shrink_floor
        if few and (found.get("A", 0) or not _may_be_last(case, domain, gone)):
            continue
        rows = int(
            connection.execute(
                "SELECT count(*) FROM recipient WHERE domain = ? AND directory = ?", (domain, case.number)
            ).fetchone()[0]
        )
        if rows - gone + found.get("A", 0) <= 0:
            emptied.append((domain, counted))
        elif not few and counted > directory.max_shrink * rows:
            _hold(
                case,
                domain,
                "D",
                f"{counted} of {rows} addresses are gone at once, more than max_shrink = {directory.max_shrink:g}",
            )
            held.add(domain)
    if emptied:
        held |= _emptied(case, emptied)
    return held


def _may_be_last(case: Case, domain: int, gone: int) -> bool:
    """Whether a domain has no more rows than the few that go: read no further than needed."""
    found = case.connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM recipient WHERE domain = ? AND directory = ? LIMIT ?)",
        (domain, case.number, gone + 1),
    ).fetchone()[0]
    return bool(found <= gone)


def _emptied(case: Case, emptied: list[tuple[int, int]]) -> set[int]:
    """Domains with nobody left: believed while the directory's other canaries answer.

    Many of them at once are no tenants that close but a part of the directory that is missing.
    """
    names = {domain for domain, _ in emptied}
    others = False
    for domain, answers in case.connection.execute(
        "SELECT c.domain, x.what IS NULL AND r.kind IS NOT NULL FROM canary c"
        " LEFT JOIN temp.diff x ON x.domain = c.domain AND x.local = c.local AND x.what = 'D'"
        " LEFT JOIN recipient r ON r.domain = c.domain AND r.local = c.local AND r.directory = c.directory"
        " WHERE c.directory = ? AND c.domain NOT IN (SELECT domain FROM temp.unread)",
        (case.number,),
    ):
        if domain not in names and answers:
            others = True
            break
    lost = sum(count for _, count in emptied)
    many = len(emptied) > 1 and lost > case.directory.shrink_floor and lost > case.directory.max_shrink * _seen(case)
    if others and not many:
        return set()
    for domain, count in emptied:
        why = (
            f"all {count} addresses are gone, and the same happened to other domains"
            if others
            else (f"all {count} addresses are gone, and no other known address of the directory answers")
        )
        _hold(case, domain, "D", why)
    return names


def _seen(case: Case) -> int:
    """How many rows the domains had that could be read: the others' people prove nothing."""
    unread = case.connection.execute(
        "SELECT count(*) FROM recipient WHERE directory = ? AND domain IN (SELECT domain FROM temp.unread)",
        (case.number,),
    ).fetchone()[0]
    return case.rows - int(unread)


def _moves(case: Case, counts: dict[int, dict[str, int]], replaced: set[int]) -> None:
    """Hold changes of side, address by address, of a domain where they are too many."""
    names = {
        number: name
        for number, name, fingerprint in case.connection.execute("SELECT id, name, fingerprint FROM directory")
        if name in case.settings.directories and case.settings.directories[name].fingerprint == fingerprint
    }
    for domain in counts:
        ours = domain_of(case.settings, case.name_of(domain))
        if ours is None or domain in case.new or case.directory.name not in (*ours.local, *ours.remote):
            continue
        flips, strangers = _flips(case, domain, ours, names, domain in replaced)
        if not flips and not strangers:
            continue
        case.connection.executemany(
            "UPDATE temp.diff SET moves = 1 WHERE domain = ? AND local = ?", [(domain, local) for local in flips]
        )
        if case.accepts(case.name_of(domain)):
            continue
        waved = {
            local for (local,) in case.connection.execute("SELECT local FROM temp.waved WHERE domain = ?", (domain,))
        }
        counted = [local for local in (*flips, *strangers) if local not in waved]
        if len(counted) <= LEAST_MOVED:
            continue
        listed = int(
            case.connection.execute(
                "SELECT count(DISTINCT local) FROM recipient WHERE domain = ?", (domain,)
            ).fetchone()[0]
        )
        if len(counted) > case.directory.max_moved * listed:
            case.connection.executemany(
                "UPDATE temp.diff SET hold = 2 WHERE domain = ? AND local = ?",
                [(domain, local) for local in counted],
            )
            case.held.append(
                HeldChange(
                    case.name_of(domain),
                    "moved",
                    len(counted),
                    tuple(external(local, case.name_of(domain)) for local in counted[:EXAMPLES]),
                    f"{len(counted)} of {listed} addresses change sides at once, more than"
                    f" max_moved = {case.directory.max_moved:g}",
                )
            )


def _targets_lost(case: Case) -> None:
    """Hold aliases and groups that lose all targets where they are too many: mail for them would be local, and no store
    knows them."""
    lost = dict(case.connection.execute(f"SELECT x.domain, count(*) {_UNTARGETED} GROUP BY 1", (case.number,)))
    for domain, count in lost.items():
        if count <= case.directory.shrink_floor or case.accepts(case.name_of(domain)):
            continue
        before = case.connection.execute(
            "SELECT count(*) FROM recipient WHERE domain = ? AND directory = ? AND kind > 0 AND targets > 0",
            (domain, case.number),
        ).fetchone()[0]
        if count > case.directory.max_shrink * before:
            why = f"{count} of {before} aliases and groups have no targets any more, all at once"
            _hold_rows(case, domain, "targets", _UNTARGETED, count, why)


_UNTARGETED = (
    " FROM temp.diff x CROSS JOIN recipient r ON r.domain = x.domain AND r.local = x.local AND r.directory = ?1"
    " CROSS JOIN temp.staged s ON s.domain = x.domain AND s.local = x.local"
    " WHERE x.what = 'C' AND x.hold = 0 AND r.kind > 0 AND r.targets > 0 AND s.n = 0 AND s.active"
    " AND s.location IS r.location"
    " AND NOT EXISTS (SELECT 1 FROM temp.waved w WHERE w.domain = x.domain AND w.local = x.local)"
)
"""SQL: who was an alias or group with targets and stays where it is without any, in directory ?1."""


def _suspensions(case: Case) -> None:
    """Hold suspensions that are too many: a policy service that believed them would refuse everybody's mail.

    As with removals, one tenant's end is believed while others of the directory are active.
    """
    connection, directory = case.connection, case.directory
    ended: dict[int, int] = {}
    for domain, count in connection.execute(f"SELECT x.domain, count(*) {_SUSPENDED} GROUP BY 1", (case.number,)):
        if count <= directory.shrink_floor or case.accepts(case.name_of(domain)):
            continue
        active = connection.execute(
            "SELECT count(*) FROM recipient WHERE domain = ? AND directory = ? AND active", (domain, case.number)
        ).fetchone()[0]
        if count == active:
            ended[domain] = count
        elif count > directory.max_shrink * active:
            why = f"{count} of {active} active addresses are suspended at once"
            _hold_rows(case, domain, "suspended", _SUSPENDED, count, why)
    if not ended:
        return
    many = len(ended) > 1 and sum(ended.values()) > directory.max_shrink * _seen(case)
    others = not many and any(
        domain not in ended
        for (domain,) in connection.execute(
            "SELECT DISTINCT domain FROM recipient WHERE directory = ? AND active"
            " AND domain NOT IN (SELECT domain FROM temp.unread)",
            (case.number,),
        )
    )
    for domain, count in () if others else ended.items():
        why = f"all {count} active addresses are suspended at once"
        _hold_rows(case, domain, "suspended", _SUSPENDED, count, why)


_SUSPENDED = (
    " FROM temp.diff x CROSS JOIN recipient r ON r.domain = x.domain AND r.local = x.local AND r.directory = ?1"
    " CROSS JOIN temp.staged s ON s.domain = x.domain AND s.local = x.local"
    " WHERE x.what = 'C' AND x.hold = 0 AND r.active AND NOT s.active"
    " AND NOT EXISTS (SELECT 1 FROM temp.waved w WHERE w.domain = x.domain AND w.local = x.local)"
)
"""SQL: who was active and is suspended now, in directory ?1."""


def _hold_rows(case: Case, domain: int, what: str, rows: str, count: int, why: str) -> None:
    """Hold the changes that `rows` (SQL, _UNTARGETED or _SUSPENDED) finds in a domain."""
    found = case.connection.execute(f"SELECT x.local {rows} AND x.domain = ?2", (case.number, domain))
    locals_ = [local for (local,) in found]
    case.connection.executemany(
        "UPDATE temp.diff SET hold = 3 WHERE domain = ? AND local = ?", [(domain, local) for local in locals_]
    )
    name = case.name_of(domain)
    examples = tuple(external(local, name) for local in locals_[:EXAMPLES])
    case.held.append(HeldChange(name, what, count, examples, why))


def _flips(case: Case, domain: int, ours: Domain, names: dict[int, str], replaced: bool) -> tuple[list[str], list[str]]:
    """Local parts of one domain whose side this sync changes; and strangers that come with an exchanged list."""
    connection, own = case.connection, case.directory.name
    # A list that lost most of its people and has others instead is another list: its strangers were relayed so far.
    exchanged = replaced and own in ours.local and relays_strangers(ours)
    found: list[str] = []
    strangers: list[str] = []
    changed = connection.execute(
        "SELECT x.local, x.what, s.kind, s.location FROM temp.diff x"
        " LEFT JOIN temp.staged s ON s.domain = x.domain AND s.local = x.local AND x.what <> 'D'"
        " WHERE x.domain = ? AND x.hold = 0",
        (domain,),
    )
    others = connection.cursor()
    for local, what, kind, location in changed:
        rows = {
            names[number]: Place(old, place)
            for number, old, place in others.execute(
                "SELECT directory, kind, location FROM recipient WHERE domain = ? AND local = ?", (domain, local)
            )
            if number in names
        }
        before = side(ours, rows)
        new = dict(rows)
        if what == "D":
            new.pop(own, None)
        else:
            new[own] = Place(kind, location)
        if moves(before, side(ours, new)):
            found.append(local)
        elif exchanged and not rows and what == "A":
            strangers.append(local)
    return found, strangers


def _waved(case: Case, domain: int, what: str) -> int:
    found = case.connection.execute(
        "SELECT count(*) FROM temp.waved w JOIN temp.diff x ON x.domain = w.domain AND x.local = w.local"
        " WHERE w.domain = ? AND x.what = ?",
        (domain, what),
    ).fetchone()[0]
    return int(found)


def _hold(case: Case, domain: int, what: str, why: str) -> None:
    cursor = case.connection.execute(
        "UPDATE temp.diff SET hold = 1 WHERE domain = ?1 AND what = ?2 AND NOT EXISTS"
        " (SELECT 1 FROM temp.waved w WHERE w.domain = diff.domain AND w.local = diff.local)",
        (domain, what),
    )
    count = cursor.rowcount + case.before.get(domain, 0)
    case.held.append(
        HeldChange(case.name_of(domain), "removed", count, examples(case, "hold = 1 AND domain = ?", domain), why)
    )


def examples(case: Case, where: str, *values: int) -> tuple[str, ...]:
    """The first addresses of `diff` that satisfy a condition of ours."""
    query = f"SELECT domain, local FROM temp.diff WHERE {where} LIMIT {EXAMPLES}"  # noqa: S608  no text of others
    found = case.connection.execute(query, values)
    return tuple(external(local, case.name_of(domain)) for domain, local in found)
