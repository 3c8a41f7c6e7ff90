# SPDX-License-Identifier: Apache-2.0
"""Commands that talk to a running daemon."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from policyd.cli import main
from policyd.cli.status import _attention
from policyd.control_client import request
from tests.cli.conftest import Site
from tests.cli.test_main import HEAVY, modules_after
from tests.mta.waiting import wait_for


def test_query_prints_the_value_and_ends_as_the_contract_says(running: Site) -> None:
    """0 with the value, 1 for not found, 75 for TEMP, 2 for no such map."""
    found = running.run("query", "transport", "u1@example.com")
    assert (found.returncode, found.stdout) == (0, "lmtp:unix:private/lmtp\n")
    none = running.run("query", "transport", "u1@elsewhere.test")
    assert (none.returncode, none.stdout, none.stderr) == (1, "", "")
    temp = running.run("query", "transport", "lost@example.com")
    assert (temp.returncode, temp.stdout) == (75, "")
    assert "mars" in temp.stderr
    assert running.run("query", "bogus", "u1@example.com").returncode == 2


def test_query_as_json(running: Site) -> None:
    """status, value, and who said so."""
    said = json.loads(running.run("query", "--json", "virtual_alias", "U1+x@Example.COM").stdout)
    assert said["status"] == "OK"
    assert said["value"] == "u1+x@example.com"
    assert said["source"] == f"daemon at unix:{running.folder}/socketmap.sock"
    temp = json.loads(running.run("query", "--json", "transport", "lost@example.com").stdout)
    assert temp["status"] == "TEMP"


def test_light_commands_import_little(running: Site) -> None:
    """`query`, `status` and `flush` answer in the time of a prompt: nothing heavy is imported."""
    config = ("--config", str(running.daemon.config))
    for words in (["query", "transport", "u1@example.com"], ["status"], ["flush", "u1@example.com"]):
        assert not modules_after(*config, *words) & HEAVY, words


def test_explain_says_why(running: Site) -> None:
    """Decision, reason, rule, the directory and its age, every map, the policy action."""
    text = running.run("explain", "u1+x@example.com").stdout
    for part in ("LOCAL", "listed in directory here", "read ", "lmtp:unix:private/lmtp", "u1+x@example.com", "DUNNO"):
        assert part in text, text
    report = json.loads(running.run("explain", "--json", "far@example.com").stdout)
    assert report["decision"] == "RELAY"
    assert report["reason"]
    assert report["maps"]["transport"] == {"status": "OK", "value": "relay:[cloud.example.org]"}
    assert report["directories"][0]["age"] >= 0
    temp = running.run("explain", "--json", "lost@example.com")
    assert temp.returncode == 75
    assert json.loads(temp.stdout)["decision"] == "TEMP"


def test_explain_has_one_shape_for_everything(running: Site) -> None:
    """decision, reason and maps are there for foreign addresses and for nonsense too."""
    for text in ("x@elsewhere.test", "nonsense", "a\nb@example.com", '""@example.com', "x" * 3000 + "@example.com"):
        done = running.run("explain", "--json", text)
        assert done.returncode == 0, (text, done.stderr)
        report = json.loads(done.stdout)
        assert report["decision"] == "PASS"
        assert report["reason"]
        assert {answer["status"] for answer in report["maps"].values()} == {"NOTFOUND"}


def test_what_is_no_utf8_is_explained_too(running: Site) -> None:
    """Bytes of a command line that are no UTF-8 are nobody's address, not a fault; the JSON escapes them."""
    done = running.run("explain", "--json", "\udcff@example.com")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["address"] == "\udcff@example.com"
    assert "\\udcff" in done.stdout


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_terminal_without_utf8_ends_no_command(running: Site, encoding: str) -> None:
    """In whatever encoding stdout is, a name that it cannot write is shown all the same, and JSON stays JSON."""
    name = "ж😀@example.com"
    command = [sys.executable, "-m", "policyd.cli", "--config", str(running.daemon.config), "explain", name]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    for more in ([], ["--json"]):
        done = subprocess.run([*command, *more], capture_output=True, env=environment, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        said = done.stdout.decode("utf-8")
        assert (json.loads(said)["address"] if more else said).startswith((name, r"\u0436\U0001f600@"))


@pytest.mark.parametrize("listener", ["25", "mail:25", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:smtp"])
def test_a_listener_is_an_address_and_a_port(running: Site, listener: str) -> None:
    """Anything else is usage: it would be judged as if it had come somewhere else."""
    done = running.run("explain", "u1@example.com", "--listener", listener)
    assert done.returncode == 2
    assert "IP:PORT" in done.stderr


def test_explain_at_another_time(running: Site) -> None:
    """--at tells before and after a wave."""
    before = json.loads(running.run("explain", "--json", "u1@example.com", "--at", "2099-12-31T23:59:59Z").stdout)
    after = json.loads(running.run("explain", "--json", "u1@example.com", "--at", "2100-01-01T00:00:00Z").stdout)
    assert (before["decision"], after["decision"]) == ("LOCAL", "RELAY")
    assert running.run("explain", "u1@example.com", "--at", "yesterday").returncode == 2


def test_explain_judges_a_client(running: Site) -> None:
    """--from, --sender and --listener reach the policy rules; nonsense ends with 2."""
    said = json.loads(
        running.run("explain", "--json", "u1@example.com", "--from", "192.0.2.1", "--sender", "<>").stdout
    )
    assert said["policy"] == "DUNNO"
    assert running.run("explain", "u1@example.com", "--from", "nowhere").returncode == 2
    assert running.run("explain", "u1@example.com", "--listener", "25").returncode == 2


def test_status_shows_what_wants_attention(running: Site) -> None:
    """Directories, their age, and exit 0 while all is well."""
    done = running.run("status")
    assert done.returncode == 0, done.stdout
    assert "here" in done.stdout
    assert "33 recipients" in done.stdout
    assert json.loads(running.run("status", "--json").stdout)["attention"] == []


def test_status_names_a_worker_that_answers_by_old_settings(site: Site) -> None:
    """Not while they are being taken: that is over in a moment."""
    site.start()
    found = request(f"{site.folder}/control.sock", {"do": "status"})["status"]
    assert found["workers"]["by_old_settings"] == []
    found["workers"]["by_old_settings"] = [1]
    for seconds, said in ((0.5, False), (10.0, True)):
        found["config"]["loaded_at"] = found["time"] - seconds
        assert any("worker 1 still answers by the old settings" in line for line in _attention(found)) is said


def test_status_directly_after_a_restart(site: Site) -> None:
    """With the index of the last run nothing wants attention, from the first answer on: a script may stop there."""
    site.start().daemon.stop()
    site.daemon.start()
    status = request(f"{site.folder}/control.sock", {"do": "status"})["status"]
    assert status["index"]["error"] == ""
    assert status["directories"]["here"]["loaded"]


def test_flush_of_what_is_not_ours_is_usage(running: Site) -> None:
    """Neither an address nor a split domain: 2."""
    assert running.run("flush", "u1@example.com").returncode == 0
    assert running.run("flush", "example.com").returncode == 0
    assert running.run("flush", "elsewhere.test").returncode == 2
    empty = running.run("flush", "")
    assert (empty.returncode, "address or a domain" in empty.stderr) == (2, True)


def test_without_a_daemon(site: Site) -> None:
    """status, sync and flush end with 75 and say how to start one; query and explain decide by themselves."""
    for words in (["status"], ["sync"], ["flush", "u1@example.com"]):
        done = site.run(*words)
        assert done.returncode == 75
        assert "no daemon is running" in done.stderr
    done = site.run("query", "transport", "u1@example.com")
    assert (done.returncode, done.stdout) == (0, "lmtp:unix:private/lmtp\n")
    assert "no daemon" in done.stderr
    done = site.run("explain", "--json", "stranger@example.com")
    assert json.loads(done.stdout)["decision"] == "RELAY"
    assert "no daemon" in done.stderr


def test_a_directory_that_is_gone_is_try_later(site: Site) -> None:
    """Without a daemon and without the directory nobody is UNKNOWN: 75, and the fault is named."""
    (site.folder / "here.db").unlink()
    done = site.run("query", "relay_recipients", "u1@example.com")
    assert done.returncode == 75
    assert "directory here" in done.stderr
    assert site.run("explain", "u1@example.com").returncode == 75


def test_a_daemon_that_hangs_is_try_later(site: Site) -> None:
    """A connection without an answer: 75, never "not found"."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{site.folder}/socketmap.sock")
        sock.listen()

        def answer_nothing() -> None:
            connection, _ = sock.accept()
            connection.recv(100)
            connection.close()

        thread = threading.Thread(target=answer_nothing)
        thread.start()
        done = site.run("query", "transport", "u1@example.com")
        thread.join()
    assert done.returncode == 75
    assert done.stdout == ""


def test_sync_shows_holds_and_releases(site: Site) -> None:
    """--dry-run changes nothing; a big loss is held (1) and named; --accept NAME releases it."""
    site.start()
    site.execute("DELETE FROM recipients WHERE address LIKE 'u2_@example.com'")
    dry = site.run("sync", "--dry-run", "--json")
    assert dry.returncode == 0, dry.stdout
    assert [(report["held"], report["removed"]) for report in json.loads(dry.stdout)] == [(0, 10)]
    assert site.run("query", "relay_recipients", "u25@example.com").stdout == "LOCAL\n"
    site.execute("DELETE FROM recipients WHERE address LIKE 'u1_@example.com'")
    held = site.run("sync")
    assert held.returncode == 1, held.stdout
    assert "sync --accept" in held.stdout
    assert site.run("query", "relay_recipients", "u15@example.com").stdout == "LOCAL\n"
    status = site.run("status")
    assert status.returncode == 1
    assert "held back" in status.stdout
    assert site.run("sync", "--accept", "example.com").returncode == 0
    assert site.run("status").returncode == 0
    assert site.run("explain", "--json", "u15@example.com").stdout.count('"listed": false')
    assert site.run("sync", "nobody").returncode == 2


def test_nothing_to_go_back_to_is_json_too(site: Site) -> None:
    """Exit code 1, with a result that a script can read."""
    done = site.run("rollback", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["done"] is False


def test_a_state_that_may_not_be_read_is_not_taken_for_empty(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's state: 2 and the reason, never "there are no earlier settings"."""
    (site.folder / "state").mkdir()
    monkeypatch.setattr(os, "access", lambda *words: False)  # root may read everything
    for words in (["rollback"], ["rollback", "--log"], ["rollback", "--json"]):
        done = CliRunner().invoke(main, ["--config", str(site.daemon.config), *words])
        assert done.exit_code == 2, done.output
        assert "Permission denied" in done.stderr


def test_rollback_goes_back_and_forth(site: Site) -> None:
    """The file gets its earlier text, the daemon takes it, the change log tells; a broken one is never installed."""
    site.start()
    assert site.run("rollback").returncode == 1  # nothing earlier
    first = site.daemon.config.read_text()
    second = first.replace('unknown = "verify"', 'unknown = "relay"')
    site.daemon.config.write_text(second)
    site.daemon.reload()
    wait_for(lambda: decided(site)["verify"] is False, 15)
    dry = site.run("rollback", "--dry-run")
    assert dry.returncode == 0
    assert '"relay" -> "verify"' in dry.stdout
    assert site.daemon.config.read_text() == second
    assert site.run("rollback").returncode == 0
    assert site.daemon.config.read_text() == first
    wait_for(lambda: decided(site)["verify"] is True, 15)
    assert site.run("rollback").returncode == 0
    assert site.daemon.config.read_text() == second
    assert site.run("rollback", "--log").stdout.count("reload") >= 3


@pytest.mark.parametrize(("begin", "end"), [("\ufeff", "\n"), ("", "\r\n")], ids=["mark", "line ends"])
def test_rollback_of_a_file_from_windows(site: Site, begin: str, end: str) -> None:
    """A byte order mark and its line ends are no change: what another reload finds as it was stays out of the log, and
    the earlier settings are still there to go back to."""
    first = site.daemon.config.read_text()
    second = first.replace('unknown = "verify"', 'unknown = "relay"')

    def write(text: str) -> None:
        site.daemon.config.write_bytes(f"{begin}{text}".replace("\n", end).encode())

    def taken(times: int) -> bool:
        return site.daemon.tail(1000).count("configuration taken") == times

    write(first)
    site.start()
    write(second)
    for times in (1, 2, 3):
        site.daemon.reload()
        wait_for(partial(taken, times), 15)
        wait_for(lambda: decided(site)["verify"] is False, 15)
    assert site.run("rollback", "--log").stdout.count("reload") == 1
    done = site.run("rollback")
    assert done.returncode == 0
    assert '"relay" -> "verify"' in done.stdout
    wait_for(lambda: decided(site)["verify"] is True, 15)


def decided(site: Site) -> dict[str, object]:
    """The daemon's report of a stranger."""
    found: dict[str, object] = json.loads(site.run("explain", "--json", "stranger@example.com").stdout)
    return found


def test_retire_refuses_while_somebody_is_at_the_other_side(site: Site) -> None:
    """The recipients are named; when they are here, the domain is disabled and the daemon told."""
    site.start()
    site.daemon.config.write_text(
        site.daemon.config.read_text().replace('unknown = "verify"', 'unknown = "verify"\nremote = ["gone"]', 1)
        + f'[directories.gone]\ntype = "file"\nformat = "list"\npath = "{site.folder}/gone.txt"\nmay_be_empty = true\n'
    )
    (site.folder / "gone.txt").write_text("")
    site.daemon.reload()
    wait_for(lambda: "gone" in site.run("status").stdout, 20)
    wait_for(site.loaded, 20)
    done = site.run("retire", "example.com")
    assert done.returncode == 1
    assert "far@example.com" in done.stderr
    site.execute("UPDATE recipients SET location = NULL")
    assert site.run("sync").returncode in (0, 1)
    before = site.daemon.config.read_text()
    assert site.run("retire", "example.com", "--dry-run").returncode == 0
    assert site.daemon.config.read_text() == before
    assert site.run("retire", "example.com").returncode == 0
    assert "enabled = false" in site.daemon.config.read_text()
    wait_for(lambda: site.run("query", "transport", "u1@example.com").returncode == 1, 15)
    assert site.run("retire", "elsewhere.test").returncode == 2


def test_retire_refuses_while_it_does_not_know(site: Site) -> None:
    """Who cannot be decided is named; a directory that was not read, or by an older query, may list anybody: 75."""
    site.execute("UPDATE recipients SET location = NULL WHERE location = 'cloud'")
    site.start()
    text = site.daemon.config.read_text().replace('unknown = "verify"', 'unknown = "verify"\nremote = ["gone"]', 1)
    gone = site.folder / "gone.txt"
    text += f'[directories.gone]\ntype = "file"\nformat = "list"\npath = "{gone}"\n'
    site.daemon.config.write_text(text)
    for _ in range(2):  # before and after the daemon knows it
        done = site.run("retire", "example.com")
        assert done.returncode == 75
        assert "not read yet: gone" in done.stderr
        site.daemon.reload()
        wait_for(lambda: "gone" in site.run("status").stdout, 20)
    gone.write_text("u1@example.com\n")  # listed here as well
    wait_for(site.loaded, 20)
    done = site.run("retire", "example.com")
    assert done.returncode == 1
    assert "lost@example.com" in done.stderr
    assert "cannot be decided" in done.stderr
    site.execute("UPDATE recipients SET location = NULL")
    assert site.run("sync").returncode in (0, 1)
    assert site.run("retire", "example.com", "--dry-run").returncode == 0


def test_observed_decisions_are_reported(site: Site) -> None:
    """A policy question about an observed domain is answered DUNNO, and shows up beside what Postfix did."""
    site.start()
    assert site.run("observe", "report").returncode == 0
    for recipient in ("eve@watched.example", "stranger@watched.example"):
        ask_policy(site.folder / "policy.sock", recipient)
    wait_for(lambda: "2 decisions" in site.run("observe", "report").stdout, 15)
    done = site.run("observe", "report", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert [entry["recipient"] for entry in report["unknown"]] == ["stranger@watched.example"]


def ask_policy(path: Path, recipient: str) -> None:
    """One policy delegation request, as smtpd sends it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        lines = {
            "request": "smtpd_access_policy",
            "protocol_state": "RCPT",
            "protocol_name": "ESMTP",
            "client_address": "192.0.2.9",
            "recipient": recipient,
            "sender": "someone@elsewhere.test",
        }
        sock.sendall("".join(f"{key}={value}\n" for key, value in lines.items()).encode() + b"\n")
        assert sock.recv(1000) == b"action=DUNNO\n\n"
