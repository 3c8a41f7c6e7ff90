# SPDX-License-Identifier: Apache-2.0
"""Writes docs/configuration.md from the model's own descriptions: `python docs/make_configuration.py`."""

from __future__ import annotations

import json
import sys
import typing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pydantic_core import PydanticUndefined

from transport.config import model
from transport.config.build import ALWAYS
from transport.config.settings import Listener

FILE = Path(__file__).with_name("configuration.md")

HEAD = """\
# The configuration

<!-- Made by docs/make_configuration.py from transport/config/model.py: change it there. -->

`/etc/splitmx/splitmx.toml`, or what `--config` or `$SPLITMX_CONFIG` names: one file in TOML.
[contrib/splitmx.toml](../contrib/splitmx.toml) is a whole one, annotated. `splitmx check` reads it, says every mistake
at once, each with its line, and then tries every directory and destination. A running daemon takes a new file with
SIGHUP (`systemctl reload splitmx`): first it is checked, and a bad one changes nothing.

The smallest one that splits a domain:

```toml
[daemon]
socketmap = ["unix:/var/spool/postfix/splitmx/socketmap.sock?mode=0660&group=postfix"]
policy    = ["unix:/var/spool/postfix/splitmx/policy.sock?mode=0660&group=postfix"]

[directories.here]
type  = "sql"
url   = "sqlite:////var/lib/splitmx/directory.db"
query = "SELECT address FROM recipients"

[destinations.m365]
hosts = ["example-com.mail.protection.outlook.com"]

[domains."example.com"]
local       = ["here"]
destination = "m365"
```

**How values are written.** Durations are text with a unit: `"500ms"`, `"5s"`, `"10m"`, `"24h"`, `"7d"`, `"2w"`. Times
are RFC 3339 with an offset. Listeners are `unix:PATH`, `unix:PATH?mode=0660&group=NAME` or `inet:ADDRESS:PORT` (IPv6 in
brackets). Domains may be written in any case, with or without a trailing dot, as U-labels or A-labels: they are one.
Addresses are folded. Paths that are not absolute begin at the folder of the configuration. An empty value where one
is needed is a mistake, and so is every key and table that is not listed here.

**Passwords** stand in files of their own, which hold nothing else and are not open to others (mode 0640 or stricter).
"""

NOTES = {
    "daemon": "Changes of listeners, `workers` and `state` need a restart; all else is taken by a reload.",
    "directories": "Every directory has a `type` (`sql`, `ldap` or `file`) and these keys:",
    "sql": """\
The query lists everyone for the index; for one address it is wrapped: `SELECT … FROM (query) WHERE address IN …`.
Where the database cannot push that condition down (UNION, GROUP BY), give `lookup` too: `splitmx check` shows its plan
and its duration.""",
    "file": "`max_age` by format, where it is not set: "
    + ", ".join(f"`{name}`" for name in ALWAYS)
    + " `0s`; all others without end.",
    "destinations": "Several destinations with the same next hop share one TLS policy in Postfix: the strictest wins.",
    "domains": """\
`unknown = "reject"` and `catchall:` say a final "no" to strangers, and are refused unless that can be known: every
directory's "no" counts (a file's `max_age` is not `0s`), and the other side is listed (`remote`, or `locations` names a
destination).
`relay`, `verify`, `remote`, `dual`, `all` and `subdomains = "match"` need a `destination`.""",
    "waves": "Of several waves the latest whose `at` has passed wins. Removing the table undoes it.",
}

TITLES: dict[str, tuple[str, type[model.Table]]] = {
    "daemon": ("[daemon]", model.DaemonTable),
    "static": ("[static]", model.StaticTable),
    "directories": ("[directories.NAME]", model.DirectoryTable),
    "sql": ('[directories.NAME] with type = "sql"', model.SqlTable),
    "ldap": ('[directories.NAME] with type = "ldap"', model.LdapTable),
    "file": ('[directories.NAME] with type = "file"', model.FileTable),
    "destinations": ("[destinations.NAME]", model.DestinationTable),
    "domains": ('[domains."NAME"]', model.DomainTable),
    "waves": ("[waves.NAME]", model.WaveTable),
}

# Types as the file has them, where the settings hold something else; the rest follows from the annotation.
KINDS = {
    **dict.fromkeys(("fresh_for", "sync_every", "compare_every", "deadline", "max_age", "loop_grace"), "duration"),
    **dict.fromkeys(("at", "delivery_until"), "time"),
    **dict.fromkeys(("socketmap", "policy", "exim"), "list of listeners"),
    **dict.fromkeys(("control", "metrics"), "listener"),
    "tcp_table": "table of listeners",
    "allow": "list of networks",
    "peers": "list of peers",
    "locations": "table",
    "columns": "table",
    "unknown": "text",
    "outsiders": "text",
    "enabled": "true, false or text",
}
DEFAULTS = {
    "fresh_for": '"5s"',
    "sync_every": '"15s"',
    "compare_every": '"auto"',
    "deadline": '"1s"',
    "loop_grace": '"10m"',
    "enabled": "true",
    "unknown": '"verify"',
    "envelope": '"keep"',
}


def toml(value: Any) -> str:
    """A value as it is written in the file."""
    if isinstance(value, Listener):
        return json.dumps(value.name)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + " }" if value else "{}"
    return json.dumps(value, ensure_ascii=False)


def kind(name: str, annotation: Any) -> str:
    """The type of a key, in TOML's words."""
    if name in KINDS:
        return KINDS[name]
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is list:
        return "list of texts"
    words = {bool: "true or false", int: "whole number", float: "number"}
    return words.get(annotation, "text")


def rows(table: type[model.Table], leave_out: set[str]) -> list[str]:
    """A table's keys as rows of a Markdown table."""
    made = ["| key | type | default | meaning | example |", "|---|---|---|---|---|"]
    for key, info in model.keys_of(table).items():
        if key in leave_out:
            continue
        if info.is_required() or info.default is PydanticUndefined:
            default = "needed"
        elif key in DEFAULTS:
            default = f"`{DEFAULTS[key]}`"
        else:
            default = "not set" if info.default is None or info.default == "" else f"`{toml(info.default)}`"
        example = f"`{toml(info.examples[0])}`" if info.examples else ""
        cells = (f"`{key}`", kind(key, info.annotation), default, str(info.description), example)
        made.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return made


def document() -> str:
    """The whole text of docs/configuration.md."""
    common = set(model.keys_of(model.DirectoryTable))
    parts = [HEAD]
    for name, (title, table) in TITLES.items():
        parts.append(f"## `{title}`\n")
        parts.append(f"{(table.__doc__ or '').splitlines()[0]}\n")
        if name in NOTES:
            parts.append(NOTES[name] + "\n")
        leave_out = common if name in model.DIRECTORY_TYPES else set()
        parts.append("\n".join(rows(table, leave_out)) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    FILE.write_text(document(), encoding="utf-8")
