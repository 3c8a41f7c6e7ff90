# SPDX-License-Identifier: Apache-2.0
"""`splitmx build`: write the static maps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from policyd.cli import EXIT_FOUND, EXIT_GOOD, EXIT_LATER
from policyd.cli.common import Later, Stop, config_option, examples, json_option, note, print_json, visible

if TYPE_CHECKING:
    from transport.config.settings import Settings
    from transport.maps.build import Progress
    from transport.maps.report import BuildReport

TARGETS = ("postfix", "exim", "cpanel-forwarders")


@click.command(
    epilog=examples(
        "splitmx build",
        "splitmx build --check",
        "splitmx build --output /etc/postfix/splitmx --type lmdb",
        "splitmx build --type cdb --type texthash --accept",
    )
)
@config_option
@json_option
@click.option("--output", metavar="DIR", help="Where to write; else [static] directory, else STATE/maps.")
@click.option(
    "--type",
    "types",
    metavar="TYPE",
    multiple=True,
    help="Type of the indexed maps: hash, btree, cdb, lmdb or texthash; may be given several times. "
    "Else [static] types, else what postconf default_database_type names.",
)
@click.option(
    "--for", "targets", type=click.Choice(TARGETS), multiple=True, help="Whose maps; else [static] for, else postfix."
)
@click.option("--check", is_flag=True, help="Write nothing, show the differences; exit code 1 when there are some.")
@click.option("--accept", is_flag=True, help="Write a result that lost many recipients, too.")
@click.option(
    "--behind-live/--alone",
    "behind",
    default=None,
    help="Whether live maps stand behind the files; else: whether the configuration has a socketmap listener.",
)
def build(
    config: Path,
    as_json: bool,
    output: str | None,
    types: tuple[str, ...],
    targets: tuple[str, ...],
    check: bool,
    accept: bool,
    behind: bool | None,
) -> int:
    """Write the static maps: transport, relay_recipients, virtual_alias, recipient_bcc, relay_domains, tls_policy,
    shadow_transport, shadow_generic, peers_access and the guard domains.sqlite.

    With a running daemon the maps are made from what it has read; else the directories are read first. A file is
    replaced only when it changes, and always as a whole. A result that lost many recipients is held back until
    --accept. Alone, without live maps behind them, files can only serve unknown = "reject".

    Exit codes: 0 written or unchanged, 1 differences (--check), something held back or left out, 2 configuration,
    75 try again later.
    """
    from transport.config.load import load

    settings = load(config)
    static = settings.static
    wanted = targets or (tuple(static.for_) if static else ()) or ("postfix",)
    folder = Path(output) if output else static.directory if static else settings.daemon.state / "maps"
    kinds = types or (static.types if static else ())
    alone = None if behind is None else not behind
    reports: list[dict[str, Any]] = []
    code = EXIT_GOOD
    from policyd.cli import index

    with index.opened(settings, accept=accept) as at_hand:
        if at_hand.faults:
            code = EXIT_LATER
        for fault in at_hand.faults:
            note(f"{fault}; its recipients are those of the last good reading")
        if at_hand.held:
            code = max(code, EXIT_FOUND)
        for line in at_hand.held:
            note(f"held back: {line} (--accept releases it)")
        with _progress(as_json) as progress:
            for target in wanted:
                found, lines, result = _one(
                    target, settings, at_hand.reader, folder, kinds, check, accept, alone, progress
                )
                reports.append(result)
                code = max(code, found)
                if not as_json:
                    for line in lines:
                        click.echo(visible(line))
    if as_json:
        print_json(reports[0] if len(reports) == 1 else reports)
    return code


def _one(
    target: str,
    settings: Settings,
    reader: Any,
    folder: Path,
    types: tuple[str, ...],
    check: bool,
    accept: bool,
    alone: bool | None,
    progress: Progress | None,
) -> tuple[int, list[str], dict[str, Any]]:
    from transport.maps.build import build as build_maps
    from transport.maps.write import BuildError, BuildRefusedError

    try:
        if target == "exim":
            from transport.maps.exim import build_exim

            kinds = tuple(kind for kind in types if kind in ("cdb", "lsearch"))
            report = build_exim(settings, reader, folder, kinds, check=check, accept=accept, alone=alone)
        elif target == "cpanel-forwarders":
            from transport.maps.exim_forwarders import build_forwarders

            report = build_forwarders(settings, reader, folder, check=check)
        else:
            report = build_maps(
                settings,
                reader,
                folder,
                types,
                check=check,
                accept=accept,
                alone=alone,
                spf=_spf(settings),
                progress=progress,
            )
    except BuildRefusedError as fault:
        raise Stop(str(fault), fault.hint) from None
    except BuildError as fault:
        raise Later(str(fault), fault.hint) from None
    return _code(report, check), list(_lines(report, check)), _as_json(report)


def _spf(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The networks of the peers' `spf:` names as the daemon last found them."""
    from policyd.keeper import files

    known = files.read_json(settings.daemon.state / "peers.json")
    return {name: tuple(map(str, found)) for name, found in known.items() if isinstance(found, list)}


def _code(report: BuildReport, check: bool) -> int:
    if check and report.changed:
        return EXIT_FOUND
    return EXIT_GOOD if report.complete else EXIT_FOUND


def _lines(report: BuildReport, check: bool) -> Iterator[str]:
    from transport.maps.guard import NAME

    if report.guard_changed:
        yield f"{report.output / NAME}: {'would change' if check else 'written'}"
    for entry in report.maps:
        if not entry.changed:
            continue
        kinds = ", ".join(entry.types)
        if check:
            yield f"{entry.path}: {entry.lines} lines, {entry.added} new, {entry.removed} gone"
            yield from (f"    {line}" for line in entry.differences)
            if entry.added + entry.removed > len(entry.differences):
                yield f"    … and {entry.added + entry.removed - len(entry.differences)} more"
        elif entry.written:
            yield f"{entry.path}: written, {entry.lines} lines ({kinds})"
    if not report.changed:
        yield f"{report.output}: nothing has changed"
    for reason in report.held:
        yield f"held back, the per-recipient maps stay as they are: {reason} (--accept writes them)"
    for name in report.unread:
        yield f"directory {name} was never read: who only it lists has no line, the live map answers"
    for reason, number in report.survey.left_out.most_common(20):
        example = next((address for address, why in report.survey.first if why == reason), "")
        yield f"left out: {number} ({example}): {reason}" if example else f"left out: {number}: {reason}"
    for finding in list(report.survey.findings)[:20]:
        yield f"finding: {finding}"
    for warning in report.warnings:
        yield f"warning: {warning}"
    if report.waiting:
        yield f"not in relay_domains yet: {', '.join(report.waiting)}; run postfix reload, then build again"
    elif report.reload:
        yield "run postfix reload: a running Postfix has not seen everything yet"


def _as_json(report: BuildReport) -> dict[str, Any]:
    survey = report.survey
    return {
        "output": str(report.output),
        "changed": report.changed,
        "complete": report.complete,
        "guard_changed": report.guard_changed,
        "maps": {
            entry.name: {
                "path": str(entry.path),
                "types": list(entry.types),
                "lines": entry.lines,
                "changed": entry.changed,
                "written": entry.written,
                "added": entry.added,
                "removed": entry.removed,
                "differences": entry.differences,
            }
            for entry in report.maps
        },
        "held": report.held,
        "unread": report.unread,
        "left_out": dict(survey.left_out),
        "left_out_first": [{"address": address, "reason": why} for address, why in survey.first],
        "findings": list(survey.findings),
        "changes_at": survey.until,
        "reload": report.reload,
        "waiting": report.waiting,
        "warnings": report.warnings,
        "seconds": round(report.seconds, 3),
    }


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar on a terminal, nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def step(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield step
