# SPDX-License-Identifier: Apache-2.0
"""The tables of the configuration file as pydantic models: their keys, types, defaults, meanings.

The models judge single values only; `cross` judges what depends on several. docs/configuration.md is made from the
descriptions here, which are Markdown. No model leaves this package: `load` turns them into `settings`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator

from transport.config import places, values
from transport.config.errors import Wrong
from transport.config.listeners import parse_control, parse_listener
from transport.config.model_directories import (
    DIRECTORY_TYPES,
    DirectoryTable,
    FileTable,
    LdapTable,
    Mailbox,
    Some,
    SqlTable,
    Table,
    not_empty,
)
from transport.config.settings import Listener, Location, Peer, Unknown

__all__ = [
    "DIRECTORY_TYPES",
    "NAMED",
    "SINGLE",
    "DaemonTable",
    "DestinationTable",
    "DirectoryTable",
    "DomainTable",
    "FileTable",
    "LdapTable",
    "SqlTable",
    "StaticTable",
    "Table",
    "WaveTable",
    "keys_of",
]

Name = Annotated[str, PlainValidator(values.plain_name)]
Socket = Annotated[Listener, PlainValidator(parse_listener)]
Network = Annotated[str, PlainValidator(places.network)]
MaybeMailbox = Annotated[str, PlainValidator(values.maybe(values.mailbox))]
MaybeDomain = Annotated[str, PlainValidator(values.maybe(values.domain))]


def _moment_or_empty(value: object) -> float | None:
    return None if value == "" else values.moment(value)


def _word(value: object) -> str:
    if not isinstance(value, str) or value != value.strip():
        raise Wrong("a word without blanks around it")
    return values.some(value)


class DaemonTable(Table):
    """The processes and where they listen."""

    socketmap: list[Socket] = Field(
        [],
        description="Listeners for Postfix's `socketmap:` tables (and Sendmail's `socket` maps).",
        examples=[["unix:/var/spool/postfix/splitmx/socketmap.sock?mode=0660&group=postfix"]],
    )
    policy: list[Socket] = Field(
        [],
        description="Listeners for Postfix's `check_policy_service`.",
        examples=[["unix:/var/spool/postfix/splitmx/policy.sock?mode=0660&group=postfix"]],
    )
    exim: list[Socket] = Field(
        [],
        description="Listeners for Exim's `${readsocket}`.",
        examples=[["unix:/run/splitmx/exim.sock?mode=0660&group=Debian-exim"]],
    )
    tcp_table: dict[str, Socket] = Field(
        {},
        description="Listeners for Postfix's `tcp:` tables, one a map, since that protocol has no map name: "
        "`transport`, `relay_recipients`, `here`, `virtual_alias`, `recipient_bcc`, `relay_domains`, `tls_policy`.",
        examples=[{"transport": "inet:127.0.0.1:10461"}],
    )
    control: Annotated[Listener, PlainValidator(parse_control)] = Field(
        Listener("unix", "/run/splitmx/control.sock", 0o600),
        description="Where the command line reaches the running daemon; its mode is 0600 unless one is given.",
        examples=["unix:/run/splitmx/control.sock?mode=0660&group=mailadmin"],
    )
    metrics: Socket | None = Field(
        None, description="Listener for Prometheus. Not set: none.", examples=["inet:127.0.0.1:9464"]
    )
    allow: list[Network] = Field(
        [],
        description="Networks that may connect to `inet:` listeners. A listener beyond loopback is refused without "
        "it: it would tell everybody who has an address here.",
        examples=[["192.0.2.0/24"]],
    )
    state: Some = Field("/var/lib/splitmx", description="Folder of the index, the lock and other state.")
    workers: Annotated[int, PlainValidator(values.whole(1, 256))] = Field(
        1, description="Answering processes. One serves many thousand answers a second.", examples=[2]
    )
    recipient_delimiter: Annotated[str, PlainValidator(values.delimiters)] = Field(
        "+",
        description='As in main.cf, a set of marks; `""` for none. Two forms are looked up: the whole local part, '
        "then what stands before the first mark.",
        examples=["+-"],
    )


class StaticTable(Table):
    """Static maps that the daemon keeps up to date. Without this table it writes none."""

    directory: Some = Field(
        "/var/lib/splitmx/maps",
        description="Folder the maps are written to.",
        examples=["/var/lib/splitmx/maps"],
    )
    types: list[Literal["btree", "cdb", "hash", "lmdb", "texthash"]] = Field(
        [],
        description="Map types: `btree`, `cdb`, `hash`, `lmdb`, `texthash`; not both `btree` and `hash`, which share "
        "their files. Empty: what `postconf default_database_type` names.",
        examples=[["lmdb"]],
    )
    for_: Annotated[list[Literal["postfix", "exim"]], BeforeValidator(not_empty)] = Field(
        ["postfix"], alias="for", description="Which MTA reads them.", examples=[["postfix", "exim"]]
    )


class DestinationTable(Table):
    """Where relayed mail goes. Its name is of a-z, 0-9 and - (inside), 1 to 40 long, not `local` or `group`."""

    hosts: Annotated[list[Annotated[str, PlainValidator(values.host)]], BeforeValidator(not_empty)] = Field(
        [],
        description="Host names or addresses, tried in order, without MX look-up. Either this or `domain`.",
        examples=[["example-com.mail.protection.outlook.com"]],
    )
    domain: Annotated[str, PlainValidator(values.domain)] = Field(
        "", description="A domain whose MX hosts are used.", examples=["other.example"]
    )
    port: Annotated[int, PlainValidator(values.whole(1, 65535))] = Field(25, description="The port.", examples=[2525])
    service: Annotated[str, PlainValidator(places.service)] = Field(
        "relay", description="The master.cf service (Postfix) that carries it.", examples=["relay"]
    )
    tls: Literal["none", "may", "encrypt", "ca", "ca+name", "dane"] = Field(
        "may",
        description="`none`, `may`, `encrypt`, `ca` (Postfix `verify`), `ca+name` (`secure match=HOST`) or `dane` "
        "(`dane-only`).",
        examples=["encrypt"],
    )
    envelope: Annotated[str, PlainValidator(values.envelope)] = Field(
        "",
        description="`keep`, or a domain: RCPT TO becomes `local-part@that.domain`, headers stay.",
        examples=["tenant.example"],
    )
    bounce: Literal["sender", "postmaster"] = Field(
        "sender",
        description="Who gets the report when delivery fails. `postmaster` needs an Exim: Postfix reports to the "
        "sender only.",
        examples=["postmaster"],
    )
    plus: Literal["keep", "strip"] = Field("keep", description="`strip`: extensions are taken off.", examples=["strip"])
    peers: list[Annotated[Peer, PlainValidator(places.peer)]] = Field(
        [],
        description="How its connections are recognised: networks, `spf:NAME`, `listener:ADDRESS:PORT`, "
        "`cert:FINGERPRINT`.",
        examples=[["203.0.113.0/24", "spf:spf.example.net", "listener:[2001:db8::1]:25"]],
    )
    exclusive: bool = Field(
        False,
        description="Role primary: `true` when the peers serve nobody but us, so that their address alone proves a "
        "loop.",
        examples=[True],
    )


class DomainTable(Table):
    """A split domain."""

    enabled: Annotated[str, PlainValidator(values.enabled)] = Field(
        "yes", description='`true`, `false`, or `"observe"`: decide and log only.', examples=["observe"]
    )
    role: Literal["primary", "secondary"] = Field(
        "primary",
        description="`primary`: the MX is here. `secondary`: the MX is the other side.",
        examples=["secondary"],
    )
    delivery: Literal["split", "dual", "all"] = Field(
        "split",
        description="`split`: one side. `dual`: who is here, here and a copy there. `all`: there, and a copy here.",
        examples=["dual"],
    )
    delivery_until: Annotated[float | None, PlainValidator(_moment_or_empty)] = Field(
        None,
        description="dual and all end then (RFC 3339) and `split` begins.",
        examples=["2026-12-01T12:00:00Z"],
    )
    local: list[Some] = Field(
        [], description="Directories that list who is here; the first one wins.", examples=[["corp", "here"]]
    )
    remote: list[Some] = Field([], description="Directories that list who is at the destination.", examples=[["there"]])
    destination: Some = Field("", description="Where the others go: a `[destinations]` name.", examples=["m365"])
    unknown: Annotated[tuple[Unknown, str], PlainValidator(values.unknown)] = Field(
        (Unknown.VERIFY, ""),
        description="What becomes of an address no directory lists: `reject`, `relay`, `verify` (relay, once the "
        "destination accepts it) or `catchall:ADDRESS`.",
        examples=["reject"],
    )
    outsiders: Annotated[Unknown | None, PlainValidator(values.outsiders)] = Field(
        None,
        description="Role secondary: the same for clients that are neither ours nor a peer: `reject`, `verify`, "
        '`relay`. Never looser than `unknown`. Not set: `verify`, or `reject` under `unknown = "reject"`.',
        examples=["reject"],
    )
    peer_only: bool = Field(
        False,
        description="Role secondary: only the primary may bring mail for this domain from outside.",
        examples=[True],
    )
    alias_of: MaybeDomain = Field(
        "", description="A domain alias: every address is looked up in that domain.", examples=["example.com"]
    )
    group_members: bool = Field(
        True, description="`false`: a group's members at the destination are left out.", examples=[False]
    )
    identity: bool = Field(
        True,
        description="`virtual_alias` answers listed addresses with themselves, so that the site's `@domain` entry "
        "cannot swallow them.",
        examples=[False],
    )
    subdomains: Literal["exact", "strip", "match"] = Field(
        "exact",
        description="`exact`: not ours. `strip`: as the address in the domain. `match`: relayed.",
        examples=["strip"],
    )
    postmaster: MaybeMailbox = Field(
        "",
        description="Where postmaster@ goes when no directory lists it; empty: here.",
        examples=["admin@example.com"],
    )
    abuse: MaybeMailbox = Field("", description="The same for abuse@.", examples=["admin@example.com"])
    local_transport: Annotated[str, PlainValidator(places.next_hop)] = Field(
        "",
        description="What `transport` answers for who is here; empty: `:`, right only in mydestination and "
        "virtual_mailbox_domains.",
        examples=["lmtp:unix:private/dovecot-lmtp"],
    )
    locations: dict[Annotated[str, PlainValidator(_word)], Annotated[Location, PlainValidator(places.location)]] = (
        Field(
            {},
            description="What the directories' location words mean: a destination, `local` or "
            "`local:TRANSPORT:NEXTHOP`.",
            examples=[{"cloud": "m365", "store2": "local:lmtp:[store2.example.com]:24"}],
        )
    )
    loop_grace: Annotated[float, PlainValidator(values.between(0, 604_800, "a duration up to 1w"))] = Field(
        600.0,
        description="A listed remote address that comes back from its peer: 451 so long, then 550.",
        examples=["10m"],
    )


class WaveTable(Table):
    """From `at` on these recipients have the new location."""

    at: Annotated[float, PlainValidator(values.moment)] = Field(
        description="The moment (RFC 3339).", examples=["2026-12-01T12:00:00Z"]
    )
    domain: Annotated[str, PlainValidator(values.domain)] = Field(description="Their domain.", examples=["example.com"])
    to: Some = Field(description="A destination, or `local`.", examples=["m365"])
    addresses: Annotated[list[Mailbox], BeforeValidator(not_empty)] = Field(
        [], description="The addresses. Either this or `file`.", examples=[["bob@example.com"]]
    )
    file: Some = Field(
        "", description="A file with one address a line; `#` begins a comment.", examples=["/etc/splitmx/pilot.txt"]
    )


SINGLE: dict[str, type[Table]] = {"daemon": DaemonTable, "static": StaticTable}
"""Tables that stand once."""

NAMED: dict[str, type[Table]] = {
    "directories": DirectoryTable,
    "destinations": DestinationTable,
    "domains": DomainTable,
    "waves": WaveTable,
}
"""Tables that hold one table a name; a directory's model is one of `DIRECTORY_TYPES`."""


def keys_of(model: type[Table]) -> dict[str, Any]:
    """The keys of a table as they are written in the file, with pydantic's FieldInfo."""
    return {info.alias or name: info for name, info in model.model_fields.items()}
