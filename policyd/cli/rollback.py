# SPDX-License-Identifier: Apache-2.0
"""`splitmx rollback`: the settings before the last reload, again."""

from __future__ import annotations

import os
from pathlib import Path

import click

from policyd.cli import EXIT_GOOD
from policyd.cli.common import Found, Stop, config_option, examples, json_option, print_json, visible


@click.command(epilog=examples("splitmx rollback --dry-run", "splitmx rollback", "splitmx rollback --log"))
@config_option
@json_option
@click.option("--dry-run", is_flag=True, help="Show what would differ, change nothing.")
@click.option("--log", "show_log", is_flag=True, help="Show the change log of the settings instead.")
def rollback(config: Path, as_json: bool, dry_run: bool, show_log: bool) -> int:
    """Go back to the settings before the last reload that changed something.

    The configuration file gets its earlier text, and the running daemon takes it. A second rollback goes forward
    again.

    Exit codes: 0 done, 1 there is nothing to go back to, 2 the earlier settings cannot be used any more, 75 the
    daemon could not be told.
    """
    from policyd.keeper import changes, files
    from transport.config.light import load_light

    state = load_light(config).state
    if state.exists() and not os.access(state, os.R_OK | os.X_OK):
        raise Stop(f"{state}: Permission denied", "run it as the daemon's user, or as root")
    if show_log:
        return _show_log(files.read(changes.log_path(state)), as_json)
    text = files.read(config)
    running = files.read(changes.current_path(state))
    earlier = files.read(changes.previous_path(state))
    if running and running != text:
        # an edit that was never loaded is undone first
        earlier = running
    if not earlier:
        if as_json:
            print_json({"config": str(config), "done": False, "differs": []})
        raise Found("there are no earlier settings", f"the daemon keeps them in {state} from its first reload on")
    differs = changes.differences(text, earlier)
    if not dry_run:
        from policyd.cli.configfile import install, reload_daemon

        if not config.exists():
            raise Stop(f"{config} cannot be read")
        install(config, earlier)
        reload_daemon(config)
    if as_json:
        print_json({"config": str(config), "done": not dry_run, "differs": differs})
    else:
        click.echo(f"{config}: {'would go back' if dry_run else 'went back'}, {len(differs)} differences")
        for line in differs:
            click.echo(f"  {visible(line)}")
    return EXIT_GOOD


def _show_log(text: str, as_json: bool) -> int:
    import json
    from datetime import UTC, datetime

    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    if as_json:
        print_json(lines)
        return EXIT_GOOD
    for entry in lines:
        when = datetime.fromtimestamp(entry["time"], UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        click.echo(f"{when} {entry['by']} {entry['digest'][:12]}")
        for difference in entry["differs"]:
            click.echo(f"  {visible(difference)}")
    return EXIT_GOOD
