# SPDX-License-Identifier: Apache-2.0
"""Compares a living Exim with what it has to be told, and names what differs or will hurt.

Exim itself prints both: its own configuration, and one made of our texts with the site's values of our macros. So a
block counts as the same when Exim reads it as the same, wherever its lines are broken.
"""

from __future__ import annotations

import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from transport.checks.finding import Finding, error, note, warning
from transport.config.settings import Settings
from transport.mta.exim import OLDEST, Driver, Exim, EximError, parse, run
from transport.mta.exim_plan import EximPlan, plan, socket_name

SHOW = "`splitmx exim show` prints it"
BUILD = "run `splitmx build --for exim`, or let the daemon do it with [static]"

OWN_MACROS = (
    "SPLITMX_SOCKET", "SPLITMX_WAIT", "SPLITMX_CLIENTS", "SPLITMX_CALLOUT", "SPLITMX_INTERFACE", "SPLITMX_HELO",
    "SPLITMX_CA_FILE", "SPLITMX_LMTP_USER", "SPLITMX_STRIP_EXTENSION", "SRS_SECRET",
)  # fmt: skip
"""What a site may set as it likes."""

_VERBS = ("accept", "defer", "deny", "discard", "drop", "require", "warn")

_ROUTING = ("dnslookup", "manualroute", "accept", "ipliteral", "iplookup", "queryprogram")


def guess(exim: Exim) -> str:
    """How this Exim asks: live, static or both; live when it does not ask at all."""
    answer = exim.macros.get("SPLITMX_ANSWER", "")
    if "${lookup" not in answer:
        return "live"
    return "both" if "${readsocket" in answer else "static"


def findings(settings: Settings, exim: Exim, deploy: str = "", maps: Path | None = None) -> list[Finding]:
    """Everything that differs from what the settings need or will hurt, the worst first, each once."""
    deploy = deploy or guess(exim)
    own = {name: value for name, value in exim.macros.items() if name in OWN_MACROS}
    wanted = plan(settings, "plain", deploy, maps, map_type=_map_type(exim))
    found = [
        *_version(exim),
        *(error(problem) for problem in wanted.problems),
        *_texts(exim, _expected(exim, wanted, own), settings),
        *_socket(settings, own.get("SPLITMX_SOCKET", ""), deploy, exim),
        *_order(settings, exim),
        *_aliases(settings, exim),
        *_cutthrough(exim),
        *_retry(settings, exim),
        *_classes(settings, exim),
        *_files(wanted),
        *_local(settings, exim),
    ]
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(dict.fromkeys(found), key=lambda f: order[f.level])


def _map_type(exim: Exim) -> str:
    return "lsearch" if "lsearch*@{" in exim.macros.get("SPLITMX_ANSWER", "") else "cdb"


def _version(exim: Exim) -> Iterator[Finding]:
    if exim.version < OLDEST:
        number = ".".join(map(str, exim.version))
        yield error(f"this is Exim {number}: before 4.94 a failing look-up does not always defer", "update Exim")


def _expected(exim: Exim, wanted: EximPlan, own: dict[str, str]) -> Exim:
    """Our texts as this Exim prints them, with the site's values of our macros."""
    main = []
    left = dict(own)
    for line in wanted.text("main").splitlines():
        name = line.partition("=")[0].strip()
        main.append(f"{name} = {left.pop(name)}" if name in left else line)
    body = "\n".join(
        [
            *(f"{name} = {value}" for name, value in left.items()),
            "hostlist relay_from_hosts =",
            "hostlist relay_hosts =",
            *main,
            "begin acl",
            "splitmx_expected:",
            wanted.text("acl"),
            "begin routers",
            wanted.text("routers"),
            "begin transports",
            wanted.text("transports"),
        ]
    )
    with tempfile.TemporaryDirectory(prefix="splitmx-exim-") as folder:
        Path(folder).chmod(0o777)  # Exim opens a log as its own user before it says what is wrong
        path = Path(folder) / "exim.conf"
        private = [f"spool_directory = {folder}", f"log_file_path = {folder}/%slog"]
        private += [f"{key} = {exim.settings[key]}" for key in ("exim_user", "exim_group") if key in exim.settings]
        path.touch(mode=0o600)  # it may hold the site's secret; Exim reads it as whoever calls it
        path.write_text("\n".join([*private, body]))
        try:
            text = run([exim.command[0], "-C", str(path), "-bP", "config"])
        except EximError as fault:
            raise EximError(f"our own texts are not taken by this Exim: {fault}") from fault
    return parse(text, exim.command, exim.version)


def _texts(exim: Exim, wanted: Exim, settings: Settings) -> Iterator[Finding]:
    for name, value in wanted.lists.items():
        if not name.startswith("domainlist splitmx_"):
            continue
        live = exim.lists.get(name)
        if live is None:
            yield error(f"{name} is not defined", SHOW)
        elif _items(live) != _items(value):
            missing = sorted(_items(value) - _items(live))
            surplus = sorted(_items(live) - _items(value))
            said = "; ".join(
                f"{word} {', '.join(items[:5])}{' …' if len(items) > 5 else ''}"
                for word, items in (("lacks", missing), ("has too many:", surplus))
                if items
            )
            yield error(f"{name} {said}", SHOW)
    for name in ("SPLITMX_ANSWER", "SPLITMX_ACL_ANSWER"):
        if name not in exim.macros:
            yield error(f"the macro {name} is not defined", SHOW)
    for kind, driver, mine in (
        *(("router", driver, exim.router(driver.name)) for driver in wanted.routers),
        *(("transport", driver, exim.transport(driver.name)) for driver in wanted.transports),
    ):
        if mine is None:
            yield error(f"{kind} {driver.name} is missing", SHOW)
        elif mine.options != driver.options:
            line = next((a for a in driver.options if a not in mine.options), "") or next(
                (f"(not) {a}" for a in mine.options if a not in driver.options), "the order of its lines"
            )
            yield error(f"{kind} {driver.name} is not what it should be: {line[:160]}", SHOW)
    order = [driver.name for driver in exim.routers if driver.name.startswith("splitmx_")]
    should = [driver.name for driver in wanted.routers if exim.router(driver.name) is not None]
    if [name for name in order if name in should] != should:
        yield error("our routers stand in another order", SHOW)
    yield from _acl(exim, wanted.acls["splitmx_expected"], settings)


def _items(text: str) -> frozenset[str]:
    return frozenset(item.strip() for item in text.split(" : ") if item.strip())


def _acl(exim: Exim, ours: tuple[str, ...], settings: Settings) -> Iterator[Finding]:
    active = exim.settings.get("acl_smtp_rcpt", "")
    where = {name: _place(lines, ours) for name, lines in exim.acls.items()}
    holding = [name for name, place in where.items() if place is not None]
    if not holding:
        yield error("our statements are in no ACL, or are not what they should be", SHOW)
        return
    if not active:
        yield error("acl_smtp_rcpt is not set: RCPT runs no ACL, and ours is never asked", "acl_smtp_rcpt = its name")
        return
    if active not in exim.acls:
        yield warning(f"acl_smtp_rcpt = {active} is no name of an ACL: it cannot be followed")
        return
    if active not in holding and not any(_calls(exim.acls[active], name) for name in holding):
        yield error(f"our statements stand in {', '.join(holding)}, but RCPT runs {active}", SHOW)
    for name in holding:
        before = exim.acls[name][: where[name]]
        if any(line.split()[0] in ("accept", "discard") for line in before if line.split()):
            yield warning(
                f"ACL {name} accepts recipients before our statements: a peer or client taken there is never judged",
                "put ours first",
            )


def _calls(lines: tuple[str, ...], name: str) -> bool:
    """Whether an ACL calls another one: `acl = NAME`, on a line of its own or behind the verb, maybe with arguments."""
    return any(re.search(rf"(^|\s)acl\s*=\s*{re.escape(name)}(\s|$)", line) for line in lines)


def _place(lines: tuple[str, ...], ours: tuple[str, ...]) -> int | None:
    """Where our statements begin, None when they are not all there in one piece."""
    size = len(ours)
    return next((n for n in range(len(lines) - size + 1) if lines[n : n + size] == ours), None)


def _socket(settings: Settings, used: str, deploy: str, exim: Exim) -> Iterator[Finding]:
    if deploy == "static" or not settings.daemon.exim:
        return
    names = [socket_name(listener) for listener in settings.daemon.exim]
    if used and used not in names:
        yield error(f"SPLITMX_SOCKET = {used}, but the daemon listens at {', '.join(names)}", SHOW)
    listener = next((found for found in settings.daemon.exim if socket_name(found) == used), settings.daemon.exim[0])
    try:
        with socket.socket(
            socket.AF_UNIX if listener.kind == "unix" else socket.AF_INET6 if ":" in listener.host else socket.AF_INET
        ) as connection:
            connection.settimeout(3)
            connection.connect(listener.path if listener.kind == "unix" else (listener.host, listener.port))
            connection.sendall(b"decide recipient=postmaster@splitmx.invalid\n")
            answer = connection.recv(100)
    except OSError as fault:
        yield error(f"{listener.name}: {fault.strerror or fault}", "is the daemon running? systemctl status splitmx")
        return
    if not answer.startswith(b"decision="):
        yield error(f"{listener.name} answered something else", "is another program behind that socket?")
    if listener.kind == "unix":
        yield from _rights(listener.path, exim)


def _rights(path: str, exim: Exim) -> Iterator[Finding]:
    import grp
    import pwd

    name = exim.settings.get("exim_user") or next(
        (user for user in ("Debian-exim", "mailnull", "exim") if _known(user)), ""
    )
    try:
        user = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
        status = Path(path).stat()
    except (KeyError, ValueError, OSError):
        return
    groups = {user.pw_gid, *(entry.gr_gid for entry in grp.getgrall() if user.pw_name in entry.gr_mem)}
    allowed = (
        status.st_mode & 0o002
        or (status.st_mode & 0o020 and status.st_gid in groups)
        or (status.st_mode & 0o200 and status.st_uid == user.pw_uid)
    )
    if not allowed:
        yield error(f"{user.pw_name} may not write to {path}", "give the listener ?mode=0660&group=… of Exim's user")


def _known(user: str) -> bool:
    import pwd

    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _order(settings: Settings, exim: Exim) -> Iterator[Finding]:
    domains = [domain.name for domain in settings.domains.values() if domain.enabled == "yes"][:50]
    names = [driver.name for driver in exim.routers]
    if not domains or "splitmx_ask" not in names:
        return
    for driver in exim.routers[: names.index("splitmx_ask")]:
        if driver.name.startswith("splitmx_") or driver.option("verify_only") == "yes":
            continue
        kind = driver.option("driver")
        wanted = driver.option("domains")
        if driver.option("condition") or driver.option("local_parts"):
            continue
        if kind not in _ROUTING and not (kind == "redirect" and _takes_everybody(driver)):
            continue
        taken = domains if wanted is None else exim.matching(domains, wanted)
        if taken:
            yield error(
                f"router {driver.name} ({kind}) stands before ours and takes {taken[0]}",
                "put our routers before it; of the site's own only those for single addresses belong before ours",
            )


def _aliases(settings: Settings, exim: Exim) -> Iterator[Finding]:
    """Routers for /etc/aliases that never see whom splitmx does not know."""
    names = [driver.name for driver in exim.routers]
    if "splitmx_unknown" not in names or "splitmx_aliases" in names:
        return
    if any(getattr(table.options, "format", "") == "aliases" for table in settings.directories.values()):
        return
    domains = [domain.name for domain in settings.domains.values() if domain.enabled == "yes"][:50]
    for driver in exim.routers[names.index("splitmx_unknown") :]:
        wanted = driver.option("domains")
        if driver.option("driver") != "redirect" or "/etc/aliases" not in (driver.option("data") or ""):
            continue
        taken = domains if wanted is None else exim.matching(domains, wanted)
        if taken:
            yield warning(
                f"router {driver.name} (aliases) stands behind ours: what only it knows is refused in {taken[0]}",
                'put it before ours, or list them: a directory with format = "aliases"; for Debian run `splitmx exim'
                " show` again",
            )


def _cutthrough(exim: Exim) -> Iterator[Finding]:
    """ACLs that pass a message on while it is still coming in, whoever else it is for."""
    for name, lines in exim.acls.items():
        statement: list[str] = []
        for line in (*lines, "accept"):
            if line.split()[0] in _VERBS:
                text = "\n".join(statement)
                if "cutthrough_delivery" in text and not re.search(r"(?m)\bdomains = .*! ?\+splitmx_domains", text):
                    yield error(
                        f"ACL {name} has control = cutthrough_delivery: Exim then forgets recipients that are delivered"
                        " elsewhere than the first one, and copies",
                        "leave it out, or add domains = ! +splitmx_domains there",
                    )
                statement = []
            statement.append(line)


def _retry(settings: Settings, exim: Exim) -> Iterator[Finding]:
    """A domain of ours without a retry rule: Exim bounces at once what is put off."""
    for domain in [domain.name for domain in settings.domains.values() if domain.enabled == "yes"][:5]:
        if "No retry information" in run([*exim.command, "-brt", f"postmaster@{domain}"]):
            yield error(
                f"no retry rule is for {domain}: whatever is put off for a moment is bounced at once",
                "in the retry section: * * F,2h,15m; G,16h,1h,1.5; F,4d,6h",
            )


def _takes_everybody(driver: Driver) -> bool:
    """Whether a redirect for certain domains sends everybody to the same address: a catch-all."""
    data = driver.option("data") or ""
    return bool(driver.option("domains")) and "@" in data and "$" not in data and driver.option("senders") is None


def _classes(settings: Settings, exim: Exim) -> Iterator[Finding]:
    domains = [domain for domain in settings.domains.values() if domain.enabled == "yes"][:200]
    names = [domain.name for domain in domains]
    if not names or "domainlist splitmx_domains" not in exim.lists:
        return
    local = set(exim.matching(names, "+local_domains")) if "domainlist local_domains" in exim.lists else set()
    relay: set[str] = set()
    for word in ("relay_to_domains", "relay_domains"):
        if f"domainlist {word}" in exim.lists:
            relay |= set(exim.matching(names, f"+{word}"))
    for domain in domains:
        if domain.name not in local | relay:
            yield warning(
                f"{domain.name} is neither in local_domains nor in relay_to_domains: mail from outside is refused",
                "add +splitmx_domains to one of them",
            )
        elif domain.name not in local and not domain.local_transport and (domain.local or domain.role == "primary"):
            yield error(
                f"{domain.name} is in relay_to_domains only, and has no local_transport: who is here would be looked"
                " up in DNS",
                "put it into local_domains, or set local_transport to the store",
            )


def _files(wanted: EximPlan) -> Iterator[Finding]:
    for line in wanted.text("main").splitlines():
        for kind in ("cdb", "lsearch"):
            for opening in (f"{kind}{{", f"{kind}*@{{", f"-{kind};"):
                for piece in line.split(opening)[1:]:
                    path = Path(piece.split("}")[0].split()[0])
                    if path.is_absolute() and not path.exists():
                        yield error(f"{path} is missing", BUILD)


def _local(settings: Settings, exim: Exim) -> Iterator[Finding]:
    for driver in exim.transports:
        lmtp = driver.option("driver") == "smtp" and driver.option("protocol") == "lmtp"
        if lmtp and not driver.name.startswith("splitmx_") and driver.option("max_rcpt") != "1":
            yield note(
                f"transport {driver.name} takes several recipients at once: who has copies, or forwards and keeps, may"
                " get a mail again while others of its recipients wait",
                "set max_rcpt = 1 there, or name the store in local_transport",
            )
    sign = settings.daemon.recipient_delimiter[:1]
    if not sign or "SPLITMX_STRIP_EXTENSION" in exim.macros:
        return
    if not any(sign in (driver.option("local_part_suffix") or "") for driver in exim.routers):
        yield note(
            f"no router has local_part_suffix = {sign}*: mail for ann{sign}news is refused by the local routers",
            "set it there with local_part_suffix_optional, or set SPLITMX_STRIP_EXTENSION",
        )
