# SPDX-License-Identifier: Apache-2.0
"""Named presets: how well-known databases and directories keep their recipients.

LDAP presets are plain keys and stand in `transport.config.presets`.
"""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from types import MappingProxyType

from transport.config.presets import preset
from transport.config.settings import LdapOptions, SqlOptions

# PostfixAdmin's tables `mailbox` and `alias`: a mailbox has an alias row too, that names itself or its forwards;
# `@domain` rows are catch-alls, which are not recipients. PostfixAdmin writes addresses in lower case.
# An inactive alias row of a mailbox forwards nothing, hence the join on active ones.
_POSTFIXADMIN = """\
SELECT m.username AS address, 'mailbox' AS kind, a.goto AS targets, m.active AS active
  FROM mailbox m LEFT JOIN alias a ON a.address = m.username AND a.active{is_true}{mailboxes}
UNION ALL
SELECT a.address AS address, 'alias' AS kind, a.goto AS targets, a.active AS active
  FROM alias a LEFT JOIN mailbox m ON m.username = a.address
 WHERE m.username IS NULL AND a.address NOT LIKE '@%'{aliases}"""

_SQL = MappingProxyType({"postfixadmin": _POSTFIXADMIN})


def sql_options(options: SqlOptions) -> SqlOptions:
    """The options with the preset's query and live look-up, where they name none of their own."""
    if not options.schema:
        return options
    text = _SQL[options.schema]
    is_true = "" if options.url.startswith(("mysql", "mariadb", "postgresql")) else " = 1"
    query = text.format(is_true=is_true, mailboxes="", aliases="")
    lookup = text.format(
        is_true=is_true,
        mailboxes="\n WHERE m.username IN :addresses",
        aliases=" AND a.address IN :addresses",
    )
    if options.query:
        return replace(options, schema="")
    return replace(options, query=query, lookup=options.lookup or lookup)


# RFC 4519 and 4524: second names of attributes. Servers answer by the first one, whichever was asked for.
_NAMES = MappingProxyType(
    {
        "rfc822mailbox": "mail",
        "userid": "uid",
        "localityname": "l",
        "organizationname": "o",
        "organizationalunitname": "ou",
        "stateorprovincename": "st",
        "countryname": "c",
        "commonname": "cn",
        "surname": "sn",
        "domaincomponent": "dc",
    }
)


def ldap_options(options: LdapOptions) -> LdapOptions:
    """The options with the preset's keys wherever they hold the default, and attributes by their first names."""
    defaults = {f.name: f.default for f in fields(LdapOptions) if f.default is not MISSING}
    wanted = {key: value for key, value in preset(options.schema).items() if getattr(options, key) == defaults[key]}
    made = replace(options, **wanted) if wanted else options
    return replace(
        made,
        address_attributes=tuple(map(_first_name, made.address_attributes)),
        target_attributes=tuple(map(_first_name, made.target_attributes)),
        member_attribute=_first_name(made.member_attribute),
        kind_attribute=_first_name(made.kind_attribute),
        location_attribute=_first_name(made.location_attribute),
    )


def _first_name(attribute: str) -> str:
    return _NAMES.get(attribute.lower(), attribute)
