# SPDX-License-Identifier: Apache-2.0
"""What `splitmx status` shows, as one JSON-able object."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from policyd import clock, sockets
from policyd.version import running

if TYPE_CHECKING:
    from policyd.keeper.main import Keeper


def status(keeper: Keeper) -> dict[str, Any]:
    """The whole state of the daemon. Times are unix times, ages and durations seconds."""
    settings = keeper.settings
    keeper.renew()
    crowd = keeper.crowd
    answers = sum(crowd.decisions.values())
    return {
        "version": running(),
        "time": time.time(),
        "keeper": {"pid": os.getpid(), "since": keeper.started},
        "config": {
            "path": settings.source,
            "digest": settings.digest.hex(),
            "loaded_at": keeper.reloading.loaded_at,
            "refused": list(keeper.reloading.refused),
        },
        "listeners": [
            {"role": role, "map": map_name, "name": listener.name}
            for role, map_name, listener in sockets.roles(settings.daemon)
        ],
        "workers": {
            "configured": settings.daemon.workers,
            "running": crowd.status(),
            "by_old_settings": crowd.without(settings.digest),
        },
        "answers": {
            "total": answers,
            "cached": crowd.cached,
            "verdicts": _sums(crowd.decisions, 2),
            "maps": _sums(crowd.decisions, 0),
            "faults": dict(crowd.faults),
        },
        "index": {
            "generation": keeper.reader.generation,
            "bytes": keeper.index.bytes(),
            "error": keeper.index.error or keeper.reader.reason,
        },
        "directories": _directories(keeper),
        "held": [
            {
                "directory": one.directory,
                "domain": one.domain,
                "what": one.what,
                "count": one.count,
                "first": list(one.first),
                "since": one.since,
                "why": one.why,
            }
            for one in keeper.reader.held()
        ],
        "domains": {
            name: {
                "enabled": one.enabled,
                "role": one.role,
                "delivery": one.delivery,
                "unknown": one.unknown.value,
                "destination": one.destination,
                "local": list(one.local),
                "remote": list(one.remote),
            }
            for name, one in settings.domains.items()
        },
        "peers": {
            name: {"networks": len(one.networks), "resolved_at": one.good_at or None, "error": one.error}
            for name, one in keeper.peers.names.items()
        },
        "static": {
            "directory": str(keeper.static.folder),
            "maps": settings.static is not None,
            "built_at": keeper.static.built_at,
            "seconds": keeper.static.seconds,
            "held": list(keeper.static.held),
            "waiting": list(keeper.static.waiting),
            "error": keeper.static.error,
            "postfix_reload_wanted": keeper.static.reload_wanted,
        },
        "observed": {"written": keeper.observations.written, "dropped": keeper.observations.dropped},
    }


def _sums(decisions: dict[tuple[str, str, str], int], at: int) -> dict[str, int]:
    sums: dict[str, int] = {}
    for key, number in decisions.items():
        sums[key[at]] = sums.get(key[at], 0) + number
    return sums


def _directories(keeper: Keeper) -> dict[str, Any]:
    states = {state.name: state for state in keeper.reader.directories()}
    at, now = clock.now(), time.time()
    unread = keeper.reader.unread()
    found = {}
    for name, directory in keeper.settings.directories.items():
        state, sync, queue = states.get(name), keeper.syncs.get(name), keeper.queues.get(name)
        current = state is not None and state.current
        one: dict[str, Any] = {
            "type": directory.type,
            "live": directory.live,
            "loaded": current,
            "rows": state.rows if state is not None and current else 0,
            "skipped": state.skipped if state is not None else 0,
            "believable": bool(state is not None and state.believable),
            "loaded_at": state.loaded_at if state is not None else None,
            "unread": [
                {"domain": part.domain, "known": part.known, "why": part.why, "hint": part.hint, "since": part.since}
                for part in unread
                if part.directory == name and current
            ],
        }
        if sync is not None:
            report = sync.report
            one |= {
                "age": at - sync.read_at if sync.read_at is not None else None,
                "content_age": now - sync.content_time if sync.content_time is not None else None,
                "server": sync.server,
                "reading_for": at - sync.running_since if sync.running_since is not None else None,
                "read_so_far": sync.records if sync.running_since is not None else None,
                "good_at": sync.good_at,
                "error": report.error if report is not None else "",
                "hint": report.hint if report is not None else "",
                "why": report.why if report is not None else "",
                "last": report.line() if report is not None else "",
                "took": sync.full.duration if sync.full is not None else None,
                "compare_every": sync.every,
                "readings": dict(sync.counts),
                "lag": sync.lag(),
                "behind": sync.behind(),
            }
            if sync.listening is not None:
                one["listening"] = {
                    "up": sync.listening.up,
                    "heard": sync.listening.heard,
                    "why": sync.listening.why,
                }
        if queue is not None and directory.live:
            one["queries"] = {
                "asked": queue.asked,
                "queries": queue.queries,
                "found": queue.found,
                "deadlines_missed": queue.missed,
                "errors": queue.errors,
                "waiting": len(queue.waiting) + len(queue.flying),
                "circuit": "open" if queue.circuit.open else "closed",
                "why": queue.circuit.why,
            }
        found[name] = one
    return found
