# SPDX-License-Identifier: Apache-2.0
"""Where a key stands in a TOML text: tomllib (TOML 1.0.0) gives values without their lines.

Used only when there is something to report, on texts that tomllib has read (or half read: then what was found up
to there counts). It never raises.
"""

from __future__ import annotations

import re
import tomllib

from transport.config.errors import Keys

_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_KEYS = re.compile(rf"[ \t]*({_KEY}(?:[ \t]*\.[ \t]*{_KEY})*)[ \t]*")
_ONE = re.compile(_KEY)
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
# A string, a comment, a bracket or a comma: all that matters for the end of a value.
_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"""+|' + r"'''.*?'''+|" + r'"(?:[^"\\\n]|\\.)*"|' + r"'[^'\n]*'|#[^\n]*|[\[\]{},\n]",
    re.DOTALL,
)


def find_lines(text: str) -> dict[Keys, int]:
    """Each table's and key's path with its line, counted from 1; keys inside inline tables and list items too."""
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.found: dict[Keys, int] = {}
        self._counted = (0, 1)  # offset, its line

    def scan(self) -> dict[Keys, int]:
        at, table = 0, ()
        path: Keys = table
        while True:
            blank = _BLANK.match(self.text, at)
            at = blank.end() if blank else at
            if at >= len(self.text):
                return self.found
            if self.text[at] == "[":
                brackets = 2 if self.text.startswith("[[", at) else 1
                keys = _KEYS.match(self.text, at + brackets)
                if keys is None:
                    return self.found
                path = self._split(keys[1])
                self._note(path, at)
                at = keys.end() + brackets
                continue
            keys = _KEYS.match(self.text, at)
            if keys is None or not self.text.startswith("=", keys.end()):
                return self.found
            full = path + self._split(keys[1])
            self._note(full, at)
            at = self._skip(full, keys.end() + 1)

    def _skip(self, path: Keys, at: int) -> int:
        """The offset behind the value at `at`, noting what stands inside it."""
        open_: list[tuple[str, Keys]] = []  # closing bracket, path of the list or inline table
        index: list[int] = []
        start = at
        while True:
            if open_ and start == at:  # a new item or key begins here
                blank = _BLANK.match(self.text, at)
                at = start = blank.end() if blank else at
                self._item(open_[-1], index, at)
            token = _TOKEN.search(self.text, at)
            if token is None:
                return len(self.text)
            at = token.end()
            mark = token[0]
            if mark in "[{":
                inner = self._inner(open_[-1], index, start) if open_ else path
                open_.append(("]" if mark == "[" else "}", inner))
                index.append(0)
                start = at
            elif open_ and mark == open_[-1][0]:
                open_.pop()
                index.pop()
                start = -1
            elif mark == "," and open_:
                index[-1] += 1
                start = at
            elif mark == "\n" and not open_:
                return at

    def _inner(self, holder: tuple[str, Keys], index: list[int], start: int) -> Keys:
        bracket, path = holder
        if bracket == "]":
            return (*path, index[-1])
        keys = _KEYS.match(self.text, max(start, 0))
        return path + self._split(keys[1]) if keys else path

    def _item(self, holder: tuple[str, Keys], index: list[int], at: int) -> None:
        if at < len(self.text) and self.text[at] not in "]}":
            self._note(self._inner(holder, index, at), at)

    def _note(self, path: Keys, offset: int) -> None:
        seen, line = self._counted
        line += self.text.count("\n", seen, offset)
        self._counted = (offset, line)
        for end in range(1, len(path) + 1):
            self.found.setdefault(path[:end], line)

    @staticmethod
    def _split(keys: str) -> tuple[str, ...]:
        parts = []
        for key in _ONE.findall(keys):
            if key[0] in "\"'":
                try:
                    parts.append(str(tomllib.loads(f"k = {key}")["k"]))
                except tomllib.TOMLDecodeError:
                    parts.append(key[1:-1])
            else:
                parts.append(key)
        return tuple(parts)
