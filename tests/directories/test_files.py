# SPDX-License-Identifier: Apache-2.0
"""File directories, format by format."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tests.directories.databases import listed
from transport.config.settings import FileOptions
from transport.directories.base import DirectoryError, Listing
from transport.directories.files import FileSource
from transport.record import Kind, Record


def listing_of(folder: Path, form: str, content: str | bytes, domains: tuple[str, ...] = (), **columns: str) -> Listing:
    """The listing of a file with this content."""
    path = folder / "recipients"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return FileSource("there", FileOptions(str(path), form, columns), domains).list()


def records(listing: Listing) -> list[Record]:
    """All records, in order."""
    return list(listing.records)


def test_list(tmp_path: Path) -> None:
    """An address a line; comments and empty lines are nothing, nonsense is counted."""
    listing = listing_of(tmp_path, "list", "# who\n\nAnn@Example.com\r\n  bob@example.com  \nnobody\nann@example.com\n")
    assert records(listing) == [Record("ann", "example.com"), Record("bob", "example.com")]
    assert listing.skipped.first == [("nobody", "no domain: not an address")]


def test_csv(tmp_path: Path) -> None:
    """Our own columns by name, in any order; targets between blanks or commas."""
    text = (
        "Name,Address,kind,targets,location,active\n"
        'Ann,"Ann@Example.com",,,cloud,yes\n'
        'Sales,sales@example.com,group,"ann@example.com, bob@example.com",,\n'
        "Bob,bob@example.com,Mailbox,,,no\n"
    )
    assert listed(listing_of(tmp_path, "csv", text)) == {
        "ann@example.com": Record("ann", "example.com", location="cloud"),
        "sales@example.com": Record("sales", "example.com", Kind.GROUP, targets=("ann@example.com", "bob@example.com")),
        "bob@example.com": Record("bob", "example.com", active=False),
    }


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_csv_separators_and_encodings(tmp_path: Path, separator: str, encoding: str) -> None:
    """What spreadsheets write is read, with `columns` naming the column."""
    text = f'Größe{separator}E-Mail\r\n"a{separator}b"{separator}ann@example.com\r\n'
    listing = listing_of(tmp_path, "csv", text.encode(encoding), address="E-Mail")
    assert records(listing) == [Record("ann", "example.com")]


def test_csv_without_the_column_names_those_it_has(tmp_path: Path) -> None:
    """The fault shows the header and the key to write."""
    choices: tuple[dict[str, Any], ...] = ({}, {"address": "Mail"})
    for columns in choices:
        with pytest.raises(DirectoryError) as caught:
            records(listing_of(tmp_path, "csv", "Name,E-Mail\nAnn,ann@example.com\n", **columns))
        assert "E-Mail" in caught.value.what + caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "name,address,kind\nAnn,ann@example.com,\nBob,bob@exam", 'address,name\nann@example.com,"An'],
)
def test_a_half_written_csv_is_a_fault(tmp_path: Path, text: str) -> None:
    """No header, a cut last line, an open quote: never a short listing."""
    with pytest.raises(DirectoryError) as caught:
        records(listing_of(tmp_path, "csv", text))
    assert "rename" in caught.value.hint


def test_a_row_of_the_wrong_length_is_counted(tmp_path: Path) -> None:
    """One bad row in a whole file harms nobody else."""
    listing = listing_of(tmp_path, "csv", "address,name\nann@example.com\nbob@example.com,Bob\n")
    assert records(listing) == [Record("bob", "example.com")]
    assert listing.skipped.count == 1


def test_a_kind_nobody_knows_takes_nobody_away(tmp_path: Path) -> None:
    """Who has a row is listed, whatever stands in the column for the kind: as a mailbox, and noted."""
    listing = listing_of(tmp_path, "csv", "address,kind\nroom@example.com,resource\n")
    assert records(listing) == [Record("room", "example.com")]
    assert [what for what, _ in listing.skipped.first] == ["room@example.com"]


@pytest.mark.parametrize(("separator", "end"), [(",", ""), (",", ","), (";", ";;")])
def test_separators_behind_the_last_value_lose_nobody(tmp_path: Path, separator: str, end: str) -> None:
    """Spreadsheets write them where a row was longer once; a value that is too many still is."""
    text = f"address,kind\nann@example.com,mailbox{end}\nbob@example.com,alias{end}\ncarl@example.com,mailbox,x\n"
    listing = listing_of(tmp_path, "csv", text.replace(",", separator))
    assert [record.local for record in records(listing)] == ["ann", "bob"]
    assert listing.skipped.count == 1


@pytest.mark.parametrize("form", ["list", "csv", "postfix"])
def test_files_that_were_put_together_lose_nobody(tmp_path: Path, form: str) -> None:
    """The second one's byte order mark is no part of its first address."""
    head = "address\n" if form == "csv" else ""
    listing = listing_of(tmp_path, form, f"\ufeff{head}ann@example.com\n\ufeffbob@example.com\n")
    assert [record.local for record in records(listing)] == ["ann", "bob"]


@pytest.mark.parametrize("size", [256 << 20, 1 << 40])
def test_a_file_like_a_mountain_is_a_fault_at_once(tmp_path: Path, size: int) -> None:
    """A hole of gigabytes, or a file that nobody's recipients fill, is named without being taken into memory."""
    path = tmp_path / "list"
    path.write_text("ann@example.com\n")
    os.truncate(path, size)
    tracemalloc.start()
    try:
        with pytest.raises(DirectoryError, match=r"damaged|more than"):
            FileSource("there", FileOptions(str(path), "list")).list()
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_a_file_written_to_meanwhile_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Size and mtime must be the same before and after reading."""
    path = tmp_path / "list"
    path.write_text("ann@example.com\n")
    real = os.fstat
    calls = []

    def fstat(number: int) -> os.stat_result:
        calls.append(number)
        if len(calls) == 2:
            with path.open("a") as file:
                file.write("bob@example.com\n")
        return real(number)

    monkeypatch.setattr("transport.directories.files.reading.os.fstat", fstat)
    with pytest.raises(DirectoryError, match="being written"):
        FileSource("there", FileOptions(str(path), "list")).list()


@pytest.mark.parametrize("form", ["list", "csv"])
def test_missing_and_unreadable_files_are_faults(tmp_path: Path, form: str) -> None:
    """The path stands in the fault."""
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(DirectoryError, match=path.name):
            FileSource("there", FileOptions(str(path), form)).list()


@pytest.mark.parametrize("what", ["pipe", "folder", "device"])
def test_what_is_no_file_is_a_fault_at_once(tmp_path: Path, what: str) -> None:
    """A pipe is not waited for, a device not read without end, and no descriptor stays open."""
    path = tmp_path / "recipients"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(DirectoryError, match=r"is no regular file|is a folder"):
            list(FileSource("there", FileOptions(str(path), "list"), ()).list().records)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_age_is_that_of_the_content(tmp_path: Path) -> None:
    """mtime, or exported_at in the first comment."""
    path = tmp_path / "list"
    path.write_text("ann@example.com\n")
    os.utime(path, (1, 1_700_000_000))
    source = FileSource("there", FileOptions(str(path), "list"))
    assert source.list().content_time == 1_700_000_000
    path.write_text("# exported_at: 2026-01-02T03:04:05Z\nann@example.com\n")
    assert source.list().content_time == 1767323045
    path.write_text("# exported_at: yesterday\nann@example.com\n")
    with pytest.raises(DirectoryError, match="yesterday"):
        source.list()


def test_a_file_cannot_be_asked(tmp_path: Path) -> None:
    """Nor is it, by mistake, an empty answer."""
    with pytest.raises(DirectoryError):
        FileSource("there", FileOptions(str(tmp_path / "x"), "list")).ask([("ann", "example.com")], 1)


def test_postfix(tmp_path: Path) -> None:
    """Keys are recipients, quoted ones too; values, comments, continuations and catch-alls are not."""
    text = (
        "# relay recipients\nann@example.com OK\n  bob@example.com\n  # not this\n"
        '"john doe"@example.com x\nCarl@Example.com\tcarl@elsewhere.example\n@example.net ann@example.com\nbare x\n'
    )
    listing = listing_of(tmp_path, "postfix", text)
    assert [r[:2] for r in records(listing)] == [
        ("ann", "example.com"),
        ("john doe", "example.com"),
        ("carl", "example.com"),
    ]
    assert [what for what, _ in listing.skipped.first] == ["@example.net", "bare"]


def test_passwd(tmp_path: Path) -> None:
    """root and people from UID 1000 on, in each domain; no system users, no nobody, no NIS lines."""
    text = (
        "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/:/usr/sbin/nologin\nAnn:x:1000:1000:Ann:/home/ann:/bin/sh\n"
        "nobody:x:65534:65534::/:/usr/sbin/nologin\n+::::::\nbroken line\nbob:x:2001:100::/home/bob:/bin/false\n"
    )
    listing = listing_of(tmp_path, "passwd", text, ("example.com", "example.net"))
    assert set(listed(listing)) == {f"{n}@{d}" for n in ("root", "ann", "bob") for d in ("example.com", "example.net")}
    assert listing.skipped.count == 1


def test_aliases(tmp_path: Path) -> None:
    """Names are delivered here, whatever they expand to; continuation lines and quoted names as aliases(5) says."""
    text = (
        "# see man 5 aliases\npostmaster: root\nlist: :include:/etc/list,\n   bob\nprog: |/usr/bin/prog\n"
        '"two words": ann\nfile:/var/mail/file\nnothing\nempty:\n'
    )
    listing = listing_of(tmp_path, "aliases", text, ("example.com",))
    found = records(listing)
    assert [r.local for r in found] == ["postmaster", "list", "prog", "two words", "file"]
    assert all(r.kind is Kind.ALIAS and not r.targets for r in found)
    assert listing.skipped.count == 2


M365_USERS = (
    "Block credential,City,Display name,Licenses,Proxy addresses,Soft deletion time stamp,User principal name\n"
    "False,,Ann,E3,SMTP:Ann@example.com+smtp:a.smith@example.com+smtp:ann@x.onmicrosoft.com,,ann@example.com\n"
    "True,,Info,Unlicensed,SMTP:info@example.com,,info@example.com\n"
    "False,,Gone,,SMTP:gone@example.com,2026-01-01 00:00:00Z,gone@example.com\n"
    "False,,No mailbox,Unlicensed,,,nobox@example.com\n"
    "False,,Plus,E3,SMTP:a+b@example.com+smtp:c@example.com,,plus@example.com\n"
)


def test_m365_users_of_the_admin_center(tmp_path: Path) -> None:
    """Proxy addresses, not names for signing in; shared mailboxes (blocked) count, deleted users do not."""
    listing = listing_of(tmp_path, "m365", M365_USERS)
    assert set(listed(listing)) == {
        "ann@example.com",
        "a.smith@example.com",
        "ann@x.onmicrosoft.com",
        "info@example.com",
        "a+b@example.com",
        "c@example.com",
    }
    assert [what for what, _ in listing.skipped.first] == ["nobox@example.com"]


def test_m365_recipients_of_powershell(tmp_path: Path) -> None:
    """Get-Recipient with its #TYPE line, in UTF-16: mailboxes and groups, no contacts."""
    text = (
        "#TYPE Selected.Microsoft.Exchange.Data.Directory.Management.ReducedRecipient\r\n"
        '"PrimarySmtpAddress","RecipientTypeDetails","EmailAddresses","Alias"\r\n'
        '"Ann@example.com","UserMailbox","SMTP:Ann@example.com;smtp:a@example.com;SIP:ann@example.com","ann"\r\n'
        '"room@example.com","RoomMailbox","SMTP:room@example.com X500:/o=x","room"\r\n'
        '"sales@example.com","MailUniversalDistributionGroup","SMTP:sales@example.com","sales"\r\n'
        '"bob@example.com","MailContact","SMTP:bob@example.com","bob"\r\n'
    )
    listing = listing_of(tmp_path, "m365", text.encode("utf-16"))
    found = listed(listing)
    assert set(found) == {"ann@example.com", "a@example.com", "room@example.com", "sales@example.com"}
    assert found["sales@example.com"].kind is Kind.GROUP
    assert listing.skipped.first == [("bob@example.com", "MailContact: not a mailbox there")]


def test_google_users_and_groups(tmp_path: Path) -> None:
    """The admin console's downloads, with their brackets, and GAM's numbered aliases."""
    users = (
        "First Name [Required],Last Name [Required],Email Address [Required],Status [READ ONLY],Recovery Email\n"
        "Ann,Smith,ann@example.com,Active,ann@private.example\nBob,Jones,bob@example.com,Suspended,\n"
    )
    assert listed(listing_of(tmp_path, "google", users)) == {
        "ann@example.com": Record("ann", "example.com"),
        "bob@example.com": Record("bob", "example.com", active=False),
    }
    groups = "Group Name [Required],Group Email [Required]\nSales,sales@example.com\n"
    assert records(listing_of(tmp_path, "google", groups)) == [Record("sales", "example.com", Kind.GROUP)]
    gam = "primaryEmail,suspended,aliases,aliases.0,aliases.1\nann@example.com,False,2,a@example.com,\n"
    assert set(listed(listing_of(tmp_path, "google", gam))) == {"ann@example.com", "a@example.com"}


def test_zoho_users(tmp_path: Path) -> None:
    """Primary address, aliases, state."""
    text = (
        "Name,Email Address,Role,User Status,Email Alias\n"
        'Ann,ann@example.com,Admin,Active,"a@example.com, smith@example.com"\nBob,bob@example.com,Member,Inactive,\n'
    )
    found = listed(listing_of(tmp_path, "zoho", text))
    assert set(found) == {"ann@example.com", "a@example.com", "smith@example.com", "bob@example.com"}
    assert not found["bob@example.com"].active


def test_the_same_address_twice(tmp_path: Path) -> None:
    """A mailbox stands and the alias is noted, targets are united, a second location is noted and the first counts."""
    text = (
        "address,kind,targets,location\nann@example.com,alias,x@example.com,\nann@example.com,mailbox,y@example.com,\n"
        "bob@example.com,,,here\nbob@example.com,,z@example.com,there\nbob@example.com,,,here\n"
    )
    listing = listing_of(tmp_path, "csv", text)
    found = listed(listing)
    assert found["ann@example.com"].kind is Kind.MAILBOX
    assert found["ann@example.com"].targets == ("y@example.com",)
    assert found["bob@example.com"][4:6] == ("here", ("z@example.com",))
    assert listing.skipped.count == 2


def test_a_large_list_is_read_whole(tmp_path: Path) -> None:
    """100,000 addresses arrive all."""
    listing = listing_of(tmp_path, "list", "".join(f"user{i}@example.com\n" for i in range(100_000)))
    assert sum(1 for _ in listing.records) == 100_000


@pytest.mark.parametrize("form", ["list", "postfix", "passwd", "aliases", "csv"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_file_with_zeros_where_text_was_is_a_fault(tmp_path: Path, form: str, whole: bool) -> None:
    """What a crash leaves of a file that was being written: as long as before, with zeros for its last blocks or for
    all of it. Who stood there has not left."""
    start = {"passwd": "ann:x:1000:1000::/h:/s\n", "aliases": "ann: x\n", "csv": "address\nann@example.com\n"}
    text = b"" if whole else start.get(form, "ann@example.com\n").encode()
    with pytest.raises(DirectoryError, match="zeros"):
        records(listing_of(tmp_path, form, text + bytes(4096), ("example.com",)))


@pytest.mark.parametrize("form", ["list", "postfix", "passwd", "aliases", "csv"])
@pytest.mark.parametrize(("end", "encoding"), [("\r", "utf-8"), ("\n", "utf-16-be"), ("\r\n", "utf-16-le")])
def test_other_line_ends_and_encodings_lose_nobody(tmp_path: Path, form: str, end: str, encoding: str) -> None:
    """CR alone, as old spreadsheets on a Mac write it, and UTF-16 without a byte order mark."""
    lines = {
        "passwd": ("ann:x:1000:1000::/h:/s", "bob:x:1001:1001::/h:/s"),
        "aliases": ("ann: x", "bob: y"),
        "csv": ("address", "ann@example.com", "bob@example.com"),
    }.get(form, ("ann@example.com", "bob@example.com"))
    listing = listing_of(tmp_path, form, "".join(line + end for line in lines).encode(encoding), ("example.com",))
    assert [record.local for record in listing.records] == ["ann", "bob"]
    assert listing.skipped.count == 0


@pytest.mark.parametrize("sign", ["\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\u2029"])
def test_only_line_ends_end_a_row(tmp_path: Path, sign: str) -> None:
    """Signs in a name that Unicode counts among the ends of lines, and no spreadsheet does."""
    text = f"Email,Name,Title\nann@example.com,Ann{sign}Smith,Boss\nbob@example.com,Bob,\n"
    listing = listing_of(tmp_path, "m365", text)
    assert [record.local for record in listing.records] == ["ann", "bob"]
    assert listing.skipped.count == 0
