# SPDX-License-Identifier: Apache-2.0
"""`splitmx init`: what it writes can be loaded, and nothing of the user's is lost."""

from __future__ import annotations

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
