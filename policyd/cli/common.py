# SPDX-License-Identifier: Apache-2.0
"""What every command shares: options, ways to end, JSON output. Imports nothing but click."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from policyd.cli import EXIT_FOUND, EXIT_LATER, EXIT_USAGE, in_utf8

DEFAULT_CONFIG = "/etc/splitmx/splitmx.toml"

F = TypeVar("F", bound=Callable[..., Any])


class Stop(click.ClickException):
    """End the command with 2: one line on stderr, perhaps a second one with what to do."""

    exit_code = EXIT_USAGE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def show(self, file: Any = None) -> None:
        for text in (self.message, self.hint):
            for line in text.splitlines():
                click.echo(f"splitmx: {visible(line)}", err=True, file=file)


class Later(Stop):
    """End with 75: it can work at another time."""

    exit_code = EXIT_LATER


class Found(Stop):
    """End with 1: it works, and found something that should be looked at."""

    exit_code = EXIT_FOUND


def _config(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> Path:
    above = ctx.find_root().obj
    chosen = value or (above if isinstance(above, str) else None) or os.environ.get("SPLITMX_CONFIG")
    return Path(chosen or DEFAULT_CONFIG)


def config_option(command: F) -> F:
    """`--config FILE`: gives the command a Path `config`, also when it stood before the command's name."""
    return click.option(
        "--config",
        "-c",
        "config",
        metavar="FILE",
        callback=_config,
        help=f"The configuration; else $SPLITMX_CONFIG, else {DEFAULT_CONFIG}.",
    )(command)


def json_option(command: F) -> F:
    """`--json`: gives the command a bool `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def examples(*lines: str) -> str:
    """The EXAMPLES section of a command's `--help`, to be given as its `epilog`."""
    return "\b\nEXAMPLES\n" + "\n".join(f"  {line}" for line in lines)


def print_json(value: Any) -> None:
    """One JSON document on stdout, in UTF-8; what was no UTF-8 on the command line is escaped.

    Where stdout has another encoding, all beyond ASCII is.
    """
    import json

    text = json.dumps(value, indent=2, ensure_ascii=not in_utf8(), default=str)
    click.echo("".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in text))


def note(message: str) -> None:
    """A remark on stderr, so that stdout holds the result alone; whether anybody reads it changes nothing."""
    with contextlib.suppress(OSError):
        click.echo(f"splitmx: {message}", err=True)


def visible(text: str) -> str:
    """Text of a directory or a sender, fit for a terminal: control characters are shown, not obeyed."""
    return "".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in text)
