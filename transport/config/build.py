# SPDX-License-Identifier: Apache-2.0
"""Checked models to plain settings. Nothing is judged here any more."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path

from transport.config import model, secrets
from transport.config.presets import preset
from transport.config.settings import (
    Daemon,
    Destination,
    Directory,
    Domain,
    FileOptions,
    LdapOptions,
    SqlOptions,
    Static,
    Unknown,
)

ALWAYS: dict[str, float | None] = {"csv": 0.0, "m365": 0.0, "zoho": 0.0, "google": 0.0}
"""`max_age` of formats that are exports: their "no" never counts. The other formats are the system's own."""

NO_COLUMNS = ("list", "postfix", "passwd", "aliases", "cpanel", "cpanel-uapi")
"""Formats without columns to name."""

_BARE_NAMES = ("passwd", "aliases")  # formats whose names stand for an address in each domain


def daemon(table: model.DaemonTable, folder: Path) -> Daemon:
    """The `[daemon]` table; relative paths begin at `folder`."""
    return Daemon(
        socketmap=tuple(table.socketmap),
        policy=tuple(table.policy),
        exim=tuple(table.exim),
        tcp_table=dict(table.tcp_table),
        control=table.control,
        metrics=table.metrics,
        allow=tuple(dict.fromkeys(table.allow)),
        state=folder / table.state,
        workers=table.workers,
        recipient_delimiter=table.recipient_delimiter,
    )


def static(table: model.StaticTable, folder: Path) -> Static:
    """The `[static]` table."""
    return Static(
        directory=folder / table.directory,
        types=tuple(dict.fromkeys(table.types)),
        for_=tuple(dict.fromkeys(table.for_)),
    )


def max_age(table: model.FileTable) -> float | None:
    """How long a file's "no" counts, in seconds; None: always."""
    if "max_age" in table.model_fields_set and table.max_age is not None:
        return table.max_age
    return ALWAYS.get(table.format)


def directory(
    name: str, table: model.DirectoryTable, domains: tuple[str, ...], folder: Path, password: str
) -> Directory:
    """One directory; `password` is what `password_file` holds ("" without), `domains` who names it."""
    options: SqlOptions | LdapOptions | FileOptions
    age = None
    if isinstance(table, model.SqlTable):
        kind = "sql"
        options = SqlOptions(
            url=secrets.with_password(table.url, password) if password else table.url,
            query=table.query,
            lookup=table.lookup,
            changed=table.changed,
            exact_case=table.exact_case,
            schema=table.schema_,
            password_file=str(folder / table.password_file) if table.password_file else "",
        )
        meaning: object = (secrets.without_password(table.url), table.query, table.schema_)
    elif isinstance(table, model.LdapTable):
        kind = "ldap"
        options = _ldap(table, folder)
        meaning = (
            sorted(options.url),
            options.base,
            options.filter,
            options.address_attributes,
            options.kind_attribute,
            options.target_attributes,
            options.member_attribute,
            options.location_attribute,
            options.suspended_filter,
            options.schema,
        )
    else:
        assert isinstance(table, model.FileTable)
        kind = "file"
        age = max_age(table)
        options = FileOptions(
            path=str(folder / table.path), format=table.format, columns={str(k): v for k, v in table.columns.items()}
        )
        bare = domains if table.format in _BARE_NAMES else ()
        meaning = (options.path, options.format, sorted(table.columns.items()), bare)
    return Directory(
        name=name,
        type=kind,
        options=options,
        fingerprint=fingerprint(kind, meaning),
        fresh_for=table.fresh_for,
        sync_every=table.sync_every,
        compare_every=table.compare_every,
        deadline=table.deadline,
        max_shrink=table.max_shrink,
        shrink_floor=table.shrink_floor,
        max_moved=table.max_moved,
        may_be_empty=table.may_be_empty,
        canary=tuple(dict.fromkeys(table.canary)),
        max_age=age,
        domains=domains,
    )


def _ldap(table: model.LdapTable, folder: Path) -> LdapOptions:
    """Keys that are set win over the preset, the preset over the defaults."""
    given = {name for name in table.model_fields_set if getattr(table, name) not in ("", [])}
    chosen = {name: value for name, value in preset(table.schema_).items() if name not in given}
    wanted = {
        name: chosen.get(name, getattr(table, name))
        for name in (
            "filter",
            "address_attributes",
            "kind_attribute",
            "target_attributes",
            "member_attribute",
            "location_attribute",
            "suspended_filter",
        )
    }
    return LdapOptions(
        url=tuple(table.url),
        starttls=table.starttls,
        ca_file=str(folder / table.ca_file) if table.ca_file else "",
        bind_dn=table.bind_dn,
        bind_password_file=str(folder / table.bind_password_file) if table.bind_password_file else "",
        base=table.base,
        schema=table.schema_,
        filter=str(wanted["filter"]),
        address_attributes=tuple(wanted["address_attributes"]),
        kind_attribute=str(wanted["kind_attribute"]),
        target_attributes=tuple(wanted["target_attributes"]),
        member_attribute=str(wanted["member_attribute"]),
        location_attribute=str(wanted["location_attribute"]),
        suspended_filter=str(wanted["suspended_filter"]),
    )


def fingerprint(kind: str, meaning: object) -> bytes:
    """16 bytes over what decides who is listed; passwords, servers' options and timings are not part of it."""
    return blake2b(json.dumps([kind, meaning]).encode(), digest_size=16).digest()


def destination(name: str, table: model.DestinationTable) -> Destination:
    """One destination."""
    return Destination(
        name=name,
        hosts=tuple(dict.fromkeys(table.hosts)),
        domain=table.domain,
        port=table.port,
        service=table.service,
        tls=table.tls,
        envelope=table.envelope,
        bounce=table.bounce,
        plus_strip=table.plus == "strip",
        peers=tuple(dict.fromkeys(table.peers)),
        exclusive=table.exclusive,
    )


def domain(name: str, table: model.DomainTable) -> Domain:
    """One split domain; `name` is its A-label form."""
    unknown, catchall = table.unknown
    return Domain(
        name=name,
        enabled=table.enabled,
        role=table.role,
        delivery=table.delivery,
        delivery_until=table.delivery_until,
        local=tuple(table.local),
        remote=tuple(table.remote),
        destination=table.destination,
        unknown=unknown,
        catchall=catchall,
        outsiders=outsiders(table),
        peer_only=table.peer_only,
        alias_of=table.alias_of,
        group_members=table.group_members,
        identity=table.identity,
        subdomains=table.subdomains,
        postmaster=table.postmaster,
        abuse=table.abuse,
        local_transport=table.local_transport,
        locations=dict(table.locations),
        loop_grace=table.loop_grace,
    )


def outsiders(table: model.DomainTable) -> Unknown:
    """`outsiders`, or its default: verify, but never looser than `unknown`."""
    if table.outsiders is not None:
        return table.outsiders
    return Unknown.REJECT if table.unknown[0] is Unknown.REJECT else Unknown.VERIFY
