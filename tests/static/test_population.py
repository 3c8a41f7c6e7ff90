# SPDX-License-Identifier: Apache-2.0
"""Thousands of addresses through every face: socketmap, control socket, `query`, `explain --json`, static files."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from policyd.control_client import request
from policyd.protocols import socketmap
from tests.mta.daemon import Splitmx
from tests.mta.waiting import wait_for
from tests.static import people
from transport.address import external, fold_domain, forms, parse, with_extension
from transport.answerer import Answerer
from transport.config.load import load
from transport.index.reader import Reader
from transport.maps.snapshot import Snapshot

MAPS = ("transport", "relay_recipients", "virtual_alias", "recipient_bcc")
TYPES = ("lmdb", "hash", "cdb")
NUMBER = 2000


class Site:
    """The population, its daemon, its static maps."""

    def __init__(self, folder: Path, mail_config: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"MAIL_CONFIG": str(mail_config)}
        self.addresses = people.make(folder, NUMBER)
        self.daemon = Splitmx((folder / "splitmx.toml").read_text(), folder, MAIL_CONFIG=str(mail_config))
        self.daemon.start()
        wait_for(lambda: all(one["loaded"] for one in self.status()["directories"].values()), 30)
        done = self.daemon.run("build", "--output", str(folder / "maps"), *(f"--type={kind}" for kind in TYPES))
        assert done.returncode in (0, 1), done.stderr
        self.built = done.stdout

    def status(self) -> dict[str, dict[str, dict[str, object]]]:
        """`splitmx status --json`'s source."""
        found: dict[str, dict[str, dict[str, object]]] = request(f"{self.folder}/control.sock", {"do": "status"})[
            "status"
        ]
        return found

    def live(self, name: str, keys: Sequence[str]) -> list[tuple[str, str]]:
        """Answers of the daemon over its socketmap listener; where a busy machine made it say "later", asked again."""
        answers = dict(zip(keys, self._live(name, keys), strict=True))
        for _ in range(20):
            later = [key for key, (status, value) in answers.items() if status == "TEMP" and "asked" in value]
            if not later:
                break
            answers |= zip(later, self._live(name, later), strict=True)
        return [answers[key] for key in keys]

    def explained(self, key: str) -> dict[str, Any]:
        """The report of the control socket's `explain`."""
        for _ in range(20):
            report: dict[str, Any] = request(f"{self.folder}/control.sock", {"do": "explain", "address": key})["report"]
            if report["decision"] != "TEMP" or "asked" not in report["reason"]:
                break
        return report

    def _live(self, name: str, keys: Sequence[str]) -> list[tuple[str, str]]:
        answers = []
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(f"{self.folder}/socketmap.sock")
            data = bytearray()
            for start in range(0, len(keys), 100):  # answers come in order, however many questions are on the way
                some = keys[start : start + 100]
                sock.sendall(b"".join(socketmap.request(name, key) for key in some))
                for _ in some:
                    while (end := socketmap.next_reply(data)) is None:
                        data += sock.recv(200_000)
                    answers.append(socketmap.parse_reply(bytes(data[:end])))
                    del data[:end]
        return answers

    def postmap(self, table: str, keys: Sequence[str]) -> dict[str, str]:
        """What `postmap -q -` finds for these keys in a static file."""
        done = subprocess.run(
            ["postmap", "-q", "-", f"{table.partition(':')[0]}:{self.folder}/maps/{table.partition(':')[2]}"],
            input="".join(f"{key}\n" for key in keys),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode in (0, 1), done.stderr
        return dict(line.split("\t", 1) for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def site(mail_config: Path) -> Iterator[Site]:
    """One site for all tests of this file."""
    from tests.mta.places import new_folder

    found = Site(new_folder("pop"), mail_config)
    yield found
    found.daemon.stop()


def keys_of(addresses: Sequence[str], seed: int = 7) -> list[str]:
    """What an MTA asks about them: as listed, with an extension, in another case; and strangers."""
    chance = random.Random(seed)
    keys = []
    for text in addresses:
        address = parse(text)
        assert address is not None, text
        plain = external(address.local, address.domain)
        keys.append(plain)
        if chance.random() < 0.5:
            keys.append(external(address.local + "+ext", address.domain))
        if chance.random() < 0.2:
            keys.append(plain.upper())
        if address.domain == "example.com" and chance.random() < 0.3:
            keys.append(external(address.local, "example.org"))
        if address.domain.startswith("xn--"):
            keys.append(external(address.local, "bücher.example"))
    for n in range(150):
        keys.append(f"stranger{n}@{chance.choice([*people.DOMAINS, 'example.org'])}")
    keys += ["postmaster@example.com", "Postmaster@example.net", "abuse@example.com", "x@elsewhere.test"]
    return list(dict.fromkeys(keys))


def base_of(key: str) -> tuple[str, str]:
    """The key without its extension as Postfix strips it, and the extension."""
    address = parse(key)
    assert address is not None
    base, extension = forms(address.local, "+")[-1]
    return external(base, key.rpartition("@")[2]), extension


@pytest.mark.e2e
def test_static_and_live_agree(site: Site) -> None:
    """What Postfix finds in a file for a listed address is what the daemon answers, with and without extension."""
    keys = [key for key in keys_of(site.addresses) if not key.startswith("#")]
    pairs = {key: base_of(key) for key in keys}
    asked = list(dict.fromkeys([*keys, *(base for base, _ in pairs.values())]))
    compared = 0
    for name in MAPS:
        live = dict(zip(keys, site.live(name, keys), strict=True))
        for kind in TYPES:
            found = {key.lower(): value for key, value in site.postmap(f"{kind}:{name}", asked).items()}
            for key in keys:
                base, extension = pairs[key]
                status, value = live[key]
                whole, part = found.get(key.lower()), found.get(base.lower())
                static = whole or part
                if name == "virtual_alias" and whole is None and part is not None:
                    # cleanup(8) puts the extension back (propagate_unmatched_extensions)
                    static = ", ".join(with_extension(one, extension) for one in part.split(", "))
                if name == "recipient_bcc" and extension and status == "OK":
                    # cleanup(8) looks a BCC up without the extension, and does not put it back
                    value = value.replace(extension, "", 1) if whole is None else value
                if static is None:
                    assert status != "OK" or not listed(site, key, name), (name, key, live[key])
                    continue
                assert (status, value) == ("OK", static), (name, kind, key)
                compared += 1
    assert compared > 10 * NUMBER


def listed(site: Site, key: str, name: str) -> bool:
    """Whether a static file should hold this key: its base is in a directory, and its answer is no other's."""
    address = parse(key)
    assert address is not None
    if name == "virtual_alias" and address.domain == fold_domain("bücher.example"):
        return False  # plus = "strip": an extension cannot be taken off by a file
    domain = "example.com" if address.domain == "example.org" else address.domain
    known = {parsed[:2] for text in site.addresses if (parsed := parse(text))}
    return any((base, domain) in known for base, _ in forms(address.local, "+"))


@pytest.mark.e2e
def test_all_chunks_and_shadows_have_lines(site: Site) -> None:
    """A group of 3,000 and a group's shadow expand in the files exactly as live, down to the last member."""
    for start in ("everybody@example.com", "everybody@dual.example.old.splitmx.invalid"):
        leaves: list[str] = []
        waiting = [start]
        while waiting:
            key = waiting.pop(0)
            answer = site.live("virtual_alias", [key])[0]
            assert answer[0] == "OK"
            assert site.postmap("lmdb:virtual_alias", [key]) == {key: answer[1]}
            for target in answer[1].split(", "):
                (waiting if target.endswith(".group.splitmx.invalid") else leaves).append(target)
        assert len(leaves) == len(set(leaves)) > 50


@pytest.mark.e2e
def test_every_face_says_the_same(site: Site) -> None:
    """Answerer, socketmap and the control socket agree for everybody; `query` and `explain --json` for a sample."""
    settings = load(site.folder / "splitmx.toml")
    reader = Reader(settings.daemon.state)
    reader.use({name: one.fingerprint for name, one in settings.directories.items()})
    reader.renew()
    answerer = Answerer(settings, Snapshot(settings, reader, time.time()))
    keys = keys_of(site.addresses)
    maps: dict[str, dict[str, tuple[str, str]]] = {}
    for name in (*MAPS, "here"):
        maps[name] = dict(zip(keys, site.live(name, keys), strict=True))
        for key in keys:
            outcome = answerer.map(name, key, time.time())
            assert maps[name][key][0] == outcome.status, (name, key)
            if outcome.status == "OK":
                assert maps[name][key][1] == outcome.value, (name, key)
    chance = random.Random(3)
    for key in chance.sample(keys, 400):
        report = site.explained(key)
        for name, answers in maps.items():
            assert report["maps"][name]["status"] == answers[key][0], (name, key)
            if answers[key][0] == "OK":
                assert report["maps"][name]["value"] == answers[key][1], (name, key)
    exits = {"OK": 0, "NOTFOUND": 1, "TEMP": 75}
    for key in chance.sample([key for key in keys if not key.startswith("stranger")], 12):
        for name in ("transport", "virtual_alias"):
            done = site.daemon.run("query", "--json", name, key)
            said = json.loads(done.stdout)
            assert (said["status"], done.returncode) == (maps[name][key][0], exits[said["status"]])
            assert said["status"] != "OK" or said["value"] == maps[name][key][1]
        report = json.loads(site.daemon.run("explain", "--json", key).stdout)
        assert {n: a["status"] for n, a in report["maps"].items()} == {n: a[key][0] for n, a in maps.items()}
    reader.close()


@pytest.mark.e2e
def test_files_hold_no_domain_keys(site: Site) -> None:
    """No `@domain`, domain or parent key: a live map behind the file would never be asked."""
    for name in MAPS:
        for line in (site.folder / "maps" / name).read_text().splitlines():
            if not line.startswith("# "):
                key = line.partition("\t")[0]
                assert parse(key) is not None, line


@pytest.mark.e2e
def test_a_daemon_that_is_gone_changes_no_answer(site: Site) -> None:
    """`query` and `explain` decide by themselves as the daemon does, and say so on stderr."""
    chance = random.Random(11)
    keys = chance.sample([key for key in keys_of(site.addresses) if not key.startswith(('"', "stranger"))], 6)
    with_daemon = [json.loads(site.daemon.run("query", "--json", "transport", key).stdout) for key in keys]
    site.daemon.stop()
    try:
        for key, before in zip(keys, with_daemon, strict=True):
            done = site.daemon.run("query", "--json", "transport", key)
            alone = json.loads(done.stdout)
            assert (alone["status"], alone["value"]) == (before["status"], before["value"]), key
            assert "no daemon" in done.stderr
            assert "daemon at" in before["source"]
    finally:
        site.daemon.start()
