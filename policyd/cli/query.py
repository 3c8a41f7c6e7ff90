# SPDX-License-Identifier: Apache-2.0
"""`splitmx query MAP KEY`: one map, one key, as the MTA asks it. Light: it answers in the time of a shell prompt."""

from __future__ import annotations

from pathlib import Path

import click

from policyd.cli import EXIT_FOUND, EXIT_GOOD, EXIT_LATER
from policyd.cli.common import Later, Stop, config_option, examples, json_option, note, print_json, visible

MAPS = (
    "transport",
    "relay_recipients",
    "here",
    "virtual_alias",
    "recipient_bcc",
    "relay_domains",
    "tls_policy",
)
"""The same as `transport.answerer.MAPS`, which would cost its imports."""

_EXITS = {"OK": EXIT_GOOD, "NOTFOUND": EXIT_FOUND}


@click.command(
    epilog=examples(
        "splitmx query transport bob@example.com",
        "splitmx query virtual_alias sales+news@example.com",
        "splitmx query tls_policy '[mx.example.net]'",
        "splitmx query --json relay_recipients bob@example.com",
    )
)
@config_option
@json_option
@click.argument("name", metavar="MAP")
@click.argument("key")
def query(config: Path, as_json: bool, name: str, key: str) -> int:
    """Ask one map for one key, and print the value.

    MAP is transport, relay_recipients, here, virtual_alias, recipient_bcc, relay_domains or tls_policy. The running
    daemon is asked; where there is none, the answer is made here, and stderr says so.

    Exit codes: 0 found, 1 not found, 2 no such map, 75 try again later.
    """
    if name not in MAPS:
        raise Stop(f"there is no map {name!r}", f"the maps are {', '.join(MAPS)}")
    status, value, source = _answer(config, name, key)
    if as_json:
        print_json({"status": status, "value": value, "source": source})
    elif status == "OK":
        click.echo(visible(value))
    elif status != "NOTFOUND":
        note(f"{status} {visible(value)}")
    return _EXITS.get(status, EXIT_LATER)


def _answer(config: Path, name: str, key: str) -> tuple[str, str, str]:
    """Status, value, and who said so."""
    from policyd.cli.asking import NoDaemonError, SilentDaemonError, ask_map
    from transport.config.light import load_light

    why = "the configuration has no socketmap listener"
    for listener in load_light(config).socketmap:
        try:
            status, value = ask_map(listener, name, key)
        except NoDaemonError as error:
            why = str(error)
            continue
        except SilentDaemonError as error:
            raise Later(str(error), error.hint) from None
        except ValueError as error:
            raise Stop(str(error)) from None
        return status, value, f"daemon at {listener.name}"
    from policyd.cli.alone import Alone

    whom = "the daemon may not be asked" if why.endswith("Permission denied") else "no daemon"
    note(f"{whom} ({why}): answering from the directories themselves")
    with Alone(config) as here:
        outcome = here.map(name, key)
        for fault in here.faults:
            note(fault)
        return outcome.status, outcome.value, here.source
