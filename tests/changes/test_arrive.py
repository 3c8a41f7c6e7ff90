# SPDX-License-Identifier: Apache-2.0
"""Changes arrive: on every kind of directory, without a compare where it tells of changes."""

from __future__ import annotations

import re
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.changes.directories import (
    HERE,
    THERE,
    Controller,
    CpanelHost,
    Sheet,
    Table,
    Tree,
    World,
    config,
    policy,
    readings,
    wait_steady,
)
from tests.daemon.site import Site
from tests.mta.waiting import wait_for
from tests.servers import SambaAd
from tests.servers.samba import SUFFIX

NOTIFY = Path(__file__).resolve().parents[2] / "contrib" / "postgresql" / "notify.sql"
PEOPLE = [f"p{n}" for n in range(40)]

Sites = Callable[..., Site]


def postgres(request: pytest.FixtureRequest, folder: Path) -> World:
    return Table(request.getfixturevalue("postgres"), "arrive")


def listen(request: pytest.FixtureRequest, folder: Path) -> World:
    text = f"\\set table people\n{NOTIFY.read_text()}"
    return Table(request.getfixturevalue("postgres"), "arrive_listen", watermark=False, notify=text)


def mariadb(request: pytest.FixtureRequest, folder: Path) -> World:
    return Table(request.getfixturevalue("mariadb"), "arrive")


def openldap(request: pytest.FixtureRequest, folder: Path) -> World:
    return Tree(request.getfixturevalue("slapd"))


def active_directory(request: pytest.FixtureRequest, folder: Path) -> World:
    return Controller(request.getfixturevalue("samba_ad"), folder)


def file(request: pytest.FixtureRequest, folder: Path) -> World:
    return Sheet(folder)


@pytest.mark.parametrize(
    "make", [postgres, listen, mariadb, openldap, active_directory, file], ids=lambda f: f.__name__
)
def test_changes_arrive(
    request: pytest.FixtureRequest, sites: Sites, folder: Path, make: Callable[[pytest.FixtureRequest, Path], World]
) -> None:
    """An addition at once; a move, a suspension and (where it tells of them) a removal without a compare."""
    world = make(request, folder)
    world.add(*PEOPLE)
    site = sites("ann@example.com", workers=2, more=config(world.table)).start()
    is_file = make is file
    compares = wait_steady(site)
    assert site.ask("p1@example.org") == site.ask("p2@example.org") == site.ask("p3@example.org") == HERE

    world.add("new")
    site.answers("new@example.org", HERE[1], 60)
    world.move("p1")
    site.answers("p1@example.org", THERE[1], 60)
    world.suspend("p2")
    wait_for(lambda: policy(site, "p2@example.org").startswith("550 5.2.1"), 60, site.splitmx.tail)
    if not is_file:
        assert readings(site)["full"] == compares, site.log()

    world.remove("p3")
    if not world.removals:  # a row that is gone tells nothing: the compare finds it
        site.control("sync", names=["corp"])
    site.answers("p3@example.org", THERE[1], 60)
    if world.removals and not is_file:
        assert readings(site)["full"] == compares, site.log()
    assert site.ask("p4@example.org") == site.ask("new@example.org") == HERE


def test_a_cpanel_host(sites: Sites, folder: Path) -> None:
    """A change anywhere below its root is found by looking at its files: nothing there can be asked live."""
    world = CpanelHost(folder)
    world.add(*PEOPLE)
    site: Site = sites("ann@example.com", more=config(world.table)).start()
    assert wait_steady(site) == 1
    assert site.ask("p1@example.org") == HERE
    world.add("new")
    site.answers("new@example.org", HERE[1], 60)
    world.suspend("p2")
    wait_for(lambda: policy(site, "p2@example.org").startswith("550 5.2.1"), 60, site.splitmx.tail)
    world.remove("p3")
    site.answers("p3@example.org", THERE[1], 60)
    world.forward("sales", "p1@example.org")
    wait_for(lambda: site.ask("sales@example.org", "virtual_alias") == ("OK", "p1@example.org"), 60, site.splitmx.tail)
    before = readings(site)["full"]
    assert before <= 6, "unchanged files are not read again"


@pytest.mark.parametrize("make", [postgres, openldap, file], ids=lambda f: f.__name__)
def test_lag_is_shown(
    request: pytest.FixtureRequest, sites: Sites, folder: Path, make: Callable[[pytest.FixtureRequest, Path], World]
) -> None:
    """`status` and metrics name each directory's lag for additions, moves and removals, and how far it is behind."""
    world = make(request, folder)
    world.add(*PEOPLE)
    site = sites("ann@example.com", more=config(world.table)).start()
    wait_steady(site)
    wait_for(lambda: make is file or readings(site)["feed"] > 1, 60, site.splitmx.tail)
    one = site.status()["directories"]["corp"]
    lag, behind = one["lag"], one["behind"]
    assert lag["additions"] == (0.1 if make is not file else lag["moves"])
    assert behind["additions"] <= lag["additions"] + 2
    assert 1 <= lag["moves"] < 3
    assert (lag["removals"] < 3) == world.removals
    assert behind["moves"] < 3
    assert behind["removals"] >= behind["moves"]
    text = site.splitmx.run("status").stdout
    assert "(moves)" in text
    assert "(removals)" in text
    found = urllib.request.urlopen(f"http://127.0.0.1:{site.port}/metrics").read().decode()
    for change in ("additions", "moves", "removals"):
        assert f'splitmx_directory_lag_seconds{{change="{change}",directory="corp"}}' in found
        assert f'splitmx_directory_behind_seconds{{change="{change}",directory="corp"}}' in found


def test_active_directory_for_a_plain_user(sites: Sites, samba_ad: SambaAd, folder: Path) -> None:
    """Who may not see deleted objects is told of moves, and of removals by the compare: the lag says so."""
    world = Controller(samba_ad, folder)
    world.add(*PEOPLE)
    words = ["samba-tool", "user", "create", "plain", "Pa55-word-1", "-s", str(samba_ad._data / "smb.conf")]
    if b"plain" not in subprocess.run([*words[:2], "list", *words[-2:]], capture_output=True).stdout.split():
        subprocess.run(words, check=True, capture_output=True)
    secret = folder / "plain.secret"
    secret.write_text("Pa55-word-1\n")
    secret.chmod(0o600)
    table = world.table.replace(samba_ad.admin, f"CN=plain,CN=Users,{SUFFIX}")
    table = re.sub('bind_password_file = ".*"', f'bind_password_file = "{secret}"', table)
    site: Site = sites("ann@example.com", more=config(table)).start()
    compares = wait_steady(site)
    world.move("p1")
    site.answers("p1@example.org", THERE[1], 60)
    lag = wait_for(lambda: site.status()["directories"]["corp"]["lag"], 10)
    assert lag["moves"] < 60 < 3600 <= lag["removals"]
    world.remove("p2")
    assert readings(site)["full"] == compares
    assert site.splitmx.run("sync", "corp").returncode == 0
    site.answers("p2@example.org", THERE[1], 60)
