# SPDX-License-Identifier: Apache-2.0
"""The real servers, for every test here."""

from __future__ import annotations

from tests.servers.fixtures import *  # noqa: F403  pytest finds fixtures by name in this module
