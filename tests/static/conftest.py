# SPDX-License-Identifier: Apache-2.0
"""Postfix's tools with a configuration of their own, and a `splitmx` to run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mta.places import new_folder

Run = Callable[..., subprocess.CompletedProcess[str]]


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
    """Run `splitmx` with the configuration in `folder`."""

    def run(*words: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-I", "-c", "from policyd.cli import main; main()", *words],
            env=os.environ | {"SPLITMX_CONFIG": str(folder / "splitmx.toml"), "MAIL_CONFIG": str(mail_config)},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert "Traceback" not in done.stderr
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    return run
