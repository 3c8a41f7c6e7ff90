# SPDX-License-Identifier: Apache-2.0
"""What the control socket asks of the keeper itself: decisions made as a worker makes them, and live look-ups."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from policyd import clock
from policyd.link import Live, Told, not_asked
from policyd.worker.knowledge import LiveKnowledge, Triple
from transport.answerer import Answerer
from transport.config.settings import Settings

if TYPE_CHECKING:
    from policyd.keeper.main import Keeper

_MOST = 200  # look-ups for one answer


class Answers:
    """An answerer over the keeper's own knowledge."""

    def __init__(self, keeper: Keeper, settings: Settings) -> None:
        self.keeper = keeper
        self.knowledge = LiveKnowledge(settings, settings.daemon.state)
        self.answerer = Answerer(settings, self.knowledge)

    def configure(self, settings: Settings) -> None:
        """Take new settings."""
        self.knowledge.configure(settings)
        self.answerer = Answerer(settings, self.knowledge)

    def flush(self, local: str | None, domain: str, told: Sequence[Told]) -> None:
        """Forget what was learned of an address or a domain, and learn these live answers, as the workers do."""
        self.knowledge.forget(local, domain)
        for directory, one, of, live in told:
            self.knowledge.learn((directory, one, of), live)
        self.answerer.new_generation()

    async def ask(self, triple: Triple, *, anew: bool = False) -> Live:
        """One live look-up. anew: even when a result is remembered."""
        directory, local, domain = triple
        future: asyncio.Future[Live] = asyncio.get_running_loop().create_future()

        def reply(_local: str, _domain: str, live: Live) -> None:
            if not future.done():
                future.set_result(live)

        queue = self.keeper.queues.get(directory)
        if queue is None or not queue.directory.live:
            return not_asked()
        queue.ask(local, domain, reply, anew=anew)
        return await future

    async def ask_all(self, local: str, domain: str, owner: str) -> dict[str, Live]:
        """Ask every live directory of the split domain `owner` anew about one address."""
        names = self.keeper.directories_of([owner])
        live = [one for one in names if self.keeper.settings.directories[one].live]
        found = await asyncio.gather(*(self.ask((one, local, domain), anew=True) for one in live))
        return dict(zip(live, found, strict=True))

    async def explain(self, address: str, client: dict[str, str], at: float | None = None) -> dict[str, Any]:
        """The explanation of an address, with live look-ups where a "no" is stale. at: unix time, None for now."""
        from transport.explain import explain

        overlay: dict[Triple, Live] = {}
        while True:
            self._know(overlay)
            try:
                report = explain(self.answerer, address, time.time() if at is None else at, client)
            finally:
                self.knowledge.overlay = {}
            asked: list[Triple] = [(one[0], one[1], one[2]) for one in report["ask"]]
            if not await self._fill(overlay, asked):
                report["directories"] = self._directories(str(report.get("domain", "")))
                return report

    def _directories(self, domain: str) -> list[dict[str, Any]]:
        """How much is known of each directory of a domain, and how old that is."""
        ages, now = self.keeper.ages(), clock.now()
        states = {state.name: state for state in self.keeper.reader.directories()}
        unread = {
            part.directory: "; ".join(filter(None, (part.why, part.hint)))
            for part in self.keeper.reader.unread()
            if part.domain == domain
        }
        found = []
        for name in self.keeper.directories_of([domain]) if domain in self.keeper.settings.domains else ():
            state, age = states.get(name), ages.get(name)
            loaded = state is not None and state.current
            found.append(
                {
                    "name": name,
                    "loaded": loaded,
                    "rows": state.rows if state is not None and loaded else 0,
                    "age": now - age.read_at if age is not None and age.read_at is not None else None,
                    "unread": unread.get(name, "") if loaded else "",
                }
            )
        return found

    async def query(self, name: str, key: str) -> tuple[str, str]:
        """Status and value of one map's answer."""
        overlay: dict[Triple, Live] = {}
        while True:
            self._know(overlay)
            try:
                outcome = self.answerer.map(name, key, time.time())
            finally:
                self.knowledge.overlay = {}
            if not await self._fill(overlay, list(outcome.ask)):
                return outcome.status, outcome.value

    def _know(self, overlay: dict[Triple, Live]) -> None:
        knowledge = self.knowledge
        knowledge.mark = self.keeper.index.mark
        if knowledge.renew(at_once=True):
            self.answerer.new_generation()
        knowledge.keeper = True
        knowledge.loops = self.keeper.loops.seen
        knowledge.networks = self.keeper.peers.networks()
        knowledge.ages = self.keeper.ages()
        knowledge.overlay = overlay

    async def _fill(self, overlay: dict[Triple, Live], asked: list[Triple]) -> bool:
        """Ask what is not known yet; False when there is nothing more to ask."""
        new = [triple for triple in asked if triple not in overlay]
        if not new or len(overlay) > _MOST:
            return False
        for triple, live in zip(new, await asyncio.gather(*map(self.ask, new)), strict=True):
            overlay[triple] = live
        return True
