# SPDX-License-Identifier: Apache-2.0
"""What `uapi --output=json Email list_pops` and `Email list_forwarders` print, for hosts without root.

The path is a file or a folder with `*.json` in it; a file may hold several answers, one behind the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transport.address import external
from transport.directories.base import DirectoryError, Listing, Skipped
from transport.directories.cpanel import forwarded, split_targets
from transport.directories.files.reading import half_written, read
from transport.directories.reading import address_in, trimmed, why_not
from transport.record import Kind, Record

_Entries = list[Mapping[str, Any]]
_AGAIN = "run the uapi command again"


def listing(path: Path) -> Listing:
    """Mailboxes (suspended_incoming: inactive) and forwarders. The content is as old as its oldest file.

    Raises DirectoryError for an answer that is incomplete or an error, and when no mailboxes are among them.
    """
    skipped = Skipped()
    found: dict[tuple[str, str], Record] = {}
    mailboxes, entries, oldest = _entries(path)
    if mailboxes is None:
        raise DirectoryError(f"{path} holds no answer of uapi Email list_pops", _AGAIN)
    for entry in mailboxes:
        _mailbox(entry, found, skipped)
    _forwarders(entries, found, skipped)
    return Listing(iter(found.values()), skipped, content_time=oldest)


def forwarders(path: Path) -> set[tuple[str, str]]:
    """(address, target) of each forwarder, as written. Raises DirectoryError."""
    entries = _entries(path)[1]
    return {(str(e.get("dest") or ""), goal) for e in entries for goal in split_targets(str(e.get("forward") or ""))}


def _entries(path: Path) -> tuple[_Entries | None, _Entries, float]:
    """Entries of list_pops (None: no such answer), those of list_forwarders, and the oldest file's time."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise DirectoryError(f"{path} holds no .json file", "write the output of uapi Email list_pops there")
    mailboxes: _Entries | None = None
    entries: _Entries = []
    times = []
    for name in files:
        content = read(name)
        times.append(content.time)
        for function, data in _answers(name, content.text):
            if function == "list_forwarders" or (not function and data and "forward" in data[0]):
                entries += data
            elif function in ("list_pops", "list_pops_with_disk") or (not function and data):
                mailboxes = (mailboxes or []) + data  # (an empty answer without a name may be anything's)
    return mailboxes, entries, min(times)


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
    if not isinstance(result, Mapping) or not ("data" in result or "errors" in result):
        raise DirectoryError(f"{path} is not the JSON of a uapi call", "uapi --output=json Email list_pops")
    data, said = result.get("data"), result.get("errors")
    if said or str(result.get("status", 1)) not in ("1", "True") or not isinstance(data, list):
        raise DirectoryError(f"{path}: the uapi call failed: {str(said or 'no data')[:200]}", _AGAIN)
    if not all(isinstance(item, Mapping) for item in data):
        raise DirectoryError(f"{path}: its data is not what list_pops or list_forwarders gives", _AGAIN)
    _whole(path, result, len(data))
    yield str(value.get("func", "")), data


def _whole(path: Path, result: Mapping[str, Any], size: int) -> None:
    """Raises DirectoryError for one page of several: who stands on the others would not exist."""
    metadata = result.get("metadata")
    pages = metadata.get("paginate") if isinstance(metadata, Mapping) else None
    total = pages.get("total_results") if isinstance(pages, Mapping) else None
    if str(total or "").isdecimal() and int(str(total)) > size:
        raise DirectoryError(
            f"{path} holds {size} of {total} entries: it is one page", "call uapi without api.paginate"
        )


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


def _forwarders(entries: Sequence[Mapping[str, Any]], found: dict[tuple[str, str], Record], skipped: Skipped) -> None:
    """An entry is one target; what one address has in several entries belongs together."""
    words: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        text = str(entry.get("dest", "") or "")
        address = address_in(text)
        if address is None or address.local == "*":
            skipped.add(text, why_not(text) if address is None else "a default address lists nobody")
            continue
        words.setdefault(address[:2], []).extend(split_targets(str(entry.get("forward", "") or "")))
    for (local, domain), goals in words.items():
        own = external(local, domain)
        targets = forwarded(goals, skipped, own)
        first = found.get((local, domain))
        if first is None:
            found[local, domain] = trimmed(Record(local, domain, Kind.ALIAS, targets=targets))
        elif targets:
            found[local, domain] = trimmed(first._replace(targets=tuple(dict.fromkeys((own, *targets)))))
