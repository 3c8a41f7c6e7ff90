# SPDX-License-Identifier: Apache-2.0
"""`splitmx status`: the running daemon at a glance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from policyd.cli import EXIT_FOUND, EXIT_GOOD
from policyd.cli.common import config_option, examples, json_option, print_json, visible

_TAKING = 3.0  # seconds in which workers take new settings

_SHOWN = 20  # domains that could not be read; the rest is counted

DOMAINS = "domains.sqlite"
"""The guard's table (transport.maps.guard), which a running Postfix holds open."""


@click.command(epilog=examples("splitmx status", "splitmx status --json | jq .directories"))
@config_option
@json_option
def status(config: Path, as_json: bool) -> int:
    """Show the running daemon: processes, directories and how old they are, held changes, static maps.

    Exit codes: 0 all is well, 1 something wants attention (it is listed last), 75 no daemon is running.
    """
    from policyd.cli.control import must_call
    from policyd.cli.reloaded import since

    found = must_call(config, "status", timeout=10)["status"]
    static = found["static"]
    if static["postfix_reload_wanted"] and since(Path(static["directory"]) / DOMAINS):
        static["postfix_reload_wanted"] = False
    wants = list(_attention(found))
    if as_json:
        print_json({**found, "attention": wants})
    else:
        for line in _lines(found):
            click.echo(visible(line))
        for line in wants:
            click.echo(visible(f"! {line}"))
    return EXIT_FOUND if wants else EXIT_GOOD


def _lines(found: dict[str, Any]) -> Iterator[str]:
    keeper, workers, answers = found["keeper"], found["workers"], found["answers"]
    up = _span(found["time"] - keeper["since"])
    running = workers["running"]
    yield f"splitmx {found['version']}, up {up}, {len(running)} of {workers['configured']} workers"
    yield f"configuration {found['config']['path']}, loaded {_span(found['time'] - found['config']['loaded_at'])} ago"
    words = ", ".join(f"{name} {number}" for name, number in sorted(answers["verdicts"].items()))
    yield f"answers {answers['total']}, {answers['cached']} from the cache" + (f" ({words})" if words else "")
    yield f"index generation {found['index']['generation']}, {found['index']['bytes'] / 1e6:.1f} MB"
    if found["directories"]:
        yield "directories"
    for name, entry in found["directories"].items():
        yield f"  {name:<16} {_directory(entry)}"
    if found["domains"]:
        enabled = sum(one["enabled"] == "yes" for one in found["domains"].values())
        observed = sum(one["enabled"] == "observe" for one in found["domains"].values())
        yield f"domains {len(found['domains'])}, {enabled} enabled, {observed} observed"
    for name, one in found.get("peers", {}).items():
        when = f"resolved {_span(found['time'] - one['resolved_at'])} ago" if one["resolved_at"] else "never resolved"
        yield f"peers of spf:{name}: {one['networks']} networks, {when}"
    static = found["static"]
    if static["maps"]:
        built = f"built {_span(found['time'] - static['built_at'])} ago" if static["built_at"] else "not built yet"
        yield f"static maps in {static['directory']}: {built}"


def _directory(entry: dict[str, Any]) -> str:
    if not entry["loaded"]:
        return f"{entry['type']}, not loaded"
    words = [entry["type"], f"{entry['rows']} recipients"]
    if entry.get("age") is not None:
        words.append(f"read {_span(entry['age'])} ago")
    elif entry.get("loaded_at"):
        words.append("not read since the start")
    if entry.get("content_age") is not None:
        words.append(f"content {_span(entry['content_age'])} old")
    lag = entry.get("lag")
    if lag:
        words.append("lag " + ", ".join(f"{_span(lag[change])} ({change})" for change in ("moves", "removals")))
    listening = entry.get("listening")
    if listening and listening["up"] and listening["heard"]:
        words.append(f"{listening['heard']} notifications")
    if entry.get("skipped"):
        words.append(f"{entry['skipped']} skipped")
    if entry.get("reading_for") is not None:
        words.append(f"reading for {_span(entry['reading_for'])}, {entry.get('read_so_far') or 0} so far")
    queries = entry.get("queries")
    if queries and queries["asked"]:
        words.append(f"{queries['asked']} asked live in {queries['queries']} queries")
    return ", ".join(words)


def _attention(found: dict[str, Any]) -> Iterator[str]:
    """What an administrator should look at."""
    from policyd.version import running

    own = running()
    if own and found["version"] and own != found["version"]:
        yield f"splitmx {own} is installed, {found['version']} still runs: systemctl restart splitmx"
    missing = found["workers"]["configured"] - len(found["workers"]["running"])
    if missing > 0:
        yield f"{missing} workers are not running"
    if found["time"] - found["config"]["loaded_at"] > _TAKING:
        for number in found["workers"].get("by_old_settings", ()):
            yield f"worker {number} still answers by the old settings: if it stays so, restart the service"
    for line in found["config"]["refused"]:
        yield f"configuration refused, the old one stays: {line}"
    if found["index"]["error"]:
        yield f"index: {found['index']['error']}"
    for name, entry in found["directories"].items():
        if entry.get("error"):
            yield f"directory {name}: {entry['error']}" + (f"; {entry['hint']}" if entry.get("hint") else "")
        elif not entry["loaded"]:
            yield f"directory {name}: not loaded" + (f": {entry['why']}" if entry.get("why") else "")
        elif not entry["believable"]:
            yield f'directory {name}: its "no" is not believed' + (f": {entry['why']}" if entry.get("why") else "")
        if not entry.get("error"):
            yield from _unread(name, entry.get("unread") or [])
        queries = entry.get("queries")
        if queries and queries["circuit"] == "open":
            yield f"directory {name}: not asked live for now: {queries['why']}"
    for one in found["held"]:
        where = one["domain"] or f"directory {one['directory']}"
        yield (
            f"{where}: {one['count']} {one['what']} held back: {one['why']}"
            f" (splitmx sync --accept {one['domain'] or one['directory']})"
        )
    for name, one in found.get("peers", {}).items():
        if one["error"]:
            yield f"peers of spf:{name}: {one['error']}"
    static = found["static"]
    if static["error"]:
        yield f"static maps: {static['error']}"
    for line in static["held"]:
        yield f"static maps held back: {line} (splitmx build --accept)"
    if static["waiting"]:
        yield f"not in relay_domains yet: {', '.join(static['waiting'])}: run postfix reload, then splitmx build"
    elif static["postfix_reload_wanted"]:
        yield "the list of domains changed: run postfix reload"
    if found["observed"]["dropped"]:
        yield f"{found['observed']['dropped']} observed decisions were not written down"


def _unread(name: str, parts: list[dict[str, Any]]) -> Iterator[str]:
    """Domains of a directory that could not be read, unlike others."""
    for one in parts[:_SHOWN]:
        counts = "what was last read of it counts" if one["known"] else "nothing is known of it yet"
        hint = f"; {one['hint']}" if one["hint"] else ""
        yield f"directory {name}: {one['domain']} could not be read, {counts}: {one['why']}{hint}"
    if len(parts) > _SHOWN:
        yield f"directory {name}: and {len(parts) - _SHOWN} more domains that could not be read"


def _span(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172800:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"
