# SPDX-License-Identifier: Apache-2.0
"""`splitmx build` when something is wrong: what is held back, and that the old files stay."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.static.setup import Setup
from transport.maps.write import Text


def in_a_process(
    setup: Setup, kind: str, *, mail_config: str = "", at_start: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """`splitmx build` of this type in a process of its own, which may have another main.cf or other limits."""
    words = ["build", f"--type={kind}", "--output", str(setup.maps)]
    return subprocess.run(
        [sys.executable, "-I", "-c", "from policyd.cli import main; main()", *words],
        env=os.environ
        | {
            "SPLITMX_CONFIG": str(setup.folder / "splitmx.toml"),
            "MAIL_CONFIG": mail_config or str(setup.mail_config),
        },
        capture_output=True,
        text=True,
        preexec_fn=at_start,
    )


def test_a_shrunken_result_is_held_back_until_accepted(setup: Setup) -> None:
    """Losing 30 of 40 at once is no ordinary change; what is held names itself and the way out."""
    setup.build()
    shutil.rmtree(setup.folder / "state")  # the sync's own guards have nothing to compare with
    setup.people([f"u{n}@example.com" for n in range(10)] + [f"b{n}@bücher.example" for n in range(3)])
    before = setup.stamps()
    done = setup.build(check=False)
    assert done.returncode == 1
    assert "--accept" in done.stdout
    assert setup.stamps() == before
    setup.build("--accept")
    assert setup.look_up("lmdb:relay_recipients", "u39@example.com") == ""
    assert setup.look_up("lmdb:relay_recipients", "u9@example.com") == "LOCAL"


def test_the_syncs_guards_hold_back_too(setup: Setup) -> None:
    """Without a daemon `build` reads the directories itself, with the same guards."""
    setup.build()
    setup.people([f"u{n}@example.com" for n in range(10)])
    done = setup.build(check=False)
    assert done.returncode == 1
    assert "held back" in done.stderr
    assert setup.look_up("lmdb:relay_recipients", "u39@example.com") == "LOCAL"


def test_ordinary_changes_need_no_hand(setup: Setup) -> None:
    """A few leavers, a domain that closes, a domain that is removed from the configuration: written at once."""
    setup.build()
    setup.people([f"u{n}@example.com" for n in range(36)])
    (setup.folder / "there.txt").write_text("cloudy@example.com\n")
    setup.build()
    assert setup.look_up("lmdb:relay_recipients", "u39@example.com") == ""
    assert setup.look_up("lmdb:relay_recipients", "b1@bücher.example") == ""


def test_a_directory_that_is_down_changes_nothing(setup: Setup) -> None:
    """75, the fault by name, and the maps as they were."""
    setup.build()
    before = setup.stamps()
    (setup.folder / "here.db").rename(setup.folder / "gone.db")
    done = setup.build(check=False)
    assert done.returncode == 75
    assert "directory here" in done.stderr
    assert setup.stamps() == before


def test_a_directory_that_was_never_read_leaves_no_wrong_files(setup: Setup) -> None:
    """With live maps behind, its people just have no line; alone, nothing is written at all."""
    (setup.folder / "here.db").unlink()
    done = setup.build(check=False)
    assert done.returncode == 75
    assert setup.look_up("lmdb:relay_recipients", "cloudy@example.com") == ""
    setup.configure(live=False, unknown="reject")
    shutil.rmtree(setup.maps, ignore_errors=True)
    assert setup.build(check=False).returncode == 75
    assert not (setup.maps / "relay_recipients").exists()


def test_a_full_disk_leaves_the_old_files(setup: Setup) -> None:
    """Whatever cannot be written: 75, what happened, the old files, and no rest of the new ones."""
    setup.build()
    before = setup.stamps()
    setup.people([f"u{n}@example.com" for n in range(40)] + [f"new{n}@example.com" for n in range(3000)])
    setup.splitmx("build", "--output", str(setup.folder / "other"), "--type=lmdb")  # the index has room
    done = in_a_process(setup, "hash", at_start=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000)))
    assert done.returncode == 75, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "old files stay" in done.stderr
    assert setup.stamps() == before
    assert not [path for path in setup.maps.iterdir() if ".in" in path.name]


@pytest.mark.parametrize("people", [1, 200_000])
def test_a_text_that_fails_keeps_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, people: int) -> None:
    """The daemon tries again each minute while the disk is full: nothing may be left open, sorted here or elsewhere."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr("transport.maps.write.give_to_owner", _disk_full_at)
    for _ in range(3):
        text = Text(tmp_path / "transport")
        text.write("".join(f"u{number}@example.com\tOK\n" for number in range(people)))
        with pytest.raises(OSError, match="No space left"):
            text.finish()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def _disk_full_at(path: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@pytest.mark.parametrize("words", [("--type=bogus",), ("--type=hash", "--type=btree")])
def test_types_that_cannot_be_built_are_usage(setup: Setup, words: tuple[str, ...]) -> None:
    """An unknown type, and two that would write one file: 2, and nothing is written."""
    done = setup.build(*words, check=False)
    assert done.returncode == 2
    assert not setup.maps.exists()


def test_a_failing_postmap_leaves_the_old_files(setup: Setup) -> None:
    """A main.cf that Postfix refuses: the message is Postfix's own."""
    setup.build()
    before = setup.stamps()
    setup.people([f"u{n}@example.com" for n in range(41)])
    done = in_a_process(setup, "lmdb", mail_config="/nonexistent")
    assert done.returncode == 75
    assert "main.cf" in done.stderr
    assert setup.stamps() == before


@pytest.mark.parametrize("words", [("--type=lmdb",), ("--for=exim", "--type=cdb", "--behind-live")])
def test_two_builds_do_not_mix(setup: Setup, words: tuple[str, ...]) -> None:
    """While one writes, another one ends with 75."""
    setup.build(*words)
    with (setup.maps / ".splitmx-build.lock").open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        done = setup.build(*words, check=False)
    assert done.returncode == 75
    assert "another build" in done.stderr


@pytest.mark.parametrize(
    ("words", "index"),
    [(("--type=lmdb",), "transport.lmdb"), (("--for=exim", "--type=cdb", "--behind-live"), "exim_recipients.cdb")],
)
def test_a_build_that_was_cut_short_is_made_good(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], index: str
) -> None:
    """A build ends between an index and its text, and the change is taken back: the next build finds the old text as it
    should be, and replaces the index all the same."""
    setup.build(*words)
    people = [f"u{n}@example.com" for n in range(40)] + [f"b{n}@bücher.example" for n in range(3)]
    setup.people([*people, "new@example.com"])
    with monkeypatch.context() as patched:
        patched.setattr(Text, "install", _disk_full)
        assert setup.build(*words, check=False).returncode == 75
    assert b"new@example.com" in (setup.maps / index).read_bytes()
    setup.people(people)
    setup.build(*words)
    assert b"new@example.com" not in (setup.maps / index).read_bytes()
    before = setup.stamps()
    setup.build(*words)
    assert setup.stamps() == before


def _disk_full(text: Text) -> None:
    _disk_full_at(text.path)


def test_files_of_somebody_else_are_never_overwritten(setup: Setup) -> None:
    """A folder with a `transport` of the site's own is left as it is; what a build of ours wrote is replaced."""
    setup.maps.mkdir()
    own = setup.maps / "transport"
    own.write_text("away.test smtp:[192.0.2.1]\n")

    done = setup.build(check=False)

    assert (done.returncode, f"{own} was not written by splitmx" in done.stderr) == (2, True)
    assert [path.name for path in setup.maps.iterdir()] == ["transport"]
    assert own.read_text() == "away.test smtp:[192.0.2.1]\n"
    own.unlink()
    setup.build()
    (setup.maps / ".splitmx-build.json").unlink()
    setup.people(["new@example.com"])
    setup.build("--accept")
    assert "new@example.com" in own.read_text()


@pytest.mark.parametrize(
    ("words", "index"),
    [(("--type=lmdb",), "transport.lmdb"), (("--for=exim", "--type=cdb", "--behind-live"), "exim_recipients.cdb")],
)
def test_an_index_that_somebody_damaged_is_made_anew(setup: Setup, words: tuple[str, ...], index: str) -> None:
    """An index that was cut, overwritten or exchanged since the build is no index of its text, however new it is."""
    setup.build(*words)
    path = setup.maps / index
    good = path.read_bytes()
    for damaged in (good[: len(good) // 2], b"\0" * len(good), b"x" + good[1:]):
        aside = path.with_name("aside")
        aside.write_bytes(damaged)
        aside.replace(path)
        assert setup.build("--check", *words, check=False).returncode == 1
        setup.build(*words)
        assert path.read_bytes() != damaged
        assert b"u1@example.com" in path.read_bytes()
        assert setup.build("--check", *words, check=False).returncode == 0
