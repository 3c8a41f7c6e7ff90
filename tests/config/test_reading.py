# SPDX-License-Identifier: Apache-2.0
"""Whatever stands in the place of a configuration, or of a file that it names, is a mistake that is said in time."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from transport.config import reading
from transport.config.errors import ConfigErrors
from transport.config.light import load_light
from transport.config.load import load, load_text
from transport.config.settings import LdapOptions
from transport.directories.base import DirectoryError
from transport.directories.ldap_server import password_of

STRANGE = ["fifo", "device", "folder", "giant"]

DIRECTORY = """
[directories.here]
type = "{type}"
{options}
[destinations.m365]
hosts = ["192.0.2.9"]
[domains."example.com"]
local = ["here"]
destination = "m365"
local_transport = "lmtp:[127.0.0.1]"
{more}
"""
FILE = {"type": "file", "options": 'path = "list"\nformat = "list"'}
SQL = {"type": "sql", "options": 'url = "mysql://u@h/d"\nquery = "SELECT 1 AS address"\npassword_file = "strange"'}
WAVE = '[waves.w]\nat = "2026-12-01T12:00:00Z"\ndomain = "example.com"\nto = "m365"\nfile = "strange"'


@pytest.fixture(params=STRANGE)
def strange(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A FIFO, a device without an end, a folder, a file of 1 GB."""
    monkeypatch.setattr(reading, "_PATIENCE", 0.2)
    path = tmp_path / "strange"
    match request.param:
        case "fifo":
            os.mkfifo(path, 0o600)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "giant":
            with path.open("wb") as file:
                file.truncate(1 << 30)
            path.chmod(0o600)
    return path


def test_no_configuration_is_read_without_an_end(strange: Path) -> None:
    """By the daemon and its commands alike: the file is named, nothing waits for it or fills the memory."""
    for reader in (load, load_light):
        with pytest.raises(ConfigErrors, match=str(strange)):
            reader(strange)


@pytest.mark.parametrize("text", [{**FILE, "more": WAVE}, {**SQL, "more": ""}], ids=["wave", "password"])
def test_no_file_that_is_named_is_read_without_an_end(strange: Path, text: dict[str, str]) -> None:
    """A wave's addresses, a database's password."""
    with pytest.raises(ConfigErrors, match="strange"):
        load_text(DIRECTORY.format(**text), "splitmx.toml", strange.parent)


def test_no_password_is_waited_for(strange: Path) -> None:
    """LDAP's, which is read anew for each connection."""
    with pytest.raises(DirectoryError, match="strange"):
        password_of(LdapOptions(url=("ldap://h",), base="", filter="", bind_dn="cn=u", bind_password_file=str(strange)))


def test_a_pipe_that_is_written_into_is_read_to_its_end(tmp_path: Path) -> None:
    """`--config <(generate)` of a shell: written a piece at a time, it is the whole configuration."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    text = DIRECTORY.format(**FILE, more="#" * 200_000)

    def write() -> None:
        with path.open("w") as pipe:
            pipe.write(text)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert list(load(path).domains) == ["example.com"]
    finally:
        writer.join()


def test_a_pipe_is_read_once_by_a_command_that_looks_twice(tmp_path: Path) -> None:
    """`explain` asks the daemon that the configuration names, and decides by itself where there is none: a shell's
    `<(generate)` has said everything by then."""
    reading, writing = os.pipe()
    os.write(writing, DIRECTORY.format(**FILE, more="").encode())
    os.close(writing)
    path = Path(f"/dev/fd/{reading}")

    try:
        assert load_light(path).control
        assert list(load(path).domains) == ["example.com"]
    finally:
        os.close(reading)


@pytest.mark.parametrize("content", [b"", b" \n\r\n", b"\xef\xbb\xbf", b"\0" * 4096])
def test_an_empty_configuration_is_a_mistake(content: bytes, tmp_path: Path) -> None:
    """What an editor or a crash leaves is refused by every command, as it is by the daemon: `build` would take our
    domains out of the table by which Postfix knows them."""
    path = tmp_path / "splitmx.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigErrors, match="file is empty"):
        load(path)
