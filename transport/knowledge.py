# SPDX-License-Identifier: Apache-2.0
"""What the router may ask of the world: the only door between the pure decision and index, directories, clocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from transport.record import Row


class Knowledge(Protocol):
    """One consistent state for the length of a decision. Nothing here waits."""

    def rows(self, domain: str, local: str) -> Sequence[Row]:
        """What every directory in use says of this folded address: index and live answers, in any order."""

    def targets(self, domain: str, local: str, directory: str) -> Sequence[str]:
        """The targets of that directory's row, external form, in their order."""

    def loaded(self, directory: str, domain: str) -> bool:
        """Whether the directory's people of this split domain were listed once with its present fingerprint."""

    def no(self, directory: str, domain: str, local: str) -> bool | None:
        """Whether its "no" counts for an address without a row: True believed; False it could not be asked in
        time; None stale, it has to be asked live."""

    def same_entry(self, directory: str, entry: int) -> Sequence[tuple[str, str]]:
        """All (local, domain) of one directory entry (one person)."""

    def spf_networks(self, name: str) -> Sequence[str]:
        """Networks that an `spf:` peer name stood for when it last resolved, as CIDR text."""

    def loop_first_seen(self, local: str, domain: str) -> float | None:
        """Unix time when this listed address first came back from its peer, None when not asked yet."""


class Question(NamedTuple):
    """The terms of one decision.

    now: unix time. observing: decide for domains that are only observed, too. expand: take aliases and groups
    apart; False leaves `targets` of a listed one empty. configured: the address is named by the configuration
    (postmaster, catch-all), so that those rules do not apply to it once more.
    """

    knowledge: Knowledge
    now: float
    observing: bool = False
    expand: bool = True
    configured: bool = False
