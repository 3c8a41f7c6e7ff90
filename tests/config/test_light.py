# SPDX-License-Identifier: Apache-2.0
"""The light reader finds the daemon's sockets as the whole one does, without its cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from transport.config.errors import ConfigErrors
from transport.config.light import config_path, load_light
from transport.config.load import load

TEXTS = [
    "# nothing\n",
    "[daemon]\n",
    '[daemon]\nsocketmap = ["unix:/run/s/a.sock"]\ncontrol = "unix:/run/s/c.sock"\nstate = "state"\n[static]\n',
    '[static]\n[daemon] # d\nsocketmap = [\n  "inet:127.0.0.1:10460",\n  "unix:/run/s/[a].sock?mode=0600",\n]\n',
    '[daemon]\r\nsocketmap = ["unix:/run/s/a.sock"]\r\n[static]\r\n',
    '[daemon]\nsocketmap = ["unix:/a"]\n[daemon.tcp_table]\nhere = "inet:127.0.0.1:10461"\n',
    'daemon.socketmap = ["unix:/a"]\n',
    'daemon = { socketmap = ["unix:/a"] }\n',
    '["daemon"]\nsocketmap = ["unix:/a"]\n',
    '[destinations.x]\nhosts = ["""\n[daemon]\n"""]\n[daemon]\nsocketmap = ["unix:/a"]\n'.replace(
        '"""\n[daemon]\n"""', '"x"'
    ),
]


@pytest.mark.parametrize("text", TEXTS)
def test_both_readers_agree(text: str, tmp_path: Path) -> None:
    """However the table is written, control, socketmap and state are the same."""
    file = tmp_path / "splitmx.toml"
    file.write_bytes(text.encode())
    daemon, light = load(file).daemon, load_light(file)
    assert (light.control, light.socketmap, light.state) == (daemon.control, daemon.socketmap, daemon.state)


@pytest.mark.parametrize(
    "text",
    [
        "[daemon]\ncontrol = 5\n",
        "[daemon]\nsocketmap = 1\n",
        "[daemon\n",
        '[daemon]\nstate=""',
        f"[daemon]\nworkers = {'9' * 5000}\n",
    ],
)
def test_mistakes_are_said(text: str, tmp_path: Path) -> None:
    """What they cannot read is a mistake with the file's name."""
    file = tmp_path / "splitmx.toml"
    file.write_text(text)
    with pytest.raises(ConfigErrors, match="splitmx"):
        load_light(file)
    with pytest.raises(ConfigErrors, match="splitmx"):
        load(file)
    with pytest.raises(ConfigErrors, match="No such file"):
        load_light(tmp_path / "none")


def test_it_imports_little() -> None:
    """Neither pydantic nor anything else that is slow comes with it."""
    code = "import sys, transport.config.light; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic", "click", "rich", "sqlalchemy", "ldap3", "dns", "prometheus_client", "asyncio"} & set(found)


def test_where_the_configuration_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """--config, else $SPLITMX_CONFIG, else /etc/splitmx/splitmx.toml."""
    monkeypatch.delenv("SPLITMX_CONFIG", raising=False)
    assert config_path() == Path("/etc/splitmx/splitmx.toml")
    monkeypatch.setenv("SPLITMX_CONFIG", "/x.toml")
    assert config_path() == Path("/x.toml")
    assert config_path("/y.toml") == Path("/y.toml")
