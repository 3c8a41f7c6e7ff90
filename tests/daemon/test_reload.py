# SPDX-License-Identifier: Apache-2.0
"""SIGHUP and SIGTERM with open connections."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from policyd import loader
from tests.daemon.site import LOCAL, REMOTE, Site
from tests.mta import daemon
from tests.mta.waiting import wait_for
from tests.servers.slapd import Slapd
from tests.servers.sqlite import SqliteTable
from transport.config import load as configuration
from transport.config.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def test_reload_swaps_settings_without_dropping_a_connection(site: Site) -> None:
    """A good configuration is taken on open connections, and no cached answer of the old one survives."""
    client = site.client()
    assert client.ask("transport", "ann@example.com") == ("OK", LOCAL)
    site.splitmx.write(site.config().replace(LOCAL, "lmtp:[127.0.0.1]:24"))
    site.splitmx.reload()
    wait_for(lambda: client.ask("transport", "ann@example.com") == ("OK", "lmtp:[127.0.0.1]:24"), 10, site.log)


def test_reload_of_a_bad_file_keeps_the_old_settings(site: Site) -> None:
    """Every mistake is logged, the old configuration stays, `status` says so; a good one then clears it."""
    client = site.client()
    good = site.config()
    site.splitmx.write(good.replace('hosts = ["192.0.2.9"]', 'hots = ["192.0.2.9"]\nport = 99999'))
    site.splitmx.reload()
    wait_for(lambda: site.status()["config"]["refused"], 10, site.splitmx.tail)
    assert "hots" in site.log()
    assert "99999" in site.log()
    assert client.ask("transport", "ann@example.com") == ("OK", LOCAL)
    assert client.ask("transport", "new@example.com") == ("OK", REMOTE)
    site.splitmx.write(good)
    assert site.control("reload") == {"ok": True, "errors": []}
    assert site.status()["config"]["refused"] == []


@pytest.mark.parametrize("change", ["workers", "socketmap"])
def test_change_of_listeners_or_workers_needs_a_restart(site: Site, change: str) -> None:
    """Such a change is refused as a whole with these words."""
    text = site.config()
    old, new = ("workers = 1", "workers = 3") if change == "workers" else ("map.sock", "other.sock")
    text = text.replace(old, new)
    site.splitmx.write(text.replace(LOCAL, "lmtp:[127.0.0.1]:24"))
    answer = site.control("reload")
    assert not answer["ok"]
    assert f"daemon.{change}" in answer["error"]
    assert "needs a restart" in answer["error"]
    assert site.ask("ann@example.com") == ("OK", LOCAL)


def test_reload_takes_a_new_domain_and_directory(site: Site) -> None:
    """A new domain with a directory of its own is answered after a reload; a removed one is not ours any more."""
    (site.folder / "list.txt").write_text("zoe@example.org\n")
    text = site.config() + (
        f'\n[directories.list]\ntype = "file"\nformat = "list"\npath = "{site.folder}/list.txt"\n'
        f'[domains."example.org"]\nlocal = ["list"]\ndestination = "m365"\nlocal_transport = "{LOCAL}"\n'
    )
    site.splitmx.write(text)
    assert site.control("reload")["ok"]
    site.answers("zoe@example.org", LOCAL)
    site.splitmx.write(site.config())
    assert site.control("reload")["ok"]
    wait_for(lambda: site.ask("zoe@example.org")[0] == "NOTFOUND", 10)


def test_changes_are_written_down_without_secrets(site: Site) -> None:
    """Each reload that changes something leaves a line in the change log, and the text before it."""
    before = site.splitmx.config.read_text()
    text = before.replace('unknown = "verify"', "").replace(
        f'"sqlite:///{site.folder}/people.db"', f'"sqlite:///{site.folder}/people.db?x=1"'
    )
    site.splitmx.write(text)
    assert site.control("reload")["ok"]
    lines = [json.loads(line) for line in (site.folder / "state" / "changes.jsonl").read_text().splitlines()]
    assert [line["by"] for line in lines] == ["start", "reload"]
    assert any("directories.here.url" in line for line in lines[-1]["differs"])
    previous = site.folder / "state" / "settings" / "previous.toml"
    assert previous.read_text() == before
    assert previous.stat().st_mode & 0o077 == 0


def test_sigterm_answers_what_was_sent(site: Site) -> None:
    """Requests already sent when SIGTERM comes are answered; then all processes end and the sockets are gone."""
    assert site.splitmx.process is not None
    clients = [site.client() for _ in range(20)]
    for client in clients:
        client.ask("transport", "ann@example.com")
    (worker,) = site.pids("worker")
    os.kill(worker, signal.SIGSTOP)
    for client in clients:
        client.send("transport", "ann@example.com")
    site.splitmx.process.terminate()
    os.kill(worker, signal.SIGCONT)
    assert [client.receive() for client in clients] == [("OK", LOCAL)] * 20
    assert site.splitmx.process.wait(10) == 0
    assert site.refused()
    assert not site.map.exists()


@pytest.mark.directory
def test_sigterm_waits_for_a_live_answer(sites: Callable[..., Site], slapd: Slapd) -> None:
    """A request that waits for a directory when SIGTERM comes gets an answer, not an end of file."""
    site = _with_slapd(sites, slapd)
    wait_for(lambda: site.status()["directories"]["corp"]["age"] > 1.1, 5)
    slapd.hang()
    try:
        client = site.client()
        client.send("transport", "stranger@example.com")
        wait_for(lambda: site.status()["directories"]["corp"]["queries"]["waiting"] > 0, 5)
        assert site.splitmx.process is not None
        site.splitmx.process.terminate()
        assert client.receive()[0] == "TEMP"
        assert site.splitmx.process.wait(10) == 0
    finally:
        slapd.cont()


def _with_slapd(sites: Callable[..., Site], slapd: object) -> Site:
    from tests.daemon.test_live import with_slapd

    return with_slapd(sites, slapd)


def test_a_configuration_that_is_still_written_is_loaded_again(
    sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there when it was opened is whole domains, but not all of them: the others' mail would be refused."""
    path = sites("ann@example.com").splitmx.config
    whole = path.read_text().rstrip() + '\n[domains."example.org"]\nlocal = ["here"]\ndestination = "m365"\n'
    path.write_text(whole.partition('[domains."example.org"]')[0])
    real = configuration.load_text

    def load_text(text: str, source: str, folder: Path | None = None) -> Settings:
        settings = real(text, source, folder)
        if path.read_text() != whole:
            path.write_text(whole)  # as by a copy that goes on
        return settings

    monkeypatch.setattr(configuration, "load_text", load_text)
    loaded = loader.load(path)
    assert loaded.settings is not None
    assert set(loaded.settings.domains) == {"example.com", "example.org"}
    assert loaded.text == whole


BESIDE = """
[directories.list]
type = "file"
format = "list"
path = "{folder}/list.txt"

[domains."example.org"]
local = ["list"]
destination = "m365"
local_transport = "{local}"
"""


def test_no_answer_of_a_directory_that_was_exchanged(sites: Callable[..., Site], tmp_path: Path) -> None:
    """A "no" that the keeper remembers of the old directory is not the new one's, however late it hears of it."""
    (tmp_path / "list.txt").write_text("zoe@example.org\n")
    beside = BESIDE.format(folder=tmp_path, local=LOCAL)
    site = sites("ann@example.com", fresh_for="8s", sync_every="1h", more=beside).start()
    SqliteTable(tmp_path / "other.db").add("zoe@example.com")
    wait_for(lambda: site.status()["directories"]["here"]["age"] > 8.1, 20)
    assert site.ask("zoe@example.com") == ("OK", REMOTE)
    text = site.config(more=beside.replace(LOCAL, "lmtp:[127.0.0.1]:24"))
    site.splitmx.write(text.replace(f"{site.folder}/people.db", f"{tmp_path}/other.db"))
    (keeper,) = site.pids("keeper")
    client = site.client()
    os.kill(keeper, signal.SIGSTOP)
    try:
        site.splitmx.reload()
        wait_for(lambda: site.ask("zoe@example.org") == ("OK", "lmtp:[127.0.0.1]:24"), 10, site.splitmx.tail)
        client.send("transport", "zoe@example.com")
        site.ask("zoe@example.org")  # the worker has read both
    finally:
        os.kill(keeper, signal.SIGCONT)
    assert client.receive() != ("OK", REMOTE)
    wait_for(lambda: site.ask("zoe@example.com") == ("OK", LOCAL), 10, site.splitmx.tail)


def test_restart_answers_from_the_index_at_once(site: Site) -> None:
    """After a restart listed recipients are answered even though their directory cannot be read any more."""
    site.stop()
    site.people.rename(site.folder / "gone.db")
    site.splitmx.start()
    assert site.ask("ann@example.com") == ("OK", LOCAL)
    assert site.ask("new@example.com")[0] == "TEMP"


def test_a_newer_installation_below_the_daemon_is_said(
    sites: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other files under it the daemon tells its own version, and refuses a reload with what to do."""
    for package in ("policyd", "transport"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    old = tmp_path / "splitmx-0.0.1.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: splitmx\nVersion: 0.0.1\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from policyd.cli import main; main()"
    monkeypatch.setattr(daemon, "COMMAND", [sys.executable, "-I", "-c", code])
    site = sites("ann@example.com").start()
    assert site.status()["version"] == "0.0.1"
    old.rename(tmp_path / "splitmx-0.0.2.dist-info")
    (tmp_path / "splitmx-0.0.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: splitmx\nVersion: 0.0.2\n"
    )
    for file in (tmp_path / "policyd").glob("*.py"):
        fresh = file.with_suffix(".new")
        shutil.copy(file, fresh)
        fresh.replace(file)
    site.splitmx.write(site.config().replace(LOCAL, "lmtp:[127.0.0.1]:24"))
    answer = site.control("reload")
    assert not answer["ok"]
    assert "restart it instead" in answer["error"]
    assert site.ask("ann@example.com") == ("OK", LOCAL)
    assert site.status()["version"] == "0.0.1"
    done = site.splitmx.run("status")
    assert "splitmx 0.0.2 is installed, 0.0.1 still runs: systemctl restart splitmx" in done.stdout


@pytest.mark.parametrize("left", ["other", "none"])
def test_a_keeper_is_started_again_as_it_was(
    sites: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """Another version's files, or none any more: processes that die above them come back, the keeper reads directories
    and leaves the index alone."""
    for package in ("policyd", "transport"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from policyd.cli import main; main()"
    monkeypatch.setattr(daemon, "COMMAND", [sys.executable, "-I", "-c", code])
    site = sites("ann@example.com").start()
    inode = (site.folder / "state" / "index.sqlite").stat().st_ino
    for package in ("policyd", "transport"):
        for file in (tmp_path / package).rglob("*.py*"):
            if left == "other":
                file.write_text("raise RuntimeError('of another version')")
            else:
                file.unlink()
    for pid in (*site.pids("keeper"), *site.pids("worker")):
        os.kill(pid, signal.SIGKILL)
    site.loaded()
    site.add("new@example.com")
    wait_for(lambda: site.status()["directories"]["here"]["rows"] == 2, 20, site.splitmx.tail)
    assert site.ask("new@example.com") == site.ask("ann@example.com") == ("OK", LOCAL)
    assert (site.folder / "state" / "index.sqlite").stat().st_ino == inode
    assert "fault of its own" not in site.log()


def test_the_next_fault_of_a_directory_is_logged_at_once(site: Site) -> None:
    """Who mends one fault and reloads sees the one behind it, though it is the same directory in the same minute."""
    old = f"sqlite:///{site.people}"
    for url in ("sqlite:////nonexistent/here.db", "postgres://u@127.0.0.1/mail"):
        site.splitmx.write(site.config().replace(old, url))
        assert site.control("reload")["ok"]
        wait_for(lambda: site.status()["directories"]["here"].get("error"), 20, site.log)
    wait_for(lambda: "write postgresql+psycopg:// in `url`" in site.log(), 20, site.log)
    assert "/nonexistent/here.db does not exist" in site.log()
