# SPDX-License-Identifier: Apache-2.0
"""The guards through the front door: `splitmx sync` against a running daemon, and what the maps answer meanwhile."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.daemon.site import LOCAL, REMOTE, Site
from tests.mta.waiting import wait_for

Sites = Callable[..., Site]

BY_HAND = 'compare_every = "1h"'  # nothing is read but by the commands of the test
THERE = """
[directories.there]
type = "file"
path = "{path}"
format = "list"
"""


def names(word: str, count: int, domain: str = "example.com") -> list[str]:
    return [f"{word}{n}@{domain}" for n in range(count)]


def fill(site: Site, people: Iterable[str], location: str | None = None) -> None:
    """The directory lists exactly these now."""
    with sqlite3.connect(site.people) as db:
        db.execute("DELETE FROM recipients")
        db.executemany("INSERT INTO recipients (address, location) VALUES (?, ?)", [(one, location) for one in people])
    db.close()


def office(sites: Sites, people: Iterable[str], location: str | None = None, **options: Any) -> Site:
    """A running daemon over these people, which reads them only when told."""
    site: Site = sites(directory=options.pop("directory", BY_HAND), **options)
    fill(site, people, location)
    return site.start()


def with_remote(sites: Sites, people: Iterable[str], remote: Iterable[str], domain: str = "") -> Site:
    """The same, with a list of who is at the other side."""
    site: Site = sites(directory=BY_HAND, domain=f'remote = ["there"]\n{domain}')
    path = site.folder / "there.txt"
    path.write_text("".join(f"{one}\n" for one in remote))
    site.splitmx.write(site.config(more=THERE.format(path=path)))
    fill(site, people)
    return site.start()


def sync(site: Site, *words: str, code: int = 0, name: str = "here") -> dict[str, Any]:
    """`splitmx sync WORDS --json`: the report of one directory; the exit code must be `code`."""
    done = site.splitmx.run("sync", *words, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    report: dict[str, Any] = next(one for one in json.loads(done.stdout) if one["directory"] == name)
    return report


def numbers(report: dict[str, Any]) -> tuple[int, int, int, int]:
    """Added, removed, moved, held."""
    return report["added"], report["removed"], report["moved"], report["held"]


def held(site: Site) -> int:
    """How many changes `status` shows as held."""
    return sum(one["count"] for one in site.status()["held"])


# --- what must not lock up


def test_the_last_of_four_leaves(sites: Sites) -> None:
    """Three of four leave one by one; the last one is held, and the next mailbox of the office takes that along."""
    people = names("p", 4)
    site = office(sites, people)
    for left in (3, 2, 1):
        fill(site, people[:left])
        assert numbers(sync(site)) == (0, 1, 0, 0)
        assert site.ask(people[left]) == ("OK", REMOTE)
    fill(site, [])
    assert numbers(sync(site, code=1)) == (0, 0, 0, 1)
    assert site.ask("p0@example.com") == ("OK", LOCAL)
    fill(site, ["new@example.com"])
    assert numbers(sync(site)) == (1, 1, 0, 0)
    assert held(site) == 0
    assert (site.ask("p0@example.com"), site.ask("new@example.com")) == (("OK", REMOTE), ("OK", LOCAL))


def test_a_directory_emptied_on_purpose(sites: Sites) -> None:
    """It is held, shown with the command that releases it, and released by that; its "no" is believed from then on."""
    people = names("p", 30)
    site = office(sites, people, fresh_for="0.1s")
    fill(site, [])
    text = site.splitmx.run("sync").stdout
    assert "release: splitmx sync --accept here" in text
    attention = site.splitmx.run("status")
    assert attention.returncode == 1
    assert "30 removed held back" in attention.stdout
    assert site.ask("p3@example.com") == ("OK", LOCAL)
    assert site.ask("stranger@example.com")[0] == "TEMP"  # an empty directory's "no" is no "no"
    assert numbers(sync(site, "--accept", "here")) == (0, 30, 0, 0)
    site.answers("p3@example.com", REMOTE)
    site.answers("stranger@example.com", REMOTE)
    assert held(site) == 0


def test_a_canary_is_deleted(sites: Sites) -> None:
    """Addresses that accompany live questions may leave like everybody: strangers are answered all the time."""
    people = names("p", 40)
    site = office(sites, people, fresh_for="0.1s")
    for _ in range(3):
        with sqlite3.connect(f"file:{site.folder}/state/index.sqlite?mode=ro", uri=True) as index:
            canaries = {f"{local}@example.com" for (local,) in index.execute("SELECT local FROM canary")}
        index.close()
        assert len(canaries) == 5
        gone = sorted(canaries)[0]
        people.remove(gone)
        fill(site, people)
        wait_for(lambda: site.ask("stranger@example.com") == ("OK", REMOTE), 10, site.splitmx.tail)
        assert numbers(sync(site)) == (0, 1, 0, 0)
        site.answers(gone, REMOTE)


def test_one_tenant_of_a_thousand_empties(sites: Sites) -> None:
    """A tenant who closes is believed at once: the others are still there."""
    tenants = [f"t{n}.example" for n in range(1000)]
    everybody = [address for tenant in tenants for address in names("p", 15, tenant)]
    more = "".join(
        f'[domains."{name}"]\nlocal = ["here"]\ndestination = "m365"\nlocal_transport = "{LOCAL}"\n'
        for name in tenants[:3]
    )
    site = office(sites, everybody, more=more)
    assert site.ask("p1@t1.example") == ("OK", LOCAL)
    fill(site, [one for one in everybody if not one.endswith("@t1.example")])
    assert numbers(sync(site)) == (0, 15, 0, 0)
    assert (site.ask("p1@t1.example"), site.ask("p1@t2.example")) == (("OK", REMOTE), ("OK", LOCAL))


def test_a_tenant_who_closes_keeps_nobody_else_waiting(sites: Sites) -> None:
    """Between two compares strangers of a closed tenant wait; those of all other tenants are answered as ever."""
    more = f'[domains."two.example"]\nlocal = ["here"]\ndestination = "m365"\nlocal_transport = "{LOCAL}"\n'
    site = office(sites, names("p", 30) + names("p", 30, "two.example"), more=more, fresh_for="0.1s")
    fill(site, names("p", 30))
    wait_for(lambda: site.ask("stranger@two.example")[0] == "TEMP", 10, site.splitmx.tail)
    assert site.ask("stranger@example.com") == ("OK", REMOTE)
    assert site.ask("p1@two.example") == ("OK", LOCAL)
    assert "circuit open" not in site.log()
    assert numbers(sync(site)) == (0, 30, 0, 0)
    site.answers("stranger@two.example", REMOTE)


def test_first_and_last_wave(sites: Sites) -> None:
    """Eighty people come in a first wave into an empty directory, and leave it in a last one, without a human."""
    people = names("p", 80)
    wave = '[waves.{name}]\nat = 2020-01-01T00:00:00Z\ndomain = "example.com"\nto = "{to}"\naddresses = {people}\n'
    site: Site = sites(
        directory=f"{BY_HAND}\nmay_be_empty = true",
        more=wave.format(name="first", to="local", people=json.dumps(people)),
    )
    site.start()
    fill(site, people)
    assert numbers(sync(site)) == (80, 0, 0, 0)
    site.answers("p7@example.com", LOCAL)
    site.splitmx.write(
        site.config(directory=BY_HAND, more=wave.format(name="last", to="m365", people=json.dumps(people)))
    )
    site.splitmx.reload()
    site.answers("p7@example.com", REMOTE)  # the wave outranks the mailbox that is still there
    fill(site, [])
    report = sync(site)
    # the compare that a reload starts may have taken them out already
    assert (report["held"], report["believable"], held(site)) == (0, True, 0)
    assert sum(one["rows"] for one in site.status()["directories"].values()) == 0
    assert site.ask("p7@example.com") == site.ask("stranger@example.com") == ("OK", REMOTE)


# --- what must be held


def test_a_flipped_location_column(sites: Sites) -> None:
    """Everybody is suddenly elsewhere: nobody moves, new people come, --accept with the domain's name moves them."""
    people = names("p", 60)
    site = office(sites, people, "onprem", domain='locations = { cloud = "m365", onprem = "local" }')
    fill(site, [*people, "new@example.com"], "cloud")
    report = sync(site, code=1)
    assert numbers(report) == (1, 0, 0, 60)
    assert site.ask("p5@example.com") == ("OK", LOCAL)
    assert site.ask("new@example.com") == ("OK", REMOTE)
    assert numbers(sync(site, "--accept", "example.com")) == (0, 0, 60, 0)
    assert site.ask("p5@example.com") == ("OK", REMOTE)
    assert held(site) == 0


def test_a_filter_that_suddenly_lists_everybody(sites: Sites) -> None:
    """Those who are listed at the other side stay there."""
    own, far = names("own", 20), names("far", 60)
    site = with_remote(sites, own, far)
    fill(site, own + far)
    assert numbers(sync(site, code=1)) == (0, 0, 0, 60)
    assert (site.ask("far3@example.com"), site.ask("own3@example.com")) == (("OK", REMOTE), ("OK", LOCAL))
    assert numbers(sync(site, code=1)) == (0, 0, 0, 60)
    fill(site, own)
    assert numbers(sync(site)) == (0, 0, 0, 0)
    assert held(site) == 0


def test_a_remote_list_read_as_local(sites: Sites) -> None:
    """The wrong export in the place of the right one: nobody of either list changes sides."""
    own, far = names("own", 60), names("far", 60)
    site = with_remote(sites, own, far)
    fill(site, far)
    assert numbers(sync(site, code=1)) == (0, 0, 0, 120)
    assert (site.ask("far3@example.com"), site.ask("own3@example.com")) == (("OK", REMOTE), ("OK", LOCAL))


def test_half_a_table_gone(sites: Sites) -> None:
    """The old rows stay, `status` says so, --dry-run shows the first twenty, --accept of another name releases none."""
    people = names("p", 100)
    site = office(sites, people, more='[domains."example.org"]\nlocal = ["here"]\ndestination = "m365"\n'
                  f'local_transport = "{LOCAL}"\n')  # fmt: skip
    fill(site, people[:50])
    report = sync(site, code=1)
    assert numbers(report) == (0, 0, 0, 50)
    assert site.ask("p77@example.com") == ("OK", LOCAL)
    dry = site.splitmx.run("sync", "--dry-run")
    assert dry.returncode == 1
    assert "50 removed" in dry.stdout
    assert dry.stdout.count("@example.com") == 20
    assert numbers(sync(site, "--accept", "example.org", code=1)) == (0, 0, 0, 50)
    assert site.splitmx.run("sync", "--accept", "nobody").returncode == 2
    assert numbers(sync(site, "--accept")) == (0, 50, 0, 0)
    site.answers("p77@example.com", REMOTE)


def test_dry_run_shows_and_changes_nothing(sites: Sites) -> None:
    """Added, removed, moved and changed, twenty of each by name; afterwards everything is as before."""
    people = names("p", 300)
    site = office(sites, people, domain='locations = { cloud = "m365" }')
    fill(site, [*people[25:], *names("new", 30)])
    for one in people[30:55]:
        site.sql("UPDATE recipients SET location = 'cloud' WHERE address = ?", one)
    for one in people[60:85]:
        site.sql("UPDATE recipients SET active = 0 WHERE address = ?", one)
    before = site.status()["index"]["generation"]
    report = sync(site, "--dry-run")
    assert numbers(report) == (30, 25, 25, 0)
    assert report["changed"] == 25
    assert {word: len(report["first"][word]) for word in ("added", "removed", "moved", "changed")} == {
        "added": 20, "removed": 20, "moved": 20, "changed": 20
    }  # fmt: skip
    text = site.splitmx.run("sync", "--dry-run", "example.com").stdout
    for word in ("added new", "removed p", "moved p", "changed p"):
        assert text.count(f"  {word}") == 20
    assert site.status()["index"]["generation"] == before
    assert site.ask("p3@example.com") == ("OK", LOCAL)
    assert numbers(sync(site)) == (30, 25, 25, 0)
    assert site.ask("p3@example.com") == ("OK", REMOTE)


@pytest.mark.parametrize("words", [("sync",), ("sync", "--accept", "here"), ("flush", "example.com")])
def test_without_a_daemon(sites: Sites, words: tuple[str, ...]) -> None:
    """There is nobody to tell: exit code 75, the reason, and what to do."""
    site: Site = sites()
    done = site.splitmx.run(*words)
    assert done.returncode == 75
    assert "Traceback" not in done.stderr
    assert "no daemon is running" in done.stderr
