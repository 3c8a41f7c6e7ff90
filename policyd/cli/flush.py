# SPDX-License-Identifier: Apache-2.0
"""`splitmx flush ADDRESS|DOMAIN`: forget what was learned, and ask the directories anew."""

from __future__ import annotations

from pathlib import Path

import click

from policyd.cli import EXIT_GOOD, EXIT_LATER
from policyd.cli.common import Stop, config_option, examples, json_option, print_json, visible


@click.command(epilog=examples("splitmx flush bob@example.com", "splitmx flush example.com"))
@config_option
@json_option
@click.argument("what", metavar="ADDRESS|DOMAIN")
def flush(config: Path, as_json: bool, what: str) -> int:
    """Forget what the daemon knows of an address or of a domain, and ask the directories now.

    Every worker has forgotten it when the command ends.

    Exit codes: 0 done, 2 not an address or domain of ours, 75 no daemon, or a directory could not be asked.
    """
    from policyd.cli.control import must_call

    if not what.strip():
        raise Stop("it is empty: name an address or a domain")
    # a domain is read anew, which may take as long as its directories need
    answer = must_call(config, "flush", timeout=20 if "@" in what else 120, what=what)
    directories = answer.get("directories", [])
    if as_json:
        print_json({key: value for key, value in answer.items() if key != "ok"})
    else:
        forgot = "forgotten by all" if answer.get("acknowledged") else "not forgotten by all of"
        click.echo(f"{visible(str(answer.get('what', what)))}: {forgot} {answer.get('workers')} workers")
        for entry in directories:
            line = entry["line"] if "line" in entry else f"directory {entry['directory']}: {entry['answer']}"
            click.echo(f"  {visible(line)}")
    failed = any(entry.get("answer") == "could not be asked" or entry.get("error") for entry in directories)
    return EXIT_LATER if failed or not answer.get("acknowledged") else EXIT_GOOD
