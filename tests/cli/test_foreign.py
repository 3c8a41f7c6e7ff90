# SPDX-License-Identifier: Apache-2.0
"""What answers on our sockets may be another program, or a daemon of another version; a standard descriptor may be
closed."""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from policyd.cli.shapes import ANSWERS, misfit
from policyd.control_client import request
from policyd.keeper.control import Control
from tests.cli.conftest import Site
from tests.mta.daemon import COMMAND

PROGRAM = shlex.join(COMMAND)
COMMANDS = (
    ["status"],
    ["status", "--json"],
    ["explain", "u1@example.com"],
    ["flush", "u1@example.com"],
    ["flush", "example.com"],
    ["sync"],
)
FOREIGN = (
    b'{"ok": true}\n',
    b'{"ok": true, "status": {}, "report": {}, "reports": [1], "directories": [1], "what": 1}\n',
    b'{"hello": 1}\n',
    b"[1]\n",
    b"[" * 100_000 + b"\n",
    b'{"progress": 3}\n{"ok": true}\n',
    b"HTTP/1.0 400 Bad Request\r\n\r\n",
    b"\xff\xfe\n",
)


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """A program that takes any connection, reads a little, says this and hangs up."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = sock.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(9999)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        sock.shutdown(socket.SHUT_RDWR)
    thread.join(10)


@pytest.mark.parametrize("answer", FOREIGN, ids=range(len(FOREIGN)))
def test_another_program_on_the_control_socket_is_said(site: Site, answer: bytes) -> None:
    """Try later, the socket named, nothing on stdout: never a fault of ours, never "done"."""
    with answering(site.folder / "control.sock", answer):
        for words in COMMANDS:
            done = site.run(*words)
            assert (done.returncode, done.stdout) == (75, ""), words
            assert "control.sock: " in done.stderr, words
            assert "another program" in done.stderr, words
            assert "unexpected" not in done.stderr, words


def test_an_answer_that_broke_off_is_said(site: Site) -> None:
    """Half a line of ours is no other program."""
    with answering(site.folder / "control.sock", b'{"ok": tr'):
        done = site.run("status")
    assert done.returncode == 75
    assert "broke off" in done.stderr


def test_another_program_on_the_socketmap_is_said(site: Site) -> None:
    """`query` says so too."""
    with answering(site.folder / "socketmap.sock", b"HTTP/1.0 400 Bad Request\r\n\r\n"):
        done = site.run("query", "transport", "u1@example.com")
    assert (done.returncode, done.stdout) == (75, "")
    assert "another program" in done.stderr


def test_what_is_refused_for_now_is_try_later(site: Site) -> None:
    """Too many clients, an index that cannot be written: 75. A name nobody knows: 2. Nothing is obeyed."""
    for answer, code in (
        (b'{"ok": false, "error": "the index cannot be written: full", "later": true}\n', 75),
        (b'{"ok": false, "error": "nobody \\u001b[2J"}\n', 2),
    ):
        with answering(site.folder / "control.sock", answer):
            done = site.run("sync")
        assert done.returncode == code
        assert "\x1b" not in done.stderr


def test_an_index_that_cannot_be_written_is_try_later() -> None:
    """The daemon says `later`: the request was good."""
    keeper: Any = SimpleNamespace(index=SimpleNamespace(writer=None, error="disk full"), directories_of=list)
    nothing: Any = None
    answer = asyncio.run(Control(keeper, nothing)._answer(b'{"do": "sync"}', nothing))
    assert answer == {"ok": False, "error": "the index cannot be written: disk full", "later": True}


def test_the_daemons_own_answers_have_their_shape(running: Site) -> None:
    """What commands check is what the daemon says; what is missing is named."""
    socket_path = f"{running.folder}/control.sock"
    for do, more in (
        ("status", {}),
        ("explain", {"address": "u1@example.com"}),
        ("explain", {"address": "nonsense"}),
        ("sync", {}),
        ("flush", {"what": "u1@example.com"}),
        ("flush", {"what": "example.com"}),
    ):
        answer = request(socket_path, {"do": do, **more})
        assert misfit(answer, ANSWERS[do]) == "", do
    answer = request(socket_path, {"do": "status"})
    del answer["status"]["directories"]["here"]["rows"]
    assert misfit(answer, ANSWERS["status"]) == "status.directories.here.rows"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_no_fault(running: Site, closed: str) -> None:
    """A cron job or a daemon may start us without stdin, stdout or stderr: the exit code is that of the command."""
    for words in ("status", "query transport u1@example.com", "explain u1@example.com", "check --offline"):
        command = f"{PROGRAM} --config {running.daemon.config} {words} {closed}"
        done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode in (0, 1), (words, done.stderr)
        assert "unexpected" not in done.stderr
    found = subprocess.run(
        ["/bin/sh", "-c", f"{PROGRAM} --config {running.daemon.config} status --json 2>&-"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert json.loads(found.stdout)["attention"] == []
