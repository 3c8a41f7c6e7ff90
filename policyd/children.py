# SPDX-License-Identifier: Apache-2.0
"""Child processes of the supervisor: forked, watched by their heartbeat, killed when silent."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Collection
from pathlib import Path

from policyd import log
from policyd.link import Channel

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # prctl(2)
_QUIET = 10.0  # seconds that a child has to live for its predecessors' deaths to be forgotten
_START = 10.0  # seconds until the first heartbeat

_UNENDING = 2.0  # seconds after SIGKILL from which a process waits for something that does not come

_OOM_SCORE = Path("/proc/self/oom_score_adj")
_PROTECTED = 0.5  # share of the supervisor's protection when memory runs out that a worker keeps

_LOOK = 0.5  # seconds over which the CPU time of a silent process is watched

MEANINGLESS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO)
"""Signals that would end a process and that we have no use for: `logrotate` likes to send SIGUSR1."""

KEPT = frozenset({signal.SIGHUP, *MEANINGLESS})
"""What waits during the start, before the supervisor handles it."""

try:
    _prctl: Callable[..., int] | None = ctypes.CDLL(None).prctl
except (OSError, AttributeError):
    _prctl = None


class Child:
    """One running child. beat: CLOCK_MONOTONIC of the last sign of life; ready: it said that it works."""

    def __init__(self, pid: int, channel: Channel) -> None:
        self.pid = pid
        self.channel = channel
        self.started = time.monotonic()
        self.beat = self.started
        self.ready = False
        self.asked = False  # to stop, by us: its end is no fault of its own
        self.killed: float | None = None  # CLOCK_MONOTONIC of the first SIGKILL
        self._looked: tuple[float, float] | None = None  # CLOCK_MONOTONIC and CPU seconds, once it was silent

    def silent(self, now: float, patience: float) -> bool:
        """Whether it should have said something by now."""
        return now - self.beat > (patience if self.beat > self.started else max(patience, _START))

    def hangs(self, now: float, patience: float) -> bool:
        """Whether it is silent for a reason that a new process would not have.

        One that is ready to run and gets no processor is given three times the patience: its successor would get
        none either, and every connection would be lost.
        """
        if not self.silent(now, patience):
            self._looked = None
            return False
        if self.silent(now, 3 * patience):
            return True
        runnable, used = _running(self.pid)
        if not runnable:
            return True
        if self._looked is None:
            self._looked = (now, used)
            return False
        since, before = self._looked
        return now - since >= _LOOK and used - before > (now - since) / 2  # it has a processor, and only spins

    def kill(self) -> None:
        """SIGKILL: reaches a stopped process too."""
        self.killed = self.killed or time.monotonic()
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def unending(self, now: float) -> bool:
        """Whether SIGKILL does not end it: it waits uninterruptibly, for a disk perhaps (proc(5), state D)."""
        return self.killed is not None and now - self.killed > _UNENDING

    def ended(self) -> int | None:
        """Its wait status (waitpid(2)) once it has ended."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return 0
        return status if pid else None


def _running(pid: int) -> tuple[bool, float]:
    """Whether a process is ready to run, and its CPU time in seconds (proc(5), stat); not, where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[0] == b"R", (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return False, 0.0


class Slot:
    """A place for one child that is filled again when it dies: at once the first time, then ever more slowly."""

    def __init__(self, name: str, patience: float, slowest: float) -> None:
        self.name = name
        self.patience = patience  # seconds of silence
        self.slowest = slowest  # seconds between two starts at most
        self.child: Child | None = None
        self.lost: Child | None = None  # was killed, does not end, and is replaced; one, lest they heap up
        self.deaths = 0  # in a row
        self.restarts = 0
        self.next_start = 0.0

    def answers(self, now: float) -> bool:
        """Whether a process is here that answers, or is about to be replaced: one that stays when killed does not."""
        return self.child is not None and not self.child.unending(now)

    def started(self, child: Child) -> None:
        """A child was forked for this place."""
        self.child = child

    def lose(self, now: float) -> None:
        """It was killed and does not end: let another one take its place."""
        self.lost = self.child
        self.gone(now)

    def gone(self, now: float) -> None:
        """It died, or could not be forked: decide when the next one starts."""
        if self.child is not None and (now - self.child.started > _QUIET or self.child.asked):
            self.deaths = 0
        self.next_start = now if self.deaths == 0 else now + min(self.slowest, 0.25 * 2 ** (self.deaths - 1))
        self.deaths = min(self.deaths + 1, 16)
        self.restarts += 1
        self.child = None


def fork(name: str, main: Callable[[socket.socket], None], close: Callable[[], None]) -> Child:
    """Fork a child that runs `main` with its end of a link to us and never returns.

    close: called in the child first; closes what belongs to the supervisor alone. Raises OSError when the system
    has no room for another process.
    """
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    gc.freeze()  # what exists now is shared by all processes: keep the collector from touching its pages
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid:
        theirs.close()
        return Child(pid, Channel(ours))
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *MEANINGLESS):
            signal.signal(number, signal.SIG_IGN)  # the supervisor tells us
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        belong(parent, name)
        ours.close()
        close()
        log.process(name)
        main(theirs)
        code = 0
    except BaseException as error:
        log.limited(log.ERROR, f"{name} died", "process ends by a fault of its own; it is started again", error)
    finally:
        os._exit(code)


def see_off_orphans(ours: Collection[int]) -> None:
    """As the first process of a container we inherit what others leave behind (pid_namespaces(7)): unseen, it would
    stay in the table of processes until no more can be started. ours: pids that are awaited elsewhere."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in ours:
            return
        os.waitpid(ended.si_pid, os.WNOHANG)


def belong(parent: int, name: str) -> None:
    """In a new child: take a name, and end with `parent`, now or whenever that is."""
    if _prctl is not None:
        _prctl(_PR_SET_NAME, f"splitmx-{name}"[:15].encode(), 0, 0, 0)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(70)
    _be_killed_first(_PROTECTED if name.startswith("worker") else 0.0)


def _be_killed_first(share: float) -> None:
    """Keep this share of the protection from the kernel's killer that the service manager gave (OOMScoreAdjust=).

    With the supervisor everything ends, with a worker some connections, with the keeper nothing that is not there again
    a second later; anybody may give up protection (proc(5), oom_score_adj).
    """
    try:
        now = int(_OOM_SCORE.read_text())
        if now < 0:
            _OOM_SCORE.write_text(str(int(now * share)))
    except (OSError, ValueError):
        pass  # no /proc


def raise_descriptor_limit() -> None:
    """Thousands of idle connections are normal: use all descriptors that the system allows us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 1 << 20
    wanted = min(wanted, 1 << 20)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            pass
