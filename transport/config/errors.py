# SPDX-License-Identifier: Apache-2.0
"""What is wrong in a configuration: every mistake with its place, what was found and what is allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Keys = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_PASSWORD = re.compile(r"(:/{1,3}[^:/@\s]*):.*@")
_PARAMETER = re.compile(r"([?&;][a-z_]*(?:password|passwd|pwd)=)[^&;\s\"']*", re.IGNORECASE)
_LONGEST = 120  # characters of a found value that are shown


class Wrong(ValueError):  # noqa: N818  it is a value that is wrong
    """A value that is not allowed. `allowed` says what would be; `found` replaces the value as it stands."""

    def __init__(self, allowed: str, found: str | None = None) -> None:
        super().__init__(allowed)
        self.allowed = allowed
        self.found = found


@dataclass(frozen=True, slots=True)
class ConfigError:
    """One mistake. `line` counts from 1, None where the key stands nowhere in the file; `table` may be ""."""

    file: str
    table: str
    key: str
    found: str
    allowed: str
    line: int | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        where = f"[{self.table}] {self.key}".strip() if self.table else self.key
        where = f" {where}:" if where else ""
        return f"{place}:{where} found {self.found}; allowed: {self.allowed}"


class ConfigErrors(Exception):  # noqa: N818  several at once
    """The configuration cannot be used; `errors` holds every mistake, in the order of the file."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        super().__init__("\n".join(map(str, errors)))
        self.errors: tuple[ConfigError, ...] = tuple(errors)

    def __reduce__(self) -> tuple[type[ConfigErrors], tuple[tuple[ConfigError, ...]]]:
        return ConfigErrors, (self.errors,)


def masked(text: str) -> str:
    """The text with the password of a URL in it replaced by `***`."""
    return _PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


def shown(value: object) -> str:
    """A value as it is quoted in a message: as TOML writes it, short, on one line, without passwords."""
    if isinstance(value, str):
        text = json.dumps(masked(value), ensure_ascii=False)
    else:
        try:
            text = masked(json.dumps(value, ensure_ascii=False, default=str))
        except (TypeError, ValueError):
            text = type(value).__name__
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def shown_url(url: str) -> str:
    """A URL that could not be read, so that nobody knows where in it a password stands."""
    return shown(re.sub(r":.*@", ":***@", url, flags=re.DOTALL))


def one_of(names: Iterable[str], found: str = "") -> str:
    """The allowed names for a message, with "did you mean" when one is close to what was found."""
    import difflib  # only when something is wrong

    known = [str(name) for name in names]
    text = ", ".join(known[:40]) + (", …" if len(known) > 40 else "") if known else "none is configured"
    close = difflib.get_close_matches(found, known, 1, 0.6) if found else []
    return f'{text} (did you mean "{close[0]}"?)' if close else text


def dotted(parts: Iterable[str | int]) -> str:
    """A path of keys as TOML writes it: quotes where they are needed, list positions in brackets, from 1."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part + 1}]"
            continue
        word = part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False)
        text = f"{text}.{word}" if text else word
    return text
