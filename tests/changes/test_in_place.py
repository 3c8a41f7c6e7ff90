# SPDX-License-Identifier: Apache-2.0
"""A file that somebody's script writes in place, line by line: half a list looks like a list."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from tests.changes.directories import readings, wait_steady
from tests.daemon.site import Site
from tests.mta.waiting import wait_for

MORE = """
[directories.corp]
type = "file"
path = "{path}"
format = "list"

[domains."example.org"]
local = ["corp"]
remote = ["here"]
destination = "m365"
unknown = "reject"
local_transport = "lmtp:unix:private/lmtp"
"""
PEOPLE = [f"p{n}@example.org" for n in range(12)]


def _write_slowly(path: Path, lines: list[str], ended: threading.Event) -> None:
    with path.open("w") as file:
        for line in lines:
            file.write(f"{line}\n")
            file.flush()
            ended.wait(0.3)
    ended.set()


def test_a_file_that_is_written_in_place_is_read_when_it_is_whole(sites: Callable[..., Site], tmp_path: Path) -> None:
    """Nobody whose line is still to come is refused meanwhile, and afterwards the new list is known."""
    path = tmp_path / "people"
    path.write_text("".join(f"{one}\n" for one in PEOPLE))
    site: Site = sites("ann@example.com", more=MORE.format(path=path)).start()
    wait_steady(site)
    assert site.ask("new@example.org", "relay_recipients")[0] == "NOTFOUND"
    before = readings(site)["full"]
    ended = threading.Event()
    threading.Thread(target=_write_slowly, args=(path, [*PEOPLE, "new@example.org"], ended), daemon=True).start()
    while not ended.is_set():
        for one in PEOPLE:
            assert site.ask(one, "relay_recipients") == ("OK", "LOCAL")
    wait_for(lambda: site.ask("new@example.org", "relay_recipients") == ("OK", "LOCAL"), 20, site.splitmx.tail)
    assert readings(site)["full"] == before + 1


def test_a_start_while_the_file_is_written_waits_for_its_end(sites: Callable[..., Site], tmp_path: Path) -> None:
    """There is no older list to stand by: nobody whose line is still to come is refused, then all are known."""
    path = tmp_path / "people"
    ended = threading.Event()
    threading.Thread(target=_write_slowly, args=(path, PEOPLE, ended), daemon=True).start()
    site: Site = sites("ann@example.com", more=MORE.format(path=path)).start()
    while not ended.is_set():
        for one in PEOPLE:
            assert site.ask(one, "relay_recipients")[0] in ("OK", "TEMP")
    site.answers(PEOPLE[-1], "lmtp:unix:private/lmtp", 20)
    assert site.ask("new@example.org", "relay_recipients")[0] == "NOTFOUND"


def test_a_list_that_ends_within_a_line_is_waited_for_longer(sites: Callable[..., Site], tmp_path: Path) -> None:
    """At a start: its writer may still be at it. One that stays so is as good as any."""
    path = tmp_path / "people"
    site: Site = sites("ann@example.com", more=MORE.format(path=path))
    path.write_text("ann@example.org\nbob@example.or")
    writer = threading.Timer(2.5, lambda: path.open("a").write("g"))
    writer.start()
    site.start()
    while writer.is_alive():
        assert site.ask("bob@example.org", "relay_recipients")[0] in ("OK", "TEMP")
    site.answers("bob@example.org", "lmtp:unix:private/lmtp", 20)
