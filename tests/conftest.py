# SPDX-License-Identifier: Apache-2.0
"""What all tests share: the import path, private folders, and a summary that names every skipped test."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.mta.places import new_folder

# The directory servers, for every test that names one.
pytest_plugins = ["tests.servers.fixtures"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A private folder with a short name that every user may enter."""
    path = new_folder("t")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def cleaned() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Register what is to be stopped at the end, also after a failure; the last registered first."""
    todo: list[Callable[[], object]] = []
    yield todo.append
    for action in reversed(todo):
        action()


@pytest.fixture(scope="module")
def kept() -> Iterator[Callable[[Callable[[], object]], None]]:
    """As `cleaned`, for what all tests of a module share."""
    todo: list[Callable[[], object]] = []
    yield todo.append
    for action in reversed(todo):
        action()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what did not run: a skip nobody sees is a test nobody has."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section("skipped tests")
        for report in skipped:
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            terminalreporter.line(f"{report.nodeid}: {why.removeprefix('Skipped: ')}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With CI=true a skipped test is a failed run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and exitstatus == 0 and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
