# SPDX-License-Identifier: Apache-2.0
"""`build --for cpanel-forwarders`: for a cPanel host without root, one forwarder for each person at the other side.

cPanel delivers forwarded mail by the recipient's new address, so each forwarder leads to the routing address:
`local-part@ENVELOPE` (the destination's `envelope`). Written are `forwarders.csv` (what cPanel's Import of CSV files
takes: source, target), and `forwarders.sh` with the `uapi` commands, which adds what is missing and deletes what is
ours and not wanted any more.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from transport.address import Address, external, parse
from transport.config.settings import Domain, FileOptions, Settings
from transport.decision import Decision, Verdict
from transport.directories.base import DirectoryError
from transport.directories.cpanel import Tree
from transport.index.reader import Reader
from transport.maps.report import BuildReport, MapReport
from transport.maps.snapshot import Snapshot, never_read
from transport.maps.write import BuildError
from transport.router import Router

LIST = "forwarders.csv"
COMMANDS = "forwarders.sh"
# `*@DOMAIN` is the default address; a command, a file, a special word, a comment begin with the others
_SPECIAL = re.compile(r"\*$|[|/:#]")


def pairs(settings: Settings, reader: Reader, now: float, report: BuildReport) -> Iterator[tuple[str, str]]:
    """(address here, its routing address) of everybody at the other side, in no order."""
    snapshot = Snapshot(settings, reader, now)
    router = Router(settings)
    for domain in settings.domains.values():
        if domain.enabled != "yes" or domain.alias_of:
            continue
        for run in snapshot.everyone(domain.name):
            for locals_ in run.values():
                for local in locals_:
                    address = Address(local, domain.name, local)
                    decision = router.decide(snapshot, address, now)
                    text = external(local, domain.name)
                    if decision.verdict is Verdict.TEMP:
                        report.survey.leave_out(text, decision.reason)
                    name = decision.destination
                    if decision.verdict is Verdict.EXPAND:
                        name = _forwarded(settings, snapshot, domain, address, decision)
                    elif decision.verdict is not Verdict.RELAY or decision.here:
                        name = ""
                    if not name:
                        continue
                    destination = settings.destinations[name]
                    if not destination.envelope:
                        report.survey.leave_out(
                            text,
                            f"destination {destination.name} has no envelope: a forwarder needs another address than "
                            "the one it stands for (for example the tenant's onmicrosoft.com domain)",
                        )
                        continue
                    if _SPECIAL.match(local):
                        report.survey.leave_out(text, "in cPanel's forwarders it means something else than an address")
                        continue
                    report.survey.listed[domain.name] += 1
                    yield text, external(local, destination.envelope)


def _forwarded(settings: Settings, snapshot: Snapshot, domain: Domain, address: Address, decision: Decision) -> str:
    """The destination of somebody there whom a forwarder of ours already stands for; "" for any other alias."""
    destination = settings.destinations.get(domain.destination)
    if destination is None or not destination.envelope:
        return ""
    own = decision.targets == (external(address.local, destination.envelope),)
    listed = any(row.directory in domain.remote for row in snapshot.rows(address.domain, address.local))
    return destination.name if own and listed else ""


def build_forwarders(
    settings: Settings,
    reader: Reader,
    output: Path,
    *,
    check: bool = False,
    now: float | None = None,
    account: str = "",
) -> BuildReport:
    """Write both files into `output`. account: the cPanel user, for `uapi --user`; else the shell's own.

    Raises BuildError; the old files stay.
    """
    begun = time.monotonic()
    moment = time.time() if now is None else now
    report = BuildReport(output)
    unread, _ = never_read(settings, reader)
    if unread:
        raise BuildError(f"directory {', '.join(unread)} was never read", "the old files stay; see splitmx check")
    wanted = sorted(pairs(settings, reader, moment, report))
    try:
        present = _present(settings, wanted)
        texts = {
            LIST: "".join(f"{_csv(one)},{_csv(other)}\n" for one, other in wanted),
            COMMANDS: _script(settings, wanted, present, account),
        }
        if not check:
            output.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            report.maps.append(_write(output / name, text, check, 0o755 if name == COMMANDS else 0o644))
    except OSError as fault:
        raise BuildError(f"{fault.filename or output}: {fault.strerror or fault}", "the old files stay") from fault
    report.seconds = time.monotonic() - begun
    return report


def _present(settings: Settings, wanted: Sequence[tuple[str, str]]) -> set[tuple[str, str]] | None:
    """Forwarders of the cPanel host that its own files or exports tell of; None when nothing tells."""
    found: set[tuple[str, str]] = set()
    told = False
    for directory in settings.directories.values():
        options = directory.options
        if not isinstance(options, FileOptions):
            continue
        if options.format == "cpanel":
            tree = Tree(Path(options.path))
            for name in settings.domains:
                try:
                    entries = tree.aliases(name).entries
                except DirectoryError as fault:
                    raise BuildError(str(fault), fault.hint) from fault
                found |= {(one if "@" in one else f"{one}@{name}", t) for one, goals in entries.items() for t in goals}
            told = True
        elif options.format == "cpanel-uapi":
            from transport.directories import cpanel_uapi

            try:
                found |= cpanel_uapi.forwarders(Path(options.path))
            except DirectoryError as fault:
                raise BuildError(str(fault), fault.hint) from fault
            told = True
    return {(one.lower(), other.lower()) for one, other in found} if told else None


def _script(
    settings: Settings, wanted: Sequence[tuple[str, str]], present: set[tuple[str, str]] | None, account: str
) -> str:
    """Commands of `uapi` (cPanel UAPI, Email::add_forwarder, Email::delete_forwarder)."""
    user = f" --user={shlex.quote(account)}" if account else ""
    lines = [
        "#!/bin/sh",
        "# written by splitmx: one forwarder for each person at the other side",
        "# Look at it, then run it as the cPanel user. Running it twice changes nothing more.",
        "set -e",
    ]
    if present is None:
        lines.append(
            "# What is there already is not known (no directory of format cpanel or cpanel-uapi): all are added."
        )
    for one, other in wanted:
        if present is not None and (one, other) in present:
            continue
        domain = one.rpartition("@")[2]
        lines.append(
            f"uapi{user} Email add_forwarder domain={_word(domain)} email={_word(one)} fwdopt=fwd"
            f" fwdemail={_word(other)}"
        )
    envelopes = {d.envelope for d in settings.destinations.values() if d.envelope}
    keep = set(wanted)
    for one, other in sorted(present or ()):
        address, target = parse(one), parse(other)
        if address is None or target is None or (one, other) in keep:
            continue
        if address.domain in settings.domains and target.domain in envelopes and address.local == target.local:
            lines.append(f"uapi{user} Email delete_forwarder address={_word(one)} forwarder={_word(other)}")
    return "\n".join(lines) + "\n"


def _word(text: str) -> str:
    """A value on uapi's command line: percent-encoded, as uapi wants it, and quoted for the shell."""
    return shlex.quote(quote(text, safe="@.-_"))


def _csv(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if re.search(r'[",\s]', text) else text


def _write(path: Path, text: str, check: bool, mode: int) -> MapReport:
    old = path.read_text() if path.exists() else None
    entry = MapReport(path.name, path, ("text",), lines=text.count("\n"), changed=old != text)
    if entry.changed and check:
        before, after = set((old or "").splitlines()), set(text.splitlines())
        entry.added, entry.removed = len(after - before), len(before - after)
        entry.differences = [f"-{x}" for x in sorted(before - after)[:10]] + [
            f"+{x}" for x in sorted(after - before)[:10]
        ]
    elif entry.changed:
        new = path.with_name(f".{path.name}.new")
        new.write_text(text)
        new.chmod(mode)
        new.replace(path)
        entry.written = True
    return entry
