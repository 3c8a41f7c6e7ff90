# SPDX-License-Identifier: Apache-2.0
"""`splitmx serve`: the daemon in the foreground, as a service manager wants it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from policyd.cli import common

_OF_ONE_PROCESS = ("/dev/fd/", "/proc/self/fd/")


@click.command(
    epilog=common.examples(
        "splitmx serve",
        "splitmx --config /etc/splitmx/splitmx.toml serve --log-level debug",
        "splitmx serve --user splitmx      (as root: drops to that user first)",
    )
)
@common.config_option
@click.option("--user", metavar="NAME", help="Drop to this user, when started as root.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="debug writes a line for each decision.",
)
def serve(config: Path, user: str | None, log_level: str) -> int:
    """Run the daemon in the foreground until SIGTERM.

    SIGHUP loads the configuration again; a bad one is refused and the old one stays. Exit codes: 0 stopped, 2
    configuration or usage, 75 not now: another daemon uses the same state directory, the system refused it or a
    listener (an address that is not there yet, a full disk, another owner), or the configuration cannot be read yet.
    """
    from policyd import kept, log
    from policyd.children import KEPT
    from policyd.loader import Loader
    from policyd.loop import rise
    from policyd.supervisor import EXIT_CONFIG, EXIT_LATER, Supervisor
    from policyd.version import running

    if str(config).startswith(_OF_ONE_PROCESS):
        raise common.Stop(
            f"{config}: a descriptor of this process alone, such as a shell's <(…): the daemon reads its configuration "
            "in other processes, and again at each reload",
            "write it into a file",
        )
    log.setup(log_level)
    log.process("supervisor")
    # who changes the configuration while we read it gets a reload once we are there, and not our end
    signal.pthread_sigmask(signal.SIG_BLOCK, KEPT)
    if os.geteuid() == 0 and not user:
        log.say(
            log.WARNING,
            "running as root, which it does not need",
            hint="start it as its own user (systemd/splitmx.service does), or name one with --user",
        )
    loader = Loader(config)
    _preload()
    rise()
    running()  # asked now: pip may exchange the files later
    kept.keep()
    loaded = loader.wait()
    if loaded.settings is None:
        for error in loaded.errors:
            log.say(log.ERROR, "configuration refused", error=error)
        return EXIT_LATER if loaded.later else EXIT_CONFIG
    if user:
        _become(user, loaded.settings.daemon.state)
    return Supervisor(config.absolute(), loaded).run()


def _preload() -> None:
    """Import what workers need while the configuration is read beside us: they are forked with it."""
    import importlib

    for name in ("uvloop", "policyd.worker.main"):
        try:
            importlib.import_module(name)
        except ImportError:
            if name != "uvloop":
                raise


def _become(name: str, state: Path) -> None:
    """Drop to `name` with its groups; what root has to prepare is prepared first."""
    import pwd

    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise common.Stop(f"--user {name}: no such user on this host") from None
    if os.geteuid() != 0:
        if entry.pw_uid != os.geteuid():
            raise common.Stop(f"--user {name}: only root can become another user")
        return
    if entry.pw_uid == 0:
        return
    if not state.exists():
        state.mkdir(mode=0o711, parents=True)
        os.chown(state, entry.pw_uid, entry.pw_gid)
    os.initgroups(name, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.environ["HOME"] = entry.pw_dir
