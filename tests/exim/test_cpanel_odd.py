# SPDX-License-Identifier: Apache-2.0
"""cPanel's files and answers as they are found in the wild: cut, mixed, quoted, damaged."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.exim.tree import put
from transport.checks import cpanel as check
from transport.config.settings import Destination, Domain, FileOptions, Settings
from transport.config.settings import Directory as Table
from transport.directories import cpanel, cpanel_uapi
from transport.directories.base import DirectoryError, Listing
from transport.maps.exim_forwarders import _present
from transport.record import Kind, Record

PASSWD = "home/acme/etc/example.com/passwd"
VALIASES = "etc/valiases/example.com"


@pytest.fixture
def root(folder: Path) -> Path:
    """A host with two accounts."""
    put(folder, "etc/userdomains", b"example.com: acme\nother.example: zeta\n")
    put(folder, "etc/localdomains", b"example.com\nother.example\n")
    put(folder, PASSWD, b"carl:x:1:1::/h:/x\n")
    put(folder, VALIASES, b"*: :fail: no\n")
    return folder


def people(listing: Listing) -> dict[str, Record]:
    """Address -> record."""
    return {f"{record.local}@{record.domain}": record for record in listing.records}


def test_strange_lines_in_passwd(root: Path) -> None:
    """A byte order mark, comments, blanks, wrong bytes and NUL harm nobody else of the domain."""
    put(root, PASSWD, b"\xef\xbb\xbfcarl:x:1\r\n#old:x:1\nnocolon\n:x:1\nj\xf6rg:x:1\n\x00nul:x:1\na b:x:1\nDora:x:1\n")
    listing = cpanel.listing(root, ("example.com",))
    assert set(people(listing)) == {"carl@example.com", "dora@example.com"}
    assert listing.skipped.count == 4


def test_passwd_cut_in_a_name(root: Path) -> None:
    """A file that ends within a name is being written: a fault, not a leaver."""
    put(root, PASSWD, b"carl:x:1:1::/h:/x\ndor")
    with pytest.raises(DirectoryError, match="half written"):
        cpanel.listing(root, ("example.com",))


@pytest.mark.parametrize("name", [cpanel.MAILMAN, "home/acme/etc", "etc/valiases", VALIASES])
@pytest.mark.parametrize("loop", [True, False])
def test_what_cannot_be_reached_is_not_nobody(root: Path, name: str, loop: bool) -> None:
    """A folder that cannot be read, or lies on a disk that is not mounted: its mailboxes, forwarders and lists stay."""
    put(root, f"{cpanel.MAILMAN}/news_example.com/config.pck", b"")
    assert "news-owner@example.com" in people(cpanel.listing(root, ("example.com",)))
    place = root / name
    place.rename(root / "away")
    place.symlink_to(place if loop else root / "nowhere")
    with pytest.raises(DirectoryError, match=re.escape(str(place))):
        cpanel.listing(root, ("example.com",))


def test_forwarders_that_are_no_addresses_alone(root: Path) -> None:
    """Where one target is more than an address, the host itself has to do all of it: no target is lost."""
    put(
        root,
        VALIASES,
        b"auto@example.com: carl@example.com,\"|/usr/local/cpanel/bin/autorespond auto@example.com /x\"\n"
        b"named@example.com: carl@example.com, Dora <dora@example.com>\n"
        b'says@example.com: ":fail: gone, ask carl@example.com"\n'
        b"two@example.com: carl@example.com\ntwo@example.com: |/usr/bin/ticket\n"
        b"carl@example.com: carl@example.com\nself@example.com: self@example.com\n"
        b"foreign@other.example: carl@example.com\n*@example.com: carl@example.com\n",
    )  # fmt: skip
    found = people(cpanel.listing(root, ("example.com",)))
    assert {name for name, record in found.items() if record.targets} == set()
    assert found["carl@example.com"].kind is Kind.MAILBOX
    assert set(found) == {f"{n}@example.com" for n in ("auto", "named", "says", "two", "carl", "self")}


def _settings(root: Path, *names: str) -> Settings:
    return Settings(
        directories={"cp": Table("cp", "file", FileOptions(str(root), "cpanel"), b"x" * 16)},
        destinations={"cloud": Destination("cloud", hosts=("h.example",))},
        domains={name: Domain(name, local=("cp",), destination="cloud", role="secondary") for name in names},
    )


def test_check_goes_on_after_a_fault(root: Path) -> None:
    """One home that is not mounted, one domain that has left: each is said, and all others are checked."""
    put(root, VALIASES, b'*: ":fail: No Such User Here"\n')
    found = [f.text for f in check.findings(_settings(root, "other.example", "example.com", "left.example"))]
    assert any(text.startswith("other.example, cPanel below") and "no such folder" in text for text in found)
    assert any(text.startswith("left.example is on no account of the cPanel host") for text in found)
    assert any(text.startswith("example.com is set to Automatically Detect") for text in found)
    assert not any("default address" in text for text in found)


def _answer(function: str, data: object, **more: object) -> dict[str, object]:
    return {"func": function, "module": "Email", "result": {"data": data, "errors": None, "status": 1, **more}}


def _uapi(folder: Path, *answers: object) -> Path:
    path = folder / "uapi.json"
    path.write_text("\n".join(json.dumps(answer) for answer in answers))
    return path


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        ([_answer("list_pops", [], status="0")], "the uapi call failed"),
        ([_answer("list_pops", [], errors=["partial"])], "the uapi call failed: ['partial']"),
        ([_answer("list_pops", None)], "the uapi call failed: no data"),
        ([_answer("list_pops", ["carl@example.com"])], "its data is not what list_pops"),
        (
            [_answer("list_pops", [{"email": "a@b.example"}], metadata={"paginate": {"total_results": 250}})],
            "holds 1 of 250 entries",
        ),
        ([{"status": 1, "data": [], "errors": None}], "no answer of uapi Email list_pops"),
        ([{"cpanelresult": {"func": "listpops", "data": []}}], "is not the JSON of a uapi call"),
    ],
)
def test_uapi_faults(folder: Path, answers: Sequence[object], wanted: str) -> None:
    """A failed, partial or foreign answer is a fault that says so, never a smaller directory."""
    with pytest.raises(DirectoryError, match=re.escape(wanted)):
        cpanel_uapi.listing(_uapi(folder, *answers))


def test_uapi_forwarders_of_one_address(folder: Path) -> None:
    """uapi tells each target apart: a command or `:fail:` among them leaves the address to the host; a default
    address is nobody; and what is there is known for the commands all the same."""
    entries = [
        ("help@example.com", "carl@example.com"), ("help@example.com", "|/usr/bin/ticket"),
        ("both@example.com", "carl@example.com"), ("both@example.com", "x@foreign.example"),
        ("carl@example.com", "carl@example.com"), ("*@example.com", "carl@example.com"),
    ]  # fmt: skip
    path = _uapi(
        folder,
        _answer("list_pops", [{"email": "carl@example.com"}]),
        _answer("list_forwarders", [{"dest": one, "forward": other} for one, other in entries]),
    )
    found = people(cpanel_uapi.listing(path))
    assert found["help@example.com"].targets == ()
    assert found["both@example.com"].targets == ("carl@example.com", "x@foreign.example")
    assert found["carl@example.com"] == Record("carl", "example.com")
    assert set(found) == {f"{name}@example.com" for name in ("help", "both", "carl")}
    options = FileOptions(str(path), "cpanel-uapi")
    present = _present(Settings(directories={"cp": Table("cp", "file", options, b"x" * 16)}), ())
    assert present is not None
    assert ("help@example.com", "carl@example.com") in present
