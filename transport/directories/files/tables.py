# SPDX-License-Identifier: Apache-2.0
"""Files with columns: csv of one's own making, and what Microsoft 365, Google and Zoho export.

Vendors rename columns now and then, hence names are compared without case, blanks and `[Required]`, and each part has a
list of names, the surest first. `columns` in the configuration wins over all of them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from transport.directories.base import DirectoryError, Skipped
from transport.directories.files.reading import Content, half_written
from transport.directories.reading import active_of, address_in, kind_of, location_of, targets_in, trimmed, why_not
from transport.record import Kind, Record

_BRACKETS = re.compile(r"\[.*?\]")
_SIGNS = re.compile(r"[^a-z0-9]+")
_NUMBERED = re.compile(r"(?:noneditable)?aliases\d+")
# between the addresses of one cell; a plus only before a prefix, since it may stand in an address
_BETWEEN = re.compile(r"[\s,;|]+|\+(?=[A-Za-z][A-Za-z0-9]*:)")
_PREFIX = re.compile(r"([A-Za-z][A-Za-z0-9]*):(.*)")

# Exchange's RecipientTypeDetails, Google's and Zoho's words, in lower case without blanks
_KINDS = {
    "usermailbox": Kind.MAILBOX,
    "user": Kind.MAILBOX,
    "member": Kind.MAILBOX,
    "sharedmailbox": Kind.MAILBOX,
    "shared": Kind.MAILBOX,
    "roommailbox": Kind.MAILBOX,
    "room": Kind.MAILBOX,
    "equipmentmailbox": Kind.MAILBOX,
    "equipment": Kind.MAILBOX,
    "schedulingmailbox": Kind.MAILBOX,
    "linkedmailbox": Kind.MAILBOX,
    "teammailbox": Kind.MAILBOX,
    "publicfolder": Kind.MAILBOX,
    "group": Kind.GROUP,
    "groupmailbox": Kind.GROUP,
    "microsoft365": Kind.GROUP,
    "distributionlist": Kind.GROUP,
    "mailenabledsecurity": Kind.GROUP,
    "mailuniversaldistributiongroup": Kind.GROUP,
    "mailuniversalsecuritygroup": Kind.GROUP,
    "mailnonuniversalgroup": Kind.GROUP,
    "dynamicdistributiongroup": Kind.GROUP,
    "dynamicdistribution": Kind.GROUP,
    "roomlist": Kind.GROUP,
}
# known, but no mailbox there: the mail would come back
_NOT_THERE = frozenset(
    (
        "contact",
        "discoverymailbox",
        "guest",
        "guestmailuser",
        "mailcontact",
        "mailforestcontact",
        "mailuser",
        "remoteequipmentmailbox",
        "remoteroommailbox",
        "remotesharedmailbox",
        "remoteusermailbox",
    )
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of the columns of one format, normalised, the surest first. group: columns that only a list of groups
    has. vendor: kinds and states are the vendor's words, and targets are never read: who is there is all we ask."""

    address: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    active: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    location: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    vendor: bool = True


LAYOUTS = {
    "csv": Layout(("address",), ("aliases",), ("kind",), ("active",), ("targets",), ("location",), vendor=False),
    # the admin center's users, Exchange's admin center, and Get-Recipient | Export-Csv
    "m365": Layout(
        ("primarysmtpaddress", "emailaddress", "primaryemail", "email", "groupemail", "userprincipalname"),
        ("emailaddresses", "proxyaddresses", "emailaliases", "aliases"),
        ("recipienttypedetails", "recipienttype", "mailboxtype", "grouptype"),
        group=("groupemail", "groupprimaryemail", "groupid"),
        deleted=("softdeletiontimestamp",),
    ),
    # the admin console's users and groups, and GAM's print users
    "google": Layout(
        ("emailaddress", "primaryemail", "groupemail", "groupemailaddress", "email"),
        ("aliases", "emailaliases", "alias", "noneditablealiases"),
        ("type",),
        ("status", "suspended"),
        group=("groupemail", "groupemailaddress", "groupname"),
        deleted=("deletiontime",),
    ),
    # the admin console's users and groups
    "zoho": Layout(
        ("emailaddress", "email", "mailboxaddress", "primaryemail", "emailid", "mailid", "groupemail", "groupaddress"),
        ("emailalias", "emailaliases", "aliases", "alias"),
        ("type",),
        ("status", "userstatus", "accountstatus", "mailstatus", "mailboxstatus"),
        group=("groupemail", "groupaddress", "groupemailaddress", "groupname"),
    ),
}


@dataclass(slots=True)
class _Columns:
    """Where each part stands in a row, -1: nowhere."""

    address: int
    kind: int = -1
    active: int = -1
    targets: int = -1
    location: int = -1
    aliases: list[int] = field(default_factory=list)
    deleted: int = -1
    suspended: bool = False  # the state's column says suspended, not active
    principal: bool = False  # the address is only the name for signing in
    group: bool = False


def normalised(name: str) -> str:
    """A column's name as it is compared: `Email Address [Required]` is `emailaddress`."""
    return _SIGNS.sub("", _BRACKETS.sub("", name.strip().lower()))


def from_table(content: Content, form: str, columns: Mapping[str, str], skipped: Skipped) -> Iterator[Record]:
    """The rows of a table with a header row. Raises DirectoryError for a missing column and a half-written file."""
    layout = LAYOUTS[form]
    text, delimiter = _body(content)
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    header: list[str] = []
    row: list[str] = []
    at: _Columns | None = None
    try:
        for row in rows:
            if at is not None and len(row) > len(header) and not any(row[len(header) :]):
                del row[len(header) :]  # separators behind the last value, as spreadsheets write them
            if at is None:
                header, at = row, _columns(content, layout, row, columns)
            elif len(row) == len(header):
                yield from _records(row, at, layout, skipped)
            elif row and content.complete:
                skipped.add(delimiter.join(row), f"{len(row)} columns, not {len(header)}")
            elif row and len(row) < len(header):
                # the last line, or all is lost: without a line end it was cut
                raise half_written(content.path, f"line {rows.line_num} has {len(row)} columns, not {len(header)}")
            elif row:
                skipped.add(delimiter.join(row), f"{len(row)} columns, not {len(header)}")
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise half_written(content.path, "a quoted value does not end") from None
        raise DirectoryError(f"{content.path}, line {rows.line_num}: {error}", "is it a csv file?") from None
    if at is None:
        raise half_written(content.path, "it is empty, without a header row")


def _body(content: Content) -> tuple[list[str], str]:
    """The lines from the header on, with their ends, and what separates columns: a comma, semicolon or tab."""
    # str.splitlines would end a row at a form feed or U+2028 in a name, too
    lines = content.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    lines = [f"{line}\n" for line in lines[:-1]] + lines[-1:]
    delimiter = ""
    while lines and (not lines[0].strip() or lines[0].lower().startswith(("#", "sep="))):
        if lines[0].lower().startswith("sep="):
            delimiter = lines[0].rstrip("\n")[4:5]
        del lines[0]
    if not delimiter:
        first = re.sub(r'"[^"]*"', "", lines[0]) if lines else ""
        delimiter = max((",", ";", "\t"), key=first.count)
    return lines, delimiter


def _columns(content: Content, layout: Layout, header: Sequence[str], named: Mapping[str, str]) -> _Columns:
    exact = {name.strip(): i for i, name in reversed(list(enumerate(header)))}
    known = {normalised(name): i for i, name in reversed(list(enumerate(header)))}

    def find(part: str, names: Sequence[str]) -> int:
        wanted = named.get(part)
        if wanted is not None:
            found = exact.get(wanted.strip(), known.get(normalised(wanted), -1))
            if found < 0:
                raise DirectoryError(
                    f"{content.path} has no column {wanted!r} for {part}", f"its columns are: {', '.join(header)}"
                )
            return found
        return next((known[name] for name in names if name in known), -1)

    address = find("address", layout.address)
    if address < 0:
        raise DirectoryError(
            f"{content.path} has no column with addresses (but {', '.join(header)[:200]})",
            'name it: columns = { address = "…" }',
        )
    at = _Columns(address)
    at.kind, at.active = find("kind", layout.kind), find("active", layout.active)
    at.targets, at.location = find("targets", layout.targets), find("location", layout.location)
    at.deleted = next((known[n] for n in layout.deleted if n in known), -1)
    first = find("aliases", layout.aliases)
    others = [i for name, i in known.items() if layout.vendor and (name in layout.aliases or _NUMBERED.fullmatch(name))]
    at.aliases = list(dict.fromkeys([i for i in (first, *others) if i >= 0 and i != address]))
    at.suspended = at.active >= 0 and normalised(header[at.active]) == "suspended"
    at.principal = normalised(header[address]) == "userprincipalname" and bool(at.aliases) and "address" not in named
    at.group = any(name in known for name in layout.group)
    return at


def _records(row: Sequence[str], at: _Columns, layout: Layout, skipped: Skipped) -> Iterator[Record]:
    main = row[at.address].strip()
    if at.deleted >= 0 and row[at.deleted].strip():
        return
    kind: Kind | None = Kind.GROUP if at.group else Kind.MAILBOX
    word = row[at.kind].strip() if at.kind >= 0 else ""
    if word and layout.vendor:
        plain = _SIGNS.sub("", word.lower())
        if plain in _NOT_THERE:
            skipped.add(main, f"{word}: not a mailbox there")
            return
        kind = _KINDS.get(plain, kind)
    elif word:
        kind = kind_of(word)
    if kind is None:
        skipped.add(main, f"kind {word!r} is none of mailbox, alias, group: taken as mailbox")
        kind = Kind.MAILBOX
    active = _active(row, at, main, skipped)
    location = location_of(row[at.location]) if at.location >= 0 else None
    targets: tuple[str, ...] = ()
    if at.targets >= 0 and row[at.targets]:
        targets, _ = targets_in(row[at.targets].replace(";", ","), skipped, main)
    others = [word for i in at.aliases for word in _BETWEEN.split(row[i])]
    if at.principal:
        if not any("@" in word for word in others):
            skipped.add(main, "no mailbox: it has no proxy address")
            return
        words = others
    else:
        words = [main, *others]
    seen: set[tuple[str, str]] = set()
    for i, value in enumerate(words):
        text = _address_text(value, main=i == 0 and not at.principal)
        if text is None:
            continue
        address = address_in(text)
        if address is None:
            skipped.add(text, why_not(text))
        elif address[:2] not in seen:
            seen.add(address[:2])
            yield trimmed(Record(address.local, address.domain, kind, active, location, targets))


def _address_text(value: str, *, main: bool) -> str | None:
    """A cell's address without `smtp:`; None for another system's address and, beside the main one, for no address
    at all (an Exchange alias is a bare nickname)."""
    match = _PREFIX.fullmatch(value)
    if match is not None:
        return match[2] if match[1].lower() == "smtp" else None
    return value if main or "@" in value else None


def _active(row: Sequence[str], at: _Columns, main: str, skipped: Skipped) -> bool:
    if at.active < 0:
        return True
    word = row[at.active].strip().lower()
    if word in ("archived", "deleted", "blocked", "closed"):
        return False
    state = active_of(word)
    if state is None:
        skipped.add(main, f"state {word!r} is neither active nor suspended: taken as active")
        return True
    return state is not at.suspended if word else True
