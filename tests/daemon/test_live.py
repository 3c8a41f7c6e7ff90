# SPDX-License-Identifier: Apache-2.0
"""Freshness, live look-ups, and directories that hang, lie or vanish."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.site import LOCAL, REMOTE, Site
from tests.mta.waiting import wait_for
from tests.servers.sqlite import SqliteTable


def with_slapd(sites: Callable[..., Site], slapd: Any, **options: Any) -> Site:
    """A site whose example.com has people in slapd too: uma is listed there."""
    slapd.person("uma", "uma@example.com")
    slapd.person("vic", "vic@example.com")
    text = f"""
[directories.corp]
type = "ldap"
url = ["{slapd.url}"]
bind_dn = "{slapd.admin}"
bind_password_file = "{{secret}}"
base = "{slapd.base}"
filter = "(mail=*)"
fresh_for = "1s"
sync_every = "300s"
"""
    options.setdefault("sync_every", "300s")
    options.setdefault("fresh_for", "1s")
    site = sites("ann@example.com", **options)
    secret = slapd.secret_file(site.folder)
    text = text.replace("{secret}", str(secret))
    site.splitmx.write(site.config(more=text).replace('local = ["here"]', 'local = ["corp", "here"]'))
    return site.start()


def test_addition_is_an_answer_at_once(site: Site) -> None:
    """Somebody who was added a moment ago is local as soon as the old "no" has ended, without any sync."""
    assert site.ask("bob@example.com") == ("OK", REMOTE)
    site.add("bob@example.com")
    site.answers("bob@example.com", LOCAL)


def test_removal_and_move_become_answers_with_the_sync(site: Site) -> None:
    """What a sync changes is answered on an open connection: no cached answer of the generation before."""
    for name in ("bob", "cora", "dan"):
        site.add(f"{name}@example.com")
    client = site.client()
    site.answers("bob@example.com", LOCAL)
    wait_for(lambda: site.status()["directories"]["here"]["rows"] == 5, 10)
    assert client.ask("transport", "bob@example.com") == ("OK", LOCAL)
    site.remove("bob@example.com")
    wait_for(lambda: client.ask("transport", "bob@example.com") == ("OK", REMOTE), 15, site.splitmx.tail)


def test_two_workers_agree_after_a_change(sites: Callable[..., Site]) -> None:
    """Every worker answers the new generation."""
    site = sites("ann@example.com", "bob@example.com", workers=2).start()
    clients = [site.client() for _ in range(16)]
    assert {client.ask("transport", "bob@example.com") for client in clients} == {("OK", LOCAL)}
    site.remove("bob@example.com")
    assert site.control("sync")["good"]
    wait_for(lambda: {one.ask("transport", "bob@example.com") for one in clients} == {("OK", REMOTE)}, 10)


def test_never_loaded_directory_is_temp_not_remote(sites: Callable[..., Site]) -> None:
    """Before a directory was ever read, an address that it does not list is TEMP; one it lists is found live."""
    site = sites("ann@example.com")
    site.sql("ALTER TABLE recipients RENAME TO elsewhere")
    site.splitmx.start()
    wait_for(lambda: site._ask_if_up("ann@example.com") is not None, 10)
    assert site.ask("ann@example.com")[0] == "TEMP"
    assert site.ask("x@foreign.example") == ("NOTFOUND", "")
    site.sql("ALTER TABLE elsewhere RENAME TO recipients")
    site.answers("ann@example.com", LOCAL)
    site.answers("new@example.com", REMOTE)


def test_directory_swapped_for_an_empty_one_is_not_believed(sites: Callable[..., Site]) -> None:
    """A database replaced by an empty one: listed stay local, strangers are TEMP, and the log says why."""
    site = sites("ann@example.com", "bob@example.com", fresh_for="1s").start()
    aside = site.folder / "empty.db"
    SqliteTable(aside)
    aside.rename(site.people)
    wait_for(lambda: site.ask("who@example.com")[0] == "TEMP", 15, site.splitmx.tail)
    assert site.ask("ann@example.com") == ("OK", LOCAL)
    site.add("ann@example.com")
    site.add("bob@example.com")
    site.answers("who@example.com", REMOTE, 30)


def test_directory_gone_is_temp_for_strangers(sites: Callable[..., Site]) -> None:
    """With the table gone unlisted recipients are TEMP, listed ones flow, and everything heals by itself."""
    site = sites("ann@example.com", fresh_for="1s").start()
    site.sql("ALTER TABLE recipients RENAME TO elsewhere")
    wait_for(lambda: site.ask("who@example.com")[0] == "TEMP", 15)
    assert site.ask("ann@example.com") == ("OK", LOCAL)
    site.sql("ALTER TABLE elsewhere RENAME TO recipients")
    site.answers("who@example.com", REMOTE, 30)


@pytest.mark.directory
def test_hung_directory_opens_its_circuit_and_closes_it(sites: Callable[..., Site], slapd: Any) -> None:
    """A hung slapd: the first stranger is TEMP after the deadline, the circuit opens, listed ones never notice."""
    site = with_slapd(sites, slapd)
    client = site.client()
    assert client.ask("transport", "uma@example.com") == ("OK", LOCAL)
    site.answers("stranger@example.com", REMOTE)
    slapd.hang()
    try:
        wait_for(lambda: client.ask("transport", "late@example.com")[0] == "TEMP", 10)
        wait_for(lambda: site.status()["directories"]["corp"]["queries"]["circuit"] == "open", 5, site.splitmx.tail)
        before = site.status()["directories"]["corp"]["queries"]["deadlines_missed"]
        for number in range(50):
            assert client.ask("transport", f"late{number}@example.com")[0] == "TEMP"
        assert client.ask("transport", "uma@example.com") == ("OK", LOCAL)
        assert site.status()["directories"]["corp"]["queries"]["deadlines_missed"] == before
        assert "circuit open" in site.log()
    finally:
        slapd.cont()
    site.answers("late7@example.com", REMOTE, 20)
    assert site.status()["directories"]["corp"]["queries"]["circuit"] == "closed"


@pytest.mark.directory
def test_misses_of_many_connections_are_few_queries(sites: Callable[..., Site], slapd: Any) -> None:
    """Equal and simultaneous questions are coalesced over all connections and workers."""
    site = with_slapd(sites, slapd, workers=2)
    wait_for(lambda: site.ask("probe@example.com") == ("OK", REMOTE), 10)
    before = site.status()["directories"]["corp"]["queries"]
    clients = [site.client() for _ in range(60)]
    for round_ in range(4):
        for number, client in enumerate(clients):
            client.send("transport", f"nobody{number % 30}-{round_}@example.com")
        assert {client.receive() for client in clients} == {("OK", REMOTE)}
    after = site.status()["directories"]["corp"]["queries"]
    assert after["queries"] - before["queries"] <= 120
    assert after["deadlines_missed"] == before["deadlines_missed"]


def test_poisoned_address_harms_nobody_else(sites: Callable[..., Site]) -> None:
    """Bytes that no directory takes are nobody's; beside them strangers are answered as ever."""
    site = sites("ann@example.com", fresh_for="1s", sync_every="300s").start()
    client = site.client()
    for key in (b"a\x00b@example.com", b"\xff\xfe@example.com", b"a' OR 1=1 --@example.com", b"(*)@example.com"):
        assert client.ask("transport", key)[0] in ("OK", "NOTFOUND", "TEMP")
    site.answers("stranger@example.com", REMOTE)


def test_file_directory_follows_its_file(sites: Callable[..., Site]) -> None:
    """A file is read again when it changes."""
    site = sites("ann@example.com")
    path = _with_list(site, "zoe@example.com")
    site.start()
    assert site.ask("zoe@example.com") == ("OK", LOCAL)
    aside = site.folder / "list.new"
    aside.write_text("zoe@example.com\nyan@example.com\n")
    aside.rename(path)
    site.answers("yan@example.com", LOCAL)


def _with_list(site: Site, *people: str) -> Path:
    """Add a directory that is a file: it can only be read as a whole, never asked live."""
    path = site.folder / "list.txt"
    path.write_text("".join(f"{address}\n" for address in people))
    more = f'[directories.list]\ntype = "file"\nformat = "list"\npath = "{path}"\n'
    site.splitmx.write(site.config(more=more).replace('local = ["here"]', 'local = ["here", "list"]'))
    return path


def _delete(index: Path) -> None:
    for path in index.parent.glob("index.sqlite*"):
        path.unlink()


def _replace(index: Path) -> None:
    """Another file under the same name, which is no index."""
    other = index.with_name("other")
    other.write_bytes(b"not an index " * 1000)
    other.rename(index)


@pytest.mark.parametrize("breaks", [_delete, _replace])
def test_nobody_notices_an_index_that_is_gone(sites: Callable[..., Site], breaks: Callable[[Path], None]) -> None:
    """A deleted or replaced index is said and rebuilt; who is listed, in a file too, is answered all the while."""
    site = sites("ann@example.com")
    _with_list(site, "zoe@example.com")
    site.start()
    index = site.folder / "state" / "index.sqlite"
    client = site.client()
    old = index.stat().st_ino
    said = []
    breaks(index)

    def rebuilt() -> bool:
        for address in ("ann@example.com", "zoe@example.com"):
            assert client.ask("transport", address) == ("OK", LOCAL)
        said.append(client.ask("transport", "stranger@example.com"))
        return "index was broken" in site.log() and index.exists() and index.stat().st_ino != old and site._is_loaded()

    wait_for(rebuilt, 30, site.splitmx.tail)
    assert {status for status, _ in said} <= {"OK", "TEMP"}
    site.add("new@example.com")
    site.answers("new@example.com", LOCAL)
    site.answers("stranger@example.com", REMOTE)


def test_truncated_index_never_answers_wrong(site: Site) -> None:
    """A truncated index: TEMP or right, never remote for somebody who is here; then rebuilt."""
    index = site.folder / "state" / "index.sqlite"
    client = site.client()
    with index.open("r+b") as file:
        file.truncate(0)

    def rebuilt() -> bool:
        status, value = client.ask("transport", "ann@example.com")
        assert (status, value) == ("OK", LOCAL) or status == "TEMP"
        return "index was broken" in site.log()

    wait_for(rebuilt, 30, site.splitmx.tail)
    site.answers("ann@example.com", LOCAL)
