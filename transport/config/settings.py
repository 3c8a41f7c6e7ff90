# SPDX-License-Identifier: Apache-2.0
"""The configuration as the program uses it: plain, frozen, checked, without pydantic.

`transport.config.load` makes these from the file (DESIGN 5.2); workers, router and maps read them. Durations are
seconds, names are A-labels in lower case, every reference is known to exist.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

_CLOCKS = 300.0  # seconds that the clocks of two hosts may differ


class Unknown(StrEnum):
    """What becomes of an address of ours that no directory lists."""

    REJECT = "reject"
    RELAY = "relay"
    VERIFY = "verify"
    CATCHALL = "catchall"


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a listener stands: `unix:PATH?mode=0660&group=postfix` or `inet:HOST:PORT`."""

    kind: str  # "unix" or "inet"
    path: str = ""
    mode: int = 0o660
    group: str = ""
    host: str = ""
    port: int = 0

    @property
    def name(self) -> str:
        """The listener as it is written in logs and in `postfix show`: without mode and group."""
        if self.kind == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"inet:{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Daemon:
    """The `[daemon]` table."""

    socketmap: tuple[Listener, ...] = ()
    policy: tuple[Listener, ...] = ()
    exim: tuple[Listener, ...] = ()
    tcp_table: Mapping[str, Listener] = field(default_factory=dict)  # map name -> listener
    control: Listener = field(default_factory=lambda: Listener("unix", "/run/splitmx/control.sock", 0o600))
    metrics: Listener | None = None
    allow: tuple[str, ...] = ()  # networks, as text
    state: Path = Path("/var/lib/splitmx")
    workers: int = 1
    recipient_delimiter: str = "+"


@dataclass(frozen=True, slots=True)
class Static:
    """The `[static]` table: maps kept up to date by the daemon."""

    directory: Path
    types: tuple[str, ...] = ()  # empty: what `postconf default_database_type` names
    for_: tuple[str, ...] = ("postfix",)


@dataclass(frozen=True, slots=True)
class SqlOptions:
    """Keys of `type = "sql"`. `url` holds the password once read from `password_file`: never print it."""

    url: str = field(repr=False)
    query: str
    lookup: str = ""
    changed: str = ""
    exact_case: bool = False
    schema: str = ""
    password_file: str = ""


@dataclass(frozen=True, slots=True)
class LdapOptions:
    """Keys of `type = "ldap"`. The password is read from its file when a connection is made."""

    url: tuple[str, ...]
    starttls: bool = False
    ca_file: str = ""
    bind_dn: str = ""
    bind_password_file: str = ""
    base: str = ""
    filter: str = "(objectClass=*)"
    address_attributes: tuple[str, ...] = ("mail",)
    kind_attribute: str = ""
    target_attributes: tuple[str, ...] = ()
    member_attribute: str = ""
    location_attribute: str = ""
    suspended_filter: str = ""
    schema: str = ""


@dataclass(frozen=True, slots=True)
class FileOptions:
    """Keys of `type = "file"`."""

    path: str
    format: str  # list csv postfix passwd aliases m365 zoho google cpanel cpanel-uapi
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Directory:
    """A `[directories.NAME]` table.

    live: can be asked for one address (sql, ldap). A file cannot; its "no" counts while its content is younger
        than max_age (None: always).
    compare_every: None is "auto".
    fingerprint: 16 bytes over everything that decides *what* is listed; rows of another fingerprint do not count.
    """

    name: str
    type: str  # sql ldap file
    options: SqlOptions | LdapOptions | FileOptions
    fingerprint: bytes
    fresh_for: float = 5.0
    sync_every: float = 15.0
    compare_every: float | None = None
    deadline: float = 1.0
    max_shrink: float = 0.2
    shrink_floor: int = 10
    max_moved: float = 0.1
    may_be_empty: bool = False
    canary: tuple[str, ...] = ()
    max_age: float | None = None
    domains: tuple[str, ...] = ()  # the split domains that name it: a bare local part (passwd) stands for each

    @property
    def live(self) -> bool:
        """Whether it can be asked about one address while the MTA waits."""
        return self.type != "file"

    @property
    def asked(self) -> Directory:
        """What a live answer of it rests on: it is asked alike, whatever domains name it."""
        return replace(self, domains=()) if self.domains else self

    @property
    def listed(self) -> Directory:
        """What a listing of it rests on: a file's bare local parts stand for each domain that names it."""
        return self.asked if self.live else self

    def young(self, content_time: float | None, now: float) -> bool:
        """Whether a file's "no" counts at `now`, its content being of that time (both unix).

        Content from the future has no age that anybody knows, but for the difference between two hosts' clocks.
        """
        if self.max_age is None:
            return True
        age = now - content_time if content_time is not None else -math.inf
        return age > -_CLOCKS and max(0.0, age) < self.max_age


@dataclass(frozen=True, slots=True)
class Peer:
    """How a connection from a destination is recognised. kind: network, spf, listener, cert."""

    kind: str
    value: str  # CIDR text; SPF name; "HOST:PORT" with IPv6 in brackets; fingerprint in upper-case hex with colons


@dataclass(frozen=True, slots=True)
class Destination:
    """A `[destinations.NAME]` table. Exactly one of hosts and domain is set."""

    name: str
    hosts: tuple[str, ...] = ()
    domain: str = ""
    port: int = 25
    service: str = "relay"
    tls: str = "may"  # none may encrypt ca ca+name dane
    envelope: str = ""  # "" is keep; else the A-label domain of RCPT TO
    bounce: str = "sender"
    plus_strip: bool = False
    peers: tuple[Peer, ...] = ()
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Location:
    """What one location word means: a destination's name, or "" for here with its local transport."""

    destination: str = ""
    local_transport: str = ""  # "" : the domain's


@dataclass(frozen=True, slots=True)
class Wave:
    """A `[waves.NAME]` table: from `at` (unix time) these folded addresses have the location `to`."""

    name: str
    at: float
    domain: str
    to: str  # a destination's name, or "local"
    addresses: frozenset[str]  # "local@domain", folded, external form


@dataclass(frozen=True, slots=True)
class Domain:
    """A `[domains."NAME"]` table. enabled: "yes", "no" or "observe"."""

    name: str
    enabled: str = "yes"
    role: str = "primary"
    delivery: str = "split"
    delivery_until: float | None = None  # unix time
    local: tuple[str, ...] = ()
    remote: tuple[str, ...] = ()
    destination: str = ""
    unknown: Unknown = Unknown.VERIFY
    catchall: str = ""  # external form, folded
    outsiders: Unknown = Unknown.VERIFY  # role secondary; reject, verify or relay
    peer_only: bool = False
    alias_of: str = ""
    group_members: bool = True
    identity: bool = True
    subdomains: str = "exact"  # exact strip match
    postmaster: str = ""
    abuse: str = ""
    local_transport: str = ""
    locations: Mapping[str, Location] = field(default_factory=dict)
    loop_grace: float = 600.0


@dataclass(frozen=True, slots=True)
class Settings:
    """One checked configuration. `source` is the file's path, `digest` a hash of its meaning."""

    source: str = ""
    digest: bytes = b""
    daemon: Daemon = field(default_factory=Daemon)
    static: Static | None = None
    directories: Mapping[str, Directory] = field(default_factory=dict)
    destinations: Mapping[str, Destination] = field(default_factory=dict)
    domains: Mapping[str, Domain] = field(default_factory=dict)  # key: A-label
    waves: tuple[Wave, ...] = ()
    _copying: list[bool] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def copying(self) -> bool:
        """Whether some domain's mail goes to both sides. Found out once: there may be thousands."""
        if not self._copying:
            self._copying.append(any(domain.delivery != "split" for domain in self.domains.values()))
        return self._copying[0]
