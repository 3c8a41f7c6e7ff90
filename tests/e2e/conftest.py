# SPDX-License-Identifier: Apache-2.0
"""End-to-end tests need a Postfix and root."""

from __future__ import annotations

import pytest

from tests.mta import postfix


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/e2e/" in str(item.path):
            item.add_marker(pytest.mark.e2e)
            if not postfix.available():
                item.add_marker(pytest.mark.skip(reason="Postfix and root are needed"))
