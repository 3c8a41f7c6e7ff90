# SPDX-License-Identifier: Apache-2.0
"""Options of the contract that are not built: refused with the reason, never accepted and ignored."""

from __future__ import annotations

from collections.abc import Mapping

NOT_YET: Mapping[tuple[str, str, object], str] = {}
"""(top table, key, value or None for any) -> what works instead."""
