# SPDX-License-Identifier: Apache-2.0
"""The files in contrib/postfix are what `postfix show` prints today; other tests here move mail through its lines."""

from __future__ import annotations

import pytest

from tests.e2e.fragments import FOLDER, FRAGMENTS, text
from tests.e2e.site import Cleaned


@pytest.mark.parametrize("name", FRAGMENTS)
def test_fragment_is_current(cleaned: Cleaned, name: str) -> None:
    """What we ship is what the program says; `python -m tests.e2e.fragments` writes it anew."""
    assert (FOLDER / f"{name}.sh").read_text() == text(name, cleaned)


def test_each_fragment_has_its_page() -> None:
    """No fragment without an explanation."""
    page = (FOLDER / "README.md").read_text()

    assert [name for name in FRAGMENTS if f"{name}.sh" not in page] == []
