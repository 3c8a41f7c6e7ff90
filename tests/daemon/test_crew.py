# SPDX-License-Identifier: Apache-2.0
"""Threads that ask a directory and do not come back, or cannot begin: name servers that are silent, limits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from policyd.keeper import crew, queue, syncing
from policyd.link import Live
from tests.checks.zone import Zone, asking_only
from tests.daemon.site import LOCAL, REMOTE, Site
from tests.mta import daemon
from tests.mta.places import new_address
from tests.mta.waiting import wait_for
from tests.servers.slapd import Slapd
from transport.config.settings import Directory, FileOptions, Settings
from transport.directories.base import DirectoryTimeout, Found
from transport.record import Record
from transport.sync import SyncReport


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Zone]:
    """The daemon's only name server, which knows directory.test; one question to it takes seven seconds at most."""
    with Zone({"directory.test": {"A": ["127.0.0.1"]}}, host=new_address(), port=53) as zone:
        command = asking_only(zone, folder, "timeout:7 attempts:1")
        monkeypatch.setattr(daemon, "COMMAND", [*command, *daemon.COMMAND])
        yield zone


def test_a_name_server_that_is_silent_is_a_directory_that_hangs(
    sites: Callable[..., Site], slapd: Slapd, names: Zone
) -> None:
    """Its connection is lost while its name cannot be looked up: listed people are answered, strangers put off, soon at
    once; when names are known again all is well, with the same keeper."""
    slapd.person("uma", "uma@example.com")
    site = sites("ann@example.com", fresh_for="500ms", sync_every="300s")
    url = slapd.url.replace("127.0.0.1", "directory.test")
    text = (
        f'[directories.corp]\ntype = "ldap"\nurl = ["{url}"]\nbind_dn = "{slapd.admin}"\nbase = "{slapd.base}"\n'
        f'bind_password_file = "{slapd.secret_file(site.folder)}"\nfilter = "(mail=*)"\n'
        'fresh_for = "500ms"\nsync_every = "300s"\n'
    )
    site.splitmx.write(site.config(more=text).replace('local = ["here"]', 'local = ["corp", "here"]'))
    site.start()
    site.answers("stranger@example.com", REMOTE)
    keeper = site.pids("keeper")
    names.silent = True
    slapd.restart()
    wait_for(lambda: site.ask(f"s{time.monotonic()}@example.com")[0] == "TEMP", 15, site.splitmx.tail)

    def circuit() -> str:
        site.ask(f"s{time.monotonic()}@example.com")
        return str(site.status()["directories"]["corp"]["queries"]["circuit"])

    wait_for(lambda: circuit() == "open", 20, site.splitmx.tail)
    assert site.ask("stranger2@example.com")[0] == "TEMP"
    assert site.ask("ann@example.com") == site.ask("uma@example.com") == ("OK", LOCAL)
    names.silent = False
    wait_for(lambda: site.ask(f"s{time.monotonic()}@example.com") == ("OK", REMOTE), 40, site.splitmx.tail)
    assert site.pids("keeper") == keeper


def _here() -> Directory:
    return Directory("here", "file", FileOptions("x", "list"), b"")


class _Loop:
    """As much of an event loop as a crew needs: what its threads say is done at once."""

    def call_soon_threadsafe(self, what: Callable[..., object], *words: Any) -> None:
        what(*words)


def test_a_thread_that_comes_back_after_all_counts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads that stood still for too long are given up, and who asked is told once, so that a probe is followed
    by another one; those that return make room for others."""
    monkeypatch.setattr(crew, "GIVE_UP", -1.0)
    monkeypatch.setattr(crew, "open_source", lambda _: None)
    loop: Any = _Loop()
    made = crew.Crew(loop, _here(), lambda: None)
    gate = threading.Event()
    answers: list[object] = []
    for _ in range(crew.THREADS):
        assert made.submit(lambda _: gate.wait(20), lambda result, error: answers.append(result or type(error)), 0.0)
    assert not made.submit(lambda _: None, lambda *_: None, 0.0)
    assert not made.look_after()
    assert answers == [DirectoryTimeout] * crew.THREADS
    gate.set()
    wait_for(lambda: made.look_after() and made.free == crew.THREADS, 10)
    assert answers == [DirectoryTimeout] * crew.THREADS
    assert made.submit(lambda _: 1, lambda result, _: answers.append(result), 0.0)
    wait_for(lambda: answers[crew.THREADS :] == [1], 10)
    made.close()


def _without_room(start: Callable[..., Any]) -> Any:
    """A module `threading` for the crew alone: a server of another test may need its threads."""
    return SimpleNamespace(Thread=type("Thread", (threading.Thread,), {"start": start}))


def test_a_thread_that_cannot_be_started_is_a_busy_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit of threads nothing is asked, and nothing is lost: the next attempt may have room."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    loop: Any = _Loop()
    made = crew.Crew(loop, _here(), lambda: None)
    with monkeypatch.context() as full:
        full.setattr(crew, "threading", _without_room(refuse))
        assert not made.submit(lambda _: None, lambda *_: None, 1.0)
        assert made.free == crew.THREADS
    monkeypatch.setattr(crew, "open_source", lambda _: None)
    answers: list[object] = []
    assert made.submit(lambda _: 1, lambda result, _: answers.append(result), 1.0)
    wait_for(lambda: answers == [1], 10)
    made.close()


@pytest.mark.parametrize("where", ["canaries", "thread"])
def test_a_fault_before_asking_leaves_nobody_waiting_for_ever(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Whatever fails when a query is made up: the address is "could not be asked" by the deadline, and asked anew."""

    def fault(*_: object, **__: object) -> Any:
        raise RuntimeError("no room")

    async def run() -> None:
        here = replace(_here(), type="sql", deadline=0.2, fresh_for=0.1)
        canaries: Any = SimpleNamespace(choose=lambda *_: (), emptied=lambda _: True, forget=lambda *_: None)
        made = queue.LiveQueue(asyncio.get_running_loop(), here, canaries, lambda: None, lambda: None)
        answers: list[Live] = []
        with monkeypatch.context() as broken:
            if where == "canaries":
                broken.setattr(canaries, "choose", fault)
            else:
                broken.setattr(crew, "threading", _without_room(fault))
            made.ask("bob", "example.com", lambda _l, _d, live: answers.append(live))
            await asyncio.sleep(0.6)
            assert [one.records for one in answers] == [None]
        source = SimpleNamespace(ask=lambda *_: Found([Record("bob", "example.com")], ""), close=lambda: None)
        monkeypatch.setattr(crew, "open_source", lambda _: source)
        await asyncio.sleep(0.6)  # what could not be asked is not asked again for a moment
        made.ask("bob", "example.com", lambda _l, _d, live: answers.append(live))
        await asyncio.sleep(0.3)
        assert answers[-1].records
        made.close()

    asyncio.run(run())


def test_a_reading_that_cannot_begin_is_told_to_whom_it_was_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sync` at the limit of threads ends with the reason, and does not wait for ever."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        writer: Any = SimpleNamespace(instance="")
        made = syncing.Syncing(writer, _here(), Settings(), lambda *_: None, lambda _: None)
        order = syncing.Order()
        made.order(order)
        report = await asyncio.wait_for(order.done, 5)
        assert not report.good
        assert "can't start new thread" in report.error
        made.close()

    asyncio.run(run())


def test_readings_that_come_back_late_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is locked now and then, longer than a reading may stand still, is no reason to end the keeper."""
    monkeypatch.setattr(syncing, "_STILL", 0.1)
    monkeypatch.setattr(syncing, "_LOOK", 0.05)
    locked = threading.Event()

    def reading(*_: object, **__: object) -> SyncReport:
        assert locked.wait(20)
        return SyncReport("here", error="the table is locked")

    async def run() -> None:
        monkeypatch.setattr(syncing, "open_source", lambda _: SimpleNamespace(close=lambda: None))
        monkeypatch.setattr(syncing, "compare", reading)
        writer: Any = SimpleNamespace(instance="")
        ended: list[str] = []
        made = syncing.Syncing(writer, replace(_here(), sync_every=600.0), Settings(), lambda *_: None, ended.append)
        for _ in range(4):
            locked.clear()
            order = syncing.Order()
            made.order(order)
            report = await asyncio.wait_for(order.done, 10)
            assert "given up" in report.error
            locked.set()
            while any(one.name == "sync-here" for one in threading.enumerate()):
                await asyncio.sleep(0.01)
        assert ended == []
        made.close()

    asyncio.run(run())
