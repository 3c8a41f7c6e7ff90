# SPDX-License-Identifier: Apache-2.0
"""`splitmx init`: what it writes can be loaded, and nothing of the user's is lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from policyd.cli import main
from transport.config.load import load


def init(config: Path, *words: str) -> Result:
    """Run it for two domains."""
    base = ["init", "--config", str(config), "--domain", "example.com", "--domain", "bücher.example"]
    return CliRunner().invoke(main, [*base, "--host", "mx.example.org", *words])


@pytest.mark.parametrize(
    "source",
    [
        ["--sql", "sqlite:////nonexistent/here.db"],
        ["--postfixadmin", "sqlite:////nonexistent/here.db"],
        ["--ldap", "ldap://127.0.0.1:1", "--base", "dc=example,dc=com"],
        ["--file", "/nonexistent/people"],
    ],
)
def test_every_start_can_be_loaded_and_is_only_observed(tmp_path: Path, source: list[str]) -> None:
    """Nothing depends on a new configuration; a directory that does not answer yet is told, not fatal."""
    config = tmp_path / "etc" / "splitmx.toml"
    result = init(config, *source)
    assert result.exit_code == 1, result.output
    assert "directory here cannot be read yet" in result.stderr
    settings = load(config)
    assert {domain.enabled for domain in settings.domains.values()} == {"observe"}
    assert config.stat().st_mode & 0o777 == 0o640


def test_an_empty_directory_is_pointed_out(tmp_path: Path) -> None:
    """may_be_empty is proposed, never set by itself."""
    with sqlite3.connect(tmp_path / "here.db") as database:
        database.execute("CREATE TABLE recipients (address, kind, targets, location, active)")
    database.close()
    result = init(tmp_path / "splitmx.toml", "--sql", f"sqlite:///{tmp_path}/here.db")
    assert result.exit_code == 1
    assert "may_be_empty = true" in result.stderr


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    """Refused without --force; with it the old one is kept beside."""
    config = tmp_path / "splitmx.toml"
    config.write_text("# mine\n")
    people = tmp_path / "people"
    people.write_text("ann@example.com\n")
    assert init(config, "--file", str(people)).exit_code == 2
    assert config.read_text() == "# mine\n"
    assert init(config, "--file", str(people), "--force").exit_code == 0
    assert (tmp_path / "splitmx.toml.old").read_text() == "# mine\n"


def test_the_daemon_may_read_what_root_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file is given to the daemon's group; one that is replaced keeps its owner and mode."""
    given: list[tuple[str, str | None]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "chown", lambda path, user=None, group=None: given.append((path.name, group)))
    config = tmp_path / "splitmx.toml"
    people = tmp_path / "people"
    people.write_text("ann@example.com\n")
    assert init(config, "--file", str(people)).exit_code == 0
    assert given == [(".splitmx.toml.new", "splitmx")]
    config.chmod(0o600)
    kept = config.stat()
    assert init(config, "--file", str(people), "--force").exit_code == 0
    found = config.stat()
    assert (found.st_mode, found.st_uid, found.st_gid) == (kept.st_mode, kept.st_uid, kept.st_gid)
    assert len(given) == 1


def test_a_mistake_is_told_by_its_key(tmp_path: Path) -> None:
    """Not by a line of a file that is gone; the same domain twice is one domain."""
    for words in (["--print"], []):
        result = init(tmp_path / "splitmx.toml", "--file", "/etc/people", "--name", "Not A Name", *words)
        assert result.exit_code == 2
        assert result.stderr.startswith('init: [destinations."Not A Name"]: '), result.stderr
    assert init(tmp_path / "splitmx.toml", "--file", "/x", "--domain", "example.com", "--print").exit_code == 0


def test_print_writes_nothing(tmp_path: Path) -> None:
    """--print is for looking; what is wrong ends with 2."""
    config = tmp_path / "splitmx.toml"
    result = init(config, "--file", "/etc/people", "--print")
    assert result.exit_code == 0
    assert '[domains."example.com"]' in result.stdout
    assert not config.exists()
    assert init(config).exit_code == 2
    assert init(config, "--ldap", "ldap://127.0.0.1").exit_code == 2
    assert init(config, "--file", "/etc/people", "--name", "Not A Name").exit_code == 2
    assert not config.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--domain", "two words.example"],
        ["--domain", "\udcff.example"],
        ["--host", "a host"],
        ["--sql", 'a"b'],
    ],
)
def test_what_is_printed_can_be_loaded(tmp_path: Path, words: list[str]) -> None:
    """--print refuses what a written file would: 2, and nothing on stdout that could be pasted."""
    people = [] if "--sql" in words else ["--file", "/etc/people"]
    result = init(tmp_path / "splitmx.toml", "--print", *people, *words)
    assert result.exit_code == 2, result.output
    assert not result.stdout
    assert "unexpected" not in result.stderr


def test_the_delimiter_is_that_of_main_cf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Postfix without recipient_delimiter knows no extensions; with one here, answers would differ."""
    if shutil.which("postconf") is None:
        pytest.skip("Postfix is not installed")
    monkeypatch.setenv("MAIL_CONFIG", str(tmp_path))
    for line, wanted in (("", ""), ("recipient_delimiter = +-\n", "+-")):
        (tmp_path / "main.cf").write_text(f"compatibility_level = 3.6\n{line}")
        assert f'recipient_delimiter = "{wanted}"' in init(tmp_path / "x", "--print", "--file", "/x").stdout


def test_beside_an_exim_the_daemon_listens_for_exim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no Postfix is, nothing listens below its queue directory: that is not there, and no daemon could start."""
    exim = tmp_path / "bin" / "exim4"
    exim.parent.mkdir()
    exim.write_text("#!/bin/sh\n")
    exim.chmod(0o755)
    monkeypatch.setenv("PATH", str(exim.parent))
    (tmp_path / "people").write_text("ann@example.com\n")
    config = tmp_path / "splitmx.toml"
    assert init(config, "--file", str(tmp_path / "people")).exit_code == 0
    daemon = load(config).daemon
    assert [one.path for one in daemon.exim] == ["/run/splitmx/exim.sock"]
    assert not daemon.socketmap
    assert not daemon.policy
