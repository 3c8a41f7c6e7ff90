# SPDX-License-Identifier: Apache-2.0
"""Observed decisions beside a mail log: what agrees, what differs, what is only deferred."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from policyd.cli import main
from policyd.cli.observed import compare, read, read_logs
from tests.mta.places import new_folder

NOW = time.time() - 3600


def decision(recipient: str, verdict: str, **more: Any) -> dict[str, Any]:
    """One line as the keeper writes it."""
    return {
        "time": NOW,
        "domain": "example.com",
        "recipient": recipient,
        "verdict": verdict,
        "reason": "a reason",
        "destination": "cloud" if verdict == "RELAY" else "",
        "listed": True,
        "rule": "none",
        "code": 0,
        **more,
    }


def line(text: str, after: float = 1.0) -> str:
    """A line of a mail log with an RFC 3339 time."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(NOW + after))
    return f"{stamp} host postfix/{text}\n"


def reject(recipient: str, code: str) -> str:
    """A refusal at RCPT."""
    return (
        f"smtpd[1]: NOQUEUE: reject: RCPT from mx.elsewhere.test[192.0.2.9]: {code} <{recipient}>: Recipient address "
        f"rejected: x; from=<a@elsewhere.test> to=<{recipient}> proto=ESMTP helo=<mx>"
    )


def delivery(program: str, recipient: str, status: str = "sent", orig: str = "") -> str:
    """A delivery attempt."""
    original = f"orig_to=<{orig}>, " if orig else ""
    return (
        f"{program}[2]: 4ABC123: to=<{recipient}>, {original}relay=there[192.0.2.5]:25, delay=1, delays=0/0/0/1, "
        f"dsn=2.0.0, status={status} (250 ok)"
    )


@pytest.mark.parametrize(
    ("entry", "logged", "differs"),
    [
        (decision("a@example.com", "LOCAL"), delivery("lmtp", "a@example.com"), False),
        (decision("a@example.com", "LOCAL"), delivery("smtp", "a@example.com"), True),
        (decision("a@example.com", "LOCAL"), reject("a@example.com", "550 5.1.1"), True),
        (decision("a@example.com", "RELAY"), delivery("smtp", "a@example.com"), False),
        (decision("a@example.com", "RELAY"), delivery("local", "A@Example.com"), True),
        (decision("a@example.com", "RELAY"), reject("a@example.com", "550 5.1.1"), True),
        (decision("a@example.com", "RELAY", rule="verify"), reject("a@example.com", "550 5.1.1"), False),
        (decision("a@example.com", "RELAY"), reject("a@example.com", "450 4.2.0"), False),
        (decision("a@example.com", "RELAY"), delivery("smtp", "a@example.com", "deferred"), False),
        (decision("a@example.com", "RELAY"), delivery("smtp", "a@example.com", "bounced"), True),
        (decision("a@example.com", "UNKNOWN", listed=False), reject("a@example.com", "550 5.1.1"), False),
        (decision("a@example.com", "UNKNOWN", listed=False), delivery("lmtp", "a@example.com"), True),
        (decision("a@example.com", "EXPAND"), delivery("lmtp", "b@example.com", orig="a@example.com"), False),
        (decision("a@example.com", "LOCAL", rule="suspended", code=550), delivery("lmtp", "a@example.com"), True),
    ],
)
def test_what_differs(tmp_path: Path, entry: dict[str, Any], logged: str, differs: bool) -> None:
    """Only another side, or a refusal against a delivery, is a difference; a deferral is none."""
    log = tmp_path / "mail.log"
    log.write_text(line("smtpd[9]: connect from x[192.0.2.9]") + line(logged))
    report = compare([entry], read_logs([log]))
    assert report.matched == 1
    assert bool(report.differences) is differs


def test_the_deed_of_another_time_is_not_this_ones(tmp_path: Path) -> None:
    """A refusal an hour later belongs to another attempt."""
    log = tmp_path / "mail.log"
    log.write_text(line(reject("a@example.com", "550 5.1.1"), 3000) + line(delivery("lmtp", "a@example.com"), -60))
    assert compare([decision("a@example.com", "LOCAL")], read_logs([log])).matched == 0


def test_traditional_time_stamps_and_packed_logs(tmp_path: Path) -> None:
    """`Nov  1 12:00:00` in local time; .gz."""
    log = tmp_path / "mail.log.1.gz"
    stamp = time.strftime("%b %e %H:%M:%S", time.localtime(NOW + 1))
    with gzip.open(log, "wt") as file:
        file.write(f"{stamp} host postfix/relay/smtp[3]: " + delivery("x", "a@example.com").partition("]: ")[2] + "\n")
    report = compare([decision("a@example.com", "LOCAL")], read_logs([log]))
    assert len(report.differences) == 1


def test_lists_are_by_recipient_and_broken_lines_do_no_harm(tmp_path: Path) -> None:
    """One entry however often it was seen; half a line at the end of the file is passed over."""
    entries = [decision("X@example.com", "RELAY", listed=False) for _ in range(3)]
    entries.append(decision("t@example.com", "TEMP"))
    entries.append(decision("s@example.com", "LOCAL", rule="suspended", code=550))
    entries.append(decision("o@example.net", "LOCAL", domain="example.net"))
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    day = time.strftime("%Y-%m-%d", time.gmtime(NOW))
    (tmp_path / f"{day}.jsonl").write_text(text + '{"time": 1, "dom')
    report = compare(read(tmp_path), None)
    assert report.decisions == 6
    assert [(entry["recipient"], entry["times"]) for entry in report.unknown] == [("x@example.com", 3)]
    assert [entry["recipient"] for entry in report.undecided] == ["t@example.com"]
    assert [entry["recipient"] for entry in report.refused] == ["s@example.com"]
    assert len(read(tmp_path, domain="Example.NET")) == 1
    assert read(tmp_path / "missing") == []


@pytest.mark.parametrize("damage", [b"\x1f\x8bnonsense", b"no gzip", "cut", "spoilt"])
def test_a_damaged_log_is_usage_and_named(tmp_path: Path, damage: bytes | str) -> None:
    """Exit code 2 with the file's name; never an unexpected error."""
    whole = gzip.compress(reject("eve@watched.example", "550 5.1.1").encode() * 200)
    changed = {"cut": whole[:-12], "spoilt": whole[:40] + b"\xff" * 30 + whole[70:]}
    log = tmp_path / "mail.log.1.gz"
    log.write_bytes(damage if isinstance(damage, bytes) else changed[damage])
    config = tmp_path / "splitmx.toml"
    config.write_text(f'[daemon]\nstate = "{tmp_path}"\n')
    done = CliRunner().invoke(main, ["observe", "report", "--config", str(config), "--log", str(log)])
    assert done.exit_code == 2, done.output
    assert str(log) in done.stderr
    assert "gzip" in done.stderr


@pytest.mark.parametrize("domain", ["", "two words", "a..b"])
def test_what_is_no_domain_does_not_mean_all(tmp_path: Path, domain: str) -> None:
    """--domain with nonsense is usage, not a report of every domain."""
    config = tmp_path / "splitmx.toml"
    config.write_text(f'[daemon]\nstate = "{tmp_path}"\n')
    done = CliRunner().invoke(main, ["observe", "report", "--config", str(config), "--domain", domain])
    assert done.exit_code == 2, done.output


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_decisions_that_may_not_be_read_are_not_taken_for_none() -> None:
    """Whoever may not read them is told so: "no decision was observed" would be a reason to go live."""
    folder = new_folder("observed")
    folder.chmod(0o711)
    (folder / "observe").mkdir(mode=0o700)
    (folder / "splitmx.toml").write_text(f'[daemon]\nstate = "{folder}"\n')
    os.seteuid(65534)
    try:
        done = CliRunner().invoke(main, ["observe", "report", "--config", str(folder / "splitmx.toml")])
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)
    assert done.exit_code == 2, done.output
    assert "observe: Permission denied" in done.stderr
