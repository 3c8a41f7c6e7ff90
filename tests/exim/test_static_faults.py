# SPDX-License-Identifier: Apache-2.0
"""Files alone, and something happened to them: who is not found in what is left is put off, never refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from policyd.cli import main
from tests.exim.site import exim_conf
from tests.mta.exim import EximInstance
from tests.mta.places import new_folder
from tests.mta.recording import RecordingLmtp, RecordingSmtp
from transport.config.load import load

pytestmark = pytest.mark.e2e

Cleaned = Callable[[Callable[[], object]], None]

CONFIGURATION = """
[daemon]
control = "unix:{folder}/control.sock"
state = "{folder}/state"
[directories.here]
type = "file"
format = "csv"
path = "{folder}/here"
max_age = "1000d"
[directories.there]
type = "file"
format = "list"
path = "{folder}/there"
[destinations.s]
hosts = ["192.0.2.1"]
[domains."example.com"]
local = ["here"]
remote = ["there"]
destination = "s"
unknown = "reject"
"""
MORE = CONFIGURATION[CONFIGURATION.index("[domains") :].replace("example.com", "later.example")


class Files:
    """A configuration, its files and Exims that read them."""

    def __init__(self) -> None:
        self.folder = new_folder("staticfaults")
        self.maps = self.folder / "maps"
        self.store, self.outside = RecordingLmtp(), RecordingSmtp()
        people = "".join(f"{n}@example.com,\n" for n in ("ann", "josé", "zoe"))
        (self.folder / "here").write_text(f"address,location\n{people}odd@example.com,a-word-nobody-knows\n")
        (self.folder / "there").write_text("bob@example.com\nlars@example.com\n")
        self.config = self.folder / "splitmx.toml"
        self.configure("")
        words = ["-c", str(self.config), "build", "--for", "exim", "--alone", "--output", str(self.maps)]
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 1, done.output  # odd@ is a finding

    def configure(self, more: str) -> None:
        """The configuration, with more behind it."""
        self.config.write_text(CONFIGURATION.format(folder=self.folder) + more)

    def exim(self, kind: str, maps: Path) -> EximInstance:
        """An Exim that reads files of a kind in a folder."""
        conf = exim_conf(
            load(self.config), store=self.store, outside=self.outside, deploy="static", maps=maps, map_type=kind,
            extra="qualify_domain = example.com",
        )  # fmt: skip
        return EximInstance(conf, name="staticfaults")


@pytest.fixture(scope="module")
def files() -> Iterator[Files]:
    made = Files()
    yield made
    made.store.stop()
    made.outside.stop()
    shutil.rmtree(made.folder, ignore_errors=True)


def told(exim: EximInstance, *recipients: str) -> list[str]:
    """The first digit of what each recipient is told at RCPT; then of how each is routed (d: put off)."""
    lines = "".join(f"RCPT TO:<{name}>\r\n" for name in recipients)
    said = exim.command("-bs", stdin=f"EHLO x\r\nMAIL FROM:<o@outside.test>\r\n{lines}QUIT\r\n").stdout
    found = [code[0] for code in re.findall(r"(?m)^(\d{3}) ", said)][3:-1]
    for name in recipients:
        text = exim.route(name)
        found.append("5" if "undeliverable" in text else "d" if "cannot be resolved" in text else "2")
    return found


@pytest.mark.parametrize("kind", ["cdb", "lsearch"])
def test_whole_files(files: Files, cleaned: Cleaned, kind: str) -> None:
    """With nothing wrong, listed people are taken and strangers refused."""
    exim = files.exim(kind, files.maps)
    cleaned(exim.stop)
    assert told(exim, "ann@example.com", "lars+x@example.com", "zed@example.com") == ["2", "2", "5"] * 2


def test_who_cannot_be_decided(files: Files, cleaned: Cleaned) -> None:
    """Somebody listed with a location that nobody knows is put off by files too, extension or not."""
    exim = files.exim("cdb", files.maps)
    cleaned(exim.stop)
    assert told(exim, "odd@example.com", "odd+x@example.com") == ["4", "4", "d", "d"]


@pytest.mark.parametrize("kind", ["cdb", "lsearch"])
@pytest.mark.parametrize("fault", ["cut", "nearly", "empty", "zeros", "gone"])
def test_damaged_files(files: Files, cleaned: Cleaned, kind: str, fault: str) -> None:
    """A file that is half there, full of zeros, empty or gone refuses nobody."""
    maps = files.folder / f"{kind}-{fault}"
    shutil.copytree(files.maps, maps)
    cleaned(lambda: shutil.rmtree(maps, ignore_errors=True))
    path = maps / ("exim_recipients.cdb" if kind == "cdb" else "exim_recipients")
    whole = path.read_bytes()
    left = {"cut": whole[: len(whole) // 2], "nearly": whole[:-10], "empty": b"", "zeros": bytes(len(whole))}
    path.write_bytes(left.get(fault, b""))
    if fault == "gone":
        path.unlink()
    exim = files.exim(kind, maps)
    cleaned(exim.stop)
    codes = told(exim, "zoe@example.com", "lars+x@example.com", "josé@example.com", "zed@example.com")
    stranger = codes.pop(3) + codes.pop(6)
    assert "5" not in codes
    # what is left of a cdb proves for some keys that they never were in it
    assert stranger == ("55" if (kind, fault) == ("cdb", "nearly") else "4d")


def test_a_domain_that_was_not_built_yet(files: Files, cleaned: Cleaned) -> None:
    """Exim knows a new domain before the files do: its people are put off, and the log says what to do."""
    files.configure(MORE)
    cleaned(lambda: files.configure(""))
    exim = files.exim("cdb", files.maps)
    cleaned(exim.stop)
    assert told(exim, "ann@later.example", "ann@example.com", "zed@example.com") == ["4", "2", "5", "d", "2", "5"]
    assert "has nothing of later.example: splitmx build" in exim.log()


@pytest.mark.parametrize("kind", ["cdb", "lsearch"])
@pytest.mark.parametrize("enabled", ["false", '"observe"'])
def test_a_domain_that_was_switched_off(files: Files, cleaned: Cleaned, kind: str, enabled: str) -> None:
    """Files know that a domain was switched off before Exim does: its mail goes as without us, and waits for nobody."""
    files.configure(MORE)
    cleaned(lambda: files.configure(""))
    exim = files.exim(kind, maps := files.folder / f"off-{kind}")
    cleaned(exim.stop)
    cleaned(lambda: shutil.rmtree(maps))
    files.configure(MORE + f"enabled = {enabled}\n")
    words = ["-c", str(files.config), "build", "--for", "exim", "--alone", "--output", str(maps)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1, done.output  # odd@ is a finding
    assert told(exim, "ann@later.example", "zed+x@later.example", "ann@example.com") == ["2"] * 6
