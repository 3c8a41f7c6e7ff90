# SPDX-License-Identifier: Apache-2.0
"""The control socket, the metrics listener, observed decisions."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.request
from collections.abc import Callable

import pytest

from policyd import control_client
from tests.daemon.site import LOCAL, REMOTE, Site
from tests.mta.waiting import wait_for


def test_flush_of_an_address_reaches_every_worker(sites: Callable[..., Site]) -> None:
    """After `flush ADDRESS` every worker answers what the directory says now, long before the next sync."""
    site = sites("ann@example.com", "bob@example.com", workers=2, sync_every="300s").start()
    clients = [site.client() for _ in range(10)]
    assert {one.ask("transport", "bob@example.com") for one in clients} == {("OK", LOCAL)}
    site.remove("bob@example.com")
    answer = site.control("flush", what="Bob+news@Example.com")
    assert answer["ok"]
    assert answer["acknowledged"]
    assert answer["workers"] == 2
    assert answer["directories"] == [{"directory": "here", "answer": "not listed"}]
    wait_for(lambda: {one.ask("transport", "bob@example.com") for one in clients} == {("OK", REMOTE)}, 5)
    assert site.ask("ann@example.com") == ("OK", LOCAL)


def test_everybody_says_what_a_flush_has_learned(sites: Callable[..., Site]) -> None:
    """Until the directory is listed again, `explain` and a worker that began later answer as the other workers do."""
    ask = "SELECT address, kind, targets, location, active FROM recipients WHERE address IN :addresses"
    site = sites("ann@example.com", sync_every="300s", directory=f'lookup = "{ask}"')
    site.sql("CREATE VIEW listing AS SELECT * FROM recipients")
    text = site.config(domain='locations = { cloud = "m365" }')
    site.splitmx.write(text.replace('active FROM recipients"', 'active FROM listing"', 1))
    site.start()
    site.sql("DROP VIEW listing")
    site.add("ann@example.com", location="cloud")
    assert site.ask("ann@example.com") == ("OK", LOCAL)
    site.control("flush", what="ann@example.com")
    assert site.ask("ann@example.com") == ("OK", REMOTE)
    assert site.control("explain", address="ann@example.com")["report"]["decision"] == "RELAY"
    (worker,) = site.pids("worker")
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: worker not in site.pids("worker") and len(site.pids("worker")) == 1, 20, site.splitmx.tail)
    site.answers("ann@example.com", REMOTE)


def test_flush_of_a_domain_reads_its_directories(sites: Callable[..., Site]) -> None:
    """After `flush DOMAIN` what a compare found is answered."""
    site = sites("ann@example.com", "bob@example.com", sync_every="300s").start()
    assert site.ask("bob@example.com") == ("OK", LOCAL)
    site.remove("bob@example.com")
    answer = site.control("flush", what="example.com")
    assert answer["directories"][0]["removed"] == 1
    wait_for(lambda: site.ask("bob@example.com") == ("OK", REMOTE), 5)


def test_flush_of_what_is_not_ours_is_an_error(site: Site) -> None:
    """Foreign and hopeless names are refused with a reason."""
    for what in ("x@foreign.example", "foreign.example", "@"):
        answer = site.control("flush", what=what)
        assert not answer["ok"]
        assert answer["error"]


def test_sync_holds_and_accepts(sites: Callable[..., Site]) -> None:
    """Half a table gone is held back and shown; strangers and listed alike stay right; `accept` takes it."""
    people = [f"u{number}@example.com" for number in range(60)]
    site = sites(*people, sync_every="300s").start()
    site.sql("DELETE FROM recipients WHERE rowid <= 30")
    dry = site.control("sync", dry_run=True)["reports"][0]
    assert dry["held"] == 30
    report = site.control("sync")["reports"][0]
    assert (report["removed"], report["held"]) == (0, 30)
    assert site.ask("u5@example.com") == ("OK", LOCAL)
    assert sum(one["count"] for one in site.status()["held"]) == 30
    assert "held back" in site.log()
    report = site.control("sync", accept=[])["reports"][0]
    assert (report["removed"], report["held"]) == (30, 0)
    wait_for(lambda: site.ask("u5@example.com") == ("OK", REMOTE), 5)
    assert site.status()["held"] == []


def test_explain_and_query_agree_with_the_listener(site: Site) -> None:
    """The keeper explains what the workers answer."""
    for key in ("ann@example.com", "nobody@example.com", "sales@example.com", "x@foreign.example"):
        report = site.control("explain", address=key)["report"]
        status, value = site.ask(key)
        assert report["maps"]["transport"] == {"status": status, "value": value}
        answer = site.control("query", map="transport", key=key)
        assert (answer["status"], answer["value"]) == (status, value)


@pytest.mark.parametrize("line", [b"nonsense\n", b"[]\n", b'{"do": "explode"}\n', b'{"do": 7}\n', b'{"do": "flush"}\n'])
def test_broken_requests_get_an_error(site: Site, line: bytes) -> None:
    """What is no request gets an answer that says so, and the socket lives on."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(site.control_socket))
        sock.sendall(line)
        assert json.loads(sock.makefile("rb").readline())["ok"] is False
    assert site.control("ping")["ok"]


def test_client_says_when_nobody_runs(sites: Callable[..., Site]) -> None:
    """Without a daemon the client knows that it is not running."""
    site = sites()
    with pytest.raises(control_client.ControlError) as caught:
        site.control("ping")
    assert not caught.value.running


def test_status_names_a_directory_that_fails(sites: Callable[..., Site]) -> None:
    """`status` and the log say what is wrong with a directory, never its URL."""
    site = sites("ann@example.com", fresh_for="1s").start()
    site.sql("ALTER TABLE recipients RENAME TO elsewhere")
    found = wait_for(lambda: site.status()["directories"]["here"]["error"], 10)
    assert "recipients" in found
    assert "sqlite://" not in site.log()


def _metrics(site: Site) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{site.port}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def test_metrics_count_decisions_also_of_dead_workers(site: Site) -> None:
    """Decisions are counted by map, domain and verdict, cached ones too, and a worker's death loses none."""
    client = site.client()
    for _ in range(10):
        client.ask("transport", "ann@example.com")
    client.ask("relay_recipients", "nobody@example.com")
    line = 'splitmx_decisions_total{domain="example.com",map="transport",verdict="LOCAL"} 10.0'
    wait_for(lambda: line in _metrics(site), 10, lambda: _metrics(site))
    (worker,) = site.pids("worker")
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: site.pids("worker") not in ([], [worker]))
    wait_for(lambda: site._ask_if_up("ann@example.com") == ("OK", LOCAL), 10)
    wait_for(lambda: line.replace("10.0", "11.0") in _metrics(site), 10, lambda: _metrics(site))
    text = _metrics(site)
    assert 'map="relay_recipients",verdict="RELAY"} 1.0' in text
    assert 'splitmx_directory_recipients{directory="here"} 2.0' in text
    assert 'splitmx_processes{role="worker"} 1.0' in text


def test_every_metric_is_documented(site: Site) -> None:
    """docs/metrics.md names each metric that the daemon exposes."""
    from pathlib import Path

    page = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()
    names = {line.split()[2] for line in _metrics(site).splitlines() if line.startswith("# TYPE")}
    missing = {name for name in names if f"`{name}`" not in page}
    assert not missing


def test_observed_domain_is_answered_dunno_and_written_down(sites: Callable[..., Site]) -> None:
    """An observed domain's policy answer is DUNNO at once; what would have been decided is in the day's file."""
    site = sites("ann@example.com", domain='enabled = "observe"').start()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(site.folder / "policy.sock"))
        for to in ("ann", "new"):
            sock.sendall(
                b"request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address=192.0.2.7\nsender=s@example.net\n"
                b"recipient=%s@example.com\nqueue_id=Q\ninstance=1.2\n\n" % to.encode()
            )
            assert sock.recv(100) == b"action=DUNNO\n\n"
    assert site.ask("ann@example.com") == ("NOTFOUND", "")

    def lines() -> list[dict[str, object]]:
        return [
            json.loads(line)
            for path in (site.folder / "state" / "observe").glob("*.jsonl")
            for line in path.read_text().splitlines()
        ]

    wait_for(lambda: len(lines()) == 2, 10)
    found = {str(one["recipient"]): one["verdict"] for one in lines()}
    assert found == {"ann@example.com": "LOCAL", "new@example.com": "RELAY"}


def test_guard_table_follows_the_list_of_domains(site: Site) -> None:
    """The table by which Postfix knows our domains is there, and follows a reload."""
    import sqlite3

    path = site.folder / "state" / "maps" / "domains.sqlite"

    def names() -> set[str]:
        if not path.exists():
            return set()
        connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
        try:
            return {str(name) for (name,) in connection.execute("SELECT name FROM domain")}
        finally:
            connection.close()

    wait_for(lambda: "example.com" in names(), 10)
    site.splitmx.write(
        site.config() + '[domains."example.org"]\nlocal = ["here"]\ndestination = "m365"\nlocal_transport = "lmtp:x"\n'
    )
    assert site.control("reload")["ok"]
    wait_for(lambda: {"example.com", "example.org"} <= names(), 10)
