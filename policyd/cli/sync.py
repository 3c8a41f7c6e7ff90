# SPDX-License-Identifier: Apache-2.0
"""`splitmx sync`: read the directories now; show and release what the guards hold back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from policyd.cli import EXIT_FOUND, EXIT_GOOD, EXIT_LATER
from policyd.cli.common import config_option, examples, json_option, print_json, visible


@click.command(
    epilog=examples(
        "splitmx sync",
        "splitmx sync corp",
        "splitmx sync --dry-run",
        "splitmx sync --accept example.com",
    )
)
@config_option
@json_option
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Show what would change, change nothing.")
@click.option("--accept", is_flag=True, help="Release held changes: of the names given, else of all directories.")
def sync(config: Path, as_json: bool, names: tuple[str, ...], dry_run: bool, accept: bool) -> int:
    """Read directories now and take their changes. NAME is a directory or a domain; none: everything.

    Deletions and changes of side that look wrong are held back (max_shrink, shrink_floor, max_moved); they are
    shown here and by `status`, and `sync --accept [NAME]` releases them.

    Exit codes: 0 done, 1 changes are held back, 2 no such name, 75 no daemon, or a directory could not be read.
    """
    from policyd.cli.control import must_call

    def progress(step: dict[str, Any]) -> None:
        if step and sys.stderr.isatty() and not as_json:
            click.echo(
                f"\r{visible(str(step.get('directory', '')))}: {step.get('records', 0)} read ", nl=False, err=True
            )

    answer = must_call(
        config,
        "sync",
        timeout=60,
        progress=progress,
        names=list(names),
        dry_run=dry_run,
        accept=list(names) if accept else None,
    )
    reports = answer.get("reports", [])
    if as_json:
        print_json(reports)
    else:
        if sys.stderr.isatty():
            click.echo("\r\033[K", nl=False, err=True)
        for report in reports:
            _show(report)
    if any(report.get("error") or report.get("unread") for report in reports):
        return EXIT_LATER
    return EXIT_FOUND if any(report.get("held") for report in reports) else EXIT_GOOD


_SORTS = ("added", "removed", "moved", "changed")


def _show(report: dict[str, Any]) -> None:
    click.echo(visible(("would: " if report.get("dry_run") else "") + str(report.get("line", ""))))
    if report.get("dry_run"):
        for sort in _SORTS:
            for address in (report.get("first") or {}).get(sort, ()):
                click.echo(f"  {sort} {visible(str(address))}")
    for part in report.get("unread") or ():
        hint = f"; {part['hint']}" if part["hint"] else ""
        click.echo(visible(f"  not read, {part['domain']}: {part['why']}{hint}"))
    for change in report.get("held_changes") or ():
        where = change.get("domain") or "the whole directory"
        first = ", ".join(change.get("first") or ())
        click.echo(visible(f"  held back, {where}: {change.get('count')} {change.get('what')}: {change.get('why')}"))
        if first:
            click.echo(
                visible(f"    {first}{', …' if change.get('count', 0) > len(change.get('first') or ()) else ''}")
            )
        name = change.get("domain") or report.get("directory")
        click.echo(f"    release: splitmx sync --accept {name}")
