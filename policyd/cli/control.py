# SPDX-License-Identifier: Apache-2.0
"""Ask the running daemon over its control socket. Light: no pydantic, no drivers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from policyd.cli.common import Later, Stop
from policyd.cli.shapes import ANSWERS, misfit
from policyd.control_client import ControlError, name_of, request
from transport.config.light import load_light


class NoDaemonError(Exception):
    """No daemon of this configuration is running; the text says where one was looked for."""


def call(
    config: Path,
    do: str,
    timeout: float = 30.0,
    progress: Callable[[dict[str, Any]], None] | None = None,
    **message: Any,
) -> dict[str, Any]:
    """One request; its answer. Raises NoDaemonError.

    Ends the command when the daemon refuses or hangs, or when what answers there is not this splitmx's daemon.
    """
    where = load_light(config).control
    try:
        answer = request(where, {"do": do, **message}, timeout, progress)
    except ControlError as error:
        if not error.running:
            raise NoDaemonError(error.what) from None
        raise Later(error.what) from None
    if not answer["ok"]:
        refused = Later if answer.get("later") else Stop
        raise refused(str(answer.get("error") or "the daemon refused it"))
    if wrong := misfit(answer, ANSWERS[do]):
        raise Later(
            f"{name_of(where)}: that is no answer of this splitmx's daemon ({wrong!r} is missing or of another kind)",
            "another program listens there, or a daemon of another version: then restart it",
        )
    return answer


def must_call(
    config: Path,
    do: str,
    timeout: float = 30.0,
    progress: Callable[[dict[str, Any]], None] | None = None,
    **message: Any,
) -> dict[str, Any]:
    """The same for commands that are nothing without a daemon: 75 when there is none."""
    try:
        return call(config, do, timeout, progress, **message)
    except NoDaemonError as error:
        raise Later(f"no daemon is running ({error})", "start it: systemctl start splitmx, or splitmx serve") from None
