# SPDX-License-Identifier: Apache-2.0
"""Commands that write the configuration, and those that are ended in the midst of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from policyd.cli.common import Stop
from policyd.cli.configfile import install
from policyd.cli.retire import _disabled
from tests.cli.conftest import CONFIGURATION

TABLE = "{head}\nlocal = [\n  # [no]\n  'here'\n]\n{more}\n[waves.w]\nat = 1\n"


@pytest.mark.parametrize(
    ("head", "more"),
    [
        ('[domains."bücher.example"]', ""),
        ('[domains."xn--bcher-kva.example"]  # here', 'enabled = "observe"  # and there'),
        ('["domains"."B\\u00FCcher.example"]', ""),
        ("[ domains . 'BÜCHER.example' ]", "  enabled   =   true"),
        ('[domains."bücher.example"]', '"enabled" = true'),
        ('[domains."bücher.example"]', "locations = { enabled = 'cloud' }"),
        ('[domains."bücher.example"]', "[domains.'bücher.example'.locations]\nenabled = 'cloud'"),
        ('x = """\n[domains."other.example"]\n"""\n[domains."bücher.example"]', ""),
    ],
)
def test_a_domain_is_disabled_however_it_is_written(head: str, more: str) -> None:
    """U-label or A-label, any quotes, and nothing else is touched."""
    text = TABLE.format(head=head, more=more)
    before, after = tomllib.loads(text), tomllib.loads(_disabled(text, "xn--bcher-kva.example"))
    ((name, table),) = before["domains"].items()
    assert after["domains"][name].pop("enabled") is False
    table.pop("enabled", None)
    assert after == before


@pytest.mark.parametrize(
    "text",
    [
        'domains = { "xn--bcher-kva.example" = { enabled = true } }\n',
        'x = """\n[domains."bücher.example"]\n"""\n[domains]\n"bücher.example" = { enabled = true }\n',
    ],
)
def test_what_cannot_be_disabled_is_left_to_the_administrator(text: str) -> None:
    """Never "retired" without being so."""
    with pytest.raises(Stop) as caught:
        _disabled(text, "xn--bcher-kva.example")
    assert "by hand" in caught.value.hint


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    """A configuration that is kept elsewhere is replaced there."""
    real = tmp_path / "kept" / "splitmx.toml"
    real.parent.mkdir()
    text = CONFIGURATION.format(folder=tmp_path)
    real.write_text(text)
    link = tmp_path / "splitmx.toml"
    link.symlink_to(real)
    install(link, f"{text}# again\n")
    assert link.is_symlink()
    assert real.read_text().endswith("# again\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_no_temporary_index_is_left_behind(tmp_path: Path, number: signal.Signals) -> None:
    """It holds every recipient, and may be large: whatever ends the command, it goes."""
    (tmp_path / "state").write_text("not a folder")
    config = tmp_path / "splitmx.toml"
    config.write_text(CONFIGURATION.format(folder=tmp_path))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    code = (
        "import time, policyd.cli.index as index\n"
        "index._sync = lambda *words, **more: (print('ready', flush=True), time.sleep(60))\n"
        "from policyd.cli import main; main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "--config", str(config), "build", "--output", str(tmp_path / "maps")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(temporary)},
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # ignored where tests run under nohup
    ) as build:  # fmt: skip
        assert build.stdout is not None
        assert build.stdout.readline() == "ready\n"
        assert list(temporary.iterdir())
        build.send_signal(number)
        assert build.wait(20) == 128 + number
    assert not list(temporary.iterdir())
