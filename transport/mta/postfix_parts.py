# SPDX-License-Identifier: Apache-2.0
"""The parts of a plan for a Postfix: files, main.cf settings, master.cf entries and overrides."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from transport.mta.postfix_guard import PlanFile

RELAY, VIRTUAL, LOCAL, ALIAS = "relay_domains", "virtual_mailbox_domains", "mydestination", "virtual_alias_domains"

RECIPIENT_MAPS = {RELAY: "relay_recipient_maps", VIRTUAL: "virtual_mailbox_maps", LOCAL: "local_recipient_maps"}
"""Which parameter says who exists, by the parameter that makes the class."""


SUFFIX = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb", "dbm": ".pag", "sdbm": ".pag"}
"""What postmap(1) makes of a text, by type."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One main.cf parameter. ours: the entries of its value that are there for us, in order."""

    name: str
    value: str
    why: str
    ours: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Override:
    """One `-o` of a master.cf service, as `postconf -P` sets it."""

    service: str
    name: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Master:
    """One whole master.cf entry, as `postconf -Me` sets it. key is NAME/TYPE."""

    key: str
    entry: str
    why: str


@dataclass(slots=True)
class Plan:
    """Everything to be set. problems: what makes it impossible as configured; notes: what people should know."""

    deploy: str
    maps: Path | None = None
    classes: dict[str, str] = field(default_factory=dict)
    files: list[PlanFile] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    overrides: list[Override] = field(default_factory=list)
    masters: list[Master] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def setting(self, name: str) -> Setting | None:
        """The planned value of a parameter."""
        return next((s for s in self.settings if s.name == name), None)
