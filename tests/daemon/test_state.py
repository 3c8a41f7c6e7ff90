# SPDX-License-Identifier: Apache-2.0
"""The state directory on a disk that stands still or refuses, and threads that cannot be started."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from policyd import log, threads
from policyd.keeper import index as index_care
from policyd.keeper import static
from policyd.keeper.files import Saver
from policyd.keeper.index import IndexCare
from policyd.keeper.main import Keeper
from policyd.keeper.observe import Observations
from policyd.link import Channel
from policyd.parts import cut
from tests.daemon.site import REMOTE, Site
from transport.config.settings import Daemon, Settings
from transport.config.settings import Static as StaticTable


def _refusing(monkeypatch: pytest.MonkeyPatch, numbers: set[int]) -> None:
    """Some of the threads that are asked for cannot be started: those with these numbers, counted from 1."""
    real, count = threads.to_thread, 0

    async def to_thread(work: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count in numbers:
            raise RuntimeError("can't start new thread")
        return await real(work, *arguments)

    monkeypatch.setattr(threads, "to_thread", to_thread)


def test_work_for_which_no_thread_could_be_started_is_never_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of threads: who is told that it was not done relies on it, also once there are threads again."""
    done: list[str] = []
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def life() -> None:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            await threads.to_thread(done.append, "refused")
        monkeypatch.setattr(threading.Thread, "start", start)
        await threads.to_thread(done.append, "taken")

    asyncio.run(life())
    assert done == ["taken"]


def test_an_index_is_opened_once_there_are_threads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of tasks is met when the keeper begins: no left-over of that keeps the index's lock from it later, so
    that all who are not listed would be TEMP, and nothing would be read, until a restart."""
    monkeypatch.setattr(index_care, "_AGAIN", 0.05)
    start, refused = threading.Thread.start, 0

    def refuse(thread: threading.Thread) -> None:
        nonlocal refused
        refused += 1
        if refused <= 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    async def life() -> None:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        care = IndexCare(tmp_path, lambda: None, lambda: None)
        await _until(lambda: care.writer is not None, care.run(lambda: Settings(daemon=Daemon(state=tmp_path))))
        care.close()

    asyncio.run(life())
    assert refused > 2


async def _until(condition: Callable[[], Any], work: Awaitable[None] | None = None) -> None:
    task = asyncio.ensure_future(work) if work is not None else None
    try:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)
    finally:
        if task is not None:
            task.cancel()


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_index_is_announced_whatever_step_could_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """No thread can be started at one of the steps: the index is opened, has its digest, and readings begin, once;
    the same after it was found broken."""
    monkeypatch.setattr(index_care, "_AGAIN", 0.01)
    monkeypatch.setattr(index_care, "_CHECK", 0.01)
    settings = Settings(daemon=Daemon(state=tmp_path), directories={}, destinations={}, domains={}, digest=b"digest")
    said: list[str] = []

    async def life() -> None:
        care = IndexCare(tmp_path, lambda: said.append("opened"), lambda: said.append("rebuilt"))
        _refusing(monkeypatch, {number})
        await _until(lambda: said == ["opened"], care.run(lambda: settings))
        (tmp_path / "index.sqlite").write_bytes(b"no index")
        _refusing(monkeypatch, {number})
        await _until(lambda: said == ["opened", "rebuilt"], care.run(lambda: settings))
        await asyncio.sleep(0.1)
        care.close()

    asyncio.run(life())
    assert said == ["opened", "rebuilt"]
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as db:
        assert db.execute("SELECT value FROM state WHERE key = 'settings'").fetchone() == (b"digest",)


def test_an_index_that_breaks_at_once_is_not_rebuilt_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that spoils what is written: each rebuilding has the directories listed, so it happens now and then."""
    settings = Settings(daemon=Daemon(state=tmp_path), directories={}, destinations={}, domains={}, digest=b"digest")
    said: list[str] = []

    async def life() -> None:
        care = IndexCare(tmp_path, lambda: None, lambda: said.append("rebuilt"))
        await _until(care.tried.is_set, care.run(lambda: settings))
        for _ in range(10):
            await care.rebuild("it was damaged", settings)
        assert said == ["rebuilt"]
        monkeypatch.setattr(index_care, "_PAUSE", 0.0)
        await care.rebuild("it was damaged", settings)
        care.close()

    asyncio.run(life())
    assert said == ["rebuilt", "rebuilt"]


def test_a_text_that_the_disk_refused_is_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state file that cannot be replaced (a directory is in its place; no thread) is called unwritten, and its newest
    text is there once it can be."""
    path = tmp_path / "file.json"
    path.mkdir()

    async def life() -> None:
        saver = Saver(path)
        for text in ("old", "new"):
            saver.save(text)
            await saver.finish(5)
            assert saver.unwritten
        path.rmdir()
        _refusing(monkeypatch, {1})
        for expected in (True, False, False):
            saver.again()
            await saver.finish(5)
            assert saver.unwritten == expected

    asyncio.run(life())
    assert path.read_text() == "new"


def test_a_later_write_is_no_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written long after the last write is not said to wait for the disk."""
    said: list[str] = []
    monkeypatch.setattr(log, "limited", lambda level, kind, *_, **__: said.append(kind))

    async def life() -> None:
        saver = Saver(tmp_path / "notes")
        saver.save("one")
        await saver.finish(10)
        saver._began -= 60  # a minute later
        saver.save("two")
        saver.again()
        assert not saver.unwritten
        await saver.finish(10)

    asyncio.run(life())
    assert said == []
    assert (tmp_path / "notes").read_text() == "two"


def test_observed_decisions_are_counted_one_way_or_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions that no thread could write are counted as dropped, and the next ones are written."""

    async def life() -> Observations:
        observations = Observations(tmp_path)
        _refusing(monkeypatch, {1})
        for recipient in ("a@example.com", "b@example.com"):
            observations.add([{"recipient": recipient}])
            await observations.finish(5)
        return observations

    observations = asyncio.run(life())
    assert (observations.written, observations.dropped) == (1, 1)


def test_what_a_human_accepted_outlives_a_build_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss was released, and the build that should take it ends in a fault: the next build takes it."""
    monkeypatch.setattr(static, "_PAUSE", 0.0)
    monkeypatch.setattr(static, "_RETRY", 0.01)
    seen: list[bool] = []

    def failing(*_: Any, accept: bool, **__: Any) -> Any:
        seen.append(accept)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("transport.maps.build.build", failing)
    settings = Settings(
        daemon=Daemon(state=tmp_path), directories={}, destinations={}, domains={},
        static=StaticTable(for_=("postfix",), directory=tmp_path),
    )  # fmt: skip

    async def life() -> None:
        maps = static.Static(settings, tmp_path)
        maps.accepted = True
        maps.changed()
        await _until(lambda: len(seen) >= 3)
        maps.close()

    asyncio.run(life())
    assert seen[:3] == [True, True, True]


def test_a_keeper_that_cannot_take_new_settings_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the middle of a reload: workers would take no answer of a keeper with the old settings, so it ends."""
    settings = Settings(daemon=Daemon(state=tmp_path), directories={}, destinations={}, domains={}, digest=b"new")
    ours, theirs = socket.socketpair()
    said: list[str] = []

    async def life() -> None:
        keeper = Keeper(asyncio.get_running_loop(), settings, "", [], ours)
        monkeypatch.setattr(keeper, "hopeless", said.append)
        monkeypatch.setattr(keeper.answers, "configure", lambda _: 1 / 0)
        channel = Channel(theirs)
        channel.send(("settings", cut(settings), "text"))
        await _until(lambda: said)
        await asyncio.sleep(0.1)  # what goes on here ends in the real one
        keeper.static.close()
        keeper.supervisor.on_close = lambda _: None
        channel.close()

    asyncio.run(life())
    assert said == ["it could not take the new settings"]


def test_a_change_log_that_stands_still_holds_up_nobody(sites: Callable[..., Site]) -> None:
    """Writing down a reload never ends (a FIFO nobody reads): the settings are in use, the reload is answered,
    strangers are asked live meanwhile, and the keeper lives on."""
    site = sites("ann@example.com", fresh_for="100ms").start()
    keeper = site.pids("keeper")
    os.mkfifo(site.folder / "state" / "settings" / ".previous.toml.new")
    site.splitmx.write(site.config().replace('hosts = ["192.0.2.9"]', 'hosts = ["192.0.2.10"]'))
    assert site.control("reload")["ok"]
    other = REMOTE.replace("192.0.2.9", "192.0.2.10")
    for number in range(20):
        assert site.ask(f"stranger{number}@example.com") == ("OK", other)
    assert site.pids("keeper") == keeper
