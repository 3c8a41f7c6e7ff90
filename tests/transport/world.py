# SPDX-License-Identifier: Apache-2.0
"""A small known world for the pure core: settings, directories' contents and their freshness, all in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from transport.address import Address, parse
from transport.answerer import Answerer
from transport.config.settings import (
    Daemon,
    Destination,
    Directory,
    Domain,
    FileOptions,
    Settings,
    Unknown,
    Wave,
)
from transport.decision import Decision
from transport.record import Kind, Row

NOW = 1_800_000_000.0


def address(text: str) -> Address:
    """A parsed address that must be one."""
    parsed = parse(text)
    assert parsed is not None, text
    return parsed


class World:
    """Implements `Knowledge`: what is listed, what a "no" is worth, who is loaded."""

    def __init__(self) -> None:
        self.listed: dict[tuple[str, str], list[Row]] = {}
        self.target_lists: dict[tuple[str, str, str], tuple[str, ...]] = {}
        self.entries: dict[tuple[str, int], list[tuple[str, str]]] = {}
        self.unloaded: set[str] = set()
        self.stale: set[str] = set()
        self.dead: set[str] = set()
        self.spf: dict[str, tuple[str, ...]] = {}
        self.loops: dict[tuple[str, str], float] = {}

    def add(
        self,
        text: str,
        directory: str = "here",
        *,
        kind: Kind = Kind.MAILBOX,
        active: bool = True,
        location: str | None = None,
        targets: Iterable[str] = (),
        entry: int | None = None,
        live: bool = False,
    ) -> None:
        """List one address."""
        local, domain = address(text)[:2]
        goals = tuple(targets)
        row = Row(directory, kind, active, location, len(goals), entry, live)
        self.listed.setdefault((domain, local), []).append(row)
        if goals:
            self.target_lists[(domain, local, directory)] = goals
        if entry is not None:
            self.entries.setdefault((directory, entry), []).append((local, domain))

    def rows(self, domain: str, local: str) -> Sequence[Row]:
        return self.listed.get((domain, local), ())

    def targets(self, domain: str, local: str, directory: str) -> Sequence[str]:
        return self.target_lists.get((domain, local, directory), ())

    def loaded(self, directory: str, domain: str) -> bool:
        return directory not in self.unloaded

    def no(self, directory: str, domain: str, local: str) -> bool | None:
        if directory in self.dead:
            return False
        return None if directory in self.stale else True

    def same_entry(self, directory: str, entry: int) -> Sequence[tuple[str, str]]:
        return self.entries.get((directory, entry), ())

    def spf_networks(self, name: str) -> Sequence[str]:
        return self.spf.get(name, ())

    def loop_first_seen(self, local: str, domain: str) -> float | None:
        return self.loops.get((local, domain))


def directory(name: str, domains: tuple[str, ...] = ("example.com",)) -> Directory:
    """A directory by name; what it holds is the World's business."""
    return Directory(name, "file", FileOptions("/nowhere", "list"), name.encode().ljust(16), domains=domains)


def settings(
    *domains: Domain,
    destinations: Sequence[Destination] = (),
    waves: Sequence[Wave] = (),
    delimiter: str = "+",
) -> Settings:
    """Settings of some domains; directories are those that they name."""
    names = dict.fromkeys(name for domain in domains for name in (*domain.local, *domain.remote))
    goals = destinations or (Destination("s", hosts=("s.example.net",)),)
    return Settings(
        daemon=Daemon(recipient_delimiter=delimiter),
        directories={name: directory(name) for name in names},
        destinations={goal.name: goal for goal in goals},
        domains={domain.name: domain for domain in domains},
        waves=tuple(waves),
    )


def answerer(world: World, *domains: Domain, **kwargs: Any) -> Answerer:
    """All faces over this world."""
    return Answerer(settings(*domains, **kwargs), world)


def decide(faces: Answerer, text: str, now: float = NOW) -> Decision:
    """The router's decision."""
    return faces.router.decide(faces.knowledge, address(text), now)


def value(faces: Answerer, name: str, key: str, now: float = NOW) -> tuple[str, str]:
    """(status, value) of one map."""
    outcome = faces.map(name, key, now)
    return outcome.status, outcome.value


D = Domain(
    "example.com",
    local=("here",),
    remote=("there",),
    destination="s",
    unknown=Unknown.REJECT,
    local_transport="lmtp:unix:private/dovecot-lmtp",
)


def domain(**changes: Any) -> Domain:
    """`D` with other keys."""
    return replace(D, **changes)
