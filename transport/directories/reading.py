# SPDX-License-Identifier: Apache-2.0
"""From what a directory holds to records: words, addresses, targets, and what to do with nonsense.

Every directory reads its values here, so that SQL, LDAP and files mean the same by the same text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any
from unicodedata import normalize

from transport.address import MAX_LOCAL, Address, external, fold_local, parse, unquote
from transport.directories.base import Skipped
from transport.record import Kind, Record

_KINDS = {
    "": Kind.MAILBOX,
    "mailbox": Kind.MAILBOX,
    "user": Kind.MAILBOX,
    "alias": Kind.ALIAS,
    "forward": Kind.ALIAS,
    "group": Kind.GROUP,
    "list": Kind.GROUP,
}
_TRUE = frozenset(("1", "t", "true", "y", "yes", "on", "active", "enabled"))
_FALSE = frozenset(("0", "f", "false", "n", "no", "off", "inactive", "disabled", "suspended"))
_BLANK = re.compile(r"\s")
_FINAL_SIGMA = re.compile(r"(?<=\w)σ(?!\w)")
# Bounded, as addresses are: where many quotes are opened and none is closed, each is looked for no farther
QUOTED = r'"(?:[^"\\]|\\.){0,1100}"'
_BEGINS_QUOTED = re.compile(QUOTED)
# Words between blanks, commas and semicolons; a quoted string keeps what is in it
_WORDS = re.compile(rf"(?:{QUOTED}|[^\s,;])+")
_SEPARATED = re.compile(r'[\s,;"{\[]')
# Of an array as PostgreSQL writes it (8.15.6): an element in quotes, or what stands between commas
_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}"]+)')
_QUOTED_LOCAL = re.compile(r'"(?:[^"\\]|\\.)*"@[^@]*')

_ODD = ("", '"')  # how a local part begins that is none, or quoted
_MANY_DOMAINS = 200_000

NO_ADDRESS = "no address"


def text_of(value: object) -> str | None:
    """A column's value as text; None stays None, bytes are UTF-8 (invalid ones make no address)."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "surrogateescape")
    return str(value)


def kind_of(value: object) -> Kind | None:
    """The kind that a word means, in any case; NULL and "" are a mailbox; None for a word nobody knows."""
    if value is None:
        return Kind.MAILBOX
    return _KINDS.get((text_of(value) or "").strip().lower())


def active_of(value: object) -> bool | None:
    """Whether a value means active: NULL and "" do; None for a word nobody knows."""
    if value is None or value is True or value is False:
        return value is not False
    if isinstance(value, (int, float, Decimal)):
        return value != 0
    if isinstance(value, (bytes, bytearray)) and value and max(value) < 2:
        return any(value)  # BIT of MariaDB
    word = (text_of(value) or "").strip("\0").strip().lower()  # BINARY is filled up with zeros
    if not word or word in _TRUE:
        return True
    return False if word in _FALSE else None


def location_of(value: object) -> str | None:
    """A location word, or None where there is none. What is no text becomes a word that nobody configured: who has it
    is known to be somewhere, and must not be left out."""
    word = (text_of(value) or "").strip()
    return (word if word.isascii() else word.encode("utf-8", "replace").decode()) or None


def why_not(text: str) -> str:
    """Why `address_in` gave nothing."""
    if not text.strip():
        return NO_ADDRESS
    if text.count("@") > 1:
        return "more than one address"
    if "@" not in text:
        return "no domain: not an address"
    if _BLANK.search(text):
        return "a blank in the address"
    return "not an address"


def address_in(text: str) -> Address | None:
    """The one address that a directory's value is, in external or internal form; None for nonsense.

    Stricter than `parse`, which takes what an MTA asks for: outside quotes no blank and no second `@`, since in a
    directory those are two addresses at once or a slip.
    """
    if text.count("@") == 1 and text.isascii() and text.isprintable() and " " not in text:
        return parse(text)
    if not _QUOTED_LOCAL.fullmatch(text) and (text.count("@") != 1 or _BLANK.search(text)):
        return None
    return parse(text)


@lru_cache(maxsize=4096)
def _domain_spellings(domain: str) -> tuple[str, ...]:
    """A folded domain as a database may hold it: as A-labels, and as U-labels in either case where it has them."""
    if "xn--" not in domain:
        return (domain,)
    labels = []
    for label in domain.split("."):
        try:
            labels.append(label[4:].encode().decode("punycode") if label.startswith("xn--") else label)
        except UnicodeError:
            return (domain,)
    name = ".".join(labels)
    return (domain, name, _upper(name))


def spellings(local: str, domain: str, *, upper: bool = False) -> list[str]:
    """The ways in which a directory may have written a folded address down, most usual first.

    External and internal form, A- and U-labels; for a local part beyond ASCII also the decomposed form and other
    cases, since a database may fold only ASCII, with the ς and İ that folding took apart. upper: ß as such, which
    folding made `ss`. Each is another spelling of this very address: a capital that is somebody else's letter (ı has
    I) is none.
    """
    locals_: list[str] = [local]
    quoted = external(local, "")[:-1]
    if quoted != local:
        locals_.insert(0, quoted)
    if not local.isascii():
        final = _FINAL_SIGMA.sub("ς", local).replace("i\u0307", "İ")
        locals_ += [normalize("NFD", local), _upper(local), final]
        for title in (local.title(), final.title()):
            locals_ += [title, _lower(title)]
    if upper and "ss" in local:
        locals_ += [word.replace("ss", "ß") for word in locals_]
    if not local.isascii():
        locals_ = [word for word in locals_ if fold_local(unquote(word)) == local]
    names = _domain_spellings(domain)
    return list(dict.fromkeys(f"{word}@{name}" for word in locals_ for name in names))


def dotless(word: str) -> list[str]:
    """An address as written, and as a Turkish database folds it where it stands there in capitals: of I it makes ı."""
    local, _, domain = word.rpartition("@")
    locals_ = (local, local.replace("i", "ı", 1) if local.startswith("i") else local, local.replace("i", "ı"))
    return list(dict.fromkeys(f"{one}@{name}" for one in locals_ for name in (domain, domain.replace("i", "ı"))))


def _upper(local: str) -> str:
    """Upper case beyond ASCII only: what `lower()` of a database without ICU leaves."""
    return "".join(c if c.isascii() else c.upper() for c in local)


def _lower(local: str) -> str:
    """Lower case of ASCII only: what `lower()` of such a database makes of a name."""
    return "".join(c.lower() if c.isascii() else c for c in local)


def name_and_rest(line: str) -> tuple[str, str] | None:
    """A line `NAME: REST`, the name perhaps quoted with colons in it; None without a name or a colon.

    No expression: in one, a line of blanks takes time that grows with the cube of its length.
    """
    text = line.lstrip()
    quoted = _BEGINS_QUOTED.match(text)
    name, colon, rest = text[quoted.end() :].partition(":") if quoted else text.partition(":")
    name = (quoted[0] + name if quoted else name).rstrip()
    return (name, rest) if name and colon else None


def targets_in(value: object, skipped: Skipped, owner: str) -> tuple[tuple[str, ...], bool]:
    """The targets in a column: addresses between blanks, commas or semicolons, or an array of them (of PostgreSQL, or
    JSON); external form, folded, each once.

    Returns them and whether something only this host can do stood among them: a command (`|…`), a file (`/…`) or
    `:include:` (aliases(5)). What is no address is noted in `skipped`.
    """
    if isinstance(value, list):
        return targets_of([text_of(one) or "" for one in value if one is not None], skipped, owner)
    text = text_of(value)
    if not text:
        return (), False
    if not _SEPARATED.search(text):
        words: Sequence[str] = (text,)
    else:
        words = _elements(text.strip()) or _WORDS.findall(text)
    return targets_of(words, skipped, owner)


def _elements(text: str) -> list[str]:
    """The elements of an array that was written as text, none when it is something else: no address begins with `[`,
    and none ends with `}`."""
    if text.startswith("{") and text.endswith("}"):
        return [re.sub(r"\\(.)", r"\1", quoted) or plain.strip() for quoted, plain in _ELEMENT.findall(text)]
    if not text.startswith("["):
        return []
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [str(one) for one in found if one is not None] if isinstance(found, list) else []


def targets_of(words: Iterable[str], skipped: Skipped, owner: str) -> tuple[tuple[str, ...], bool]:
    """As `targets_in`, of words that stand apart already."""
    found: dict[str, None] = {}
    here = False
    for word in words:
        plain = unquote(word)
        if plain.startswith(("|", "/", ":include:")):
            here = True
            continue
        address = address_in(word)
        if address is None:
            skipped.add(f"{owner}: {word}", f"target: {why_not(word)}")
        else:
            found[external(address.local, address.domain)] = None
    return tuple(found), here


def trimmed(record: Record) -> Record:
    """A mailbox or alias whose only target is itself has none: PostfixAdmin writes every mailbox so, and in
    virtual(5) such a row means the address as it is."""
    if (
        record.kind is not Kind.GROUP
        and len(record.targets) == 1
        and record.targets[0] == external(record.local, record.domain)
    ):
        return record._replace(targets=())
    return record


def merge(records: Iterable[Record], skipped: Skipped | None = None) -> list[Record]:
    """One record per address, in order of first sight, as the index merges them (`transport.sync.stage`).

    A mailbox stands and an alias or group of the same address is noted; else targets are united, active beats
    suspended, and of two locations the first counts and the other is noted. Identical ones are silent.
    """
    merged: dict[tuple[str, str], Record] = {}
    for record in records:
        key = record[:2]
        first = merged.get(key)
        if first is None:
            merged[key] = record
        elif first != record:
            merged[key] = _united(first, record, skipped)
    return list(merged.values())


def _united(first: Record, second: Record, skipped: Skipped | None) -> Record:
    main, other = (second, first) if second.kind < first.kind else (first, second)
    note = ""
    if main.kind is Kind.MAILBOX and other.kind is not Kind.MAILBOX:
        note = "listed as a mailbox and as an alias: the mailbox stands"
    elif main.location and other.location and main.location != other.location:
        note = f"listed twice, with locations {main.location!r} and {other.location!r}; the first counts"
    if note and skipped is not None:
        skipped.add(external(main.local, main.domain), note)
    if main.kind is Kind.MAILBOX and other.kind is not Kind.MAILBOX:
        return main
    return main._replace(
        kind=other.kind,
        active=main.active or other.active,
        location=main.location or other.location,
        targets=tuple(dict.fromkeys(main.targets + other.targets)),
        entry=main.entry or other.entry,
    )


def matching(records: Iterable[Record], asked: Sequence[tuple[str, str]]) -> list[Record]:
    """Of an answer only what was asked, one record per address: no database decides what is equal."""
    wanted = frozenset(asked)
    return merge(record for record in records if (record.local, record.domain) in wanted)


def people(records: Iterable[Record]) -> dict[bytes, tuple[tuple[str, str], ...]]:
    """All addresses of each entry that has several."""
    found: dict[bytes, dict[tuple[str, str], None]] = {}
    for record in records:
        if record.entry is not None:
            found.setdefault(record.entry, {})[record.local, record.domain] = None
    return {entry: tuple(addresses) for entry, addresses in found.items() if len(addresses) > 1}


def records_of(rows: Iterable[Sequence[Any]], columns: Sequence[str], skipped: Skipped) -> Iterator[Record]:
    """Rows of a table as records. `columns` names each column: address (needed), kind, targets, location, active."""
    at = {name.lower(): i for i, name in reversed(list(enumerate(columns)))}
    where = at["address"]
    kinds, targets, places, actives = (at.get(n, -1) for n in ("kind", "targets", "location", "active"))
    plain = max(kinds, targets, places, actives) < 0
    mailbox = Kind.MAILBOX
    words = {"mailbox": mailbox, "": mailbox}
    domains: dict[str, str] = {}  # as written -> folded
    new = tuple.__new__
    for row in rows:
        raw = row[where]
        if type(raw) is not str:
            raw = text_of(raw) or ""
        local, _, end = raw.rpartition("@")
        domain = domains.get(end)
        # what nearly every row is, without a call of ours: plain ASCII in a domain seen before
        if (
            domain is not None
            and raw.isascii()
            and raw.isprintable()
            and " " not in raw
            and "@" not in local
            and local[:1] not in _ODD
            and len(local) <= MAX_LOCAL
        ):
            local = local.lower()
        else:
            address = address_in(raw)
            if address is None:
                skipped.add(raw, why_not(raw))
                continue
            local, domain = address.local, address.domain
            if len(domains) >= _MANY_DOMAINS:
                domains.clear()
            domains[end] = domain
        if plain:
            yield new(Record, (local, domain, mailbox, True, None, (), None))
            continue
        kind: Kind | None = mailbox
        if kinds >= 0:
            word = row[kinds]
            kind = words.get(word) if type(word) is str else None
            if kind is None:
                kind = kind_of(word)
                if kind is None:
                    # whoever has a row is listed: one odd word must not make the address unknown
                    skipped.add(raw, f"kind {text_of(word)!r} is none of mailbox, alias, group: taken as mailbox")
                    kind = mailbox
        active: bool | None = True
        if actives >= 0:
            value = row[actives]
            if value != 1:  # True and 1, the usual ones
                active = active_of(value)
                if active is None:
                    skipped.add(raw, f"active is {text_of(value)!r}, neither yes nor no: taken as active")
                    active = True
        location = location_of(row[places]) if places >= 0 and row[places] else None
        if targets >= 0 and row[targets]:
            others, _ = targets_in(row[targets], skipped, raw)
            yield trimmed(new(Record, (local, domain, kind, active, location, others, None)))
        else:
            yield new(Record, (local, domain, kind, active, location, (), None))
