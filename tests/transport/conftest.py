# SPDX-License-Identifier: Apache-2.0
"""People for the decision's tests."""

from __future__ import annotations

import pytest

from tests.transport.world import World


@pytest.fixture
def world() -> World:
    """ann here, bob at the other side, zed nowhere."""
    made = World()
    made.add("ann@example.com")
    made.add("bob@example.com", "there")
    return made
