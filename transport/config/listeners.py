# SPDX-License-Identifier: Apache-2.0
"""How a listener is written: `unix:PATH[?mode=0660&group=NAME]` or `inet:HOST:PORT` (IPv6 in brackets)."""

from __future__ import annotations

import ipaddress

from transport.config.errors import Wrong
from transport.config.settings import Listener

LONGEST_PATH = 107
"""Octets of a socket's path: sun_path of unix(7) has 108, the last one is NUL."""

_FORM = "unix:/PATH, unix:/PATH?mode=0660&group=NAME, or inet:ADDRESS:PORT"


def parse_control(value: object) -> Listener:
    """`daemon.control`: who may use it rules the daemon, so that it is for its owner alone unless a mode is given."""
    return parse_listener(value, 0o600)


def parse_listener(value: object, mode: int = 0o660) -> Listener:
    """The listener that a text means; mode: where it gives none. Raises Wrong. Groups are not looked up."""
    if not isinstance(value, str):
        raise Wrong(_FORM)
    if value.startswith("unix:"):
        return _unix(value[5:], mode)
    if value.startswith("inet:"):
        return _inet(value[5:])
    raise Wrong(_FORM)


def _unix(text: str, mode: int) -> Listener:
    path, mark, options = text.partition("?")
    if not path.startswith("/"):
        raise Wrong("unix: with an absolute path, as in unix:/run/splitmx/policy.sock")
    if path.endswith("/") or "\0" in path:
        raise Wrong("unix: with the path of a socket, not of a folder")
    if len(path.encode()) > LONGEST_PATH:
        raise Wrong(f"a socket path of at most {LONGEST_PATH} bytes (unix(7))", f"{len(path.encode())} bytes: {path}")
    group = ""
    for option in options.split("&") if mark else ():
        name, _, given = option.partition("=")
        if name == "mode":
            mode = _mode(given)
        elif name == "group" and given:
            group = given
        else:
            raise Wrong("mode=0660 and group=NAME behind the question mark, joined by &")
    return Listener("unix", path=path, mode=mode, group=group)


def _mode(text: str) -> int:
    if not (3 <= len(text) <= 4 and all(c in "01234567" for c in text)):
        raise Wrong("an octal mode such as mode=0660", f"mode={text}")
    mode = int(text, 8)
    if mode & ~0o777 or mode & 0o600 != 0o600:
        raise Wrong("a mode in which the owner may read and write, such as mode=0660", f"mode={text}")
    return mode


def _inet(text: str) -> Listener:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise Wrong("an IPv6 address in brackets, as in inet:[::1]:10461")
    if not colon or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise Wrong("inet:ADDRESS:PORT with a port from 1 to 65535")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        host = str(ipaddress.ip_address(host))
    except ValueError:
        raise Wrong("an IP address (or localhost) to listen on, as in inet:127.0.0.1:9464") from None
    return Listener("inet", host=host, port=int(port))


def is_loopback(listener: Listener) -> bool:
    """Whether only this host reaches it."""
    return listener.kind == "unix" or ipaddress.ip_address(listener.host).is_loopback


def overlap(one: Listener, other: Listener) -> bool:
    """Whether both cannot be bound at once."""
    if one.kind != other.kind:
        return False
    if one.kind == "unix":
        return one.path == other.path
    if one.port != other.port:
        return False
    first, second = ipaddress.ip_address(one.host), ipaddress.ip_address(other.host)
    if first == second:
        return True
    return first.version == second.version and (first.is_unspecified or second.is_unspecified)
