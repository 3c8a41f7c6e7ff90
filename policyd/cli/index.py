# SPDX-License-Identifier: Apache-2.0
"""The index for a command: the running daemon's, or one that is brought up to date here first."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from policyd.cli.common import note

if TYPE_CHECKING:
    from transport.config.settings import Settings
    from transport.index.reader import Reader
    from transport.index.writer import Writer
    from transport.sync import SyncReport


class Opened(NamedTuple):
    """reader: with the settings' fingerprints, snapshot taken. faults, held: lines for people, of a sync made here."""

    reader: Reader
    faults: list[str]
    held: list[str]


@contextmanager
def opened(settings: Settings, *, accept: bool = False) -> Iterator[Opened]:
    """The index, readable. Without a daemon the directories are read into it first.

    Where the state directory cannot be written, they are read into a temporary one. accept: release what guards
    hold back.
    """
    from transport.index.faults import IndexBusy, IndexFault
    from transport.index.writer import Writer

    state = settings.daemon.state
    with _ended_by_signals(), tempfile.TemporaryDirectory(prefix="splitmx-index-") as aside:
        writer: Writer | None = None
        try:
            if not state.exists():
                _make(state)
            writer = Writer(state)
        except IndexBusy:
            if accept:
                note("the daemon keeps the index: splitmx sync --accept releases what it holds back")
        except (IndexFault, OSError) as fault:
            note(f"{fault}; reading the directories into a temporary index")
            state = Path(aside)
            writer = Writer(state)
        faults: dict[str, str] = {}
        held: list[str] = []
        if writer is not None:
            _sync(settings, writer, faults, held, accept=accept)
            _give_back(state)
        reader = _reader(settings, state)
        try:
            yield Opened(reader, list(faults.values()), held)
        finally:
            reader.close()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does, so that no temporary index is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reader(settings: Settings, state: Path) -> Reader:
    from transport.index.reader import Reader

    reader = Reader(state)
    reader.use({name: directory.fingerprint for name, directory in settings.directories.items()})
    reader.renew()
    return reader


def _sync(settings: Settings, writer: Writer, faults: dict[str, str], held: list[str], *, accept: bool) -> None:
    """Read every directory into the index."""
    from transport.directories import open_source
    from transport.directories.base import DirectoryError
    from transport.sync import compare

    try:
        writer.settings(settings.digest, settings.directories)
        for name, directory in settings.directories.items():
            try:
                source = open_source(directory)
            except DirectoryError as fault:
                faults[name] = f"directory {name}: {fault}" + (f"; {fault.hint}" if fault.hint else "")
                continue
            try:
                report = compare(writer, directory, source, settings, accept=() if accept else None)
            finally:
                source.close()
            for part in report.unread:
                note(f"directory {name}: {part.domain} could not be read: {part.why}; {part.hint}")
            if report.error:
                faults[name] = report.line()
            held.extend(held_lines(report))
    finally:
        writer.close()


def held_lines(report: SyncReport) -> Iterator[str]:
    """What a guard held back in one sync, a line a domain."""
    for change in report.held_changes:
        where = change.domain or "the whole directory"
        yield f"directory {report.directory}: {where}: {change.count} {change.what}: {change.why}"


def _make(state: Path) -> None:
    """The state directory, before the first daemon. Raises OSError."""
    state.mkdir(mode=0o711, parents=True)
    if os.geteuid() == 0:
        try:
            shutil.chown(state, "splitmx", "splitmx")
        except LookupError:
            pass  # there is no such user: whoever runs the daemon is told what to do


def _give_back(state: Path) -> None:
    """As root in the daemon's own directory: what was made there is the daemon's, not root's.

    The daemon's user could have put links there: nothing is given away through one.
    """
    if os.geteuid() != 0:
        return
    owner = state.stat()
    for path in state.glob("index*"):
        if path.lstat().st_uid != owner.st_uid:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
