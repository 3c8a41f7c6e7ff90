# SPDX-License-Identifier: Apache-2.0
"""Keys of Exim's files: its look-up takes `*@DOMAIN` for everybody in the domain."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from policyd.cli import main

CONFIGURATION = """
[daemon]
exim = ["unix:{folder}/exim.sock"]
control = "unix:{folder}/control.sock"
state = "{folder}/state"
[directories.here]
type = "file"
format = "list"
path = "{folder}/here.txt"
[directories.there]
type = "file"
format = "list"
path = "{folder}/there.txt"
[destinations.cloud]
hosts = ["192.0.2.1"]
envelope = "tenant.example"
[domains."example.com"]
local = ["here"]
remote = ["there"]
destination = "cloud"
unknown = "reject"
local_transport = "lmtp:[127.0.0.1]:24"
[domains."alias.example"]
alias_of = "example.com"
"""


def test_a_star_in_a_directory_is_not_everybody(tmp_path: Path) -> None:
    """`*@example.com` is an address like others; as a key it would accept strangers, and keep bob+x@ here."""
    (tmp_path / "here.txt").write_text("ann@example.com\n*@example.com\n")
    (tmp_path / "there.txt").write_text("bob@example.com\n")
    config = tmp_path / "splitmx.toml"
    config.write_text(CONFIGURATION.format(folder=tmp_path))
    maps = tmp_path / "maps"
    done = CliRunner().invoke(main, ["-c", str(config), "build", "--for", "exim", "--output", str(maps)])
    assert done.exit_code == 1, done.output
    assert "left out: 2 (*@alias.example): " in done.stdout
    keys = {line.partition(":")[0] for line in (maps / "exim_recipients").read_text().splitlines() if line[0] != "#"}
    assert {key for key in keys if key.startswith("*")} == {"*@tenant.example"}
    assert {"ann@example.com", "ann@alias.example", "bob@example.com"} <= keys
    assert b"*@example.com" not in (maps / "exim_recipients.cdb").read_bytes()


def test_a_postmaster_whom_nobody_lists_is_probed(tmp_path: Path) -> None:
    """postmaster@ that goes to an unlisted address is accepted when the destination knows that one, as live."""
    (tmp_path / "here.txt").write_text("ann@example.com\n")
    (tmp_path / "there.txt").write_text("bob@example.com\n")
    config = tmp_path / "splitmx.toml"
    text = CONFIGURATION.format(folder=tmp_path).replace('"reject"', '"verify"\npostmaster = "zed@example.com"')
    config.write_text(text)
    done = CliRunner().invoke(main, ["-c", str(config), "build", "--for", "exim", "--output", str(tmp_path / "maps")])
    assert done.exit_code in (0, 1), done.output
    lines = (tmp_path / "maps" / "exim_recipients").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("postmaster@example.com: "))
    assert line.endswith(" targets=zed@example.com verify=yes")
