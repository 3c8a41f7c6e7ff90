# SPDX-License-Identifier: Apache-2.0
"""The named schemas that a directory may take instead of its own query or attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SQL = ("postfixadmin",)
LDAP = ("openldap", "active-directory")


def preset(name: str) -> Mapping[str, Any]:
    """The LDAP keys that a preset sets, {} for an unknown or empty name."""
    return {}
