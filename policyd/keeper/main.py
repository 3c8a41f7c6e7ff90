# SPDX-License-Identifier: Apache-2.0
"""The keeper's life: everything slow. One event loop, bounded threads, the index's only writer.

Workers serve on from the index while it is down; ages of directories then run out by themselves.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from policyd import clock, log
from policyd.keeper.answers import Answers
from policyd.keeper.canaries import CanaryStore
from policyd.keeper.changes import ChangeLog
from policyd.keeper.control import Control
from policyd.keeper.crowd import Crowd, WorkerLink
from policyd.keeper.index import IndexCare
from policyd.keeper.loops import Loops
from policyd.keeper.moments import Moments
from policyd.keeper.observe import Observations
from policyd.keeper.peers import Peers
from policyd.keeper.queue import LiveQueue
from policyd.keeper.reloading import Reloading
from policyd.keeper.static import Static
from policyd.keeper.status import status
from policyd.keeper.syncing import Syncing
from policyd.keeper.unread import Unread
from policyd.link import Age, LoopChannel, Message, not_asked
from policyd.loop import new_event_loop, share_heaps, wait_for_others
from policyd.sockets import Open
from policyd.worker import listen
from transport.config.settings import Directory, Settings
from transport.index.reader import Reader
from transport.sync import SyncReport

_BEAT = 0.5
_EXIT_HOPELESS = 71
_LAST_WORDS = 0.3  # seconds that each file may take when we are to stop


class Keeper:
    """All that the keeper process holds."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        text: str,
        listeners: list[Open],
        up: socket.socket,
    ) -> None:
        self.loop = loop
        self.settings = settings
        self.listeners = listeners
        self.started = time.time()
        state = settings.daemon.state
        self.reader = Reader(state)
        self.index = IndexCare(state, self._index_opened, self._index_rebuilt)
        self.canaries = CanaryStore(self.reader)
        self.queues: dict[str, LiveQueue] = {}
        self.syncs: dict[str, Syncing] = {}
        self.unread = Unread()
        self.answers = Answers(self, settings)
        self.loops = Loops(state)
        self.observations = Observations(state)
        self.peers = Peers(state)
        self.crowd = Crowd(loop, self._from_worker)
        self.static = Static(settings, state, self.crowd.fault)
        self.networks = listen.networks(settings.daemon.allow)
        self.reloading = Reloading(self)
        self.supervisor = LoopChannel(loop, up, self._from_supervisor, lambda _: os._exit(0))
        self.moments = Moments(loop, lambda: self.task(self._new_generation()))
        self._tasks: set[asyncio.Task[Any]] = set()
        self.stopped = asyncio.Event()
        self.sleep = clock.Sleep()
        self.changes = ChangeLog()
        self.use(settings)
        self.task(self.changes.note(settings, text, "start"))

    # --- life -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start every task."""
        self._beat()
        self._second()
        for one in self.listeners:
            if one.role == "control":
                self.task(Control(self, one).serve())
            elif one.role == "metrics":
                from policyd.keeper.metrics import MetricsServer

                self.task(MetricsServer(self, one).serve())
        self.task(self.index.run(lambda: self.settings))
        self.tell_peers()  # what was remembered of them: name servers may be silent
        self.task(self.peers.keep(self.tell_peers, self.static.changed))
        self.static.changed()
        self.supervisor.send(("ready",))

    def task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin something that nobody waits for."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _beat(self) -> None:
        self.loop.call_later(_BEAT, self._beat)
        self.supervisor.send(("beat",))

    def _second(self) -> None:
        self.loop.call_later(1.0, self._second)
        try:
            for queue in self.queues.values():
                if not queue.look_after():
                    self.hopeless(f"all threads that ask directory {queue.directory.name} hang")
            self.renew()
            self.loops.save()
            for one in (self.loops.file, self.peers.file):
                one.again()
            self.tell_ages()
            self.answers.knowledge.expire()
            self.moments.look()
            self._look_for_sleep()
        except Exception as error:
            log.limited(log.ERROR, "keeper second", "fault in the keeper's timer", error)

    def _look_for_sleep(self) -> None:
        """After a suspension what was read is old: read it at once, whenever that was to be."""
        if slept := self.sleep.ended():
            log.say(log.INFO, "the machine was suspended: every directory is read again", seconds=f"{slept:.0f}")
            for sync in self.syncs.values():
                sync.soon()

    def hopeless(self, why: str) -> None:
        """Threads cannot be killed, processes can: end, and be started again."""
        log.say(log.ERROR, "keeper ends and is started again; workers serve from the index", why=why)
        os._exit(_EXIT_HOPELESS)

    async def stop(self) -> None:
        """Write down what is only in memory, give the index up."""
        self.loops.save()
        for sync in self.syncs.values():
            sync.close()
        self.index.close()
        for one in (self.loops.file, self.peers.file, self.observations):
            await one.finish(_LAST_WORDS)
        self.stopped.set()

    # --- settings ---------------------------------------------------------------------------------------------

    def use(self, settings: Settings) -> None:
        """Bring queues and readings in line with the configuration; what did not change goes on."""
        old, self.settings = self.settings, settings
        self.networks = listen.networks(settings.daemon.allow)
        self.reader.use({name: one.fingerprint for name, one in settings.directories.items()})
        self.answers.configure(settings)
        self.canaries.forget()
        self.peers.use(settings)
        for name, directory in settings.directories.items():
            queue = self.queues.get(name)
            if queue is not None and queue.directory.asked == directory.asked:
                queue.directory = directory  # who waits for it goes on waiting
                continue
            if queue is not None:
                queue.close()
            self.queues[name] = LiveQueue(
                self.loop, directory, self.canaries, self.tell_ages, partial(self._foreign, name)
            )
        for name in self.queues.keys() - settings.directories.keys():
            self.queues.pop(name).close()
        self.crowd.asks(self._asks())
        self.index.use(settings.directories)
        self._use_syncs(old)
        self.moments.use(settings)

    def _asks(self) -> dict[str, Directory]:
        return {name: one.asked for name, one in self.settings.directories.items()}

    def _use_syncs(self, old: Settings) -> None:
        """Readings, once the index can be written."""
        writer = self.index.writer
        if writer is None:
            return
        for name, directory in self.settings.directories.items():
            sync = self.syncs.get(name)
            if sync is not None and sync.directory.listed == directory.listed and sync.writer is writer:
                sync.directory, sync.settings = directory, self.settings
                if old.digest != self.settings.digest:
                    sync.soon()  # guards and domains may have changed
                continue
            if sync is not None:
                sync.close()
            self.syncs[name] = Syncing(writer, directory, self.settings, self._after, self.hopeless)
        for name in self.syncs.keys() - self.settings.directories.keys():
            self.syncs.pop(name).close()

    async def _new_generation(self) -> None:
        await self.index.new_generation()
        self.crowd.send(("nudge",))
        self.static.changed()

    def renew(self) -> None:
        """Take the index's present snapshot."""
        if self.index.writer is not None:
            self.reader.renew(at_once=True)

    def _index_opened(self) -> None:
        self.renew()
        self._use_syncs(self.settings)
        self.crowd.send(("nudge",))

    def _index_rebuilt(self) -> None:
        """It is empty: nothing that was read counts until it is read again."""
        self.canaries.forget()
        for sync in self.syncs.values():
            sync.read_at = None
            sync.soon()
        self.renew()
        self.tell_ages()

    # --- readings and ages ------------------------------------------------------------------------------------

    def _after(self, sync: Syncing, report: SyncReport) -> None:
        """A reading ended."""
        name = sync.directory.name
        queue = self.queues.get(name)
        self.index.read(report)
        if report.good:
            self.canaries.forget(name)
            if queue is not None:
                queue.server, queue.read_at = sync.server, sync.read_at
            if report.generation is not None or report.first_load:
                log.say(log.INFO, "synced", report=report.line())
            else:
                log.say(log.DEBUG, "synced", report=report.line())
            if report.full_needed:
                log.limited(log.WARNING, f"feed {name}", "changes cannot be followed from here: the whole directory is "
                            "compared", directory=name, why=report.why)  # fmt: skip
            self.unread.say(report)
            if report.held:
                log.limited(log.WARNING, f"held {name}", "changes are held back: splitmx sync --dry-run shows them, "
                            "--accept takes them", directory=name, held=report.held,
                            why="; ".join(sorted({one.why for one in report.held_changes}))[:300])  # fmt: skip
        else:
            # by its text: who mends one fault and reloads is to see the next one; another age or count is none
            kind = log.kind_of(report.error)
            log.limited(log.WARNING, f"sync {name} {kind}", "directory was not read", directory=name,
                        error=report.error, hint=report.hint)  # fmt: skip
            if report.broken and sync.instance == sync.writer.instance:  # else it was rebuilt meanwhile
                self.task(self.index.rebuild(report.error, self.settings))
        self.renew()
        self.tell_ages()
        if report.generation is not None or report.first_load:
            self.static.changed()

    def ages(self) -> dict[str, Age]:
        """How old each directory is, and whether its "no" can be had."""
        found = {}
        for name, queue in self.queues.items():
            sync = self.syncs.get(name)
            found[name] = Age(
                None if sync is None else sync.read_at,
                None if sync is None else sync.content_time,
                queue.circuit.open,
            )
        return found

    def tell_ages(self) -> None:
        """To every worker, and to our own knowledge."""
        self.crowd.ages(self.ages(), self.index.mark)

    def _foreign(self, name: str) -> None:
        sync = self.syncs.get(name)
        if sync is not None:
            sync.soon()

    # --- peers ------------------------------------------------------------------------------------------------

    def tell_peers(self) -> None:
        """Resolved networks to every worker, our own knowledge and the static maps."""
        networks = self.peers.networks()
        self.static.spf = networks
        self.crowd.send(("peers", networks))

    # --- workers ----------------------------------------------------------------------------------------------

    def link(self, number: int, sock: socket.socket) -> None:
        """A worker, new or not, is to be served."""
        link = self.crowd.add(number, sock)
        link.asks(self._asks())
        link.channel.send(("peers", self.peers.networks()))
        link.channel.send(("ages", self.ages(), self.index.mark))
        if told := self.answers.knowledge.lasting():
            link.channel.send(("told", told))

    def _from_worker(self, link: WorkerLink, message: Message) -> None:
        match message:
            case ("ask", triples):
                for directory, local, domain in triples:
                    queue = self.queues.get(directory)
                    if queue is None:
                        link.answer(directory, local, domain, not_asked())
                    else:
                        queue.ask(local, domain, partial(link.answer, directory))
            case ("loop", local, domain):
                link.channel.send(("loop", local, domain, self.loops.first(local, domain)))
            case ("index", text):
                log.limited(log.WARNING, "worker index", "a worker cannot read the index", worker=link.number, why=text)
            case ("observe", decisions):
                self.observations.add(decisions)

    # --- the supervisor ---------------------------------------------------------------------------------------

    def _from_supervisor(self, channel: LoopChannel, message: Message) -> None:
        match message:
            case ("settings", parts, text):
                self.reloading.begin(parts, text)
            case ("refused", errors):
                self.reloading.refuse(tuple(errors))
            case ("fault", kind):
                self.crowd.fault(kind)
            case ("link", number):
                self._linked(number, channel)
            case ("stop",):
                if not self.stopped.is_set():
                    self.task(self.stop())

    def _linked(self, number: int, channel: LoopChannel) -> None:
        try:
            self.link(number, socket.socket(fileno=channel.descriptor()))
        except OSError as error:
            self.crowd.fault("descriptors")
            log.limited(log.ERROR, "descriptors", "out of descriptors, a worker is without its link: raise "
                        "LimitNOFILE=", worker=number, error=error.strerror)  # fmt: skip

    # --- what control asks for --------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Everything that `splitmx status` shows."""
        return status(self)

    def directories_of(self, names: Sequence[str]) -> list[str]:
        """The directories that these names (directories or domains) stand for; all for none. Raises ValueError."""
        if not names:
            return list(self.syncs)
        found: dict[str, None] = {}
        for name in names:
            if name in self.syncs:
                found[name] = None
            elif name in self.settings.domains:
                domain = self.settings.domains[name]
                source = self.settings.domains.get(domain.alias_of, domain)
                found.update(dict.fromkeys(one for one in (*source.local, *source.remote) if one in self.syncs))
            else:
                raise ValueError(f"{name} is neither a directory nor a domain of this configuration")
        return list(found)

    def forget(self, local: str | None, domain: str) -> None:
        """Forget live results of an address or a domain."""
        for queue in self.queues.values():
            queue.forget(local, domain)


def run(
    settings: Settings, text: str, listeners: list[Open], up: socket.socket, workers: dict[int, socket.socket]
) -> None:
    """The keeper process's whole life; called in the child after the fork."""
    wait_for_others()
    share_heaps()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_main(settings, text, listeners, up, workers))


async def _main(
    settings: Settings, text: str, listeners: list[Open], up: socket.socket, workers: dict[int, socket.socket]
) -> None:
    sys.setswitchinterval(0.002)  # a compare in a thread must not hold live answers up
    keeper = Keeper(asyncio.get_running_loop(), settings, text, listeners, up)
    for number, sock in workers.items():
        keeper.link(number, sock)
    keeper.begin()
    await keeper.stopped.wait()
    os._exit(0)  # threads that hang must not keep us
