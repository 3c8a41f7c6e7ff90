# SPDX-License-Identifier: Apache-2.0
"""Lines that somebody wrote to keep us busy: the time to read them grows with their length, no faster."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from transport.config.settings import FileOptions
from transport.directories.base import Skipped
from transport.directories.cpanel import Tree, split_targets
from transport.directories.files import FileSource
from transport.directories.reading import name_and_rest, targets_in

LONG = 20_000
UNCLOSED = '"\\' * LONG
ODD = (" " * LONG + "x", "x" + " " * LONG + "x", UNCLOSED, '"' * LONG, '"a' * LONG, '"' + " " * LONG, "," * LONG)


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_a_line_holds_nobody_up(tmp_path: Path, text: str) -> None:
    """A customer of a cPanel host writes its forwarders, a person a forward, in whatever length."""
    (tmp_path / "etc/valiases").mkdir(parents=True)
    (tmp_path / "etc/valiases/example.com").write_text(f"{text}\nann: bob@example.com\n")
    recipients = tmp_path / "recipients"
    recipients.write_text(f"{text}\nann: bob@example.com\n")
    began = time.process_time()
    assert Tree(tmp_path).aliases("example.com").entries["ann"] == ["bob@example.com"]
    split_targets(text)
    targets_in(text, Skipped(), "ann@example.com")
    for form in ("aliases", "postfix", "list"):
        list(FileSource("there", FileOptions(str(recipients), form), ("example.com",)).list().records)
    assert time.process_time() - began < 8


def test_names_before_colons() -> None:
    assert name_and_rest(' "a:b" : x:y ') == ('"a:b"', " x:y ")
    assert name_and_rest('"a:b"@example.com: x') == ('"a:b"@example.com', " x")
    assert name_and_rest("ann  :") == ("ann", "")
    assert name_and_rest('"ann: x') == ('"ann', " x")
    assert [name_and_rest(text) for text in ("", " ", ":", " : x", "ann", '"a:b"')] == [None] * 6
