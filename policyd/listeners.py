# SPDX-License-Identifier: Apache-2.0
"""The supervisor's listening sockets over its life: closed while nobody answers, opened again, made anew when removed.

A listener belongs to the keeper (control, metrics) or to the workers; `keeper` says to whom.
"""

from __future__ import annotations

from collections.abc import Sequence

from policyd import log, sockets
from policyd.sockets import ListenError, Open
from transport.config.settings import Daemon


class Listeners:
    """All listeners of one daemon."""

    def __init__(self) -> None:
        self.all: list[Open] = []

    def open(self, daemon: Daemon, inherited: Sequence[int]) -> None:
        """Open all that is configured. Raises ListenError."""
        self.all = sockets.open_all(daemon, inherited)

    def of(self, keeper: bool) -> list[Open]:
        """Those of one group."""
        return [one for one in self.all if one.for_keeper == keeper]

    def close_idle(self, keeper: bool) -> None:
        """Nobody is behind a group, nor will be in this turn: an MTA is refused at once instead of waiting."""
        idle = [one for one in self.of(keeper) if one.open and not one.inherited]
        for one in idle:
            one.refuse()
        for one in idle:  # later: the disk that a file is on may be what is waited for
            log.say(log.WARNING, "nobody to answer: listener closed", listener=one.listener.name)
            one.remove()

    def reopen(self, keeper: bool) -> None:
        """Open what `close_idle` closed, before a child is forked that needs it. Raises ListenError."""
        for at, one in enumerate(self.all):
            if one.for_keeper == keeper and not one.open:
                self.all[at] = sockets.open_one(one.role, one.map_name, one.listener, {})

    def renew_lost(self) -> set[bool]:
        """Make socket files anew that somebody removed; for which groups (`keeper`) there are new ones."""
        renewed = set()
        for at, one in enumerate(self.all):
            if not one.lost:
                continue
            try:
                fresh = sockets.open_one(one.role, one.map_name, one.listener, {})
            except ListenError as error:
                log.limited(log.ERROR, f"lost {one.listener.name}", "a socket file is gone, nobody reaches us there",
                            listener=one.listener.name, error=error)  # fmt: skip
                continue
            log.say(log.WARNING, "a socket file was gone and is made again", listener=one.listener.name)
            one.close()
            self.all[at] = fresh
            renewed.add(one.for_keeper)
        return renewed

    def close(self) -> None:
        """Accept nothing more, and remove our socket files."""
        opened = [one for one in self.all if one.open]
        for one in opened:
            one.close()
        for one in opened:
            one.remove()
