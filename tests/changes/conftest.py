# SPDX-License-Identifier: Apache-2.0
"""A daemon over one real directory of any kind, in the domain example.org."""

from __future__ import annotations

import pytest

from tests.daemon.conftest import sites
from tests.mta import postfix

__all__ = ["sites"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "changes" and item.path.name == "test_moving.py" and not postfix.available():
            item.add_marker(pytest.mark.skip(reason="Postfix and root are needed"))
