# SPDX-License-Identifier: Apache-2.0
"""Compares a living Postfix with the plan for it, and names what differs; the traps stand in `postfix_traps`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from transport.checks.finding import Finding, error, note, warning
from transport.checks.postfix_traps import traps
from transport.config.settings import Settings
from transport.maps import leaving
from transport.maps.guard import NAME as TABLE
from transport.maps.guard import domain_rows, policy_rows, read
from transport.maps.write import is_old
from transport.mta.postfix import Postfix, split_list
from transport.mta.postfix_parts import SUFFIX, Plan, Setting
from transport.mta.postfix_plan import Planner, maps_directory
from transport.mta.postfix_policy import pairs

SHOW = "`splitmx postfix show` prints the line"
BUILD = "run `splitmx build`, or let the daemon do it with [static]"

GENTLE = {"enable_original_recipient", "fast_flush_domains", "smtpd_client_event_limit_exceptions"}
"""What may differ without harm to anybody's mail."""

_ONCE = "enable_original_recipient"
"""With copies it is more: whoever has none, and a delimiter in the name, is a copy to be left out as a duplicate."""


def findings(settings: Settings, postfix: Postfix, plan: Plan) -> list[Finding]:
    """Everything that differs from the plan or will hurt, the worst first, each once."""
    found = [
        *(error(problem) for problem in plan.problems),
        *_settings(postfix, plan),
        *_leftovers(settings, postfix, plan),
        *_files(plan),
        *_tables(settings, postfix, plan),
        *_services(postfix, plan),
        *traps(settings, postfix, plan),
        *(note(text) for text in dict.fromkeys([*plan.notes, *postfix.notes])),
    ]
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(dict.fromkeys(found), key=lambda f: order[f.level])


def _settings(postfix: Postfix, plan: Plan) -> Iterator[Finding]:
    for setting in plan.settings:
        live = postfix.value(setting.name)
        if setting.ours:
            yield from _list(setting, live)
        elif _same(live, setting.value) or _same(postfix.full(setting.name), setting.value):
            continue
        elif setting.name in GENTLE and not (setting.name == _ONCE and plan.setting("recipient_bcc_maps")):
            yield note(
                f"{setting.name} = {live or '(empty)'}; better {setting.value or '(empty)'}: {setting.why}", SHOW
            )
        elif setting.name.startswith("splitmx"):
            yield error(f"{setting.name} = {live or '(not set)'} differs from: {setting.value}", SHOW)
        else:
            yield warning(f"{setting.name} = {live or '(empty)'} should be {setting.value}: {setting.why}", SHOW)


def _list(setting: Setting, live: str) -> Iterator[Finding]:
    cut = pairs if setting.name.endswith("_restrictions") else list
    entries = [_plain(entry) for entry in cut(split_list(live))]
    wanted = [_plain(entry) for entry in setting.ours]
    missing = [entry for entry in wanted if entry not in entries]
    for entry in missing:
        level = note if setting.name in GENTLE else error
        yield level(f"{setting.name} lacks {entry}", SHOW)
    places = [entries.index(entry) for entry in wanted if entry in entries]
    if places != sorted(places):
        yield error(f"{setting.name} has our entries in the wrong order", SHOW)
    if not missing and not setting.name.endswith("_restrictions") and places and places[-1] + 1 < len(entries):
        behind = ", ".join(entries[places[-1] + 1 :])
        yield warning(f"{setting.name} has {behind} behind our entries: the site's own belong before them", SHOW)


def _leftovers(settings: Settings, postfix: Postfix, plan: Plan) -> Iterator[Finding]:
    """Files of a deployment that ended: Postfix goes on to ask what nobody keeps up to date."""
    planner = Planner(settings, postfix, plan.deploy, plan.maps or maps_directory(settings))
    for name in sorted(postfix.own):
        for entry in split_list(postfix.value(name)) if name.endswith(("_maps", "_domains")) else ():
            if planner.is_stale(entry):
                yield error(f"{name} has {_plain(entry)}, which nobody keeps up to date (deployed {plan.deploy})", SHOW)


def _plain(entry: str) -> str:
    """Blanks after commas and inside braces mean nothing."""
    return " ".join(entry.replace("{ ", "{").replace(" }", "}").replace(", ", ",").split())


def _same(one: str, other: str) -> bool:
    return _plain(one) == _plain(other)


def _files(plan: Plan) -> Iterator[Finding]:
    for file in plan.files:
        try:
            text = file.path.read_text("utf-8", "replace")
        except OSError as fault:
            yield error(f"{file.path}: {fault.strerror}", SHOW)
            continue
        if text.strip() != file.content.strip():
            yield error(f"{file.path} is not what this configuration needs", SHOW)


def _tables(settings: Settings, postfix: Postfix, plan: Plan) -> Iterator[Finding]:
    """The files that `build` writes: there, of a type that this Postfix has, with our domains in them."""
    seen: set[str] = set()
    for setting in plan.settings:
        for entry in setting.ours:
            kind, _, name = entry.rpartition(" ")[2].rstrip("}").partition(":")
            if kind in SUFFIX and name not in seen:
                seen.add(name)
                if not postfix.has(kind):
                    yield error(
                        f"this Postfix has no {kind} tables, which {name} needs", "name another in [static] types"
                    )
                elif not Path(name + SUFFIX[kind]).exists():
                    yield error(f"{name}{SUFFIX[kind]} is missing", BUILD)
                elif is_old(Path(name + SUFFIX[kind])):
                    yield error(f"{name}{SUFFIX[kind]} is older than its text", BUILD)
            elif kind in ("regexp", "cidr") and name not in seen and not Path(name).exists():
                seen.add(name)
                if not any(file.path == Path(name) for file in plan.files):
                    yield error(f"{name} is missing", BUILD)
            if Path(name).name == leaving.NAME and (keys := leaving.strange(settings, Path(name).parent)):
                yield error(f"{name} names {keys[0]}, no split domain any more: its mail is taken, and bounced",
                            BUILD + ", then postfix reload")  # fmt: skip
    for file in plan.files:
        table = next((line[9:] for line in file.content.splitlines() if line.startswith("dbpath = ")), "")
        if table and Path(table).name == TABLE and table not in seen:
            seen.add(table)
            rows = read(Path(table))
            if rows is None:
                yield error(f"{table} is missing or damaged: every live map behind it fails", BUILD)
            elif rows != (domain_rows(settings), policy_rows(settings)):
                yield error(f"{table} lists other domains than the configuration", BUILD + ", then postfix reload")


def _services(postfix: Postfix, plan: Plan) -> Iterator[Finding]:
    for master in plan.masters:
        name, _, type_ = master.key.partition("/")
        service = postfix.service(name, type_)
        if service is None:
            yield error(f"master.cf has no service {name}: {master.why}", SHOW)
            continue
        words = master.entry.split(" -o ")[1:]
        for key, _, value in (word.partition("=") for word in words):
            if service.overrides.get(key) != value and key != "syslog_name":
                yield error(f"master.cf: service {name} lacks -o {key}={value}: {master.why}", SHOW)
    for override in plan.overrides:
        name, _, type_ = override.service.rpartition("/")
        service = postfix.service(name, type_)
        if service is None:
            continue
        live = service.overrides.get(override.name)
        if live is None or _plain(live) != _plain(override.value):
            level = error if override.name.endswith(("_maps", "_relay", "_wrappermode", "_enable")) else warning
            yield level(
                f"master.cf: {override.service} lacks -o {override.name}={override.value}: {override.why}", SHOW
            )
