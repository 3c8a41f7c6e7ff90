# SPDX-License-Identifier: Apache-2.0
"""The command line, `splitmx`: one module a command, imported when that command is used.

This module imports nothing but click, so that `--help`, `query`, `flush` and `status` answer at once.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import click

EXIT_GOOD = 0
EXIT_FOUND = 1
EXIT_USAGE = 2
EXIT_LATER = 75  # EX_TEMPFAIL of sysexits.h
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

# Postfix has to reach what we write, nobody else may change it, whatever the shell says; what is private has a mode.
_UMASK = 0o022


class Entry(NamedTuple):
    """Where a command lives (`module:attribute`), and its line in `--help`."""

    where: str
    help: str


COMMANDS: dict[str, Entry] = {
    "serve": Entry("policyd.cli.serve:serve", "Run the daemon."),
    "check": Entry("policyd.cli.check:check", "Check the configuration and reach every part."),
    "explain": Entry("policyd.cli.explain:explain", "Say where an address's mail goes, and why."),
    "query": Entry("policyd.cli.query:query", "Ask one map for one key, as the MTA does."),
    "build": Entry("policyd.cli.build:build", "Write the static maps."),
    "sync": Entry("policyd.cli.sync:sync", "Read the directories now; release held changes."),
    "flush": Entry("policyd.cli.flush:flush", "Forget what is known of an address or a domain."),
    "status": Entry("policyd.cli.status:status", "Show the running daemon."),
    "observe": Entry("policyd.cli.observe:observe", "What observed domains would have done."),
    "postfix": Entry("policyd.cli.postfix:postfix", "Show or check the settings of Postfix."),
    "exim": Entry("policyd.cli.exim:exim", "Show or check the settings of Exim."),
    "init": Entry("policyd.cli.init:init", "Write a configuration to start with."),
    "rollback": Entry("policyd.cli.rollback:rollback", "Go back to the settings before the last reload."),
    "retire": Entry("policyd.cli.retire:retire", "Take a domain out, if nobody is at the other side."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used; `--help` imports none of them.

    Every end of a command passes through `main`: exit codes are 0 (good), 1 (found something), 2 (usage or
    configuration) and 75 (try later), and no traceback reaches the user. An unexpected error ends with 75,
    so that a script which reads 1 as "not found" is never misled by a fault of ours.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        import importlib

        module, _, attribute = entry.where.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _broken_pipes():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _broken_pipes():
            return super().invoke(ctx)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and end the process with its exit code (`standalone_mode`), else return it."""
        if standalone_mode:
            os.umask(_UMASK)
            _complete_descriptors()
            _show_what_cannot_be_written()
        try:
            result = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            code = result if isinstance(result, int) else EXIT_GOOD
            with _broken_pipes():
                sys.stdout.flush()
        except click.exceptions.Abort:
            code = EXIT_INTERRUPTED
        except click.ClickException as fault:
            with contextlib.suppress(OSError):  # nobody reads stderr
                fault.show()
            code = fault.exit_code
        except Exception as fault:
            if isinstance(fault, _BrokenPipeError) and _is_unread():
                # the reader went away: what Python would say of it at exit interests nobody
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                code = EXIT_GOOD
            else:
                code = _fault(fault)
        if standalone_mode:
            sys.exit(_all_written(code))
        return code


class _BrokenPipeError(Exception):
    """EPIPE, for which click would end the process by itself, with 1: that something was found."""


@contextlib.contextmanager
def _broken_pipes() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as fault:
        raise _BrokenPipeError(str(fault)) from fault


def _is_unread() -> bool:
    """Whether nobody reads stdout any more."""
    poll = select.poll()
    poll.register(1, 0)  # POLLERR and POLLHUP are told in any case
    return bool(poll.poll(0))


def _complete_descriptors() -> None:
    """Started with a standard descriptor closed (`>&-`): what is opened next would get its number, and the output."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))


def _all_written(code: int) -> int:
    """The exit code, once all is written: Python would end with 120 if stdout or stderr did not take the rest."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            if number == 1:
                code = code or EXIT_LATER
    return code


def in_utf8() -> bool:
    """Whether stdout has every character."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return encoding.lower().replace("_", "-") in ("utf-8", "utf8")


def _show_what_cannot_be_written() -> None:
    """On a terminal without UTF-8 a character that it has not is escaped, as stderr does it; it ends no command."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not in_utf8():
        sys.stdout.reconfigure(errors="backslashreplace")


def _fault(fault: Exception) -> int:
    """Print what went wrong, in lines for people; return the exit code."""
    with contextlib.suppress(OSError):  # nobody reads stderr
        if os.environ.get("SPLITMX_DEBUG"):
            import traceback

            traceback.print_exc()
        for line in _said(fault):
            click.echo(line, err=True)
    return EXIT_USAGE if _is(fault, "transport.config.errors", "ConfigErrors") else EXIT_LATER


def _said(fault: Exception) -> list[str]:
    """The lines."""
    if _is(fault, "transport.config.errors", "ConfigErrors"):
        return [str(fault).rstrip("\n")]
    if _is(fault, "transport.directories.base", "DirectoryError"):
        hint = getattr(fault, "hint", "")
        return [f"splitmx: {fault}", *([f"splitmx: {hint}"] if hint else [])]
    if isinstance(fault, OSError) and fault.strerror:
        place = f"{fault.filename}: " if fault.filename else ""
        return [f"splitmx: {place}{fault.strerror}"]
    first = (str(fault).splitlines() or [""])[0][:300]
    return [f"splitmx: unexpected {type(fault).__name__}: {first} (SPLITMX_DEBUG=1 shows where)"]


def _is(fault: Exception, module: str, name: str) -> bool:
    """Whether it is an instance of a class of a module, without importing that module."""
    loaded = sys.modules.get(module)
    kind = getattr(loaded, name, None)
    return isinstance(kind, type) and isinstance(fault, kind)


def _version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("splitmx")
    except PackageNotFoundError:
        number = "(not installed)"
    click.echo(f"splitmx {number}")
    ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nEXAMPLES\n"
    "  splitmx check\n"
    "  splitmx query transport bob@example.com\n"
    "  splitmx explain bob@example.com",
)
@click.option(
    "--config",
    "-c",
    "config",
    metavar="FILE",
    help="The configuration; else $SPLITMX_CONFIG, else /etc/splitmx/splitmx.toml.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.pass_context
def main(ctx: click.Context, config: str | None) -> None:
    """One mail domain on two mail systems: says for every recipient where its mail goes.

    Exit codes: 0 good, 1 found something, 2 usage or configuration, 75 try later.
    """
    ctx.obj = config
