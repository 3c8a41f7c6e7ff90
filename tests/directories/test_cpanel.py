# SPDX-License-Identifier: Apache-2.0
"""A cPanel host's files, and what its UAPI answered, as a directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.directories.databases import listed
from transport.config.settings import FileOptions
from transport.directories.base import DirectoryError
from transport.directories.files import FileSource
from transport.record import Kind, Record


def cpanel_tree(root: Path) -> None:
    """Two accounts as cPanel keeps them: one with two domains, one suspended."""
    files = {
        "etc/passwd": "alice:x:1001:1001::/home2/alice:/bin/bash\nzed:x:1002:1002::/home/zed:/bin/bash\n",
        "etc/userdomains": "example.com: alice\nexample.net: alice\nexample.org: zed\n*: nobody\n",
        "etc/trueuserdomains": "example.com: alice\nexample.org: zed\n",
        "home2/alice/etc/example.com/passwd": "ann:x:1001:1001::/home2/alice/mail/ann:/x\nbob:x:1:1::/x:/x\n",
        "home2/alice/etc/example.net/passwd": "ann:x:1001:1001::/x:/x\n",
        "home/zed/etc/example.org/passwd": "zoe:x:1002:1002::/x:/x\n",
        "etc/valiases/example.com": "sales@example.com: ann@example.com, x@elsewhere.example\n"
        "bob@example.com: y@z.example\n"
        'auto@example.com: "|/usr/local/cpanel/bin/autorespond auto"\n*: alice\n',
        "etc/valiases/example.net": "*: :fail: No Such User Here\n",
        "var/cpanel/suspended/zed": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def everybody(root: Path) -> list[Record]:
    """Who is listed on this host. Raises the fault of a domain that could not be read."""
    listing = FileSource("here", FileOptions(str(root), "cpanel"), ("example.com", "example.net")).list()
    for fault in filter(None, listing.parts.values()):
        raise fault
    return list(listing.records)


def test_cpanel(tmp_path: Path) -> None:
    """Mailboxes, forwarders and account names of our domains; catch-alls are nobody, suspended accounts inactive."""
    cpanel_tree(tmp_path)
    domains = ("example.com", "example.net", "example.org")
    listing = FileSource("here", FileOptions(str(tmp_path), "cpanel"), domains).list()
    assert listed(listing) == {
        "ann@example.com": Record("ann", "example.com"),
        "bob@example.com": Record("bob", "example.com", targets=("bob@example.com", "y@z.example")),
        "sales@example.com": Record(
            "sales", "example.com", Kind.ALIAS, targets=("ann@example.com", "x@elsewhere.example")
        ),
        "auto@example.com": Record("auto", "example.com", Kind.ALIAS),
        "ann@example.net": Record("ann", "example.net"),
        "alice@example.com": Record("alice", "example.com"),
        "zoe@example.org": Record("zoe", "example.org", active=False),
        "zed@example.org": Record("zed", "example.org", active=False),
    }
    assert listing.skipped.count == 0


@pytest.mark.parametrize("gone", ["etc/userdomains", "home2"])
def test_a_cpanel_tree_with_a_part_missing_is_a_fault(tmp_path: Path, gone: str) -> None:
    """A disk that is not mounted never looks like deleted mailboxes."""
    cpanel_tree(tmp_path)
    (tmp_path / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(DirectoryError, match=gone):
        everybody(tmp_path)


def test_a_cpanel_host_whose_domains_are_cut_is_a_fault(tmp_path: Path) -> None:
    """In the midst of a line of etc/userdomains, wherever: a domain without an owner is one without people."""
    cpanel_tree(tmp_path)
    path = tmp_path / "etc/userdomains"
    whole = path.read_text()
    everyone = everybody(tmp_path)
    lines = whole.index("example.org")
    for end in range(lines - len("example.net: alice"), lines - 1):
        path.write_text(whole[:end])
        if whole[:end].endswith("alice"):
            assert everybody(tmp_path) == everyone
        else:
            with pytest.raises(DirectoryError):
                everybody(tmp_path)


@pytest.mark.parametrize("name", ["home2/alice/etc/example.com/passwd", "etc/valiases/example.com", "etc/userdomains"])
def test_a_file_of_a_cpanel_host_with_zeros_is_a_fault(tmp_path: Path, name: str) -> None:
    """What a crash leaves of a file: who stood there has not left."""
    cpanel_tree(tmp_path)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[:20] + bytes(len(data) - 20))
    with pytest.raises(DirectoryError, match="zeros"):
        everybody(tmp_path)


@pytest.mark.parametrize("what", ["pipe", "device", "folder", "giant", "loop"])
def test_what_an_accounts_owner_puts_in_place_of_a_file_is_a_fault_at_once(tmp_path: Path, what: str) -> None:
    """HOME/etc is the customer's: nobody waits for a pipe there, or reads a device or a sparse giant without end."""
    cpanel_tree(tmp_path)
    path = tmp_path / "home2/alice/etc/example.com/passwd"
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "folder":
        path.mkdir()
    elif what == "giant":
        path.touch()
        os.truncate(path, 1 << 40)
    else:
        path.symlink_to(path)
    with pytest.raises(DirectoryError, match="passwd"):
        everybody(tmp_path)


POPS = """{"apiversion":3,"func":"list_pops","module":"Email","result":{"data":[
 {"email":"alice","login":"Main Account","suspended_incoming":0,"suspended_login":0},
 {"email":"ann@example.com","login":"ann@example.com","suspended_incoming":0,"suspended_login":1},
 {"email":"bob@example.com","login":"bob@example.com","suspended_incoming":1,"suspended_login":0}],
 "errors":null,"messages":null,"metadata":{"transformed":1},"status":1,"warnings":null}}
"""
FORWARDERS = """{"apiversion":3,"func":"list_forwarders","module":"Email","result":{"data":[
 {"dest":"sales@example.com","forward":"ann@example.com","html_dest":"x"}],"errors":null,"status":1}}
"""


@pytest.mark.parametrize("apart", [True, False])
def test_cpanel_uapi(tmp_path: Path, apart: bool) -> None:
    """Mailboxes and forwarders out of one file or two; only those whose incoming mail is suspended are suspended."""
    path = tmp_path / "uapi"
    if apart:
        path.mkdir()
        (path / "pops.json").write_text(POPS)
        (path / "forwarders.json").write_text(FORWARDERS)
    else:
        path.write_text(POPS + FORWARDERS)
    assert listed(FileSource("here", FileOptions(str(path), "cpanel-uapi")).list()) == {
        "ann@example.com": Record("ann", "example.com"),
        "bob@example.com": Record("bob", "example.com", active=False),
        "sales@example.com": Record("sales", "example.com", Kind.ALIAS, targets=("ann@example.com",)),
    }


@pytest.mark.parametrize("text", ["", POPS[:200], FORWARDERS, POPS.replace('"status":1', '"status":0')])
def test_half_an_answer_of_uapi_is_a_fault(tmp_path: Path, text: str) -> None:
    """Cut, failed or without the mailboxes: never a short listing."""
    path = tmp_path / "uapi.json"
    path.write_text(text)
    with pytest.raises(DirectoryError):
        list(FileSource("here", FileOptions(str(path), "cpanel-uapi")).list().records)
