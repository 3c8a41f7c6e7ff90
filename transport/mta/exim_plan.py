# SPDX-License-Identifier: Apache-2.0
"""What an Exim has to be told: the main section's macros and lists, and the whole texts for each kind of site.

Kinds: `plain` (one exim.conf), `debian` (split configuration below conf.d), `cpanel` (exim.conf.local and an ACL
file). Deployments: `live` asks the daemon, `static` only files, `both` files first and the daemon for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transport.address import fold_domain
from transport.config.settings import Domain, Listener, Settings
from transport.maps.guard import spellings
from transport.mta import exim_fragments as text
from transport.mta import exim_routers

KINDS = ("plain", "debian", "cpanel")
DEPLOYMENTS = ("live", "static", "both")

MAX_INLINE = 6000
"""Octets of a domain list inside the configuration; a longer one stands in a file that `build --for exim` writes.
Exim ends with a panic when such a file is missing, so that short lists do without."""

MAX_SOCKET = 107
"""Octets of a unix socket's path (sun_path without its NUL): Exim cuts a longer one in silence."""

DEFAULT_MAPS = Path("/var/lib/splitmx/maps")

_QUESTION = r"decide recipient=${quote_local_part:$local_part}@$domain\n"
_ACL_QUESTION = (
    r"decide client=$sender_host_address"
    r" listener=${if def:received_ip_address{[$received_ip_address]:$received_port}}"
    r" cert=${if def:tls_in_peercert{${sha256:$tls_in_peercert}}}"
    r" $acl_m_splitmx_from bounce=${if eq{$sender_address}{}{yes}{no}}"
    r" recipient=${quote_local_part:$local_part}@$domain\n"
)


@dataclass(frozen=True, slots=True)
class Part:
    """One text and where it belongs."""

    name: str  # main, acl, routers, transports, list
    place: str
    text: str


@dataclass(slots=True)
class EximPlan:
    """Everything for one Exim. problems make it impossible as configured; notes are for people."""

    kind: str
    deploy: str
    parts: list[Part] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self, name: str) -> str:
        """The text of one part."""
        return next(part.text for part in self.parts if part.name == name)


def plan(
    settings: Settings,
    kind: str = "plain",
    deploy: str = "live",
    maps: Path | None = None,
    socket: str = "",
    map_type: str = "cdb",
) -> EximPlan:
    """All texts for one kind of site. maps: folder of the static files. socket: instead of the configured listener,
    `/path` or `inet:HOST:PORT`. map_type: cdb or lsearch."""
    folder = maps or (settings.static.directory if settings.static is not None else DEFAULT_MAPS)
    result = EximPlan(kind, deploy)
    where = socket or _listener(settings, result, deploy)
    main = _main(settings, kind, deploy, folder, where, map_type)
    parts = {
        "main": main,
        "acl": text.ACL,
        "routers": exim_routers.routers(kind),
        "transports": text.transports(),
    }
    result.parts = [Part(name, place, body) for (name, body), place in zip(parts.items(), _PLACES[kind], strict=True)]
    result.problems += problems(settings, deploy)
    result.notes += notes(settings, kind, deploy)
    return result


_PLACES = {
    "plain": (
        "before the first `begin`",
        "first in the ACL that acl_smtp_rcpt names",
        "first after `begin routers`, behind the site's own alias and SRS routers",
        "after `begin transports`",
    ),
    "debian": (
        "/etc/exim4/conf.d/main/000_splitmx",
        "/etc/exim4/conf.d/acl/25_splitmx",
        "/etc/exim4/conf.d/router/120_splitmx",
        "/etc/exim4/conf.d/transport/25_splitmx",
    ),
    "cpanel": (
        "/etc/exim.conf.local below @CONFIG@",
        "/usr/local/cpanel/etc/exim/acls/ACL_RECIPIENT_BLOCK/custom_begin_recipient",
        "/etc/exim.conf.local below @POSTMAILCOUNT@",
        "/etc/exim.conf.local below @TRANSPORTSTART@",
    ),
}


def render(result: EximPlan) -> dict[str, str]:
    """The texts as files: name -> content. Debian's ACL gets a name of its own and calls the site's."""
    files = {part.name: part.text for part in result.parts}
    if result.kind == "debian":
        files["acl"] = _DEBIAN_ACL + files["acl"] + _DEBIAN_ACL_END
    if result.kind == "cpanel":
        files["local"] = (
            f"@CONFIG@\n{files.pop('main')}\n@POSTMAILCOUNT@\n{files.pop('routers')}\n"
            f"@TRANSPORTSTART@\n{files.pop('transports')}"
        )
    return files


_DEBIAN_ACL = "# Our statements first, then Debian's own acl_check_rcpt.\nacl_splitmx_check_rcpt:\n"
_DEBIAN_ACL_END = "\n  accept\n    endpass\n    acl = acl_check_rcpt\n"
"""With endpass its `drop` drops, too."""

_CLIENTS = {
    "plain": ": +relay_from_hosts",
    "debian": ": +relay_from_hosts",
    "cpanel": "<; ; 127.0.0.1 ; ::1 ; +relay_hosts",
}


def _listener(settings: Settings, result: EximPlan, deploy: str) -> str:
    if settings.daemon.exim:
        return socket_name(settings.daemon.exim[0])
    if deploy != "static":
        group = {"debian": "Debian-exim", "cpanel": "mail"}.get(result.kind, "GROUP")
        result.problems.append(
            'daemon.exim is empty: nothing listens for Exim. Set it to ["unix:/run/splitmx/exim.sock?mode=0660&group='
            f"{group}\"], the group of Exim's user"
        )
    return "/run/splitmx/exim.sock"


def socket_name(listener: Listener) -> str:
    """A listener as `${readsocket` names it."""
    if listener.kind == "unix":
        return listener.path
    host = f"[{listener.host}]" if ":" in listener.host else listener.host
    return f"inet:{host}:{listener.port}"


def _main(settings: Settings, kind: str, deploy: str, folder: Path, socket: str, map_type: str) -> str:
    lists = domain_lists(settings)
    envelope = lists["splitmx_envelopes"]
    routed = [_file("splitmx_envelopes", folder)] if in_a_file(envelope) else envelope
    lines = [
        "# splitmx: what differs between sites. A client in SPLITMX_CLIENTS is ours, as one that authenticates is.",
        f"SPLITMX_SOCKET = {socket}",
        "SPLITMX_WAIT = 3s",
        f"SPLITMX_CLIENTS = {_CLIENTS[kind]}",
        "SPLITMX_CALLOUT = 20s,maxwait=40s",
        f"SPLITMX_ACL_QUESTION = {_ACL_QUESTION}",
        *_answers(deploy, folder, map_type, settings.daemon.recipient_delimiter),
        "# Optional: SPLITMX_INTERFACE and SPLITMX_HELO (source address and name towards the other side),",
        "# SPLITMX_CA_FILE (authorities for tls = ca and ca+name; else the system's), SPLITMX_LMTP_USER,",
        "# SPLITMX_STRIP_EXTENSION (local routers without local_part_suffix).",
        "",
        _list("splitmx_domains", lists["splitmx_domains"], folder),
        f"domainlist splitmx_routed = {' : '.join(['+splitmx_domains', *routed, '*.group.splitmx.invalid'])}",
        _list("splitmx_observed", lists["splitmx_observed"], folder),
        *([_list("splitmx_primary", lists["splitmx_primary"], folder)] if deploy == "both" else ()),
        "",
    ]
    if kind == "debian":
        lines += ["MAIN_ACL_CHECK_RCPT = acl_splitmx_check_rcpt", ""]
    return "\n".join(lines)


def _answers(deploy: str, folder: Path, map_type: str, delimiters: str) -> list[str]:
    """Where the routers and the ACL get their answers from."""
    live, acl = _asked(_QUESTION), _asked("SPLITMX_ACL_QUESTION", "{}")
    from transport.maps.exim_lookups import extension_pattern, lookup_texts, unlisted_text

    extension = [f"SPLITMX_EXTENSION = {extension_pattern(delimiters)}"]
    if deploy == "live":
        return [*extension, f"SPLITMX_ANSWER = {live}", f"SPLITMX_ACL_ANSWER = {acl}"]
    exact, base = lookup_texts(folder, map_type)
    if deploy == "static":
        unlisted = unlisted_text(folder, map_type)
        return [
            *extension,
            f"SPLITMX_ANSWER = {exact(base(unlisted))}",
            f"SPLITMX_ACL_ANSWER = {exact(base(unlisted))}",
        ]
    return [
        *extension,
        f"SPLITMX_ANSWER = {exact(live)}",
        "# Where the daemon does not answer, who is listed is taken by the file (role primary only).",
        f"SPLITMX_ACL_LIVE = {acl}",
        f"SPLITMX_ACL_ANSWER = ${{if match{{SPLITMX_ACL_LIVE}}{{\\N^(decision=.+)$\\N}}{{$1}}"
        f"{{${{if match_domain{{$domain}}{{+splitmx_primary}}{{{exact('')}}}}}}}}}",
    ]


def _asked(question: str, otherwise: str = "") -> str:
    """A question to the daemon; when it fails, the same once more, which puts Exim's handle in order (see
    `exim_fragments`)."""
    again = f"${{readsocket{{SPLITMX_SOCKET}}{{{question}}}{{1s}}{{ }}{otherwise}}}"
    return f"${{readsocket{{SPLITMX_SOCKET}}{{{question}}}{{SPLITMX_WAIT}}{{ }}{{{again}}}}}"


def domain_lists(settings: Settings) -> dict[str, list[str]]:
    """The names in each of our domain lists: what is accepted, what is observed, where we are primary, and envelope
    domains, which are routed and never accepted."""
    enabled = [domain for domain in settings.domains.values() if domain.enabled == "yes"]
    envelopes = (name for d in settings.destinations.values() if d.envelope for name in names_of(d.envelope))
    return {
        "splitmx_domains": [name for domain in enabled for name in _patterns(domain)],
        "splitmx_observed": [n for d in settings.domains.values() if d.enabled == "observe" for n in _patterns(d)],
        "splitmx_primary": [name for domain in enabled if domain.role == "primary" for name in _patterns(domain)],
        "splitmx_envelopes": list(dict.fromkeys(envelopes)),
    }


def in_a_file(items: Sequence[str]) -> bool:
    """Whether a list is too long for the configuration."""
    return len(" : ".join(items)) > MAX_INLINE


def _file(name: str, folder: Path) -> str:
    return f"partial1-cdb;{folder}/exim_{name}.cdb"


def _list(name: str, items: Sequence[str], folder: Path) -> str:
    body = _file(name, folder) if in_a_file(items) else " : ".join(items)
    return f"domainlist {name} = {body}".rstrip()


def _patterns(domain: Domain) -> list[str]:
    """A domain as a domain list has it, with `*.` below strip and match."""
    names = names_of(domain.name)
    return [*names, *(f"*.{name}" for name in names if domain.subdomains != "exact")]


def names_of(name: str) -> tuple[str, ...]:
    """A domain as Exim may compare it: A- and U-labels, and the latter with their other letters as capitals, because
    Exim folds only ASCII."""
    names = spellings(name)
    capitals = "".join(c if c.isascii() or len(c.upper()) > 1 else c.upper() for c in names[-1])
    return (*names, capitals) if capitals != names[-1] and fold_domain(capitals) == name else names


def _stores(settings: Settings) -> dict[str, str]:
    """Each store of the configuration, and where it is named."""
    stores = {d.local_transport: f'[domains."{d.name}"] local_transport' for d in settings.domains.values()}
    for domain in settings.domains.values():
        for word, location in domain.locations.items():
            if not location.destination and location.local_transport:
                stores[location.local_transport] = f'[domains."{domain.name}"] locations.{word}'
    return stores


def problems(settings: Settings, deploy: str) -> list[str]:
    """What this configuration cannot do on an Exim."""
    found: list[str] = []
    for listener in settings.daemon.exim:
        if listener.kind == "unix" and len(listener.path.encode()) > MAX_SOCKET:
            found.append(f"{listener.path} is longer than {MAX_SOCKET} octets: Exim would cut it in silence")
    from transport import exim_answer

    for store, where in _stores(settings).items():
        if store and store != ":" and "store_via" not in exim_answer.store(store):
            found.append(
                f'{where} = "{store}": Exim delivers to lmtp:[HOST]:PORT, lmtp:unix:/PATH and smtp:[HOST]:PORT by'
                " itself; for anything else leave it empty, and the site's own routers deliver"
            )
    if deploy == "static":
        from transport.maps.exim import refusals

        found += refusals(settings)
    return found


def notes(settings: Settings, kind: str, deploy: str) -> list[str]:
    """What people should do or know beside the texts."""
    found = []
    if kind == "debian":
        found.append("then: update-exim4.conf && systemctl reload exim4 (dc_use_split_config='true')")
    elif kind == "cpanel":
        found.append(
            "then: /scripts/buildeximconf && /scripts/restartsrv_exim; each domain stays Local in Email Routing"
        )
    else:
        found.append("then: exim -bV, and a HUP for the daemon")
    names = "domainlist relay_to_domains" if kind != "debian" else "dc_relay_domains or dc_other_hostnames"
    if kind != "cpanel":
        found.append(f"our domains have to be in local_domains or relay_to_domains ({names}): +splitmx_domains")
    if settings.daemon.recipient_delimiter:
        sign = settings.daemon.recipient_delimiter[0]
        found.append(
            f"local routers need `local_part_suffix = {sign}*` and `local_part_suffix_optional` for ann{sign}news, or"
            " set SPLITMX_STRIP_EXTENSION"
        )
    if any(p.kind == "cert" for d in settings.destinations.values() for p in d.peers):
        found.append("peers by certificate: Exim must ask for one, tls_try_verify_hosts = the peer's networks")
    if deploy != "live":
        found.append('splitmx build --for exim writes the files; with [static] for = ["exim"] the daemon does')
    return found
