# SPDX-License-Identifier: Apache-2.0
"""A reload as the keeper goes through it: new settings arrive, are taken, and whoever asked for them is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from policyd import log
from policyd.parts import Arrival
from transport.config.settings import Settings

if TYPE_CHECKING:
    from policyd.keeper.main import Keeper

_PATIENCE = 40.0  # seconds that somebody who asked for a reload waits
_NOTING = 5.0  # of them, for the change log and for the workers
_LOOK = 0.05  # seconds between two looks at whether each worker has new settings

_Asked = asyncio.Future[tuple[str, ...]]


class Reloading:
    """refused: what was wrong with the last configuration, () when it was taken; loaded_at: unix time."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.refused: tuple[str, ...] = ()
        self.loaded_at = time.time()
        # what asks by old settings would be of no use to workers with new ones
        self._arrival = Arrival(keeper.loop, self._swap, self._failed)
        self._asked: list[_Asked] = []

    async def ask(self) -> tuple[str, ...]:
        """Ask the supervisor for a reload; its errors, () when it was taken."""
        future: _Asked = self.keeper.loop.create_future()
        self._asked.append(future)
        self.keeper.supervisor.send(("reload",))
        try:
            return await asyncio.wait_for(future, _PATIENCE)
        except TimeoutError:
            return ("the supervisor does not answer",)

    def begin(self, parts: Sequence[bytes], text: str) -> None:
        """New settings from the supervisor, which the workers get as well."""
        self._arrival.begin(parts, text)

    def refuse(self, errors: tuple[str, ...]) -> None:
        """The supervisor has refused them."""
        self._arrival.then(partial(self._refuse, errors))

    def _refuse(self, errors: tuple[str, ...]) -> None:
        self.refused = errors
        _tell(self._those_who_asked(), errors)

    def _failed(self) -> None:
        self.keeper.hopeless("it could not take the new settings")

    def _swap(self, settings: Settings, text: str) -> None:
        self.refused = ()
        self.loaded_at = time.time()
        self._arrival.let_go(self.keeper.settings)
        self.keeper.use(settings)
        self.keeper.task(self._swapped(settings, text, self._those_who_asked()))

    async def _swapped(self, settings: Settings, text: str, asked: Sequence[_Asked]) -> None:
        keeper = self.keeper
        noted = keeper.task(keeper.changes.note(settings, text, "reload"))
        await keeper.index.note(settings)
        keeper.renew()
        keeper.tell_ages()
        keeper.tell_peers()
        everywhere = keeper.task(self._everywhere(settings))
        await asyncio.wait([noted, everywhere], timeout=_NOTING)  # who asked may look at it
        _tell(asked, ())

    async def _everywhere(self, settings: Settings) -> None:
        """When every worker answers by them, Postfix may hear of new domains: a worker that has not unpacked them yet
        says of such a one that it is not ours, which is believed."""
        since, counted = time.monotonic(), False
        while settings is self.keeper.settings:
            if not (missing := self.keeper.crowd.without(settings.digest)):
                self.keeper.static.settings = settings
                self.keeper.static.changed()
                return
            if time.monotonic() - since > _NOTING:
                if not counted:
                    self.keeper.crowd.fault("settings")
                    counted = True
                log.limited(log.WARNING, "taking", "a worker has not taken the new settings yet, the static maps wait "
                            "for it: if it stays so, restart the service", worker=missing[0])  # fmt: skip
            await asyncio.sleep(_LOOK)

    def _those_who_asked(self) -> list[_Asked]:
        """Whom to tell what became of this one: who asks from now on asks for another."""
        asked, self._asked = self._asked, []
        return asked


def _tell(asked: Iterable[_Asked], errors: tuple[str, ...]) -> None:
    for future in asked:
        if not future.done():
            future.set_result(errors)
