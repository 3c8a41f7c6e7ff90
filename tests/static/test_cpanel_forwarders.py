# SPDX-License-Identifier: Apache-2.0
"""Forwarders for a cPanel host: no address in a directory becomes a command, a file or everybody in the domain."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from policyd.cli import main
from tests.static.test_exim_keys import CONFIGURATION

ODD = ("*", "|id", "/tmp/x", "#note", '":fail: no"', '"|id x"', "%note", "!x")


def test_odd_addresses_get_no_forwarder(tmp_path: Path) -> None:
    """In valiases `*@DOMAIN` is the default address, and `|`, `/`, `:`, `#` begin what is no address: left out."""
    (tmp_path / "here.txt").write_text("ann@example.com\n")
    (tmp_path / "there.csv").write_text(
        "address\nbob@example.com\no'hara@example.com\nx#y@example.com\n"
        + "".join('"' + f"{name}@example.com".replace('"', '""') + '"\n' for name in ODD)
    )
    config = tmp_path / "splitmx.toml"
    text = CONFIGURATION.format(folder=tmp_path)
    config.write_text(
        text.replace(
            '"list"\npath = "' + str(tmp_path) + '/there.txt"', f'"csv"\nmax_age = "9d"\npath = "{tmp_path}/there.csv"'
        )
    )
    out = tmp_path / "out"
    words = ["-c", str(config), "build", "--for", "cpanel-forwarders", "--output", str(out)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1, done.output
    rows = (out / "forwarders.csv").read_text().splitlines()
    assert rows == [
        "!x@example.com,!x@tenant.example",
        "%note@example.com,%note@tenant.example",
        "bob@example.com,bob@tenant.example",
        "o'hara@example.com,o'hara@tenant.example",
        "x#y@example.com,x#y@tenant.example",
    ]
    script = (out / "forwarders.sh").read_text()
    assert script.count("add_forwarder") == len(rows)
    assert "left out: 6 " in done.stdout
