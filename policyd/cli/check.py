# SPDX-License-Identifier: Apache-2.0
"""`splitmx check`: is the configuration good, and does every part of it answer?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from policyd.cli import EXIT_FOUND, EXIT_GOOD, EXIT_USAGE
from policyd.cli.common import config_option, examples, json_option, note, print_json, visible

if TYPE_CHECKING:
    from transport.checks.destinations import DestinationResult
    from transport.checks.directories import DirectoryResult
    from transport.checks.overview import Overview


@click.command(epilog=examples("splitmx check", "splitmx check --offline", "splitmx check --json | jq .findings"))
@config_option
@json_option
@click.option("--offline", is_flag=True, help="The configuration alone: try no directory and no destination.")
@click.option("--plan", "with_plan", is_flag=True, help="Print each database's plan of the live look-up.")
def check(config: Path, as_json: bool, offline: bool, with_plan: bool) -> int:
    """Check the configuration, then try every directory and every destination.

    Says every mistake at once, each with its line. Reads each directory whole (beside the running daemon, without
    changing anything), asks it live as the daemon does, and compares what they say together; looks each destination
    up and speaks to it up to STARTTLS. Run by root it does so as the daemon's user, who has to read all of it.

    Ends with 0 when all is good, 1 when there is an error or a warning, 2 when the configuration cannot be used.
    """
    from transport.config.errors import ConfigErrors
    from transport.config.load import load

    try:
        settings = load(config)
    except ConfigErrors as faults:
        if not as_json:
            raise
        from dataclasses import asdict

        print_json({"good": False, "errors": [asdict(fault) for fault in faults.errors]})
        return EXIT_USAGE
    if offline:
        from transport.checks.configured import findings
        from transport.checks.overview import Overview

        overview = Overview(len(settings.domains), findings=findings(settings))
    else:
        from policyd.cli.asuser import again, daemons_user
        from transport.checks.overview import look

        user = daemons_user(settings.daemon)
        if user is not None:
            note(f"as {user.name}, the daemon's user")
            words = ["check", *(["--json"] if as_json else []), *(["--plan"] if with_plan else [])]
            return again(user, config, words)

        with _progress(as_json) as progress:
            overview = look(settings, progress=progress)
    if as_json:
        from dataclasses import asdict

        print_json({"good": overview.good, "errors": [], **asdict(overview)})
    else:
        _print(config, overview, with_plan)
    return EXIT_GOOD if overview.good else EXIT_FOUND


@contextmanager
def _progress(as_json: bool) -> Iterator[Callable[[str, int], None] | None]:
    """On a terminal: how many records were read of which directory."""
    if as_json or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status("reading") as status:

        def tell(name: str, count: int) -> None:
            status.update(f"reading {name}: {count:,}")

        yield tell


def _print(config: Path, overview: Overview, with_plan: bool) -> None:
    click.echo(f"{config}: {_count(overview.domains, 'domain')}, configuration good")
    if overview.directories:
        _table(
            ("DIRECTORY", "TYPE", "RECIPIENTS", "SKIPPED", "READ IN", "LIVE", "WHERE"),
            [_directory(result) for result in overview.directories],
        )
    if overview.destinations:
        _table(
            ("DESTINATION", "REACHED", "IN", "TLS", "WHERE"),
            [_destination(result) for result in overview.destinations],
        )
    for result in overview.directories:
        if result.plan and with_plan:
            click.echo(f"\nPlan of a live look-up in {result.name}:")
            for line in result.plan:
                click.echo(f"    {visible(line)}")
    if overview.findings:
        click.echo()
    for finding in overview.findings:
        click.echo(f"{finding.level}: {visible(finding.text)}")
        for line in finding.hint.splitlines():
            click.echo(f"    {visible(line)}")
    if overview.good:
        click.echo("all good")


def _directory(result: DirectoryResult) -> tuple[str, ...]:
    reached = result.reached
    return (
        result.name,
        result.type,
        f"{result.recipients:,}" if reached else "-",
        str(result.skipped) if reached else "-",
        _seconds(result.took) if reached else "not read",
        "-" if result.live is None else _seconds(result.live),
        result.where,
    )


def _destination(result: DestinationResult) -> tuple[str, ...]:
    took = _seconds(result.took) if result.reached else "-"
    return (result.name, "yes" if result.reached else "NO", took, result.tls or "-", result.next_hop)


def _seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.1f} s"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A table: by rich on a terminal, in plain columns elsewhere."""
    click.echo()
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in head:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(Text(visible(cell)) for cell in row))
        Console().print(table)
        return
    lines = [head, *(tuple(visible(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
