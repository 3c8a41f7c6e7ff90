# SPDX-License-Identifier: Apache-2.0
"""`splitmx build` by root in a folder of another user, who has put links there."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.static.setup import Setup

NOBODY = 65_534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can write into another user's folder")

NAMES = (
    "transport.in", "relay_recipients.in", "relay_domains.in", "transport.in.lmdb", ".domains.sqlite.new",
    ".splitmx-build.json.new", ".splitmx-postfix-unfinished", ".splitmx-exim-unfinished", ".splitmx-build.lock",
)  # fmt: skip


@pytest.mark.parametrize(("name", "people"), [*((name, 40) for name in NAMES), ("transport.in", 60_000)])
def test_no_link_is_followed(setup: Setup, name: str, people: int) -> None:
    """Whatever lies at a name that a build uses: the file behind a link keeps its content, owner and mode.

    people: with many, the texts are sorted by another program.
    """
    secret = setup.folder / "secret"
    secret.write_text("secret\n")
    secret.chmod(0o600)
    setup.maps.mkdir()
    shutil.chown(setup.maps, NOBODY, NOBODY)
    (setup.maps / name).symlink_to(secret)
    os.chown(setup.maps / name, NOBODY, NOBODY, follow_symlinks=False)
    setup.people([f"u{n}@example.com" for n in range(people)])
    done = setup.build(check=False)
    setup.build("--for=exim", "--type=cdb", "--behind-live", check=False)
    status = secret.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, 0, 0o600)
    assert secret.read_text() == "secret\n"
    if name == ".splitmx-build.lock":
        assert done.returncode == 75
    else:
        assert setup.look_up("lmdb:relay_recipients", "u9@example.com") == "LOCAL"


def test_no_link_in_the_state_directory_is_given_away(setup: Setup) -> None:
    """Without a daemon root reads the directories into the index, and gives the daemon what it made there: no more."""
    secret = setup.folder / "secret"
    secret.write_text("secret\n")
    state = setup.folder / "state"
    state.mkdir()
    shutil.chown(state, NOBODY, NOBODY)
    (state / "index.old").symlink_to(secret)
    setup.build()
    assert secret.stat().st_uid == 0
    assert (state / "index.sqlite").stat().st_uid == NOBODY
