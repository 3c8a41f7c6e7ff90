# SPDX-License-Identifier: Apache-2.0
"""One LISTEN connection for each PostgreSQL directory, so that a change is read when it happens, not when it is due.

It costs an idle connection and no thread: libpq's socket is watched by the loop. Where the database cannot LISTEN, or
nobody ever notifies, everything goes on as without it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from policyd import log
from policyd.keeper.circuit import spread
from transport.config.settings import Directory
from transport.directories.base import DirectoryError
from transport.directories.sql_listen import Address, CannotListenError, Listener, can_listen

__all__ = ["Listening", "can_listen"]

_FIRST, _LAST = 1.0, 60.0  # seconds between attempts to connect, ever longer
_REFUSED = 300.0  # a standby may be promoted some day


class Listening:
    """told: called in the loop with the addresses of a notification, or None when anything may have changed.

    up: it listens now. heard: notifications since the start; 0 may mean that there is no trigger.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        directory: Directory,
        told: Callable[[frozenset[Address] | None], None],
    ) -> None:
        self.loop = loop
        self.directory = directory
        self.told = told
        self.up = False
        self.heard = 0
        self.why = ""
        self._task = loop.create_task(self._run())

    def close(self) -> None:
        """Listen no more."""
        self._task.cancel()

    async def _run(self) -> None:
        pause = _FIRST
        while True:
            try:
                listener = await self._connect()
            except CannotListenError as error:
                self.why = str(error)
                log.limited(log.INFO, f"listen {self.directory.name}", "database cannot LISTEN: changes are found by "
                            "reading", directory=self.directory.name, why=self.why)  # fmt: skip
                await asyncio.sleep(_REFUSED)
                continue
            except DirectoryError as error:
                self.why = error.what  # the readings complain
                await asyncio.sleep(spread(pause))
                pause = min(_LAST, pause * 2)
                continue
            began = self.loop.time()
            self.why, self.up = "", True
            log.say(log.DEBUG, "listening", directory=self.directory.name)
            self.told(None)  # what was said before, nobody heard
            lost = asyncio.Event()
            self.loop.add_reader(listener.fileno, self._readable, listener, lost)
            try:
                await lost.wait()
            finally:
                self.up = False
                if not lost.is_set():
                    self.loop.remove_reader(listener.fileno)
                listener.close()
            if self.loop.time() - began > _LAST:
                pause = _FIRST
            await asyncio.sleep(spread(pause))
            pause = min(_LAST, pause * 2)

    def _readable(self, listener: Listener, lost: asyncio.Event) -> None:
        found = listener.received()
        if found is None:
            lost.set()
            self.loop.remove_reader(listener.fileno)  # at once: libpq has closed it, and its number is given to others
            return
        for names in found:
            self.heard += 1
            self.told(names)

    async def _connect(self) -> Listener:
        """In a thread of its own: a hung server must not hold one that others need."""
        made: asyncio.Future[Listener] = self.loop.create_future()

        def deliver(listener: Listener | None, error: Exception | None) -> None:
            if made.done():
                if listener is not None:
                    listener.close()
            elif listener is not None:
                made.set_result(listener)
            else:
                made.set_exception(error or DirectoryError("no connection"))

        def work() -> None:
            listener: Listener | None = None
            fault: Exception | None = None
            try:
                listener = Listener(self.directory)
            except (DirectoryError, CannotListenError) as error:
                fault = error
            except Exception as error:
                fault = DirectoryError(f"{type(error).__name__}: {error}")
            try:
                self.loop.call_soon_threadsafe(deliver, listener, fault)
            except RuntimeError:
                pass  # the keeper has ended

        try:
            threading.Thread(target=work, name=f"listen-{self.directory.name}", daemon=True).start()
        except RuntimeError as error:
            raise DirectoryError(str(error), "raise TasksMax= or the limit of processes") from None
        return await made
