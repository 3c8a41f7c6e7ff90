# SPDX-License-Identifier: Apache-2.0
"""`[static]`: the daemon keeps the files up to date by the same code."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from policyd.keeper import static as keeper_static
from policyd.keeper.static import Static
from tests.cli.conftest import Site
from tests.mta.waiting import wait_for
from transport.config.settings import Daemon, Destination, Directory, Domain, Settings, SqlOptions
from transport.config.settings import Static as StaticSettings
from transport.maps import guard, static_only
from transport.maps.write import HEADER, alone_in


@pytest.mark.e2e
def test_files_follow_the_directories(
    folder: Path, mail_config: Path, cleaned: Callable[[Callable[[], object]], None]
) -> None:
    """A newcomer appears in the files; a big loss only after one `sync --accept`, never a second one for the files."""
    site = Site(folder)
    cleaned(site.daemon.stop)
    site.daemon.environment = {**site.daemon.environment, "MAIL_CONFIG": str(mail_config)}
    text = site.daemon.config.read_text().replace('type = "sql"', 'type = "sql"\nsync_every = "1s"')
    site.daemon.write(text + f'[static]\ndirectory = "{folder}/maps"\ntypes = ["lmdb"]\n')
    site.start()

    def look_up(key: str) -> str:
        done = subprocess.run(
            ["postmap", "-q", key, f"lmdb:{folder}/maps/relay_recipients"],
            env=os.environ | {"MAIL_CONFIG": str(mail_config)},
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    wait_for(lambda: look_up("u1@example.com") == "LOCAL", 60, site.daemon.tail)
    site.execute("INSERT INTO recipients VALUES ('new@example.com', 'mailbox', '', NULL, 1)")
    wait_for(lambda: look_up("new@example.com") == "LOCAL", 60, site.daemon.tail)
    site.execute("DELETE FROM recipients WHERE address LIKE 'u1_@example.com' OR address LIKE 'u2_@example.com'")
    wait_for(lambda: "held back" in site.run("status").stdout, 60, site.daemon.tail)
    assert look_up("u15@example.com") == "LOCAL"
    assert site.run("sync", "--accept").returncode == 0
    wait_for(lambda: look_up("u15@example.com") == "", 60, site.daemon.tail)
    assert look_up("u1@example.com") == "LOCAL"


def started(
    folder: Path, mail_config: Path, cleaned: Callable[[Callable[[], object]], None], static: bool
) -> tuple[Site, Path]:
    """A running site with static maps, or with live ones alone, and where its maps are."""
    site = Site(folder)
    cleaned(site.daemon.stop)
    site.daemon.environment = {**site.daemon.environment, "MAIL_CONFIG": str(mail_config)}
    maps = folder / "maps" if static else folder / "state/maps"
    text = site.daemon.config.read_text()
    site.daemon.write(text + (f'[static]\ndirectory = "{maps}"\ntypes = ["lmdb"]\n' if static else ""))
    site.start()
    return site, maps


@pytest.mark.e2e
@pytest.mark.parametrize("static", [True, False])
def test_a_lost_file_is_written_again(
    folder: Path, mail_config: Path, cleaned: Callable[[Callable[[], object]], None], static: bool
) -> None:
    """What Postfix reads is there again by itself, whoever removed, emptied or damaged it; the log says so."""
    site, maps = started(folder, mail_config, cleaned, static)
    table, index = maps / "domains.sqlite", maps / "relay_recipients.lmdb"
    wait_for(lambda: table.exists() and (index.exists() or not static), 60, site.daemon.tail)

    table.unlink()
    wait_for(lambda: guard.read(table) is not None, 60, site.daemon.tail)
    assert f"written again file={table}" in site.daemon.tail(1000)
    table.write_bytes(b"x" * 8192)
    wait_for(lambda: guard.read(table) is not None, 60, site.daemon.tail)
    if static:
        index.unlink()
        wait_for(lambda: index.exists() and index.stat().st_size, 60, site.daemon.tail)


@pytest.mark.e2e
@pytest.mark.parametrize("static", [True, False])
def test_a_locked_table_is_made_anew(
    folder: Path, mail_config: Path, cleaned: Callable[[Callable[[], object]], None], static: bool
) -> None:
    """Another program keeps `domains.sqlite` locked, on which every look-up of Postfix fails, for any domain: one that
    nobody has locked takes its place, and the log names the program."""
    site, maps = started(folder, mail_config, cleaned, static)
    table, asked = maps / "domains.sqlite", folder / "guard.cf"
    asked.write_text(f"dbpath = {table}\nquery = SELECT '%s' FROM domain WHERE name = '%d'\n")

    def look_up() -> str:
        done = subprocess.run(
            ["postmap", "-q", "u1@example.com", f"sqlite:{asked}"],
            env=os.environ | {"MAIL_CONFIG": str(mail_config)},
            capture_output=True,
            text=True,
        )
        return (done.stdout or done.stderr).strip()

    wait_for(lambda: table.exists() and look_up() == "u1@example.com", 60, site.daemon.tail)
    wait_for(lambda: not list(maps.glob(".*unfinished")), 60, site.daemon.tail)
    with closing(sqlite3.connect(table, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        wait_for(lambda: look_up() == "u1@example.com", 60, site.daemon.tail)
    assert f"end that program file={table} pid={os.getpid()}" in site.daemon.tail(1000)


@pytest.mark.parametrize("leaves", [False, True])
def test_a_build_that_does_not_end_keeps_nobody_from_the_table(
    tmp_path: Path, cleaned: Callable[[Callable[[], object]], None], leaves: bool
) -> None:
    """Live maps beside a `relay_domains` of a build by hand, and another build that was stopped: who is new is in the
    table at once, a table that is gone is written again; who has to leave `relay_domains` waits for it."""
    maps = tmp_path / "maps"
    domains = {name: Domain(name, local=("here",)) for name in ("example.com", "example.org")}
    settings = Settings(digest=b"1", daemon=Daemon(state=tmp_path), domains=domains)
    less = replace(settings, domains={"example.com": domains["example.com"]})
    maps.mkdir()
    (maps / "relay_domains").write_text(
        HEADER + "".join(f"{line}\n" for line in static_only.relay_domains(settings if leaves else less, "regexp"))
    )
    guard.write(less if not leaves else settings, maps / guard.NAME)

    async def life() -> None:
        static = Static(less if leaves else settings, tmp_path)
        cleaned(static.close)
        await asyncio.to_thread(static._build, static.settings, {})
        names = {name for name, _ in (guard.read(maps / guard.NAME) or ((), ()))[0]}
        assert {"example.com", "example.org"} <= names
        assert ("another build" in static.error) is leaves
        (maps / guard.NAME).unlink()
        await asyncio.to_thread(static._build, static.settings, {})
        assert (guard.read(maps / guard.NAME) is None) is leaves

    with alone_in(maps):
        asyncio.run(life())


def test_a_file_that_goes_while_they_are_counted_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cleaned: Callable[[Callable[[], object]], None]
) -> None:
    """Removed in the very moment behind a build, the table of our domains is missed all the same."""
    maps = tmp_path / "maps"
    maps.mkdir()
    (maps / "gone").touch()
    (maps / guard.NAME).touch()
    looked, real = [], Path.stat

    def going(path: Path, **more: bool) -> os.stat_result:
        if path.name == "gone":
            looked.append(path)
            if len(looked) > 1:
                raise FileNotFoundError(path)
        return real(path, **more)

    async def life() -> dict[Path, bool]:
        static = Static(Settings(daemon=Daemon(state=tmp_path), static=StaticSettings(maps, ("lmdb",))), tmp_path)
        cleaned(static.close)
        static._standing()
        return static._standing()

    monkeypatch.setattr(Path, "stat", going)
    assert asyncio.run(life()) == {maps / guard.NAME: True}


def test_what_a_build_could_not_bring_up_to_date_is_not_damaged(tmp_path: Path) -> None:
    """A table of other domains that stays since nothing was read yet: nobody is accused of having removed it."""
    maps = tmp_path / "maps"
    maps.mkdir()
    here = Directory("here", "sql", SqlOptions("sqlite:////nowhere/people.db", "SELECT address FROM recipients"), b"f")
    domain = Domain("example.com", local=("here",), destination="m365")
    old = Settings(
        daemon=Daemon(state=tmp_path),
        static=StaticSettings(maps, ("lmdb",)),
        directories={"here": here},
        destinations={"m365": Destination("m365", hosts=("192.0.2.9",))},
        domains={"example.com": domain},
    )
    guard.write(old, maps / guard.NAME)
    new = replace(old, domains={"example.org": replace(domain, name="example.org")})

    async def life() -> None:
        static = Static(new, tmp_path, faults.append)
        static.changed()
        async with asyncio.timeout(60):
            while not static._left:
                await asyncio.sleep(0.01)
        static.close()

    faults: list[str] = []
    asyncio.run(life())
    assert faults == []


@pytest.mark.parametrize("kind", ["regexp", "lmdb"])
def test_who_cannot_come_back_to_relay_domains_now(
    tmp_path: Path, mail_config: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A domain is switched on again while relay_domains cannot be written: Postfix gets the new table of our domains
    all the same, and relay_domains the domain as soon as it can be written."""
    for name in ("_PAUSE", "_LOOK", "_RETRY"):
        monkeypatch.setattr(keeper_static, name, 0.02)
    monkeypatch.setenv("MAIL_CONFIG", str(mail_config))
    reloads: list[bool] = []

    def reload(_: Static) -> bool:
        reloads.append(True)
        return True

    monkeypatch.setattr(Static, "_reload_postfix", reload)
    maps = tmp_path / "maps"
    maps.mkdir()
    domain = Domain("example.com", destination="m365")
    on = Settings(
        daemon=Daemon(state=tmp_path),
        directories={},
        destinations={"m365": Destination("m365", hosts=("192.0.2.9",))},
        domains={"example.com": domain},
    )
    off = replace(on, domains={"example.com": replace(domain, enabled="no")})
    path = maps / "relay_domains"
    path.write_text(HEADER + "".join(f"{line}\n" for line in static_only.relay_domains(on, kind)))
    if kind == "lmdb":
        subprocess.run(["postmap", f"lmdb:{path}"], check=True)
    guard.write(on, maps / guard.NAME)

    def there() -> bool:
        return any(not line.startswith("#") for line in path.read_text().splitlines())

    async def until(done: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not done():
                await asyncio.sleep(0.01)

    async def life() -> None:
        static = Static(off, tmp_path)
        static.changed()
        await until(lambda: not there() and len(reloads) == 1)
        (maps / "relay_domains.in").mkdir()
        static.settings = on
        static.changed()
        await until(lambda: len(reloads) == 2 and static.error != "")
        (maps / "relay_domains.in").rmdir()
        await until(there)
        static.close()

    asyncio.run(life())


@pytest.mark.e2e
def test_a_changed_file_is_written_again(
    folder: Path, mail_config: Path, cleaned: Callable[[Callable[[], object]], None]
) -> None:
    """What somebody cut, overwrote or put an older copy in place of is as it was built again, while nothing changes in
    the directories."""
    site = Site(folder)
    cleaned(site.daemon.stop)
    site.daemon.environment = {**site.daemon.environment, "MAIL_CONFIG": str(mail_config)}
    maps = folder / "maps"
    site.daemon.write(site.daemon.config.read_text() + f'[static]\ndirectory = "{maps}"\ntypes = ["lmdb"]\n')
    site.start()
    table, index, domains = maps / "domains.sqlite", maps / "transport.lmdb", maps / "relay_domains"
    wait_for(lambda: domains.exists() and not list(maps.glob(".*unfinished")), 60, site.daemon.tail)
    good = {path: path.read_bytes() for path in (table, index, domains)}

    def mended(path: Path) -> None:
        wait_for(lambda: path.read_bytes() == good[path], 60, site.daemon.tail)
        assert f"written again file={path}" in site.daemon.tail(1000)

    os.truncate(index, len(good[index]) // 2)
    mended(index)
    unfinished = maps / ".splitmx-postfix-unfinished"
    unfinished.touch()  # `splitmx build` was killed: what it replaced may not fit what it did not
    wait_for(lambda: not unfinished.exists(), 30, site.daemon.tail)
    domains.write_text(HEADER)  # Postfix would refuse the mail of all our domains
    mended(domains)
    with closing(sqlite3.connect(table)) as older, older:
        older.execute("DELETE FROM domain WHERE name = 'example.com'")
    mended(table)
    with closing(sqlite3.connect(table)) as careless:
        careless.execute("PRAGMA journal_mode = WAL")  # its readers would have to write
        careless.execute("DELETE FROM domain")
        careless.commit()
        mended(table)
        assert not list(maps.glob("domains.sqlite-*")), "the log of the old one would be read into the new one"
