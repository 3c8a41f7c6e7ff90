# SPDX-License-Identifier: Apache-2.0
"""The `[directories.NAME]` tables, one model a type, and what all models share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from transport.config import values
from transport.config.errors import Wrong

Duration = Annotated[float, PlainValidator(values.duration)]
Text = Annotated[str, PlainValidator(values.text)]
Some = Annotated[str, PlainValidator(values.some)]
Share = Annotated[float, PlainValidator(values.share)]
Mailbox = Annotated[str, PlainValidator(values.mailbox)]
Attribute = Annotated[str, PlainValidator(values.attribute)]
MaybeAttribute = Annotated[str, PlainValidator(values.maybe(values.attribute))]


def not_empty(value: object) -> object:
    if isinstance(value, list) and not value:
        raise Wrong("at least one value, or leave the key out", "an empty list")
    return value


def _compare(value: object) -> float | None:
    if value == "auto":
        return None
    try:
        return values.between(0.1, 31_536_000, "a duration up to 365d")(value)
    except Wrong as wrong:
        raise Wrong(f'"auto" or {wrong.allowed}') from None


class Table(BaseModel):
    """A table of the file: unknown keys are mistakes, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class DirectoryTable(Table):
    """A source of recipients: who is there."""

    fresh_for: Annotated[float, PlainValidator(values.between(0, 3600, "a duration up to 1h"))] = Field(
        5.0,
        description='How long after a good reading its "no" is believed; then it is asked itself.',
        examples=["5s"],
    )
    sync_every: Annotated[float, PlainValidator(values.between(0.1, 604_800, "a duration from 100ms to 1w"))] = Field(
        15.0, description="How often it is asked what has changed.", examples=["15s"]
    )
    compare_every: Annotated[float | None, PlainValidator(_compare)] = Field(
        None,
        description='How often everything is read and compared. `"auto"`: the longer of `sync_every` and 20 × the '
        "duration of the last reading.",
        examples=["1h"],
    )
    deadline: Annotated[float, PlainValidator(values.between(0.01, 10, "a duration from 10ms to 10s"))] = Field(
        1.0,
        description='How long a live look-up may take before it is answered "try again later". No query is given '
        "more than 2 s.",
        examples=["1s"],
    )
    max_shrink: Share = Field(
        0.2,
        description="Deletions are held back for a domain that loses more than this part of its addresses, and more "
        "than `shrink_floor`, at once; suspensions, and aliases and groups that lose all targets, too.",
        examples=[0.2],
    )
    shrink_floor: Annotated[int, PlainValidator(values.whole(0, 10**9))] = Field(
        10, description="Up to so many deletions are never held back.", examples=[10]
    )
    max_moved: Share = Field(
        0.1,
        description="Changes of side beyond this part of a domain (and at least 10) are held back.",
        examples=[0.1],
    )
    may_be_empty: bool = Field(False, description="`true`: a reading without any address is believed.", examples=[True])
    canary: list[Mailbox] = Field(
        [],
        description="Addresses that surely are listed, besides those chosen by itself: a directory that does not "
        "find any of those asked is not believed.",
        examples=[["postmaster@example.com"]],
    )


class SqlTable(DirectoryTable):
    """A database: SQLite, PostgreSQL, MariaDB or MySQL."""

    type: Literal["sql"] = Field(description="`sql`", examples=["sql"])
    url: Annotated[str, PlainValidator(values.sql_url)] = Field(
        description="A SQLAlchemy URL. Keep the password out of it: `password_file`.",
        examples=["postgresql+psycopg://splitmx@db.example.com/mail"],
    )
    password_file: Text = Field(
        "",
        description="File that holds the password alone; 0640 or stricter.",
        examples=["/etc/splitmx/db.secret"],
    )
    query: Annotated[str, PlainValidator(values.maybe(values.sql_query))] = Field(
        "",
        description="Lists everyone. Columns: `address` (required), `kind` (mailbox, alias, group), `targets` (blanks "
        "or commas between), `location`, `active`. For a live look-up it is wrapped and narrowed. Either this or "
        "`schema`.",
        examples=["SELECT address, kind, targets, location, active FROM recipients"],
    )
    lookup: Annotated[str, PlainValidator(values.maybe(values.sql_lookup))] = Field(
        "",
        description="Another query, with `:addresses`, for live look-ups where wrapping the first one is slow.",
        examples=["SELECT address FROM recipients WHERE address IN :addresses"],
    )
    changed: Annotated[str, PlainValidator(values.maybe(values.column))] = Field(
        "", description="Column that grows with each change, for incremental reading.", examples=["modified"]
    )
    exact_case: bool = Field(
        False,
        description="`true`: the column already is in lower case, so that its index serves.",
        examples=[True],
    )
    schema_: Text = Field(
        "", alias="schema", description="A preset instead of a query: `postfixadmin`.", examples=["postfixadmin"]
    )


class LdapTable(DirectoryTable):
    """An LDAP server: OpenLDAP, Active Directory and others."""

    type: Literal["ldap"] = Field(description="`ldap`", examples=["ldap"])
    url: Annotated[list[str], PlainValidator(values.ldap_urls)] = Field(
        description="One URL or several, in the order they are tried.", examples=[["ldaps://ldap1.example.com"]]
    )
    starttls: bool = Field(False, description="StartTLS on `ldap://`.", examples=[True])
    ca_file: Text = Field(
        "",
        description="CA certificates (PEM) to verify the server with; empty: the system's.",
        examples=["/etc/ssl/certs/ca-certificates.crt"],
    )
    bind_dn: Annotated[str, PlainValidator(values.maybe(values.dn))] = Field(
        "", description="Who to bind as; empty: anonymous.", examples=["cn=splitmx,dc=example,dc=com"]
    )
    bind_password_file: Text = Field(
        "",
        description="File that holds the password alone; 0640 or stricter.",
        examples=["/etc/splitmx/ldap.secret"],
    )
    base: Annotated[str, PlainValidator(values.dn)] = Field(
        description="Where the search begins.", examples=["ou=people,dc=example,dc=com"]
    )
    filter: Annotated[str, PlainValidator(values.ldap_filter)] = Field(
        "(objectClass=*)",
        description="Who is listed; narrowed for a live look-up.",
        examples=["(objectClass=inetOrgPerson)"],
    )
    address_attributes: Annotated[list[Attribute], BeforeValidator(not_empty)] = Field(
        ["mail"],
        description="Attributes that hold addresses. `smtp:` before a value is taken off.",
        examples=[["mail", "mailAlternateAddress"]],
    )
    kind_attribute: MaybeAttribute = Field(
        "", description="Attribute that says mailbox, alias or group.", examples=["mailKind"]
    )
    target_attributes: list[Attribute] = Field(
        [],
        description="Attributes with the targets of an alias or a forward.",
        examples=[["mailForwardingAddress"]],
    )
    member_attribute: MaybeAttribute = Field(
        "", description="Attribute with a group's members: DNs or addresses.", examples=["member"]
    )
    location_attribute: MaybeAttribute = Field(
        "", description="Attribute with the location word.", examples=["mailHost"]
    )
    suspended_filter: Annotated[str, PlainValidator(values.maybe(values.ldap_filter))] = Field(
        "", description="Filter of those who are suspended.", examples=["(mailStatus=disabled)"]
    )
    schema_: Text = Field(
        "",
        alias="schema",
        description="A preset: `openldap`, `active-directory`. Keys that are set win over it.",
        examples=["active-directory"],
    )


class FileTable(DirectoryTable):
    """A file or folder: a list, an export of a vendor, a system's own tables."""

    type: Literal["file"] = Field(description="`file`", examples=["file"])
    path: Some = Field(
        description="The file (cpanel: the root folder, usually `/`). Relative ones begin at the configuration's "
        "folder.",
        examples=["/etc/splitmx/m365-recipients.csv"],
    )
    format: Literal[
        "list", "csv", "postfix", "passwd", "aliases", "m365", "zoho", "google", "cpanel", "cpanel-uapi"
    ] = Field(
        description="`list`, `csv`, `postfix`, `passwd`, `aliases`, `m365`, `zoho`, `google`, `cpanel`, `cpanel-uapi`",
        examples=["csv"],
    )
    columns: dict[Literal["address", "kind", "targets", "location", "active"], Some] = Field(
        {},
        description="csv: the heads of the columns, where they differ from `address`, `kind`, `targets`, "
        "`location`, `active`.",
        examples=[{"address": "Mail"}],
    )
    max_age: Duration | None = Field(
        None,
        description='How long its "no" counts, from the age of the content. Not set: never (`0s`) for csv, m365, '
        "zoho and google; always for the others.",
        examples=["24h"],
    )


DIRECTORY_TYPES: dict[str, type[DirectoryTable]] = {"sql": SqlTable, "ldap": LdapTable, "file": FileTable}
