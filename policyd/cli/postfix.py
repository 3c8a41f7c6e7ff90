# SPDX-License-Identifier: Apache-2.0
"""`splitmx postfix show` and `splitmx postfix check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from policyd.cli import EXIT_FOUND, EXIT_GOOD
from policyd.cli.common import Stop, config_option, examples, json_option, print_json

if TYPE_CHECKING:
    from transport.config.settings import Settings
    from transport.mta.postfix import Postfix

DEPLOY = click.Choice(["live", "static", "both"])


@click.group(epilog=examples("splitmx postfix show", "splitmx postfix check"))
def postfix() -> None:
    """Show the settings that Postfix needs, or check those that it has."""


def _read(config: Path, directory: str | None) -> tuple[Settings, Postfix]:
    from transport.config.load import load
    from transport.mta.postfix import PostfixError, read

    settings = load(config)
    try:
        return settings, read(Path(directory) if directory else None)
    except PostfixError as fault:
        raise Stop(str(fault), "name the folder of its main.cf with --config-directory") from fault


directory_option = click.option(
    "--config-directory", "directory", metavar="DIR", help="The folder of main.cf; else the system's."
)
deploy_option = click.option(
    "--deploy", type=DEPLOY, default=None, help="How Postfix is to ask; default: both with [static], else live."
)
maps_option = click.option(
    "--maps", metavar="DIR", help="Where `build` writes; default: [static] directory, else STATE/maps."
)


@postfix.command(
    epilog=examples(
        "splitmx postfix show",
        "splitmx postfix show --deploy both > /root/splitmx-postfix.sh",
        "splitmx postfix show --config-directory /etc/postfix-in",
    )
)
@config_option
@json_option
@directory_option
@deploy_option
@maps_option
def show(config: Path, as_json: bool, directory: str | None, deploy: str | None, maps: str | None) -> int:
    """Print the exact commands for this configuration and this Postfix. Nothing is changed.

    The site's own values are kept, ours come behind them, and no domain changes its address class. Ends with 1
    when something makes it impossible; the text says what.
    """
    from transport.mta.postfix_plan import make
    from transport.mta.postfix_text import script

    settings, found = _read(config, directory)
    plan = make(settings, found, deploy or "", Path(maps) if maps else None)
    if as_json:
        from dataclasses import asdict

        print_json(asdict(plan))
    else:
        click.echo(script(plan, found), nl=False)
    return EXIT_FOUND if plan.problems else EXIT_GOOD


@postfix.command(epilog=examples("splitmx postfix check", "splitmx postfix check --json"))
@config_option
@json_option
@directory_option
@deploy_option
@maps_option
def check(config: Path, as_json: bool, directory: str | None, deploy: str | None, maps: str | None) -> int:
    """Compare a living Postfix with what it needs, and name what differs or will hurt.

    Ends with 1 when there is an error or a warning.
    """
    from transport.checks.postfix import findings
    from transport.mta.postfix_plan import make

    settings, found = _read(config, directory)
    plan = make(settings, found, deploy or "", Path(maps) if maps else None)
    result = findings(settings, found, plan)
    serious = [f for f in result if f.level != "note"]
    if as_json:
        from dataclasses import asdict

        print_json({"deploy": plan.deploy, "findings": [asdict(f) for f in result]})
    else:
        for finding in result:
            click.echo(f"{finding.level}: {finding.text}")
            if finding.hint:
                click.echo(f"    {finding.hint}")
        if not serious:
            version = ".".join(str(n) for n in found.version)
            click.echo(
                f"Postfix {version} in {found.directory} is set up for {len(plan.classes)} domains ({plan.deploy})"
            )
    return EXIT_FOUND if serious else EXIT_GOOD
