# SPDX-License-Identifier: Apache-2.0
"""Local parts that mean something in the data of Exim's redirect router: `#`, a comma, quotes; from files alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from policyd.cli import main
from tests.exim.site import exim_conf
from tests.mta.exim import EximInstance
from tests.mta.places import new_folder
from tests.mta.recording import RecordingLmtp, RecordingSmtp
from tests.mta.sending import send
from transport.config.load import load

pytestmark = pytest.mark.e2e

CONFIGURATION = """
[daemon]
control = "unix:{folder}/control.sock"
state = "{folder}/state"
[directories.here]
type = "file"
format = "csv"
path = "{folder}/here.csv"
max_age = "1000d"
[directories.there]
type = "file"
format = "csv"
path = "{folder}/there.csv"
max_age = "1000d"
[destinations.tenant]
hosts = ["{cloud}"]
envelope = "tenant.example"
[domains."example.com"]
local = ["here"]
remote = ["there"]
destination = "tenant"
unknown = "reject"
"""
PEOPLE = r"""address,kind,targets
ann@example.com,mailbox,
eve@example.com,mailbox,
boss@example.com,alias,ann@example.com
"#top@example.com",mailbox,
josé@example.com,mailbox,
Straße@example.com,mailbox,
Γιώργος@example.com,mailbox,
İpek@example.com,mailbox,
sıla@example.com,mailbox,
jessica@example.com,mailbox,
"""  # fmt: skip
PEOPLE += '''"""ödön b""@example.com",mailbox,
fwd@example.com,mailbox,"fwd+kept@example.com, friend@elsewhere.test"
team@example.com,group,"#top@example.com, ann@example.com, eve@example.com"
odd@example.com,group,"""o, dd""@elsewhere.test, ann@example.com, ""q\\"" x""@elsewhere.test"
'''
THERE = ("bob", "#num", "x#y", "|pipe", "/file", '"a..b"')


class Alone:
    """An Exim that knows files only, its store, the other side, and the world outside."""

    def __init__(self) -> None:
        self.folder = new_folder("oddparts")
        self.store, self.cloud, self.outside = RecordingLmtp(), RecordingSmtp(), RecordingSmtp()
        (self.folder / "here.csv").write_text(PEOPLE)
        lines = ["address", *(f"{n}@example.com".replace('"', '""').join('""') for n in THERE), ""]
        (self.folder / "there.csv").write_text("\n".join(lines))
        config = self.folder / "splitmx.toml"
        config.write_text(CONFIGURATION.format(folder=self.folder, cloud=self.cloud.host))
        maps = self.folder / "maps"
        words = ["-c", str(config), "build", "--for", "exim", "--alone", "--output", str(maps)]
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
        conf = exim_conf(load(config), store=self.store, outside=self.outside, deploy="static", maps=maps)
        self.exim = EximInstance(conf, name="oddparts")

    def ends(self, recipient: str) -> dict[str, list[str]]:
        """Where a message to one recipient arrives, when all of it has."""
        sent = send(self.exim.ip, "o@outside.test", recipient, client="127.9.9.9")
        assert sent.codes == {recipient: 250}
        self.exim.wait_empty()
        places = {"here": self.store, "there": self.cloud, "outside": self.outside}
        return {name: sorted(place.recipients(sent.subject)) for name, place in places.items()}


@pytest.fixture(scope="module")
def alone() -> Iterator[Alone]:
    made = Alone()
    try:
        made.exim.start()
        yield made
    finally:
        made.exim.stop()
        for server in (made.store, made.cloud, made.outside):
            server.stop()
        shutil.rmtree(made.folder, ignore_errors=True)


def test_an_extension_names_nobody_else(alone: Alone) -> None:
    """A sender's extension with commas and addresses in it stays an extension: no stranger sends mail through us."""
    ends = alone.ends('"boss+,victim@elsewhere.test,z"@example.com')
    assert ends == {"here": ['"ann+,victim@elsewhere.test,z"@example.com'], "there": [], "outside": []}


def test_an_extension_of_quoted_targets(alone: Alone) -> None:
    """The extension goes inside the quotes of a target, and a comma there separates nothing."""
    ends = alone.ends("odd+tag@example.com")
    assert ends["here"] == ["ann+tag@example.com"]
    assert ends["outside"] == ['"o, dd+tag"@elsewhere.test', '"q\\" x+tag"@elsewhere.test']


def test_a_number_sign_hides_no_members(alone: Alone) -> None:
    """`#` would begin a comment that takes the rest of the list with it."""
    assert sorted(name.replace('"', "") for name in alone.ends("team@example.com")["here"]) == [
        "#top@example.com", "ann@example.com", "eve@example.com"
    ]  # fmt: skip


def test_a_number_sign_in_a_group_with_an_extension(alone: Alone) -> None:
    assert sorted(name.replace('"', "") for name in alone.ends("team+x@example.com")["here"]) == [
        "#top+x@example.com", "ann+x@example.com", "eve+x@example.com"
    ]  # fmt: skip


@pytest.mark.parametrize("name", [*THERE, "bob+x", "#num+x"])
def test_odd_signs_go_to_the_tenant(alone: Alone, name: str) -> None:
    """With `envelope` the recipient on the wire is in the tenant's domain, whatever its first sign means to Exim."""
    assert alone.ends(f"{name}@example.com") == {"here": [], "there": [f"{name}@tenant.example"], "outside": []}


def test_exim_folds_ascii_only(alone: Alone) -> None:
    """A listed address is found in other cases and spellings too, as the daemon finds it: not refused."""
    names = ["josé", "JOSÉ", "José", "jose\u0301", "Straße", "STRASSE", "jessica", '"Ödön B"', '"ÖDÖN B"']
    names += ["Γιώργος", "γιώργος", "ΓΙΏΡΓΟΣ", "γιώργοσ", "İpek", "sıla", "Sıla"]
    told = alone.exim.route(*(f"{name}@example.com" for name in names), "josè@example.com")
    assert told.count("router = site_local") == len(names), told
    assert "josè@example.com is undeliverable" in told


def test_a_letter_without_a_dot_is_another_letter(alone: Alone) -> None:
    """Whoever is called sila is not found because sıla is listed, whose capital is an I too."""
    assert "undeliverable" in alone.exim.route("sila@example.com")


def test_who_forwards_to_an_own_extension_keeps(alone: Alone) -> None:
    """fwd -> fwd+kept, friend: each gets it once, and no address grows."""
    assert alone.ends("fwd@example.com") == {
        "here": ["fwd@example.com"], "there": [], "outside": ["friend@elsewhere.test"]
    }  # fmt: skip
