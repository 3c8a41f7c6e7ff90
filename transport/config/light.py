# SPDX-License-Identifier: Apache-2.0
"""The little that `query`, `flush` and `status` need to reach the daemon, without pydantic and in a few milliseconds.

Only the `[daemon]` table is read: the tables of ten thousand domains would take tomllib seconds.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from transport.config import reading
from transport.config.errors import ConfigError, ConfigErrors, Wrong
from transport.config.listeners import parse_control, parse_listener
from transport.config.settings import Daemon, Listener

DEFAULT = Path("/etc/splitmx/splitmx.toml")
VARIABLE = "SPLITMX_CONFIG"

_DAEMON = re.compile(r"^[ \t]*\[[ \t]*(?:daemon|\"daemon\"|'daemon')[ \t]*\][ \t]*(?:#[^\n]*)?$", re.MULTILINE)
_NEXT = re.compile(r"^[ \t]*\[", re.MULTILINE)


class Light(NamedTuple):
    """Where the daemon listens."""

    control: Listener
    socketmap: tuple[Listener, ...]
    state: Path


def config_path(option: str | os.PathLike[str] | None = None) -> Path:
    """The configuration's path: `--config`, else `$SPLITMX_CONFIG`, else `/etc/splitmx/splitmx.toml`."""
    return Path(option or os.environ.get(VARIABLE) or DEFAULT)


def load_light(path: Path) -> Light:
    """The control socket and the socketmap listeners of a file.

    Raises ConfigErrors when it cannot be read or these keys are wrong; other mistakes in the file are not seen.
    """
    try:
        text = reading.read(path).decode("utf-8-sig").replace("\r\n", "\n")
        daemon = _daemon(text)
    except OSError as error:
        hint = "a configuration file; name another one with --config or SPLITMX_CONFIG"
        if isinstance(error, PermissionError):
            hint = "a file that you may read: commands are run as root or as the daemon's user"
        raise ConfigErrors([ConfigError(str(path), "", "", error.strerror or "an error", hint)]) from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, a number of more digits than Python reads
        raise ConfigErrors([ConfigError(str(path), "", "", str(error), "TOML; see splitmx check")]) from None
    key = "control"
    try:
        control = parse_control(daemon["control"]) if "control" in daemon else Daemon().control
        key = "socketmap"
        listed = daemon.get("socketmap", [])
        if not isinstance(listed, list):
            raise Wrong("a list of listeners")
        socketmap = tuple(parse_listener(value) for value in listed)
        key = "state"
        state = daemon.get("state", str(Daemon().state))
        if not isinstance(state, str) or not state:
            raise Wrong("a folder")
    except Wrong as wrong:
        found = wrong.found or str(daemon.get(key))
        raise ConfigErrors([ConfigError(str(path), "daemon", key, found, wrong.allowed)]) from None
    return Light(control, socketmap, path.parent.absolute() / state)


def _daemon(text: str) -> dict[str, Any]:
    """The `[daemon]` table: cut out of the text where that is possible, else out of the whole of it."""
    heads = list(_DAEMON.finditer(text))
    if len(heads) == 1:
        after = _NEXT.search(text, heads[0].end())
        piece = text[heads[0].start() : after.start() if after else len(text)]
        try:
            found = tomllib.loads(piece).get("daemon")
            if isinstance(found, dict) and not re.search(r"^[ \t]*\[[ \t]*daemon[ \t]*\.", text, re.MULTILINE):
                return found
        except tomllib.TOMLDecodeError:
            pass  # a line of a list begins with a bracket: read everything
    whole = tomllib.loads(text).get("daemon", {})
    return whole if isinstance(whole, dict) else {}
