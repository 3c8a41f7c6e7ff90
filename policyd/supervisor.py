# SPDX-License-Identifier: Apache-2.0
"""The supervisor: a plain loop without threads that binds, forks, watches, kills, restarts and reloads.

It holds the lock and the listening sockets; one keeper and `workers` workers are its children. A worker silent for
3 s or a keeper silent for 10 s is killed and replaced. While no worker lives and none starts at once, the listening
sockets are closed: an MTA is refused immediately instead of waiting (PITFALLS 3). SIGHUP reloads, SIGTERM stops.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from policyd import children, log, notify, sockets
from policyd.children import Child, Slot
from policyd.link import LinkClosedError, Message
from policyd.listeners import Listeners
from policyd.loader import Loaded, Loader, needs_restart, reap
from policyd.loop import step_back
from policyd.parts import cut
from transport.config.settings import Settings

EXIT_OK, EXIT_CONFIG, EXIT_LATER = 0, 2, 75
_WORKER_SILENT, _KEEPER_SILENT = 3.0, 10.0
_WORKER_SLOWEST, _KEEPER_SLOWEST = 5.0, 30.0
_TICK = 0.25
_STOP_WORKERS, _STOP_ALL = 4.0, 4.8  # seconds after SIGTERM


class Supervisor:
    """One daemon. `run` returns the exit code."""

    def __init__(self, path: Path, loaded: Loaded) -> None:
        assert loaded.settings is not None
        self.path = path
        self.settings: Settings = loaded.settings
        self.text = loaded.text
        self.workers = [
            Slot(f"worker-{number + 1}", _WORKER_SILENT, _WORKER_SLOWEST)
            for number in range(self.settings.daemon.workers)
        ]
        self.keeper = Slot("keeper", _KEEPER_SILENT, _KEEPER_SLOWEST)
        self.listeners = Listeners()
        self.selector = selectors.DefaultSelector()
        self.loader: Loader | None = None
        self.again = False  # SIGHUP came while loading
        self.stopping: float | None = None
        self.said_ready = False
        self.lock = -1
        self.first = os.getpid() == 1  # of a container without an init
        self.last_turn = time.monotonic()
        self.last_watchdog = 0.0
        self.last_look = 0.0
        self.no_worker_since: float | None = None

    @property
    def slots(self) -> list[Slot]:
        """Workers first: they answer while the keeper still imports."""
        return [*self.workers, self.keeper]

    # --- life -------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT."""
        daemon = self.settings.daemon
        try:
            self.lock = sockets.take_lock(daemon.state)
        except sockets.LockHeldError as error:
            log.say(log.ERROR, str(error))
            return EXIT_LATER
        except OSError as error:
            log.say(log.ERROR, "the state directory cannot be used", **sockets.state_fault(daemon.state, error))
            return EXIT_LATER
        try:
            self.listeners.open(daemon, notify.listen_fds())
        except sockets.ListenError as error:
            log.say(log.ERROR, "cannot listen", error=error)
            return EXIT_LATER if error.later else EXIT_CONFIG
        children.raise_descriptor_limit()
        self._signals()
        log.say(log.INFO, "starting", config=self.path, workers=len(self.workers), domains=len(self.settings.domains))
        try:
            patience = 0.0  # nothing is there to wait for until the children are
            while not self._turn(patience):
                patience = _TICK
        finally:
            self.listeners.close()
        log.say(log.INFO, "stopped")
        return EXIT_OK

    def _signals(self) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, *children.MEANINGLESS):
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, children.KEPT)  # `serve` kept them until now
        self.selector.register(reading, selectors.EVENT_READ, reading)
        self.wakeup = (reading, writing)

    def _turn(self, patience: float) -> bool:
        """One turn of the loop, waiting at most `patience` seconds; True when everything has ended."""
        for key, _ in self.selector.select(patience):
            if key.data == self.wakeup[0]:
                self._on_signals(os.read(self.wakeup[0], 512))
            elif key.data is self.loader:
                self._on_loaded()
            elif isinstance(key.data, Slot):
                self._on_child(key.data)
        now = time.monotonic()
        if now - self.last_turn > 2.0:
            self._forgive(now)
        self.last_turn = now
        for slot in self.slots:
            self._reap(slot, now)
        if self.first:
            self._reap_others()
        if self.stopping is not None:
            return self._stop_turn(now)
        if self.loader is not None:
            self._on_loaded()  # looks at the time limit too
        for slot in self.slots:
            if slot.child is not None and slot.child.killed is None and slot.child.hangs(now, slot.patience):
                log.say(log.WARNING, "process is silent and is killed", process=slot.name, pid=slot.child.pid,
                        seconds=f"{now - slot.child.beat:.1f}")  # fmt: skip
                slot.child.kill()
        self._close_idle(now)
        self._renew_lost(now)
        for slot in self.slots:
            if slot.child is None and slot.next_start <= now:
                self._start(slot, now)
        self._watchdog(now)
        return False

    def _forgive(self, now: float) -> None:
        """We were stopped ourselves (a suspended machine, SIGSTOP): what waits unread is no silence."""
        for slot in self.slots:
            if slot.child is not None:
                self._on_child(slot)
                slot.child.beat = max(slot.child.beat, now)

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop()
            elif number == signal.SIGHUP:
                self._reload()

    # --- children ---------------------------------------------------------------------------------------------

    def _start(self, slot: Slot, now: float) -> None:
        """Fork a child for `slot` and link it with the others."""
        try:
            self.listeners.reopen(slot is self.keeper)
            links = self._new_links(slot)
        except (sockets.ListenError, OSError) as error:
            log.limited(log.ERROR, f"start {slot.name}", "cannot start a process", process=slot.name, error=error)
            slot.gone(now)
            return
        mine = self.listeners.of(slot is self.keeper)
        main = self._keeper_main(mine, links) if slot is self.keeper else self._worker_main(slot, mine, links)
        try:
            child = children.fork(slot.name, main, lambda: self._close_in_child(mine))
        except OSError as error:
            log.limited(log.ERROR, f"fork {slot.name}", "cannot fork", process=slot.name, error=error.strerror)
            for _, _, end in links:
                end.close()
            slot.gone(now)
            return
        slot.started(child)
        self.selector.register(child.channel, selectors.EVENT_READ, slot)
        for other, theirs, end in links:
            self._tell(other, ("link", self._number(slot)), theirs.fileno())
            theirs.close()
            end.close()

    def _new_links(self, slot: Slot) -> list[tuple[Slot, socket.socket, socket.socket]]:
        """Socket pairs from the new child to those it talks to: (the other, the other's end, the child's end)."""
        others = self.workers if slot is self.keeper else [self.keeper]
        links = []
        for other in others:
            if other.child is not None:
                theirs, mine = socket.socketpair()
                links.append((other, theirs, mine))
        return links

    def _number(self, slot: Slot) -> int:
        return self.workers.index(slot) + 1 if slot in self.workers else 0

    def _worker_main(
        self, slot: Slot, listeners: list[sockets.Open], links: list[tuple[Slot, socket.socket, socket.socket]]
    ) -> Callable[[socket.socket], None]:
        def main(up: socket.socket) -> None:
            from policyd.worker import main as worker

            for _, theirs, _ in links:
                theirs.close()
            worker.run(self.settings, self._number(slot), listeners, up, links[0][2] if links else None)

        return main

    def _keeper_main(
        self, listeners: list[sockets.Open], links: list[tuple[Slot, socket.socket, socket.socket]]
    ) -> Callable[[socket.socket], None]:
        def main(up: socket.socket) -> None:
            step_back()
            from policyd.keeper import main as keeper

            for _, theirs, _ in links:
                theirs.close()
            ends = {self._number(other): end for other, _, end in links}
            keeper.run(self.settings, self.text, listeners, up, ends)

        return main

    def _close_in_child(self, mine: list[sockets.Open]) -> None:
        """In a new child: let go of all that is the supervisor's, above all the lock and others' listeners."""
        self.selector.close()
        os.close(self.lock)
        for descriptor in self.wakeup:
            os.close(descriptor)
        for one in self.listeners.all:
            if one not in mine:
                one.sock.close()
        for slot in self.slots:
            if slot.child is not None:
                slot.child.channel.close()
        if self.loader is not None:
            os.close(self.loader.fileno())

    def _on_child(self, slot: Slot) -> None:
        """Messages from a child: heartbeats, readiness, a wish to reload."""
        child = slot.child
        if child is None:
            return
        try:
            if child.channel.writing and child.channel.flush():
                self.selector.modify(child.channel, selectors.EVENT_READ, slot)
            messages = child.channel.receive()
        except LinkClosedError:
            self._unlink(child)
            child.kill()  # without its link it is of no use
            return
        for message in messages:
            child.beat = time.monotonic()
            if message[0] == "ready":
                child.ready = True
                if slot is not self.keeper and not self.said_ready:
                    self.said_ready = True
                    notify.ready(self._status())
                    log.say(log.INFO, "ready")
            elif message[0] == "reload":
                self._reload()
            elif message[0] == "unlinked":
                self._link_again(slot)

    def _link_again(self, worker: Slot) -> None:
        """A worker has no keeper: the link was lost on its way, to a process that was out of descriptors."""
        if self.keeper.child is None or self.stopping is not None:
            return
        try:
            for one, end in zip((worker, self.keeper), socket.socketpair(), strict=True):
                with end:
                    self._tell(one, ("link", self._number(worker)), end.fileno())
        except OSError as error:
            log.limited(log.ERROR, "link", "cannot link worker and keeper", process=worker.name, error=error.strerror)

    def _unlink(self, child: Child) -> None:
        try:
            self.selector.unregister(child.channel)
        except (KeyError, ValueError):
            pass

    def _tell(self, slot: Slot, message: Message, descriptor: int | None = None) -> None:
        if slot.child is None or slot.child.channel.fileno() < 0:
            return
        try:
            slot.child.channel.send(message, descriptor)
            if slot.child.channel.writing:
                self.selector.modify(slot.child.channel, selectors.EVENT_READ | selectors.EVENT_WRITE, slot)
        except (LinkClosedError, KeyError):
            pass  # it is dying: reaped in the next turn
        except OSError as error:  # no room for the descriptor's duplicate: a worker without a link asks for another
            log.limited(log.ERROR, "tell", "out of descriptors: raise LimitNOFILE=", process=slot.name,
                        error=error.strerror)  # fmt: skip

    def _lose(self, slot: Slot, child: Child, now: float) -> None:
        """A killed process does not end: who asks would wait for it. What it holds is free when it has ended."""
        log.say(log.ERROR, "process was killed and does not end, it is replaced: look at the disk it waits for",
                process=slot.name, pid=child.pid)  # fmt: skip
        self._unlink(child)
        child.channel.close()
        slot.lose(now)

    def _reap(self, slot: Slot, now: float) -> None:
        if slot.lost is not None and slot.lost.ended() is not None:
            slot.lost = None
        child = slot.child
        if child is None:
            return
        status = child.ended()
        if status is None:
            if child.unending(now) and slot.lost is None:
                self._lose(slot, child, now)
            return
        self._unlink(child)
        child.channel.close()
        slot.gone(now)
        if self.stopping is None:
            code = os.waitstatus_to_exitcode(status)
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            log.say(log.WARNING, "process ended and is started again", process=slot.name, how=how,
                    after=f"{max(0.0, slot.next_start - now):.2f}s", in_a_row=slot.deaths)  # fmt: skip

    def _reap_others(self) -> None:
        reap()
        ours = {one.pid for slot in self.slots for one in (slot.child, slot.lost) if one is not None}
        children.see_off_orphans(ours | ({self.loader.pid} if self.loader is not None else set()))

    # --- listening sockets ------------------------------------------------------------------------------------

    def _close_idle(self, now: float) -> None:
        """Close listeners behind which nobody is, nor will be in this turn."""
        for group in (self.workers, [self.keeper]):
            if not any(slot.answers(now) or (slot.child is None and slot.next_start <= now) for slot in group):
                self.listeners.close_idle(group[0] is self.keeper)

    def _renew_lost(self, now: float) -> None:
        """Make socket files anew that somebody removed, and replace the children that listened behind them."""
        if now - self.last_look < 1.0:
            return
        self.last_look = now
        renewed = self.listeners.renew_lost()
        if False in renewed:  # if the keeper's own are among them, it counts from the start
            self._tell(self.keeper, ("fault", "listener"))
        for slot in self.slots:
            if slot.child is not None and (slot is self.keeper) in renewed:
                slot.child.asked = True
                self._tell(slot, ("stop",))

    # --- reload, stop, watchdog -------------------------------------------------------------------------------

    def _reload(self) -> None:
        if self.stopping is not None:
            return
        if self.loader is not None:
            self.again = True
            return
        notify.reloading()
        log.say(log.INFO, "reloading", config=self.path)
        try:
            self.loader = Loader(self.path)
        except OSError as error:
            self._refused((f"cannot fork: {error.strerror}",))
            return
        self.selector.register(self.loader, selectors.EVENT_READ, self.loader)

    def _on_loaded(self) -> None:
        if self.loader is None:
            return
        fileno = self.loader.fileno()
        loaded = self.loader.finished()
        if loaded is None:
            return
        self.selector.unregister(fileno)
        self.loader = None
        if loaded.settings is None:
            self._refused(loaded.errors)
        else:
            fixed = needs_restart(self.settings.daemon, loaded.settings.daemon)
            if fixed:
                names = ", ".join(f"daemon.{name}" for name in fixed)
                self._refused((f"a change of {names} needs a restart",))
            else:
                self._swap(loaded)
        if self.again:
            self.again = False
            self._reload()

    def _refused(self, errors: tuple[str, ...]) -> None:
        for error in errors:
            log.say(log.ERROR, "configuration refused, the old one stays", error=error)
        self._tell(self.keeper, ("refused", errors))
        notify.ready(f"reload refused: {errors[0]}" if errors else "reload refused")

    def _swap(self, loaded: Loaded) -> None:
        assert loaded.settings is not None
        self.settings, self.text = loaded.settings, loaded.text
        parts = cut(self.settings)
        for slot in self.slots:
            self._tell(slot, ("settings", parts, self.text if slot is self.keeper else ""))
        log.say(log.INFO, "configuration taken", domains=len(self.settings.domains))
        notify.ready(self._status())

    def _stop(self) -> None:
        if self.stopping is not None:
            return
        self.stopping = time.monotonic()
        notify.notify("STOPPING=1", "STATUS=answering what is in flight")
        log.say(log.INFO, "stopping")
        for slot in self.workers:
            self._tell(slot, ("stop",))
        self.listeners.close()

    def _stop_turn(self, now: float) -> bool:
        """The workers first: what they answer may need the keeper. True when all are gone."""
        assert self.stopping is not None
        late = now - self.stopping
        alive = [slot.child for slot in self.workers if slot.child is not None]
        if alive and late > _STOP_WORKERS:
            for child in alive:
                child.kill()
        if not alive and self.keeper.child is not None:
            self._tell(self.keeper, ("stop",))
        if self.keeper.child is not None and (late > _STOP_ALL or (not alive and late > _STOP_WORKERS)):
            self.keeper.child.kill()
        if late > _STOP_ALL + 1.0:
            log.say(log.WARNING, "stopped without processes that do not end")
            return True
        return not alive and self.keeper.child is None

    def _status(self) -> str:
        alive = sum(slot.child is not None for slot in self.workers)
        keeper = "keeper up" if self.keeper.child is not None else "keeper down"
        return f"{len(self.settings.domains)} domains, {alive} of {len(self.workers)} workers, {keeper}"

    def _watchdog(self, now: float) -> None:
        """Tell the service manager that we live, but only while workers do: it restarts the whole otherwise."""
        if now - self.last_watchdog < 1.0:
            return
        self.last_watchdog = now
        beats = [slot.child.beat for slot in self.workers if slot.child is not None]
        if beats and now - max(beats) < 10.0:  # one that hangs is replaced: no reason to end those that answer
            notify.notify("WATCHDOG=1")
        if self.said_ready and self.loader is None:
            alive = len(beats) == len(self.workers) and self.keeper.child is not None
            if not alive or self.no_worker_since is not None:
                notify.notify(f"STATUS={self._status()}")
            self.no_worker_since = None if alive else now
