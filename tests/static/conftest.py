# SPDX-License-Identifier: Apache-2.0
"""Postfix's tools with a configuration of their own, and a `splitmx` to run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from policyd.cli import main
from tests.mta.places import new_folder
from tests.static.setup import Run, Setup


@pytest.fixture(scope="session")
def mail_config() -> Path:
    """A folder with a main.cf of nothing but defaults, for postmap and postconf."""
    if shutil.which("postmap") is None:
        pytest.skip("Postfix is not installed")
    path = new_folder("mc")
    (path / "main.cf").write_text("compatibility_level = 3.6\n")
    return path


@pytest.fixture
def splitmx(folder: Path, mail_config: Path) -> Run:
    """Run `splitmx` with the configuration in `folder`; in this process, since imports cost more than most builds."""

    def run(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {"SPLITMX_CONFIG": str(folder / "splitmx.toml"), "MAIL_CONFIG": str(mail_config)}
        result = CliRunner().invoke(main, list(words), prog_name="splitmx", env=environment)
        done = subprocess.CompletedProcess(list(words), result.exit_code, result.stdout, result.stderr)
        assert "Traceback" not in done.stderr
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    return run


@pytest.fixture
def setup(folder: Path, splitmx: Run, mail_config: Path) -> Setup:
    """A set-up of 40 people in one domain and a few in another."""
    found = Setup(folder, splitmx)
    found.mail_config = mail_config
    return found
