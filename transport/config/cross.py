# SPDX-License-Identifier: Apache-2.0
"""What depends on more than one value: names that point nowhere, options that contradict each other, loops.

Each function takes the draft (what could be read of the file) and notes what is wrong. A value that is a mistake by
itself is left alone here: it has been noted already.
"""

from __future__ import annotations

from transport.config import build, model
from transport.config.draft import Draft
from transport.config.errors import Keys, one_of, shown
from transport.config.listeners import is_loopback, overlap
from transport.config.presets import LDAP, SQL
from transport.config.secrets import user_and_password
from transport.config.settings import Listener, Unknown
from transport.config.values import TCP_MAPS
from transport.mta import hosts
from transport.names import open_parent

STRICTNESS = {Unknown.REJECT: 0, Unknown.VERIFY: 1, Unknown.RELAY: 2, Unknown.CATCHALL: 3}
"""The order of `unknown` and `outsiders`, strict to loose. A catch-all takes everything."""


def check(draft: Draft) -> None:
    """Everything that this module looks at."""
    _listeners(draft)
    if draft.static is not None and {"btree", "hash"} <= set(draft.static.types):
        draft.add(("static", "types"), "both btree and hash", "one of them: both write the same .db files")
    for name in draft.directories:
        _directory(draft, name)
    for name in draft.destinations:
        _destination(draft, name)
    for name in draft.domains:
        _domain(draft, name)
    _aliases(draft)
    for name in draft.waves:
        _wave(draft, name)


def _listeners(draft: Draft) -> None:
    daemon = draft.daemon
    if daemon is None:
        return
    places: list[tuple[Keys, Listener]] = []
    for key in ("socketmap", "policy", "exim"):
        places += [((key, i), listener) for i, listener in enumerate(getattr(daemon, key))]
    for name, listener in daemon.tcp_table.items():
        places.append((("tcp_table", name), listener))
        if name not in TCP_MAPS:
            draft.add(("daemon", "tcp_table", name), "a map that does not exist", one_of(TCP_MAPS, name))
        if listener.kind != "inet":
            draft.add(("daemon", "tcp_table", name), listener.name, "inet:ADDRESS:PORT: tcp_table(5) knows no other")
    places.append((("control",), daemon.control))
    if daemon.metrics is not None:
        places.append((("metrics",), daemon.metrics))
    for index, (path, listener) in enumerate(places):
        for other_path, other in places[:index]:
            if overlap(listener, other):
                draft.add(
                    ("daemon", *path),
                    f"{listener.name}, where {'.'.join(str(p) for p in other_path if isinstance(p, str))} listens too",
                    "one listener at one address",
                )
                break
        if not is_loopback(listener) and not daemon.allow and draft.good(("daemon", "allow")):
            draft.add(
                ("daemon", *path),
                f"{listener.name}, beyond loopback, and no `allow`",
                'a loopback address, or allow = ["NETWORK"] with who may ask',
            )


def _directory(draft: Draft, name: str) -> None:
    table = draft.directories[name]
    if isinstance(table, model.SqlTable):
        _sql(draft, name, table)
    elif isinstance(table, model.LdapTable):
        _ldap(draft, name, table)
    elif isinstance(table, model.FileTable) and table.columns and table.format in build.NO_COLUMNS:
        draft.add(("directories", name, "columns"), f'columns beside format = "{table.format}"', "only with csv")


def _sql(draft: Draft, name: str, table: model.SqlTable) -> None:
    at = ("directories", name)
    if draft.good((*at, "query")) and draft.good((*at, "schema")):
        if table.query and table.schema_:
            draft.add((*at, "schema"), "both query and schema", "one of them")
        elif not table.query and not table.schema_:
            draft.add((*at, "query"), "neither query nor schema", 'one of them: query = "SELECT address FROM …"')
    if table.schema_ and table.schema_ not in SQL:
        draft.add((*at, "schema"), shown(table.schema_), one_of(SQL, table.schema_))
    user, password = user_and_password(table.url)
    if table.password_file and not user:
        draft.add((*at, "url"), "no user in it, beside password_file", "…://USER@HOST/DATABASE")
    if table.password_file and password:
        draft.add((*at, "password_file"), "a password in url too", "one of them; better the file")


def _ldap(draft: Draft, name: str, table: model.LdapTable) -> None:
    at = ("directories", name)
    if table.schema_ and table.schema_ not in LDAP:
        draft.add((*at, "schema"), shown(table.schema_), one_of(LDAP, table.schema_))
    if table.starttls and any(not url.startswith("ldap://") for url in table.url):
        draft.add((*at, "starttls"), "true beside a URL that is not ldap://", "StartTLS needs ldap://")
    if table.bind_dn and not table.bind_password_file and not all(u.startswith("ldapi:") for u in table.url):
        if draft.good((*at, "bind_password_file")):
            draft.add(
                (*at, "bind_dn"),
                "no bind_password_file beside it",
                "both or neither: a bind without a password is anonymous (RFC 4513 section 5.1.2)",
            )
    elif table.bind_password_file and not table.bind_dn and draft.good((*at, "bind_dn")):
        draft.add((*at, "bind_password_file"), "no bind_dn beside it", "both or neither")


def _destination(draft: Draft, name: str) -> None:
    table = draft.destinations[name]
    if table is None:
        return
    at = ("destinations", name)
    if draft.good((*at, "hosts")) and draft.good((*at, "domain")):
        if table.hosts and table.domain:
            draft.add(at, "both hosts and domain", "one of them: hosts are used without MX look-up")
        elif not table.hosts and not table.domain:
            draft.add(at, "neither hosts nor domain", 'one of them: hosts = ["HOST"] or domain = "DOMAIN"')
    own = hosts.own_names()
    for index, host in enumerate(table.hosts):
        if table.port == 25 and (host in own or hosts.is_own_address(host)):
            draft.add((*at, "hosts", index), f"{host}, which is this host", "a host of the other side: mail would loop")
        if table.tls == "ca+name" and ":" in host:
            # smtp_tls_policy_maps separates names by colons, so this one could never match
            draft.add((*at, "hosts", index), f'{host} with tls = "ca+name"', "a host name, as its certificate has it")
    if table.bounce == "postmaster" and not _exim(draft) and draft.good(("daemon",)):
        draft.add(
            (*at, "bounce"),
            '"postmaster", and nothing here serves an Exim',
            '"sender": Postfix sends the report of a relayed message to its sender and has no setting for another '
            "address; Exim has one ([daemon] exim, or [static] for)",
        )
    if table.envelope in draft.domains:
        draft.add(
            (*at, "envelope"),
            f"{table.envelope}, a domain of [domains]",
            "a domain that only the destination has",
        )
    for parent, entry in draft.domains.items():
        if entry is not None and entry.subdomains != "exact" and table.envelope.endswith(f".{parent}"):
            draft.add(
                (*at, "envelope"),
                f"{table.envelope}, below {parent}, whose subdomains are ours",
                "a domain that only the destination has",
            )
    for other, beside in draft.destinations.items():
        if other == name or beside is None or not table.envelope or beside.envelope != table.envelope:
            continue
        if other < name and _way(beside) != _way(table):
            draft.add(
                (*at, "envelope"),
                f"{table.envelope}, as [destinations.{other}] has it with other hosts",
                "an envelope domain for each way: that name can be routed one way only",
            )
    if table.exclusive and not table.peers and draft.good((*at, "peers")):
        draft.add((*at, "exclusive"), "true without peers", 'peers = ["NETWORK"] beside it')


def _way(table: model.DestinationTable) -> tuple[object, ...]:
    """What decides where its mail goes."""
    return (table.service, tuple(table.hosts), table.domain, table.port)


def _exim(draft: Draft) -> bool:
    """Whether an Exim is served, or nobody is, live: then the configuration may be for building Exim's files."""
    daemon, static = draft.daemon, draft.static
    if daemon is None or daemon.exim or (static is not None and "exim" in static.for_):
        return True
    return not daemon.socketmap and not daemon.policy and not daemon.tcp_table


def _domain(draft: Draft, name: str) -> None:
    table = draft.domains[name]
    if table is None:
        return
    at = draft.domain_path(name)
    _names(draft, name, table)
    _role(draft, name, table)
    _below(draft, name, table)
    for key in ("postmaster", "abuse"):
        if getattr(table, key) == f"{key}@{name}":
            draft.add((*at, key), "itself", "another address; empty means: here")
    if table.alias_of:
        for key, used in (
            ("local", bool(table.local)),
            ("remote", bool(table.remote)),
            ("locations", bool(table.locations)),
            ("delivery", table.delivery != "split"),
        ):
            if used:
                draft.add(
                    (*at, key), f"{key} beside alias_of", f"only in {table.alias_of}, where addresses are looked up"
                )
        return
    _delivery(draft, name, table)
    _unknown(draft, name, table)


def _names(draft: Draft, name: str, table: model.DomainTable) -> None:
    at = draft.domain_path(name)
    seen: dict[str, str] = {}
    for key in ("local", "remote"):
        for index, directory in enumerate(getattr(table, key)):
            if directory not in draft.directories:
                draft.add(
                    (*at, key, index),
                    f"{shown(directory)}, which is no directory",
                    one_of(draft.directories, directory),
                )
            elif directory in seen:
                draft.add((*at, key, index), f"{shown(directory)} a second time (also in {seen[directory]})", "once")
            seen.setdefault(directory, key)
    if table.destination:
        _refer(draft, (*at, "destination"), name, table, table.destination)
    for word, place in table.locations.items():
        if place.destination:
            _refer(draft, (*at, "locations", word), name, table, place.destination)


def _below(draft: Draft, name: str, table: model.DomainTable) -> None:
    """What is not enabled leaves mail alone; Postfix would take a name below an enabled parent that is open."""
    if table.enabled == "yes":
        return
    enabled = {one: entry for one, entry in draft.domains.items() if entry is not None and entry.enabled == "yes"}
    parent = open_parent(enabled, name)
    if parent:
        draft.add(
            (*draft.domain_path(name), "enabled"),
            '"observe"' if table.enabled == "observe" else "false",
            f'true, or subdomains = "exact" in [domains."{parent}"], which takes this name as its own',
        )


def _refer(draft: Draft, path: Keys, name: str, table: model.DomainTable, destination: str) -> None:
    """A destination that a domain uses: it exists, and its MX look-up does not lead back here."""
    if destination not in draft.destinations:
        near = one_of([*draft.destinations, *(["local"] if path[2] == "locations" else [])], destination)
        draft.add(path, f"{shown(destination)}, which is no destination", near)
        return
    target = draft.destinations[destination]
    # As secondary the MX of our own domain is the other side (REQUIREMENTS row 44).
    if target is not None and target.domain == name and table.role == "primary" and draft.good((*path[:2], "role")):
        draft.add(
            path,
            f"{shown(destination)}, whose domain is {name} itself: its MX is this host, mail would loop",
            "hosts of the other side, or another domain",
        )


def _role(draft: Draft, name: str, table: model.DomainTable) -> None:
    at = draft.domain_path(name)
    if table.role == "secondary" or not draft.good((*at, "role")):
        if table.outsiders is not None and draft.good((*at, "unknown")):
            unknown = table.unknown[0]
            if STRICTNESS[table.outsiders] > STRICTNESS[unknown]:
                stricter = [str(w) for w in (Unknown.REJECT, Unknown.VERIFY) if STRICTNESS[w] <= STRICTNESS[unknown]]
                draft.add(
                    (*at, "outsiders"),
                    f'"{table.outsiders}", looser than unknown = "{unknown}"',
                    " or ".join(stricter),
                )
        return
    if table.outsiders not in (None, Unknown.VERIFY):
        draft.add((*at, "outsiders"), 'it beside role = "primary"', 'only with role = "secondary"')
    if table.peer_only:
        draft.add((*at, "peer_only"), 'true beside role = "primary"', 'only with role = "secondary"')


def _delivery(draft: Draft, name: str, table: model.DomainTable) -> None:
    at = draft.domain_path(name)
    if table.delivery != "split" and table.role == "secondary" and draft.good((*at, "role")):
        draft.add(
            (*at, "delivery"),
            f'"{table.delivery}" beside role = "secondary"',
            '"split": the primary would give each copy back to us, and so on for ever; it makes the copies',
        )
    if table.delivery_until is not None and table.delivery == "split" and draft.good((*at, "delivery")):
        draft.add((*at, "delivery_until"), 'it beside delivery = "split"', 'only with delivery = "dual" or "all"')
    if table.delivery != "all" or not draft.good((*at, "local_transport")):
        return
    stores: list[tuple[Keys, str]] = [((*at, "local_transport"), table.local_transport)]
    stores += [((*at, "locations", w), p.local_transport) for w, p in table.locations.items() if p.local_transport]
    for path, hop in stores:
        if not speaks_smtp(hop):
            draft.add(
                path,
                f'{shown(hop)} beside delivery = "all"',
                "lmtp:NEXTHOP or smtp:NEXTHOP, such as lmtp:unix:private/dovecot-lmtp: the copies' name is rewritten",
            )


def speaks_smtp(hop: str) -> bool:
    """Whether a `transport:nexthop` can be carried by a copy of lmtp(8) or smtp(8), the shadows' own service."""
    service, _, place = hop.partition(":")
    return service in ("lmtp", "smtp") and bool(place)


def _unknown(draft: Draft, name: str, table: model.DomainTable) -> None:
    at = draft.domain_path(name)
    unknown, _ = table.unknown
    if not draft.good((*at, "unknown")):
        return
    if not table.destination and draft.good((*at, "destination")):
        for used, why in (
            (unknown in (Unknown.RELAY, Unknown.VERIFY), f'unknown = "{unknown}"'),
            (bool(table.remote), "remote"),
            (table.delivery != "split", f'delivery = "{table.delivery}"'),
            (table.subdomains == "match", 'subdomains = "match"'),
        ):
            if used:
                default = "" if "unknown" in table.model_fields_set or "unknown" not in why else " (the default)"
                draft.add(
                    (*at, "destination"),
                    f"nothing, beside {why}{default}",
                    one_of(draft.destinations) if draft.destinations else "a destination, see [destinations.NAME]",
                )
                break
    if unknown in (Unknown.REJECT, Unknown.CATCHALL):
        _final(draft, name, table, unknown)


def _final(draft: Draft, name: str, table: model.DomainTable, unknown: Unknown) -> None:
    """A final "no" for strangers needs directories whose "no" counts, and both sides listed (DESIGN 4 Freshness)."""
    at = draft.domain_path(name)
    said = '"verify" (the destination is asked)' if table.destination else '"verify" with a destination'
    if not table.local and not table.remote and draft.good((*at, "local")) and draft.good((*at, "remote")):
        draft.add((*at, "unknown"), f'"{unknown}", and no directory lists anybody', f"{said}, or local and remote")
        return
    elsewhere = any(place.destination for place in table.locations.values())
    if not table.remote and not elsewhere and draft.good((*at, "remote")) and draft.good((*at, "locations")):
        draft.add(
            (*at, "unknown"),
            f'"{unknown}", and nothing lists who is at the other side',
            f"{said}, or directories in remote, or a destination in locations",
        )
    for directory in dict.fromkeys([*table.local, *table.remote]):
        source = draft.directories.get(directory)
        if isinstance(source, model.FileTable) and build.max_age(source) == 0:
            draft.add(
                (*at, "unknown"),
                f'"{unknown}", but the "no" of {shown(directory)} never counts '
                f"({source.format}, max_age 0s: a new mailbox is not in it yet)",
                f"{said}, or max_age above 0s in [directories.{directory}]",
            )


def _aliases(draft: Draft) -> None:
    """`alias_of` leads to a domain that is no alias itself."""
    for name, table in draft.domains.items():
        if table is None or not table.alias_of:
            continue
        path = (*draft.domain_path(name), "alias_of")
        if table.alias_of == name:
            draft.add(path, "the domain itself", one_of(n for n in draft.domains if n != name))
        elif table.alias_of not in draft.domains:
            draft.add(
                path,
                f"{shown(table.alias_of)}, which is no domain of [domains]",
                one_of((n for n in draft.domains if n != name), table.alias_of),
            )
        else:
            target = draft.domains[table.alias_of]
            if target is not None and target.alias_of:
                draft.add(
                    path,
                    f"{shown(table.alias_of)}, which is an alias of {target.alias_of} itself",
                    "a domain that is no alias",
                )


def _wave(draft: Draft, name: str) -> None:
    table = draft.waves[name]
    if table is None:
        return
    at = ("waves", name)
    if table.to != "local" and table.to not in draft.destinations:
        draft.add((*at, "to"), shown(table.to), one_of([*draft.destinations, "local"], table.to))
    domain = draft.domains.get(table.domain)
    if table.domain not in draft.domains:
        draft.add((*at, "domain"), shown(table.domain), one_of(draft.domains, table.domain))
    elif domain is not None and domain.alias_of:
        draft.add((*at, "domain"), f"{table.domain}, a domain alias", f"the domain itself: {domain.alias_of}")
    elif domain is not None and table.to != "local" and table.to in draft.destinations:
        _refer(draft, (*at, "to"), table.domain, domain, table.to)
    if draft.good((*at, "addresses")) and draft.good((*at, "file")):
        if table.addresses and table.file:
            draft.add((*at, "file"), "both addresses and file", "one of them")
        elif not table.addresses and not table.file:
            draft.add((*at, "addresses"), "neither addresses nor file", "one of them")
    for index, address in enumerate(table.addresses):
        if not address.endswith("@" + table.domain):
            draft.add((*at, "addresses", index), shown(address), f"an address of {table.domain}")
