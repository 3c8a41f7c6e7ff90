# SPDX-License-Identifier: Apache-2.0
"""`splitmx observe report`: what observed domains would have done, beside what the MTA did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from policyd.cli import EXIT_FOUND, EXIT_GOOD
from policyd.cli.common import Stop, config_option, examples, json_option, print_json, visible

if TYPE_CHECKING:
    from policyd.cli.observed import Report


@click.group(epilog=examples("splitmx observe report --domain example.com"))
def observe() -> None:
    """Domains with enabled = "observe": what would have been decided for their mail."""


@observe.command(
    epilog=examples(
        "splitmx observe report",
        "splitmx observe report --domain example.com --log /var/log/mail.log",
        "splitmx observe report --log /var/log/mail.log.1 --log /var/log/mail.log --json",
    )
)
@config_option
@json_option
@click.option("--domain", help="Only this domain.")
@click.option("--log", "logs", metavar="FILE", multiple=True, help="A mail log of Postfix, oldest first; .gz too.")
@click.option("--days", type=click.IntRange(1, 14), default=14, show_default=True, help="How far back to look.")
@click.option("--most", type=click.IntRange(1), default=50, show_default=True, help="Lines of each list to print.")
def report(config: Path, as_json: bool, domain: str | None, logs: tuple[str, ...], days: int, most: int) -> int:
    """List every unknown recipient, every refusal and every undecided one; with --log, whatever Postfix did otherwise.

    The policy service logs a decision for each RCPT of an observed domain (14 days are kept). --log names the mail
    log of the same days; what Postfix did with each of those recipients is looked up there.

    Exit codes: 0 nothing to see, 1 differences, unknown or undecided recipients are listed.
    """
    from policyd.cli import observed
    from transport.address import fold_domain
    from transport.config.light import load_light

    if domain is not None and fold_domain(domain) is None:
        raise Stop(f"--domain {domain!r} is not a domain")
    folder = load_light(config).state / "observe"
    try:
        decisions = observed.read(folder, days=days, domain=domain)
        deeds = observed.read_logs([Path(name) for name in logs]) if logs else None
    except OSError as fault:
        hint = "run it as the daemon's user, or as root" if isinstance(fault, PermissionError) else ""
        raise Stop(f"{fault.filename}: {fault.strerror}", hint) from None
    found = observed.compare(decisions, deeds)
    if as_json:
        print_json(found.as_json())
    else:
        for line in _lines(found, folder, most):
            click.echo(visible(line))
    return EXIT_FOUND if found.differences or found.unknown or found.undecided or found.refused else EXIT_GOOD


def _lines(found: Report, folder: Path, most: int) -> Iterator[str]:
    if not found.decisions:
        yield f"no decision was observed ({folder})"
        return
    words = ", ".join(f"{word} {number}" for word, number in sorted(found.verdicts.items()))
    yield f"{found.decisions} decisions for {found.recipients} recipients: {words}"
    if found.matched is not None:
        yield f"{found.matched} of them were found in the mail log, {len(found.differences)} differ"
    for title, entries in (
        ("Postfix did otherwise", found.differences),
        ("listed nowhere", found.unknown),
        ("would have been refused", found.refused),
        ("could not be decided", found.undecided),
    ):
        if entries:
            yield f"{title}:"
        for entry in entries[:most]:
            yield f"  {_entry(entry)}"
        if len(entries) > most:
            yield f"  … and {len(entries) - most} more"


def _entry(entry: dict[str, Any]) -> str:
    times = f" ({entry['times']} times)" if entry["times"] > 1 else ""
    did = f"; Postfix: {entry['did']}" if entry.get("did") else ""
    return f"{entry['recipient']}: {entry['would']}, {entry['reason']}{did}{times}"
