# SPDX-License-Identifier: Apache-2.0
"""The seed corpus: one file a message, shared with the fuzzers."""

from __future__ import annotations

from pathlib import Path

import pytest

CORPUS = Path(__file__).parent / "corpus"


@pytest.fixture
def corpus(request: pytest.FixtureRequest) -> list[bytes]:
    """All seed messages of the protocol that the test's module is called after."""
    name = Path(str(request.path)).stem.removeprefix("test_")
    found = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    assert found
    return found
