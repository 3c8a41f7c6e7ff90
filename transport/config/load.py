# SPDX-License-Identifier: Apache-2.0
"""From the configuration file to `Settings`, or to the list of everything that is wrong with it.

`load` reads the file and what it names (password files, waves' files, groups of sockets), nothing else: no DNS, no
directory. pydantic stays in here.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import tomllib
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from transport import address as addresses
from transport.config import build, cross, model, reading, secrets
from transport.config.draft import Draft
from transport.config.errors import ConfigError, ConfigErrors, Keys, Wrong, dotted, one_of, shown
from transport.config.lines import find_lines
from transport.config.notyet import NOT_YET
from transport.config.settings import Daemon, Listener, Settings, Wave
from transport.config.values import destination_name, domain, plain_name

T = TypeVar("T", bound=model.Table)

_AT_LINE = re.compile(r"\s*\(at line (\d+), column \d+\)\s*\Z")

_TYPES = {
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "list_type": "a list: [ … ]",
    "dict_type": "a table: { … }",
    "model_type": "a table",
    "model_attributes_type": "a table",
}


def unreadable(path: Path, error: OSError) -> ConfigError:
    """The mistake that a file which cannot be read is, with what to do."""
    allowed = "a configuration file; name another one with --config or SPLITMX_CONFIG"
    if isinstance(error, PermissionError):
        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            user = f"user {os.geteuid()}"
        allowed = f"""a file that {user} may read. The daemon's user reads it after
            chown root:splitmx and chmod 640 (750 for its folder); commands are run as root or as that user"""
    return ConfigError(str(path), "", "", error.strerror or "an error", " ".join(allowed.split()))


def load(path: Path) -> Settings:
    """The settings of a file. Raises ConfigErrors, also when the file cannot be read or is empty."""
    try:
        text = read_text(path)
    except OSError as error:
        raise ConfigErrors([unreadable(path, error)]) from None
    if is_empty(text):
        raise ConfigErrors([empty(path)])
    return load_text(text, str(path), path.parent)


def is_empty(text: str) -> bool:
    """Whether a crash or an editor left nothing of it, or zeros. Nobody means that: taken, it would take our domains
    out of the table by which the MTA knows them."""
    return not text.strip("\0 \t\r\n")


def empty(path: Path) -> ConfigError:
    """The mistake that an empty file is."""
    return ConfigError(
        str(path), "", "", "nothing, the file is empty", "a configuration: write it again, or splitmx rollback"
    )


def read_text(path: Path) -> str:
    """The text of a configuration, without a byte order mark and with the line ends of TOML. Raises OSError, and
    ConfigErrors where it is no text."""
    raw = reading.read(path)
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{raw[error.start]:02x}"
        raise ConfigErrors([ConfigError(str(path), "", "", found, "text in UTF-8", line)]) from None


def load_text(text: str, source: str, folder: Path | None = None) -> Settings:
    """The settings of a TOML text. source: its name in messages; folder: where relative paths begin (default: here).

    Raises ConfigErrors with every mistake.
    """
    folder = (folder or Path()).absolute()
    try:
        data = tomllib.loads(text.replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigErrors([_syntax(error, text, source)]) from None
    except ValueError as error:  # a number of more digits than Python reads
        raise ConfigErrors([ConfigError(source, "", "", f"no TOML: {error}", "TOML 1.0")]) from None
    except RecursionError:
        raise ConfigErrors([ConfigError(source, "", "", "brackets in brackets without end", "TOML")]) from None
    draft = Draft()
    try:
        _read(data, draft)
        cross.check(draft)
        passwords = _files(draft, folder)
        waves = _waves(draft, folder)
        _not_yet(data, draft)
        if draft.problems:
            raise ConfigErrors(_report(draft, text, source))
        return _settings(draft, data, source, folder, passwords, waves)
    except RecursionError:
        raise ConfigErrors([ConfigError(source, "", "", "tables in tables without end", "TOML")]) from None


def _syntax(error: tomllib.TOMLDecodeError, text: str, source: str) -> ConfigError:
    message = str(error)
    match = _AT_LINE.search(message)
    line = int(match[1]) if match else max(1, len(text.splitlines()))
    said = _AT_LINE.sub("", message).removesuffix(" (at end of document)")
    return ConfigError(source, "", "", f"no TOML: {said[0].lower()}{said[1:]}", "TOML 1.0", line)


def _report(draft: Draft, text: str, source: str) -> list[ConfigError]:
    lines = find_lines(text.replace("\r\n", "\n"))
    errors = []
    for path, found, allowed in draft.problems:
        line = next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), None)
        depth = 2 if path[0] in model.NAMED else 1
        if len(path) < depth:
            errors.append(ConfigError(source, "", dotted(path), found, allowed, line))
        else:
            errors.append(ConfigError(source, dotted(path[:depth]), dotted(path[depth:]), found, allowed, line))
    unique = dict.fromkeys(errors)
    return sorted(unique, key=lambda e: e.line or 0)


def _read(data: dict[str, Any], draft: Draft) -> None:
    """Each table by itself."""
    known = [*model.SINGLE, *model.NAMED]
    for top, content in data.items():
        if top not in known:
            what = "an unknown table" if isinstance(content, dict) else "a key outside every table"
            draft.add((top,), what, one_of([f"[{name}]" for name in known], f"[{top}]"))
        elif not isinstance(content, dict):
            draft.add((top,), shown(content), f"a table: [{top}.NAME]" if top in model.NAMED else f"a table: [{top}]")
        elif top == "daemon":
            draft.daemon = _table(draft, ("daemon",), model.DaemonTable, content)
        elif top == "static":
            draft.static = _table(draft, ("static",), model.StaticTable, content)
        else:
            for name, table in content.items():
                _named(draft, top, name, table)


def _named(draft: Draft, top: str, name: str, table: object) -> None:
    path = (top, name)
    if not isinstance(table, dict):
        draft.add(path, shown(table), f"a table: [{top}.NAME]")
        return
    try:
        if top == "domains":
            label = domain(name)
            if label in draft.domains:
                draft.add(path, f"{label} a second time (also as {shown(draft.spelled[label])})", "each domain once")
                return
            draft.spelled[label] = name
            draft.domains[label] = None
            draft.domains[label] = _table(draft, path, model.DomainTable, table)
            return
        (destination_name if top == "destinations" else plain_name)(name)
    except Wrong as wrong:
        draft.add(path, f"the name {shown(name)}", wrong.allowed)
    if top == "directories":
        draft.directories[name] = _directory(draft, path, table)
    elif top == "destinations":
        draft.destinations[name] = _table(draft, path, model.DestinationTable, table)
    elif top == "waves":
        draft.waves[name] = _table(draft, path, model.WaveTable, table)


def _directory(draft: Draft, path: Keys, table: dict[str, Any]) -> model.DirectoryTable | None:
    kind = table.get("type")
    if not isinstance(kind, str) or kind not in model.DIRECTORY_TYPES:
        found = shown(kind) if "type" in table else "nothing"
        draft.add((*path, "type"), found, one_of(model.DIRECTORY_TYPES, kind if isinstance(kind, str) else ""))
        return None
    return _table(draft, path, model.DIRECTORY_TYPES[kind], table)


def _table(draft: Draft, path: Keys, kind: type[T], table: dict[str, Any]) -> T | None:
    """The table without its wrong keys, all noted; None when nothing can be made of it."""
    for _ in range(3):
        try:
            return kind.model_validate(table)
        except ValidationError as errors:
            found = errors.errors(include_url=False, include_context=True)
        for error in found:
            _note(draft, path, kind, table, error)
        missing = {info.alias or name for name, info in kind.model_fields.items() if info.is_required()}
        table = _without(draft, path, table, {tuple(e["loc"]) for e in found if e["type"] != "missing"})
        if missing - set(table):
            return None
    return None


def _without(draft: Draft, path: Keys, table: dict[str, Any], wrong: set[Keys]) -> dict[str, Any]:
    """The table without wrong keys, and without the wrong items of its lists and inline tables."""
    kept = dict(table)
    for loc in wrong:
        key, held = str(loc[0]), kept.get(str(loc[0]))
        if len(loc) > 1 and isinstance(held, dict):
            kept[key] = {name: value for name, value in held.items() if name != loc[1]}
        elif len(loc) == 1 or not isinstance(held, list):
            kept.pop(key, None)
    for key, held in list(kept.items()):
        positions = {loc[1] for loc in wrong if loc[0] == key and len(loc) > 1 and isinstance(loc[1], int)}
        if positions and isinstance(held, list):
            draft.dropped[(*path, key)] = positions
            kept[key] = [value for position, value in enumerate(held) if position not in positions]
            if not kept[key]:
                del kept[key]
    return kept


def _note(draft: Draft, path: Keys, kind: type[model.Table], table: dict[str, Any], error: Any) -> None:
    loc = tuple(part for part in error["loc"] if part != "[key]")
    full, what, given = (*path, *loc), str(error["type"]), error["input"]
    if what == "missing":
        info = model.keys_of(kind)[str(loc[0])]
        draft.add(full, "nothing", f"it is needed, for example {loc[0]} = {shown((info.examples or [''])[0])}")
    elif what == "extra_forbidden":
        keys = model.keys_of(kind)
        others = [n for n, m in model.DIRECTORY_TYPES.items() if str(loc[0]) in model.keys_of(m)]
        if others and path[0] == "directories":
            found = f"a key of type {' and '.join(others)}"
            draft.add(full, f'{found} beside type = "{table.get("type")}"', one_of(keys))
        else:
            draft.add(full, "an unknown key", one_of(keys, str(loc[0])))
    elif isinstance(reason := error.get("ctx", {}).get("error"), Wrong):
        draft.add(full, reason.found or shown(given), reason.allowed)
    elif what == "literal_error":
        expected = re.findall(r"'([^']*)'", str(error["ctx"]["expected"]))
        draft.add(full, shown(given), one_of(expected, given if isinstance(given, str) else ""))
    else:
        draft.add(full, shown(given), _TYPES.get(what, str(error["msg"]).lower()))


def _files(draft: Draft, folder: Path) -> dict[str, str]:
    """Password files are looked at, groups of sockets and CA files exist; SQL passwords by directory."""
    passwords = {}
    for name, table in draft.directories.items():
        at = ("directories", name)
        if isinstance(table, model.SqlTable) and table.password_file:
            passwords[name] = _password(draft, (*at, "password_file"), folder / table.password_file)
        if isinstance(table, model.LdapTable):
            if table.bind_password_file:
                _password(draft, (*at, "bind_password_file"), folder / table.bind_password_file)
            if table.ca_file and not (folder / table.ca_file).is_file():
                draft.add((*at, "ca_file"), f"{table.ca_file}: no such file", "a file with CA certificates (PEM)")
    daemon = draft.daemon
    if daemon is not None:
        for key in ("socketmap", "policy", "exim"):
            for index, listener in enumerate(getattr(daemon, key)):
                _group(draft, ("daemon", key, index), listener)
        _group(draft, ("daemon", "control"), daemon.control)
        if daemon.metrics is not None:
            _group(draft, ("daemon", "metrics"), daemon.metrics)
    return passwords


def _password(draft: Draft, path: Keys, file: Path) -> str:
    try:
        return secrets.check_file(file)
    except Wrong as wrong:
        draft.add(path, wrong.found or str(file), wrong.allowed)
        return ""


def _group(draft: Draft, path: Keys, listener: Listener) -> None:
    if not listener.group:
        return
    try:
        grp.getgrnam(listener.group)
    except (KeyError, ValueError):
        draft.add(path, f"group={listener.group}, which does not exist here", "a group of this host (group(5))")


def _waves(draft: Draft, folder: Path) -> list[Wave]:
    waves = []
    for name, table in draft.waves.items():
        if table is None:
            continue
        listed = frozenset(table.addresses)
        if table.file:
            listed = _wave_file(draft, ("waves", name, "file"), folder / table.file, table.domain)
        waves.append(Wave(name=name, at=table.at, domain=table.domain, to=table.to, addresses=listed))
    return sorted(waves, key=lambda wave: (wave.at, wave.name))


def _wave_file(draft: Draft, path: Keys, file: Path, of: str) -> frozenset[str]:
    """The addresses in a wave's file, each on a line of its own."""
    try:
        content = reading.read(file).decode("utf-8-sig")
    except OSError as error:
        draft.add(path, f"{file}: {error.strerror}", "a file with one address a line")
        return frozenset()
    except UnicodeDecodeError:
        draft.add(path, f"{file}: not UTF-8", "a file with one address a line, in UTF-8")
        return frozenset()
    found = set()
    wrong: list[str] = []
    for number, line in enumerate(content.splitlines(), 1):
        word = line.strip()
        if not word or word.startswith("#"):
            continue
        parsed = addresses.parse(word)
        if parsed is None or parsed.domain != of:
            wrong.append(f"line {number}: {shown(word)}")
        else:
            found.add(addresses.external(parsed.local, parsed.domain))
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        draft.add(path, f"{file}: {', '.join(wrong[:3])}{more}", f"one address of {of} a line")
    elif not found:
        draft.add(path, f"{file}: no address in it", "one address a line")
    return frozenset(found)


def _not_yet(data: dict[str, Any], draft: Draft) -> None:
    """Options that are known but not built are refused, never accepted and ignored."""
    for (top, key, value), why in NOT_YET.items():
        holder = data.get(top)
        if not isinstance(holder, dict):
            continue
        tables = {(top,): holder} if top in model.SINGLE else {(top, name): t for name, t in holder.items()}
        for path, table in tables.items():
            if isinstance(table, dict) and key in table and (value is None or table[key] == value):
                draft.add((*path, key), f"{shown(table[key])}, which does not work yet", why)


def _settings(
    draft: Draft, data: dict[str, Any], source: str, folder: Path, passwords: dict[str, str], waves: list[Wave]
) -> Settings:
    domains = {name: build.domain(name, table) for name, table in draft.domains.items() if table is not None}
    users: dict[str, list[str]] = {name: [] for name in draft.directories}
    for found in domains.values():
        for name in dict.fromkeys((*found.local, *found.remote)):
            users[name].append(found.name)
    return Settings(
        source=source,
        digest=_digest(data, passwords, waves),
        daemon=build.daemon(draft.daemon, folder) if draft.daemon is not None else Daemon(),
        static=build.static(draft.static, folder) if draft.static is not None else None,
        directories={
            name: build.directory(name, table, tuple(sorted(users[name])), folder, passwords.get(name, ""))
            for name, table in draft.directories.items()
            if table is not None
        },
        destinations={
            name: build.destination(name, table) for name, table in draft.destinations.items() if table is not None
        },
        domains=domains,
        waves=tuple(waves),
    )


def _digest(data: dict[str, Any], passwords: dict[str, str], waves: list[Wave]) -> bytes:
    """16 bytes over what the file means: comments and formatting do not count, files it names do."""
    meaning = [data, passwords, [(wave.name, sorted(wave.addresses)) for wave in waves]]
    return blake2b(json.dumps(meaning, sort_keys=True, default=str).encode(), digest_size=16).digest()
