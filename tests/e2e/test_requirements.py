# SPDX-License-Identifier: Apache-2.0
"""docs/requirements.md names only tests and pages that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "requirements.md").read_text()


def test_all_rows_are_there() -> None:
    """82 rows, in order, each with a word on how it is shown."""
    rows = re.findall(r"^\| (\d+) \| .+ \| .+ \|$", PAGE, re.MULTILINE)

    assert rows == [str(n) for n in range(1, 83)]


def test_every_named_test_exists() -> None:
    """Files, and the functions behind `::`, which may stand without the file of the name before."""
    missing, file = [], ""
    for name in re.findall(r"`((?:[\w/]+\.py)?(?:::\w+)?)`", PAGE):
        path, _, function = name.partition("::")
        file = path or file
        source = ROOT / "tests" / file
        if not source.is_file() or (function and f"def {function}(" not in source.read_text()):
            missing.append(f"{file}::{function}")

    assert missing == []


def test_every_linked_page_exists() -> None:
    """Links to other pages lead somewhere."""
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", PAGE)]

    assert [link for link in links if link and not (ROOT / "docs" / link).is_file()] == []
