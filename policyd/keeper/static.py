# SPDX-License-Identifier: Apache-2.0
"""Static maps and the guard's table kept up to date: built in a thread, after changes, one build at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from policyd import log, threads
from transport.config.settings import Settings
from transport.index.reader import Reader

_PAUSE = 2.0  # seconds in which more changes may arrive before a build
_RETRY = 60.0
_LOOK = 2.0  # seconds between two looks at whether the files are still there


class Static:
    """Builds when `changed` was called. report: the last build's, error: why the last one failed, or "".

    fault: is told the kind of a fault, to be counted.
    """

    def __init__(self, settings: Settings, state: Path, fault: Callable[[str], None] = lambda kind: None) -> None:
        self.settings = settings
        self.state = state
        self.spf: Mapping[str, tuple[str, ...]] = {}
        self.error = ""
        self.held: tuple[str, ...] = ()
        self.accepted = False  # a human has just released a loss in the index: the next build takes it too
        self.waiting: tuple[str, ...] = ()  # domains that enter relay_domains after `postfix reload` and another build
        self.built_at: float | None = None
        self.seconds = 0.0
        self.builds = 0
        self.reload_wanted = False
        self._fault = fault
        self._files: dict[Path, bool] = {}  # what stood there after the last build -> whether something was in it
        self._built: Settings | None = None  # what the last build was made of
        self._left: dict[Path, object] = {}  # what the last build did not bring back, as it is
        self._guard_seen: object = None  # the guard's table as it was last found good
        self._to_return = False  # Postfix was reloaded, and `relay_domains` has not got back whom it lost
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())

    @property
    def folder(self) -> Path:
        """Where the files stand: [static] directory, else `maps` in the state directory (the guard's table alone)."""
        return self.settings.static.directory if self.settings.static is not None else self.state / "maps"

    def changed(self) -> None:
        """Something that the files depend on may have changed."""
        self._wake.set()

    def close(self) -> None:
        """No more builds."""
        self._task.cancel()

    async def _run(self) -> None:
        again: float | None = None
        while True:
            lost: Path | None = None
            try:
                await asyncio.wait_for(self._wake.wait(), _LOOK)
                await asyncio.sleep(_PAUSE)
            except TimeoutError:
                with contextlib.suppress(Exception):  # no thread to be had: looked at again
                    lost = await threads.to_thread(self._lost)
                if lost is not None:
                    self._fault("static")
                    with contextlib.suppress(Exception):
                        await threads.to_thread(self._say_lost, lost)
                elif again is None or time.monotonic() < again:
                    continue
            self._wake.clear()
            settings, spf = self.settings, dict(self.spf)
            same, self._built, self._guard_seen = settings is self._built, settings, None
            altered = await self._altered_now()
            try:
                await threads.to_thread(self._build, settings, spf)
            except Exception as error:
                self.error = f"{type(error).__name__}: {error}"
                log.limited(log.ERROR, "static", "fault in building the static maps, the old ones stay", error)
            again = time.monotonic() + _RETRY if self.error else None
            # what vanished while this was built is still missed; what the build did not bring back is not
            before = {p: filled for p, filled in self._files.items() if p != lost and same}
            self._guard_seen = None
            with contextlib.suppress(Exception):
                before |= await threads.to_thread(self._standing)
            still = await self._altered_now()
            self._left = {path: now for path, now in still.items() if altered.get(path, "") == now}
            self._files = before

    @property
    def _keeps_guard(self) -> bool:
        """Whether the guard's table is among what we build."""
        return self.settings.static is None or "postfix" in self.settings.static.for_

    def _standing(self) -> dict[Path, bool]:
        """In a thread: the files that we keep, and whether there is something in each."""
        from transport.maps import guard

        found = {}
        every = self.settings.static is not None
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                if path.name[0] == "." or path.name.startswith(f"{guard.NAME}-"):  # somebody's log or journal of it
                    continue
                with contextlib.suppress(OSError):  # it goes just now: no reason to miss no other
                    info = path.stat()
                    if stat.S_ISREG(info.st_mode) and (every or path.name == guard.NAME):
                        found[path] = info.st_size > 0
        if not self.error and self._keeps_guard:
            found[self.folder / guard.NAME] = True
        return found

    def _lost(self) -> Path | None:
        """In a thread: a file that is no longer what a build left.

        Without its tables Postfix takes no mail for anybody; for a missing `domains.sqlite` it makes an empty one.
        """
        for path, filled in self._files.items():
            try:
                if filled and not path.stat().st_size:
                    return path
            except OSError:
                return path
        return next((path for path, now in self._altered().items() if self._left.get(path, "") != now), None)

    def _say_lost(self, lost: Path) -> None:
        """In a thread."""
        from transport.maps import guard

        if lost.name == guard.NAME and (holder := guard.locked_by(lost)) is not None:
            log.say(log.ERROR, "another program keeps a file locked that Postfix reads, so that it takes no mail: it "
                    "is made anew; end that program", file=lost, pid=holder or "unknown")  # fmt: skip
            return
        log.say(log.ERROR, "a file that Postfix or Exim reads was removed or damaged: it is written again", file=lost)

    async def _altered_now(self) -> dict[Path, object]:
        with contextlib.suppress(Exception):  # no thread to be had
            return await threads.to_thread(self._altered)
        return {}

    def _altered(self) -> dict[Path, object]:
        """In a thread: files that somebody cut, overwrote or exchanged, each with what tells it from another such."""
        from transport.maps import guard, stamps
        from transport.maps.write import cut_short, is_building

        found: dict[Path, object] = {}

        def unfinished() -> bool:
            return any(cut_short(self.folder, whose) for whose in ("postfix", "exim"))

        static = self.settings.static is not None
        if static and unfinished():
            # a build by hand may be at it: it says so until all is noted. One that was killed says so for ever
            if not self.error and not is_building(self.folder) and unfinished():
                found[self.folder] = "unfinished"
        elif static and stamps.altered(self.folder) and not unfinished():
            found.update(stamps.altered(self.folder))
        table = self.folder / guard.NAME
        if self._keeps_guard and self.settings is self._built and (now := stamps.stamp(table)) is not None:
            seen = now == self._guard_seen and not guard.companions(table) and guard.locked_by(table) is None
            if not seen and guard.write(self.settings, table, check=True)[0]:
                found[table] = now
            else:
                self._guard_seen = now
        return found

    def _build(self, settings: Settings, spf: dict[str, tuple[str, ...]]) -> None:
        """In a thread."""
        if settings.static is None:
            self._guard(settings)
            self._peers(settings, spf)
            return
        from transport.maps.build import build
        from transport.maps.write import BuildError

        reader = Reader(settings.daemon.state)
        reader.use({name: one.fingerprint for name, one in settings.directories.items()})
        reader.renew()
        began = time.monotonic()
        static, reports = settings.static, []
        accept, self.accepted = self.accepted, False
        try:
            if "postfix" in static.for_:
                reports.append(
                    build(settings, reader, static.directory, static.types, accept=accept, spf=spf,
                          reload=self._reload_postfix)
                )  # fmt: skip
            if "exim" in static.for_:
                from transport.maps.exim import build_exim

                reports.append(build_exim(settings, reader, static.directory, accept=accept))
        except BuildError as error:
            self.error, self.accepted = str(error), self.accepted or accept
            log.limited(log.WARNING, f"static {error}", "static maps are not built, the old ones stay", error=error,
                        hint=getattr(error, "hint", ""))  # fmt: skip
            return
        except BaseException:
            self.accepted = self.accepted or accept
            raise
        finally:
            reader.close()
        self.error = ""
        self.held = tuple(dict.fromkeys(reason for report in reports for reason in report.held))
        self.waiting = tuple(name for report in reports for name in report.waiting)
        self.built_at, self.seconds = time.time(), time.monotonic() - began
        self.builds += 1
        if self.waiting:
            log.limited(log.WARNING, "static waiting", "not in relay_domains yet: postfix reload, then splitmx build",
                        domains=" ".join(self.waiting)[:300])  # fmt: skip
        if self.held:
            log.limited(log.WARNING, "static held", "static maps would shrink, held back: splitmx build --accept",
                        why="; ".join(self.held)[:300])  # fmt: skip
        if any(report.changed for report in reports):
            written = [one.name for report in reports for one in report.maps if one.written]
            log.say(log.INFO, "static maps built", directory=static.directory, seconds=f"{self.seconds:.2f}",
                    maps=",".join(written))  # fmt: skip

    def _guard(self, settings: Settings) -> None:
        """Live maps alone: only the table by which Postfix knows our domains, and `relay_domains` of a build by hand,
        which loses them before that does and gets them back behind it."""
        from transport.maps import guard, leaving
        from transport.maps.write import BuildError, alone_in, is_building

        self.error = ""
        folder = self.folder
        path = folder / guard.NAME
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            existed = path.exists()
            there = (folder / leaving.NAME).exists()
            # a build by hand may be writing it: where nobody has to leave it, the table does not wait
            busy = there and is_building(folder) and not leaving.strange(settings, folder)
            with alone_in(folder) if there and not busy else contextlib.nullcontext():
                left = there and not busy and leaving.leave(settings, folder)
                changed, _ = guard.write(settings, path)
                # Postfix has to open the new table, whether this can be written or not
                left |= there and not busy and self._come_back(settings, indexed=False)
        except (OSError, sqlite3.Error, BuildError) as error:
            self.error = f"{path}: {error}"
            log.limited(log.WARNING, "guard", "the guard's table cannot be written", error=self.error)
            return
        if changed or left:
            self.built_at = time.time()
            self.builds += 1
            log.say(log.INFO, "the list of domains for Postfix changed", file=path,
                    hint="splitmx postfix check says whether main.cf still names one that has gone")  # fmt: skip
            self._to_return = existed and self._reload_postfix()
        if self._to_return:
            self._to_return = not self._returned(settings)
        self.waiting = tuple(leaving.absent(settings, folder))
        if busy and self.waiting:
            self.error = f"{folder / leaving.NAME}: another build is writing it"  # they come back at the next attempt

    def _returned(self, settings: Settings) -> bool:
        """Postfix was reloaded: what has to wait for that in an indexed `relay_domains`. Whether it is done."""
        from transport.maps.write import BuildError, alone_in

        try:
            with alone_in(self.folder):
                self._come_back(settings, indexed=True)
        except (OSError, BuildError) as error:
            self._not_back(error)
        return not self.error

    def _come_back(self, settings: Settings, *, indexed: bool) -> bool:
        """Whether `relay_domains` got somebody back. What fails is tried again."""
        from transport.maps import leaving
        from transport.maps.write import BuildError

        try:
            return leaving.come_back(settings, self.folder, indexed=indexed)
        except (OSError, BuildError) as error:
            self._not_back(error)
            return False

    def _not_back(self, error: Exception) -> None:
        self.error = f"{self.folder}: {error}"
        log.limited(log.WARNING, "guard", "relay_domains cannot be written: run splitmx build", error=error)

    def _peers(self, settings: Settings, spf: dict[str, tuple[str, ...]]) -> None:
        """Live maps alone: a `peers_access` that `splitmx build` has written follows the peers' SPF records."""
        from tempfile import TemporaryDirectory

        from transport.maps import static_only
        from transport.maps.write import HEADER, BuildError, Text

        path = self.folder / "peers_access"
        if not path.exists() or not spf:
            return
        try:
            with TemporaryDirectory(dir=self.folder, prefix=".peers-") as aside:
                text = Text(path, aside=Path(aside))
                text.write(HEADER)
                for row in static_only.peers_access(settings, spf):
                    text.write(f"{row}\n")
                text.finish()
                if text.changed():
                    text.install()
                    log.say(
                        log.INFO, "the peers' networks changed; postscreen reads them at a postfix reload", file=path
                    )
        except (OSError, BuildError) as error:
            self.error = f"{path}: {error}"
            log.limited(log.WARNING, "peers access", "the peers' access file cannot be written", error=self.error)

    def _reload_postfix(self) -> bool:
        """`postfix reload`, of each that reads these files, where we may (it needs root); else the log and `status`
        ask for it."""
        from policyd.keeper import postfixes

        failed = ["postfix reload"]
        if os.geteuid() == 0:
            failed = postfixes.reload(self.folder, self._left_out)
        if not failed:
            self.reload_wanted = False
            log.say(log.INFO, "postfix reloaded")
            return True
        self.reload_wanted = True
        log.say(log.WARNING, f"the list of domains changed: run `{failed[0]}`")
        return False

    def _left_out(self) -> None:
        """In a thread: a Postfix is not reloaded."""
        self._loop.call_soon_threadsafe(self._fault, "postfix")
