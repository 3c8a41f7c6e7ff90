# SPDX-License-Identifier: Apache-2.0
"""What `uapi --output=json Email list_pops` and `Email list_forwarders` print, for hosts without root.

The path is a file or a folder with `*.json` in it; a file may hold several answers, one behind the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transport.address import external
from transport.directories.base import DirectoryError, Listing, Skipped
from transport.directories.cpanel import split_targets
from transport.directories.files.reading import half_written, read
from transport.directories.reading import address_in, targets_of, why_not
from transport.record import Kind, Record

_AGAIN = "run the uapi command again"


def listing(path: Path) -> Listing:
    """Mailboxes (suspended_incoming: inactive) and forwarders. The content is as old as its oldest file.

    Raises DirectoryError for an answer that is incomplete or an error, and when no mailboxes are among them.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise DirectoryError(f"{path} holds no .json file", "write the output of uapi Email list_pops there")
    skipped = Skipped()
    found: dict[tuple[str, str], Record] = {}
    forwarders: list[Mapping[str, Any]] = []
    oldest: float | None = None
    pops = False
    for name in files:
        content = read(name)
        oldest = content.time if oldest is None else min(oldest, content.time)
        for function, data in _answers(name, content.text):
            if function == "list_forwarders" or (not function and data and "forward" in data[0]):
                forwarders += data
                continue
            if function not in ("", "list_pops", "list_pops_with_disk"):
                continue
            pops = True
            for entry in data:
                _mailbox(entry, found, skipped)
    if not pops:
        raise DirectoryError(f"{path} holds no answer of uapi Email list_pops", _AGAIN)
    for entry in forwarders:
        _forwarder(entry, found, skipped)
    return Listing(iter(found.values()), skipped, content_time=oldest)


def _answers(path: Path, text: str) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """(function's name or "", its data) of each JSON document in a file."""
    decoder = json.JSONDecoder()
    at = 0
    text = text.strip()
    if not text:
        raise half_written(path, "it is empty")
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError as fault:
            raise half_written(path, f"no whole JSON ({fault})") from None
        while at < len(text) and text[at].isspace():
            at += 1
        yield from _answer(path, value)


def _answer(path: Path, value: Any) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        if value and ("result" in value[0] or "status" in value[0]):
            for item in value:
                yield from _answer(path, item)
        else:
            yield "", value
        return
    if not isinstance(value, Mapping):
        raise DirectoryError(f"{path} is not the JSON of a uapi call", _AGAIN)
    result = value.get("result", value)
    if not isinstance(result, Mapping) or not result.get("status", 1) or not isinstance(result.get("data"), list):
        said = result.get("errors") if isinstance(result, Mapping) else None
        raise DirectoryError(f"{path}: the uapi call failed: {str(said)[:200]}", _AGAIN)
    yield str(value.get("func", "")), [item for item in result["data"] if isinstance(item, Mapping)]


def _mailbox(entry: Mapping[str, Any], found: dict[tuple[str, str], Record], skipped: Skipped) -> None:
    text = str(entry.get("email", "") or "")
    if "@" not in text:
        skipped.add(text or str(entry.get("login", "")), "the account's own mailbox has no address")
        return
    address = address_in(text)
    if address is None:
        skipped.add(text, why_not(text))
        return
    active = str(entry.get("suspended_incoming") or "0") == "0"
    found.setdefault(address[:2], Record(address.local, address.domain, Kind.MAILBOX, active))


def _forwarder(entry: Mapping[str, Any], found: dict[tuple[str, str], Record], skipped: Skipped) -> None:
    text = str(entry.get("dest", "") or "")
    address = address_in(text)
    if address is None:
        skipped.add(text, why_not(text))
        return
    words = split_targets(str(entry.get("forward", "") or ""))
    targets: tuple[str, ...] = ()
    if not any(word.startswith((":", "|", '"|', "/")) or "@" not in word for word in words):
        targets = targets_of(words, skipped, text)[0]
    first = found.get(address[:2])
    own = external(address.local, address.domain)
    if first is None:
        found[address[:2]] = Record(address.local, address.domain, Kind.ALIAS, targets=targets)
    elif first.kind is Kind.ALIAS:
        found[address[:2]] = first._replace(targets=tuple(dict.fromkeys((*first.targets, *targets))))
    elif targets:
        found[address[:2]] = first._replace(targets=tuple(dict.fromkeys((own, *first.targets, *targets))))
