# SPDX-License-Identifier: Apache-2.0
"""Settings on their way from the supervisor to its children: in parts, so that thousands of domains hold nobody up.

Unpacking ten thousand domains at once takes a tenth of a second, in which a process answers nobody. `Arrival` unpacks a
part in each turn of the loop, and answers go on by the old settings until the new ones are whole.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from policyd import log
from transport.config.settings import Domain, Settings

_DOMAINS = 50  # in a part: half a millisecond to unpack
_ADDRESSES = 2000  # of a wave, likewise
_AGAIN = 1.0  # seconds until what could not be taken is tried again
_OLD = 500  # domains that are let go in a turn


def cut(settings: Settings) -> tuple[bytes, ...]:
    """`settings` in parts for `Arrival`: all but domains and waves' addresses first, then these a few at a time."""
    waves = tuple(replace(wave, addresses=frozenset()) for wave in settings.waves)
    parts: list[Any] = [replace(settings, domains={}, waves=waves)]
    domains = list(settings.domains.values())
    parts += [(None, domains[at : at + _DOMAINS]) for at in range(0, len(domains), _DOMAINS)]
    for number, wave in enumerate(settings.waves):
        addresses = list(wave.addresses)
        parts += [(number, addresses[at : at + _ADDRESSES]) for at in range(0, len(addresses), _ADDRESSES)]
    return tuple(pickle.dumps(part, pickle.HIGHEST_PROTOCOL) for part in parts)


class Arrival:
    """Puts settings together again.

    taken: called in the loop with those that are whole, and the file's text; failed: instead, or when it fails, after
    so many `attempts`.
    While some are on their way, of those that come behind them only the newest are taken.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        taken: Callable[[Settings, str], None],
        failed: Callable[[], None] = lambda: None,
        attempts: int = 1,
    ) -> None:
        self._loop = loop
        self._taken = taken
        self._failed = failed
        self._attempts = attempts
        self._left = attempts  # for those that are on their way
        self._parts: Sequence[bytes] = ()
        self._text = ""
        self._at = 0  # parts unpacked
        self._head = Settings()
        self._domains: dict[str, Domain] = {}
        self._addresses: list[set[str]] = []
        self._next: tuple[Sequence[bytes], str] | None = None
        self._behind: list[Callable[[], None]] = []
        self._behind_next: list[Callable[[], None]] = []
        self._old: list[Domain] = []

    def begin(self, parts: Sequence[bytes], text: str) -> None:
        """Take these settings (`cut`) as soon as they are unpacked."""
        if self._parts:
            self._next = (parts, text)
            self._behind += self._behind_next  # of those that are not taken at all
            self._behind_next = []
            return
        self._parts, self._text, self._at, self._left = parts, text, 0, self._attempts
        self._loop.call_soon(self._unpack)

    def then(self, work: Callable[[], None]) -> None:
        """Do this behind the settings that came before it."""
        if self._parts:
            (self._behind if self._next is None else self._behind_next).append(work)
        else:
            work()

    def let_go(self, old: Settings) -> None:
        """These are used no more: to free all of their domains at once would take milliseconds."""
        waiting = bool(self._old)
        self._old += old.domains.values()
        if self._old and not waiting:
            self._loop.call_soon(self._free)

    def _free(self) -> None:
        del self._old[-_OLD:]
        if self._old:
            self._loop.call_soon(self._free)

    def _unpack(self) -> None:
        try:
            self._take(pickle.loads(self._parts[self._at]))  # noqa: S301  written by our own supervisor
            self._at += 1
            if self._at < len(self._parts):
                self._loop.call_soon(self._unpack)
                return
            self._taken(self._whole(), self._text)
        except Exception as error:
            log.limited(log.ERROR, "settings", "fault in taking new settings", error)
            self._left -= 1
            if self._left and self._next is None:
                self._at, self._domains = 0, {}
                self._loop.call_later(_AGAIN, self._unpack)
                return
            if not self._left:
                self._failed()
        self._parts, self._domains, self._addresses = (), {}, []
        behind, self._behind, self._behind_next = self._behind, self._behind_next, []
        following, self._next = self._next, None
        if following is not None:
            self.begin(*following)
        for work in behind:
            work()

    def _take(self, part: Any) -> None:
        if not self._at:
            self._head = part
            self._addresses = [set() for _ in part.waves]
        elif part[0] is None:
            self._domains.update((domain.name, domain) for domain in part[1])
        else:
            self._addresses[part[0]].update(part[1])

    def _whole(self) -> Settings:
        both = zip(self._head.waves, self._addresses, strict=True)
        waves = tuple(replace(wave, addresses=frozenset(addresses)) for wave, addresses in both)
        return replace(self._head, domains=self._domains, waves=waves)
