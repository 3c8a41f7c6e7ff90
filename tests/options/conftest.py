# SPDX-License-Identifier: Apache-2.0
"""These tests need a Postfix and root; only those of the documents do not."""

from __future__ import annotations

import pytest

from tests.mta import postfix


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/options/" in str(item.path) and item.path.name != "test_documents.py":
            item.add_marker(pytest.mark.e2e)
            if not postfix.available():
                item.add_marker(pytest.mark.skip(reason="Postfix and root are needed"))
