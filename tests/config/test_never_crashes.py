# SPDX-License-Identifier: Apache-2.0
"""Whatever stands in a configuration file, loading it gives settings or ConfigErrors."""

from __future__ import annotations

import contextlib
import json
import tomllib
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transport.config import model
from transport.config.errors import ConfigErrors
from transport.config.lines import find_lines
from transport.config.load import load_text
from transport.config.settings import Settings

EXAMPLE = (Path(__file__).parent.parent.parent / "contrib" / "splitmx.toml").read_text()

WORDS = [
    *("", ":", "@", "local", "local:", "m365", "here", "catchall:", "catchall:a@b.c", "inet:", "unix:", "unix:/x?"),
    *("inet:[::]:1", "inet:0.0.0.0:99999", "5s", "1e9s", "auto", "2026-13-41T25:61:61Z", "9999-12-31T23:59:59Z"),
    *(
        "spf:",
        "cert:",
        "listener:[",
        "[",
        "]",
        "[]:",
        "ldap://[",
        "sql://",
        "(",
        ")",
        "((",
        "\0",
        "\ud7ff",
        "é",
        "xn--",
    ),
    *(
        "example.com",
        "..",
        "lmtp:[",
        "lmtp:unix:",
        "lmtp:a:b:c",
        "keep",
        "observe",
        "::1",
        "::ffff:127.0.0.1",
        "fe80::1%x",
    ),
]
scalars = st.one_of(
    st.sampled_from(WORDS),
    st.text(max_size=20),
    st.integers(),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
KEYS = {
    "daemon": sorted(model.keys_of(model.DaemonTable)),
    "static": sorted(model.keys_of(model.StaticTable)),
    "directories": sorted({key for table in model.DIRECTORY_TYPES.values() for key in model.keys_of(table)}),
    "destinations": sorted(model.keys_of(model.DestinationTable)),
    "domains": sorted(model.keys_of(model.DomainTable)),
    "waves": sorted(model.keys_of(model.WaveTable)),
}


def toml(value: Any) -> str:
    """A value as TOML: inline tables and lists; strings escaped as JSON has it, which TOML shares."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=True) if value.isascii() else json.dumps(value, ensure_ascii=False)
    return repr(value)


def outcome(text: str) -> Settings | ConfigErrors:
    """What loading comes to; anything else would raise."""
    try:
        return load_text(text, "x.toml")
    except ConfigErrors as errors:
        found = errors
    assert found.errors
    assert all("\n" not in str(error) for error in found.errors)
    return found


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_value_at_any_key(data: st.DataObject) -> None:
    """The example with a few keys replaced by anything loads, or every mistake has a line of the file."""
    document = tomllib.loads(EXAMPLE)
    for _ in range(data.draw(st.integers(1, 4))):
        top = data.draw(st.sampled_from(sorted(KEYS)))
        key = data.draw(st.sampled_from(KEYS[top]))
        value = data.draw(values)
        table = document[top]
        if top not in model.SINGLE:
            table = table[data.draw(st.sampled_from(sorted(table)))]
        table[key] = value
    lines = []
    for top, table in document.items():
        tables = {f"[{top}]": table}
        if top not in model.SINGLE:
            tables = {f"[{top}.{json.dumps(name)}]": inner for name, inner in table.items()}
        for head, inner in tables.items():
            lines += [head, *(f"{json.dumps(key)} = {toml(value)}" for key, value in inner.items())]
    text = "\n".join(lines)
    result = outcome(text)
    if isinstance(result, ConfigErrors):
        assert all(error.line is not None for error in result.errors)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("[]{}\"'=.,#\n \t\\abc1-_é:@/"), max_size=80))
def test_any_text(text: str) -> None:
    """Text that looks like TOML never does harm, nor does looking for its lines."""
    outcome(text)
    find_lines(text)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(EXAMPLE)), st.integers(0, 200), st.text(max_size=5))
def test_a_damaged_file(at: int, length: int, put: str) -> None:
    """The example with a piece cut out and other text put there."""
    with contextlib.suppress(UnicodeEncodeError):
        outcome(EXAMPLE[:at] + put + EXAMPLE[at + length :])


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=6), values, max_size=6))
def test_each_key_has_its_line(table: dict[str, Any]) -> None:
    """The line of a key is the one it begins on, however its neighbours' values look."""
    text = "[t]\n" + "".join(f"{json.dumps(key, ensure_ascii=False)} =   {toml(table[key])} # c\n" for key in table)
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = find_lines(text)
    for number, key in enumerate(table, 2):
        assert lines[("t", key)] == number
