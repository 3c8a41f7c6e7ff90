# SPDX-License-Identifier: Apache-2.0
"""The table behind which every live map stands: `domains.sqlite`."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from pathlib import Path

import pytest

from transport.config.settings import Destination, Domain, Settings
from transport.maps import guard, leaving, static_only
from transport.maps.write import HEADER

QUERY = "SELECT '%s' FROM domain WHERE name = '%d' OR (sub = 1 AND '%d' LIKE '%%.' || name)"


def settings(*domains: Domain) -> Settings:
    """Settings with these domains and two destinations."""
    return Settings(
        destinations={
            "m365": Destination("m365", hosts=("mx.example.org",)),
            "tenant": Destination("tenant", hosts=("mx.example.org",), envelope="tenant.example.org"),
        },
        domains={domain.name: domain for domain in domains},
    )


def found_by_postfix(path: Path, mail_config: Path, keys: list[str]) -> dict[str, str]:
    """The guard as Postfix asks it: sqlite_table(5)."""
    table = path.with_suffix(".cf")
    table.write_text(f"dbpath = {path}\nquery = {QUERY}\n")
    done = subprocess.run(
        ["postmap", "-q", "-", f"sqlite:{table}"],
        input="".join(f"{key}\n" for key in keys),
        capture_output=True,
        text=True,
        env=os.environ | {"MAIL_CONFIG": str(mail_config)},
    )
    if "unsupported dictionary type" in done.stderr:
        pytest.skip("postfix-sqlite is not installed")
    assert not done.stderr, done.stderr
    return dict(line.split("\t") for line in done.stdout.splitlines())


def test_ours_and_nothing_else(folder: Path, mail_config: Path) -> None:
    """Enabled domains in both spellings, copies, groups, envelope domains; the key itself comes back."""
    path = folder / guard.NAME
    guard.write(
        settings(
            Domain("example.com"),
            Domain("below.example", subdomains="strip"),
            Domain("xn--bcher-kva.example"),
            Domain("off.example", enabled="no"),
            Domain("watched.example", enabled="observe"),
        ),
        path,
    )
    ours = [
        "ann@example.com",
        "ann@bücher.example",
        "ann@xn--bcher-kva.example",
        "ann@a.b.below.example",
        "ann@tenant.example.org",
        "ann@example.com.m365.splitmx.invalid",
        "ann@example.com.local.splitmx.invalid",
        "all=1@example.com.group.splitmx.invalid",
        "all=1@example.com.m365.group.splitmx.invalid",
        '"a b"@example.com',
        "o'b@example.com",
    ]
    others = [
        "ann@example.org",
        "ann@sub.example.com",
        "ann@off.example",
        "ann@watched.example",
        "ann@xbelow.example",
        "ann@other.splitmx.invalid",
        "*",
        "example.com",
    ]
    assert found_by_postfix(path, mail_config, [*ours, *others]) == {key: key for key in ours}


def test_observed_domains_reach_the_policy_service_alone(folder: Path) -> None:
    """Table `policy` has them, table `domain` does not."""
    path = folder / guard.NAME
    guard.write(settings(Domain("watched.example", enabled="observe"), Domain("off.example", enabled="no")), path)
    found = guard.read(path)
    assert found is not None
    domain, policy = ({name for name, _ in rows} for rows in found)
    assert "watched.example" in policy
    assert "watched.example" not in domain
    assert "off.example" not in domain | policy


def test_it_is_renamed_over_only_when_the_list_changes(folder: Path) -> None:
    """A running Postfix would die on a locked file: no WAL, no writing in place, no needless change."""
    path = folder / guard.NAME
    assert guard.write(settings(Domain("example.com")), path)[0]
    inode = path.stat().st_ino
    assert not guard.write(settings(Domain("example.com", unknown=Domain("x").unknown, role="secondary")), path)[0]
    assert path.stat().st_ino == inode
    with path.open("rb") as held:
        changed, new = guard.write(settings(Domain("example.com"), Domain("example.net")), path)
        assert changed
        assert new == {("example.net", 0)}
        assert os.fstat(held.fileno()).st_nlink == 0
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    database.close()
    assert [one.name for one in folder.iterdir() if one.name.startswith(f".{guard.NAME}")] == []


def test_the_guard_is_a_search_for_any_number_of_domains(folder: Path) -> None:
    """Both halves of the query go through an index."""
    path = folder / guard.NAME
    guard.write(settings(*(Domain(f"d{n}.example") for n in range(2000))), path)
    with sqlite3.connect(path) as database:
        query = QUERY.replace("%s", "a@b.c").replace("%d", "b.c").replace("%%", "%")
        plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {query}")]
    database.close()
    assert not [step for step in plan if step.startswith("SCAN")], plan


def test_a_damaged_file_is_replaced(folder: Path) -> None:
    """Truncated, foreign, empty: written anew."""
    path = folder / guard.NAME
    for text in (b"", b"no database", b"SQLite format 3\x00"):
        path.write_bytes(text)
        assert guard.write(settings(Domain("example.com")), path)[0]
        assert guard.read(path) is not None


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["regexp", "lmdb"])
def test_who_leaves_relay_domains_and_comes_back(
    folder: Path, mail_config: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is switched off leaves relay_domains at once and comes back with the guard; who is new waits for a build."""
    path = folder / "relay_domains"
    both = settings(Domain("example.com"), Domain("below.example", subdomains="match"))
    path.write_text(HEADER + "".join(f"{line}\n" for line in static_only.relay_domains(both, kind)))
    monkeypatch.setenv("MAIL_CONFIG", str(mail_config))
    if kind != "regexp":
        subprocess.run(["postmap", f"{kind}:{path}"], check=True)

    def there() -> set[str]:
        keys = ["example.com", "below.example", "a.below.example", ".below.example", "new.example"]
        done = subprocess.run(
            ["postmap", "-q", "-", f"{kind}:{path}"], input="\n".join(keys), capture_output=True, text=True
        )
        assert not done.stderr
        return {line.split("\t")[0] for line in done.stdout.splitlines()} - {"a.below.example", ".below.example"}

    off = settings(Domain("below.example", subdomains="match", enabled="no"), Domain("new.example"))
    assert there() == {"example.com", "below.example"}
    assert leaving.leave(off, folder)
    assert there() == set()
    assert not leaving.leave(off, folder)
    assert not leaving.come_back(off, folder, indexed=True)

    back = settings(Domain("example.com"), Domain("below.example"), Domain("new.example"))
    assert not leaving.leave(back, folder)
    assert leaving.absent(back, folder) == ["example.com", "below.example"]
    assert leaving.come_back(back, folder) is (kind == "regexp")
    leaving.come_back(back, folder, indexed=True)
    assert there() == {"example.com", "below.example"}
    assert leaving.absent(back, folder) == []
    assert leaving.strange(back, folder) == []
    assert leaving.strange(off, folder) != []


@pytest.mark.parametrize("kind", ["regexp", "indexed"])
def test_what_is_below_a_domain_waits_for_the_guard(folder: Path, kind: str) -> None:
    """When somebody leaves relay_domains, what has just become ours below a domain that stays does not enter it: the
    guard's table has it later, or not at all when that cannot be written, and its mail would be refused."""
    path = folder / "relay_domains"

    def keys(now: Settings) -> set[str]:
        return {line.split()[0] for line in static_only.relay_domains(now, kind)}

    before = settings(Domain("example.com"), Domain("gone.example"), Domain("narrow.example", subdomains="match"))
    path.write_text(HEADER + "".join(f"{line}\n" for line in static_only.relay_domains(before, kind)))
    after = settings(Domain("example.com", subdomains="match"), Domain("narrow.example"))
    assert leaving.leave(after, folder)
    left = {line.split()[0] for line in path.read_text().splitlines() if not line.startswith("#")}
    assert left == keys(settings(Domain("example.com"), Domain("narrow.example")))
    assert not leaving.leave(after, folder)
    leaving.come_back(after, folder, indexed=True)
    left = {line.split()[0] for line in path.read_text().splitlines() if not line.startswith("#")}
    assert left == keys(settings(Domain("example.com"), Domain("narrow.example")))


def test_what_is_no_file_is_written_anew(folder: Path) -> None:
    """A FIFO in the table's place is waited for by nobody, and its mode is not the new table's."""
    table = folder / guard.NAME
    os.mkfifo(table)
    table.chmod(0o666)

    assert guard.locked_by(table) is None
    assert guard.read(table) is None
    guard.write(Settings(), table)

    assert guard.read(table) == (guard.domain_rows(Settings()), guard.policy_rows(Settings()))
    assert table.stat().st_mode & 0o777 == 0o644
