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


def _line_of(tmp_path: Path, address: str, people: str, domain: str) -> str:
    """The line of an address in the files, without its key. people: a csv. domain: more keys of example.com."""
    (tmp_path / "here.csv").write_text(f"address,targets,location,active\n{people}")
    (tmp_path / "there.txt").write_text("bob@example.com\n")
    text = CONFIGURATION.format(folder=tmp_path).replace(
        f'format = "list"\npath = "{tmp_path}/here.txt"',
        f'format = "csv"\npath = "{tmp_path}/here.csv"\nmax_age = "1000d"',
    )
    text = text.replace('unknown = "reject"', f'unknown = "reject"\n{domain}')
    config = tmp_path / "splitmx.toml"
    config.write_text(text + '[destinations.strip]\nhosts = ["mx.strip.example"]\nplus = "strip"\n')
    done = CliRunner().invoke(main, ["-c", str(config), "build", "--for", "exim", "--output", str(tmp_path / "maps")])
    assert done.exit_code in (0, 1), done.output
    lines = (tmp_path / "maps" / "exim_recipients").read_text().splitlines()
    (found,) = (line.partition(": ")[2] for line in lines if line.startswith(f"{address}: "))
    return found


def test_a_suspended_person_at_a_destination_without_extensions(tmp_path: Path) -> None:
    """Somebody who is suspended and whose place is a destination with plus = "strip" keeps no file from being built."""
    line = _line_of(tmp_path, "off@example.com", "off@example.com,,moved,0\n", 'locations = { moved = "strip" }')
    assert line.startswith("decision=suspended code=550 ")


def test_who_forwards_and_keeps_at_the_destination(tmp_path: Path) -> None:
    """delivery = "all": the file fixes no recipient of the kept mail, whose extension goes along as it does live."""
    line = _line_of(tmp_path, "eve@example.com", "eve@example.com,eve@example.com friend@foreign.example,,1\n",
                    'delivery = "all"')  # fmt: skip
    assert " self=relay " in line
    assert " address" not in line
    assert " envelope=tenant.example " in line
