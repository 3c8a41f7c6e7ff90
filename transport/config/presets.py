# SPDX-License-Identifier: Apache-2.0
"""The named schemas that a directory may take instead of its own query or attributes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

SQL = ("postfixadmin",)
LDAP = ("openldap", "active-directory")

_LDAP: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # RFC 2798 people and RFC 4519 groups; mailAlternateAddress is qmail.schema's
        "openldap": {
            "filter": "(|(mail=*)(mailAlternateAddress=*))",
            "address_attributes": ("mail", "mailAlternateAddress"),
            "kind_attribute": "objectClass",
            "member_attribute": "member",
        },
        # [MS-ADA2] and Exchange's schema. targetAddress: of a contact its target, of all others (remote mailboxes)
        # where the mailbox is. A disabled account is not suspended: shared mailboxes are disabled accounts.
        "active-directory": {
            "filter": "(|(mail=*)(proxyAddresses=*))",
            "address_attributes": ("mail", "proxyAddresses"),
            "kind_attribute": "objectClass",
            "target_attributes": ("targetAddress",),
            "member_attribute": "member",
            "location_attribute": "targetAddress",
        },
    }
)


def preset(name: str) -> Mapping[str, Any]:
    """The LDAP keys that a preset sets, {} for an unknown or empty name."""
    return _LDAP.get(name, {})
