# SPDX-License-Identifier: Apache-2.0
"""Starting where little was prepared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.daemon.site import LOCAL, Site
from tests.mta.waiting import wait_for
from transport.maps import guard

Cleaned = Callable[[Callable[[], object]], None]


def test_missing_folder_of_a_socket_is_made(folder: Path, cleaned: Cleaned) -> None:
    """/run is empty after a boot: the last folder of a socket's path is made, for the mailer to pass through."""
    site = Site(folder, "ann@example.com")
    site.map = folder / "run" / "map.sock"
    site.splitmx.write(site.config().replace(f"{folder}/map.sock?mode=0660", f"{folder}/run/map.sock?mode=0666"))
    cleaned(site.stop)
    site.start()
    assert site.ask("ann@example.com") == ("OK", LOCAL)
    assert site.map.parent.stat().st_mode & 0o777 == 0o711


def test_a_wrong_path_is_named_not_made(folder: Path, cleaned: Cleaned) -> None:
    """A path whose folders are missing altogether is a mistake: it is said, and nothing is made."""
    site = Site(folder, "ann@example.com")
    cleaned(site.stop)
    site.splitmx.write(site.config().replace(f"{folder}/map.sock", f"{folder}/var/sp00l/splitmx/map.sock"))
    done = site.splitmx.run("serve", "--user", "root")
    assert done.returncode == 2
    assert "directory does not exist" in done.stdout + done.stderr
    assert not (folder / "var").exists()


def test_an_emptied_configuration_takes_no_domain_away(folder: Path, cleaned: Cleaned) -> None:
    """A file that a crash or an editor left empty starts nothing (75): the guard would lose our domains."""
    site = Site(folder, "ann@example.com")
    cleaned(site.stop)
    site.start()
    table = folder / "state/maps/domains.sqlite"

    def known() -> bool:
        found = guard.read(table)
        return found is not None and ("example.com", 0) in found[0]

    wait_for(known, 20, site.splitmx.tail)
    site.stop()
    for left in ("", "\n \n", "\0" * 512):
        site.splitmx.write(left)
        done = site.splitmx.run("serve", "--user", "root")
        assert done.returncode == 75, done.stdout + done.stderr
        assert "is empty" in done.stdout + done.stderr
    assert known()
