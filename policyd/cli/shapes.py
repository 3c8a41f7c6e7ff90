# SPDX-License-Identifier: Apache-2.0
"""What the daemon's answers look like: whatever else answers on the control socket is none of them."""

from __future__ import annotations

from typing import Any

NUMBER = (int, float)
MAYBE = (int, float, type(None))
TEXT = (str, type(None))


class Each:
    """A mapping of names, each value of one shape."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape


_HELD = {"what": str, "count": int, "why": str}

_REPORT = {
    "directory": str, "line": str, "error": str, "held": int, "dry_run": bool,
    "first": Each([str]),
    "held_changes": [{**_HELD, "domain": TEXT, "first": [str]}],
    "unread?": [{"domain": str, "why": str, "hint": str}],
}  # fmt: skip

_DIRECTORY = {
    "type": str, "rows": int, "loaded": bool, "believable": bool,
    "age?": MAYBE, "content_age?": MAYBE, "loaded_at?": MAYBE, "skipped?": int,
    "unread?": [{"domain": str, "known": bool, "why": str, "hint": str}],
    "reading_for?": MAYBE, "read_so_far?": MAYBE, "error?": str, "hint?": str, "why?": str,
    "lag?": {"moves": NUMBER, "removals": NUMBER},
    "listening?": {"up": bool, "heard": int},
    "queries?": {"asked": int, "queries": int, "circuit": str, "why": str},
}  # fmt: skip

_STATUS = {
    "version": str, "time": NUMBER,
    "keeper": {"since": NUMBER},
    "config": {"path": str, "loaded_at": NUMBER, "refused": [str]},
    "workers": {"configured": int, "running": (list, dict)},
    "answers": {"total": int, "cached": int, "verdicts": Each(int)},
    "index": {"generation": (int, str, type(None)), "bytes": NUMBER, "error": TEXT},
    "directories": Each(_DIRECTORY),
    "domains": Each({"enabled": str}),
    "held": [{**_HELD, "domain": TEXT, "directory": str}],
    "peers": Each({"networks": int, "resolved_at": MAYBE, "error": TEXT}),
    "static": {
        "directory": str, "maps": bool, "built_at": MAYBE, "error": TEXT,
        "held": [str], "waiting": [str], "postfix_reload_wanted": bool,
    },
    "observed": {"dropped": int},
}  # fmt: skip

_EXPLAINED = {
    "address": str, "decision": str, "reason": str,
    "domain?": TEXT, "destination?": TEXT, "directory?": TEXT, "local_transport?": TEXT, "copy?": TEXT,
    "targets?": [str], "left_out?": [str], "findings?": [str], "changes_at?": MAYBE, "policy?": TEXT,
    "records?": [
        {"directory": str, "address": str, "kind": str, "active": bool, "location?": TEXT, "targets?": MAYBE}
    ],
    "directories?": [{"name": str, "loaded": bool, "rows": int, "age?": MAYBE, "unread?": TEXT}],
    "maps?": Each({"status": str, "value": str}),
    "exim?": Each(str),
}  # fmt: skip

ANSWERS: dict[str, dict[str, Any]] = {
    "status": {"status": _STATUS},
    "explain": {"report": _EXPLAINED},
    "sync": {"reports": [_REPORT]},
    "flush": {
        "what": str, "workers": int, "acknowledged": bool,
        "directories": [{"directory": str, "line?": str, "answer?": str, "error?": str}],
    },
    "reload": {},
}  # fmt: skip
"""What commands use of the answers that are described in `policyd.keeper.control`."""


def misfit(value: Any, shape: Any, place: str = "") -> str:
    """Where a value is not of its shape, or "".

    A shape is a type or a tuple of types, [shape] for a list, Each(shape), or {key: shape}, where a key with a
    question mark may be missing.
    """
    if isinstance(shape, dict):
        return _misfit_keys(value, shape, place)
    if isinstance(shape, Each):
        if not isinstance(value, dict):
            return place
        found = (misfit(one, shape.shape, f"{place}.{name}") for name, one in value.items())
        return next(filter(None, found), "")
    if isinstance(shape, list):
        if not isinstance(value, list):
            return place
        return next(filter(None, (misfit(one, shape[0], f"{place}[{at}]") for at, one in enumerate(value))), "")
    return "" if isinstance(value, shape) else place


def _misfit_keys(value: Any, shape: dict[str, Any], place: str) -> str:
    if not isinstance(value, dict):
        return place
    for key, below in shape.items():
        name = key.removesuffix("?")
        where = f"{place}.{name}" if place else name
        if name in value:
            if wrong := misfit(value[name], below, where):
                return wrong
        elif name == key:
            return where
    return ""
