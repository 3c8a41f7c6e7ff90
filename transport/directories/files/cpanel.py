# SPDX-License-Identifier: Apache-2.0
"""cPanel: its own files under a root folder, and the JSON that `uapi` prints where there is no root.

Forwarders are listed without their targets: Exim expands them here. Catch-alls (`*`) name no recipient.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any

from transport.directories.base import DirectoryError, Skipped
from transport.directories.files.reading import Content, half_written, read
from transport.directories.reading import address_in, why_not
from transport.record import Kind, Record


def _pairs(content: Content) -> Iterator[tuple[str, str]]:
    """The lines `key: value` of one of cPanel's files."""
    for line in content.lines():
        key, colon, value = line.partition(":")
        if colon and key.strip() and not key.lstrip().startswith("#"):
            yield key.strip(), value.strip()


def _record(text: str, kind: Kind, active: bool, skipped: Skipped) -> Iterator[Record]:
    address = address_in(text)
    if address is None:
        skipped.add(text, why_not(text))
    else:
        yield Record(address.local, address.domain, kind, active)


def from_root(root: Path, skipped: Skipped) -> Iterator[Record]:
    """Everyone of every account: HOME/etc/DOMAIN/passwd, /etc/valiases/DOMAIN, and the account itself at its domain.

    Raises DirectoryError for anything that cannot be read, a missing home folder among them: it may be a disk that is
    not mounted, and its people must not look deleted. An account in /var/cpanel/suspended is suspended.
    """
    owners = dict(_pairs(read(root / "etc/userdomains")))
    homes = _homes(root)
    suspended = root / "var/cpanel/suspended"
    for domain, user in owners.items():
        if domain == "*" or user == "nobody":
            continue
        home = root / homes.get(user, f"home/{user}").lstrip("/")
        active = not _exists(suspended / user)
        if not _exists(home):
            raise DirectoryError(f"{home}, the home of {user}, is not there", "is its disk mounted?")
        boxes = home / "etc" / domain / "passwd"
        if _exists(boxes):
            for line in read(boxes).lines():
                name = line.partition(":")[0].strip()
                if name:
                    yield from _record(f"{name}@{domain}", Kind.MAILBOX, active, skipped)
        aliases = root / "etc/valiases" / domain
        if _exists(aliases):
            for name, _ in _pairs(read(aliases)):
                if name != "*":
                    whole = name if "@" in name else f"{name}@{domain}"
                    yield from _record(whole, Kind.ALIAS, active, skipped)
    main = root / "etc/trueuserdomains"
    for domain, user in _pairs(read(main)) if _exists(main) else ():
        yield from _record(f"{user}@{domain}", Kind.MAILBOX, not _exists(suspended / user), skipped)


def _homes(root: Path) -> Mapping[str, str]:
    found = {}
    for line in read(root / "etc/passwd").lines():
        fields = line.split(":")
        if len(fields) == 7:
            found[fields[0]] = fields[5]
    return found


def _exists(path: Path) -> bool:
    """Whether it is there; what we may not look at is a fault, not an absence."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DirectoryError(f"{path}: {error.strerror}", "run as a user who may read cPanel's files") from None
    return True


def from_uapi(path: Path, skipped: Skipped) -> tuple[Iterator[Record], float]:
    """What `uapi --output=json Email list_pops` and `… list_forwarders` printed: in one file, one behind the other, or
    in the `.json` files of a folder. Gives the records and the age of the oldest."""
    if path.is_dir():
        contents = [read(file) for file in sorted(path.glob("*.json"))]
        if not contents:
            raise DirectoryError(f"{path} holds no .json file", "save what `uapi --output=json` prints there")
    else:
        contents = [read(path)]
    answers = [answer for content in contents for answer in _documents(content)]
    if not any("list_pops" in str(answer.get("func", "list_pops")) for answer in answers):
        raise DirectoryError(f"{path} holds no list_pops", "without the mailboxes everybody would look deleted")
    return _uapi_records(answers, skipped), min(content.time for content in contents)


def _documents(content: Content) -> Iterator[Mapping[str, Any]]:
    decoder, text, at = JSONDecoder(), content.text, 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        try:
            value, at = decoder.raw_decode(text, at)
        except JSONDecodeError as error:
            raise half_written(content.path, f"no JSON at line {error.lineno}") from None
        if not isinstance(value, dict):
            raise DirectoryError(f"{content.path} holds {json.dumps(value)[:40]}", "write what `uapi` prints")
        result = value.get("result", value)
        if not isinstance(result, dict) or result.get("status") not in (1, "1"):
            errors = result.get("errors") if isinstance(result, dict) else None
            raise DirectoryError(f"{content.path}: uapi failed: {errors}", "run it again")
        yield {**value, "data": result.get("data")}


def _uapi_records(answers: Iterable[Mapping[str, Any]], skipped: Skipped) -> Iterator[Record]:
    for answer in answers:
        for item in answer["data"] or ():
            if not isinstance(item, dict):
                skipped.add(str(item), "not an entry of uapi")
            elif "dest" in item:
                yield from _record(str(item["dest"]), Kind.ALIAS, True, skipped)
            elif "email" in item:
                name = str(item["email"])
                if "@" in name:  # the account itself comes without a domain
                    blocked = str(item.get("suspended_incoming", 0)) in ("1", "True", "true")
                    yield from _record(name, Kind.MAILBOX, not blocked, skipped)
