# SPDX-License-Identifier: Apache-2.0
"""Parts of the daemon by themselves: circuit, cache, change log, log lines, peers, listeners."""

from __future__ import annotations

import logging
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from policyd import clock, log, notify, sockets
from policyd.children import Child
from policyd.keeper import changes, files
from policyd.keeper.circuit import FIRST_PROBE, LAST_PROBE, Circuit
from policyd.keeper.loops import Loops
from policyd.keeper.peers import Peers, SpfError, resolve_spf
from policyd.link import Age, Channel, Live
from policyd.loader import Loader, needs_restart
from policyd.worker import cache
from policyd.worker.cache import Cache
from policyd.worker.counters import Counters
from policyd.worker.knowledge import LiveKnowledge
from policyd.worker.listen import allowed, networks
from tests.checks.zone import Zone
from tests.mta.waiting import wait_for
from transport.config.settings import Daemon, Destination, Directory, Listener, Peer, Settings, SqlOptions
from transport.record import Record


def test_circuit_opens_at_two_misses_of_ten() -> None:
    """One deadline missed is an accident, two of the last ten open the circuit, twelve apart do not."""
    circuit = Circuit()
    assert not circuit.missed(0.0, "late")
    for _ in range(9):
        circuit.answered()
    assert not circuit.missed(1.0, "late"), "the first one is the eleventh back"
    for _ in range(8):
        circuit.answered()
    assert circuit.missed(2.0, "late")
    assert (circuit.open, circuit.why, circuit.since, circuit.opened) == (True, "late", 2.0, 1)
    assert not circuit.missed(3.0, "late"), "it is open already"
    circuit.close()
    assert not circuit.open
    assert not circuit.missed(4.0, "late"), "what was before the probe counts no more"


def test_probes_come_ever_more_slowly_with_jitter() -> None:
    """The first probe comes after about 250 ms, later ones at most about 5 s apart, never in step."""
    circuit = Circuit(random.Random(1))
    circuit.trip(0.0, "hangs")
    waits = [circuit.next_probe() for _ in range(12)]
    assert FIRST_PROBE * 0.7 < waits[0] < FIRST_PROBE * 1.3
    assert all(LAST_PROBE * 0.7 < wait < LAST_PROBE * 1.3 for wait in waits[6:])
    assert len(set(waits)) == len(waits)


def test_cache_is_bounded_and_keeps_what_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than two dictionaries; an old entry that is asked for survives."""
    monkeypatch.setattr(cache, "SIZE", 10)
    kept = Cache()
    for number in range(10):
        kept.put(number, (b"x", [0]))
    kept.put(10, (b"x", [0]))
    assert kept.get(3) is not None
    for number in range(11, 19):
        kept.put(number, (b"x", [0]))
    kept.put(19, (b"x", [0]))
    assert kept.get(3) is not None
    assert kept.get(4) is None
    assert len(kept) <= 20


def test_counters_send_only_what_was_added() -> None:
    """Each answer is counted once, cached ones in the first bucket."""
    counters = Counters()
    cell = counters.cell("transport", "example.com", "LOCAL")
    cell[0] += 5
    counters.took(0.3)
    counts = counters.take(1, 0)
    assert counts.decisions == {("transport", "example.com", "LOCAL"): 5}
    assert (counts.cached, counts.latency[0], sum(counts.latency)) == (4, 4, 5)
    assert counters.take(1, 0).decisions == {}


def test_change_log_tells_differences_without_secrets() -> None:
    """Differences of two texts: one line a key; passwords never."""
    before = '[directories.here]\nurl = "mysql://u:hunter2@db/x"\n[domains."a.example"]\nunknown = "verify"\n'
    after = '[directories.here]\nurl = "mysql://u:other@db/x"\nbind_password = "s3"\n[domains."a.example"]\n'
    lines = changes.differences(before, after)
    assert lines == [
        "directories.here.bind_password: + ***",
        'directories.here.url: "mysql://u:***@db/x" -> "mysql://u:***@db/x"',
        'domains."a.example".unknown: - "verify"',
    ]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "postgresql+psycopg:///db?user=u&password=s3cret&host=h",
            "postgresql+psycopg:///db?user=u&password=***&host=h",
        ),
        ("mysql+pymysql://u@h/db?PASSWD=s3cret", "mysql+pymysql://u@h/db?PASSWD=***"),
        ("postgresql+psycopg://u@h/db?sslpassword=s3cret", "postgresql+psycopg://u@h/db?sslpassword=***"),
        ("postgresql+psycopg://u:my s3cret@h/db", "postgresql+psycopg://u:***@h/db"),
        ('postgresql+psycopg://u:"s3cret@h/db', "postgresql+psycopg://u:***@h/db"),
    ],
)
def test_no_password_of_a_url_in_the_change_log(url: str, shown: str) -> None:
    """Wherever a driver lets a password stand in a URL, `rollback` and the change log do not show it."""
    assert changes.differences("", f"[directories.here]\nurl = '{url}'\n") == [f'directories.here.url: + "{shown}"']


def test_restart_is_needed_for_listeners_workers_and_state() -> None:
    """Exactly these keys of [daemon] cannot change in a running daemon."""
    old = Daemon()
    assert needs_restart(old, Daemon(allow=("192.0.2.0/24",), recipient_delimiter="-")) == []
    assert needs_restart(old, Daemon(workers=2, state=Path("/x"))) == ["state", "workers"]
    assert needs_restart(old, Daemon(policy=(Listener("unix", "/run/p"),))) == ["policy"]


def test_log_lines_cannot_be_forged(capfd: pytest.CaptureFixture[str]) -> None:
    """Text from outside stays in its field: no line breaks, quotes escaped; equal faults are counted, not repeated."""
    log.setup("info")
    log.say(log.WARNING, "decision", asked='a"b\nwarning forged=1', empty="")
    for _ in range(5):
        log.limited(log.WARNING, "kind-of-test", "same fault")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert 'asked="a\\"b\\nwarning forged=1" empty=""' in lines[0]
    logging.getLogger("splitmx").handlers.clear()


def test_log_without_a_reader_does_not_wait() -> None:
    """A standard error that nobody reads never holds us up."""
    reading, writing = os.pipe()
    saved = os.dup(2)
    os.dup2(writing, 2)
    try:
        log.setup("info")
        for _ in range(2000):
            log.say(log.WARNING, "x" * 200)
    finally:
        os.dup2(saved, 2)
        for descriptor in (saved, reading, writing):
            os.close(descriptor)
        logging.getLogger("splitmx").handlers.clear()


def test_a_log_that_another_process_fills_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """All our processes write to the same pipe: room that was there at one look may be another's a moment later."""
    monkeypatch.setattr(select, "select", lambda *_: ((), (2,), ()))
    reading, writing = os.pipe()
    saved = os.dup(2)
    os.dup2(writing, 2)

    def fill() -> None:
        for _ in range(2000):
            log.say(log.WARNING, "x" * 200)

    filling = threading.Thread(target=fill, daemon=True)
    try:
        log.setup("info")
        filling.start()
        filling.join(10)
        assert not filling.is_alive()
    finally:
        os.close(reading)  # ends a wait
        filling.join()
        os.dup2(saved, 2)
        for descriptor in (saved, writing):
            os.close(descriptor)
        logging.getLogger("splitmx").handlers.clear()


def test_notify_reaches_the_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """READY=1 and RELOADING=1 with its moment are sent to $NOTIFY_SOCKET; without it nothing happens."""
    notify.ready("nobody listens")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        notify.ready("fine")
        notify.reloading()
        assert manager.recv(100) == b"READY=1\nSTATUS=fine"
        assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")


def test_inherited_sockets_are_matched_and_leftovers_refused(tmp_path: Path) -> None:
    """A socket from the service manager is taken by its address; one that nobody names is an error."""
    listener = Listener("unix", str(tmp_path / "map"))
    daemon = Daemon(socketmap=(listener,), control=Listener("unix", str(tmp_path / "control"), 0o600))
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(listener.path)
        given.listen()
        opened = sockets.open_all(daemon, [os.dup(given.fileno())])
        assert [one.inherited for one in opened] == [True, False]
        for one in opened:
            one.close(remove=True)
        assert Path(listener.path).exists()
        with pytest.raises(sockets.ListenError, match="does not name"):
            sockets.open_all(Daemon(control=daemon.control), [os.dup(given.fileno())])


def test_lock_names_its_holder(tmp_path: Path) -> None:
    """Whoever comes second is told the first one's process."""
    first = sockets.take_lock(tmp_path)
    with pytest.raises(sockets.LockHeldError, match=str(os.getpid())):
        sockets.take_lock(tmp_path)
    os.close(first)
    os.close(sockets.take_lock(tmp_path))


def test_another_version_on_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload after an upgrade without a restart is refused by what to do, and the old settings stay."""
    (tmp_path / "splitmx.toml").write_text("")
    monkeypatch.setitem(sys.modules, "transport.config.load", None)
    loaded = Loader(tmp_path / "splitmx.toml").wait()
    assert loaded.settings is None
    assert "restart it" in loaded.errors[0]


def test_loops_are_remembered_for_a_day(tmp_path: Path) -> None:
    """The first sight stays the same, over a restart too, and ends after a day."""
    loops = Loops(tmp_path)
    first = loops.first("ann", "example.com")
    files.replace(loops.path, loops.news())
    assert loops.news() == ""
    again = Loops(tmp_path)
    assert abs(again.first("ann", "example.com") - first) < 0.2
    again.seen["ann", "example.com"] = clock.now() - 90_000
    assert again.first("ann", "example.com") > first - 1


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("192.0.2.9", True), ("::ffff:192.0.2.9", True), ("198.51.100.1", False)],
)
def test_allowed_networks(host: str, expected: bool) -> None:
    """Loopback always, `allow` networks, IPv4 in IPv6 clothes as IPv4."""
    assert allowed(host, networks(("192.0.2.0/24",))) is expected


def test_peers_keep_their_last_good_networks(tmp_path: Path) -> None:
    """A failed resolution changes nothing, over a restart too; a name no longer used is forgotten."""
    answers: list[Callable[[], tuple[tuple[str, ...], float]]] = []

    def resolve(_: str) -> tuple[tuple[str, ...], float]:
        return answers.pop(0)()

    def fail() -> tuple[tuple[str, ...], float]:
        raise SpfError("no answer")

    settings = Settings(
        destinations={"m": Destination("m", hosts=("x",), peers=(Peer("spf", "spf.example.net"),))},
    )
    peers = Peers(tmp_path, resolve)
    peers.use(settings)
    answers += [lambda: (("192.0.2.0/24",), 300.0), fail]
    assert peers.take(peers.refresh(peers.due()))
    assert peers.networks() == {"spf.example.net": ("192.0.2.0/24",)}
    assert peers.due() == []
    assert files.replace(peers.path, peers.text())
    assert not peers.take(peers.refresh(["spf.example.net"]))
    assert peers.networks() == {"spf.example.net": ("192.0.2.0/24",)}
    again = Peers(tmp_path, resolve)
    again.use(settings)
    assert again.networks() == {"spf.example.net": ("192.0.2.0/24",)}
    again.use(Settings())
    assert again.networks() == {}


def _knowledge(tmp_path: Path, fresh_for: float = 5.0) -> LiveKnowledge:
    directory = Directory("here", "sql", SqlOptions("sqlite://", ""), b"f", fresh_for=fresh_for)
    knowledge = LiveKnowledge(Settings(directories={"here": directory}), tmp_path)
    knowledge.keeper = True
    return knowledge


def test_live_answers_count_until_their_end(tmp_path: Path) -> None:
    """A live yes is a row and a live no is believed until its end, or until a reading that began later."""
    knowledge = _knowledge(tmp_path)
    now = clock.now()
    bob = Record("bob", "example.com")
    knowledge.learn(("here", "bob", "example.com"), Live((bob,), now, now + 60))
    knowledge.learn(("here", "eve", "example.com"), Live((), now, now + 60))
    knowledge.learn(("here", "old", "example.com"), Live((), now - 9, now - 1))
    knowledge.learn(("here", "bad", "example.com"), Live(None, now, now + 60))
    assert [row.live for row in knowledge.rows("example.com", "bob")] == [True]
    assert knowledge.no("here", "example.com", "eve") is True
    assert knowledge.no("here", "example.com", "old") is None
    assert knowledge.no("here", "example.com", "bad") is False
    knowledge.ages = {"here": Age(now + 1)}
    assert knowledge.rows("example.com", "bob") == ()
    assert knowledge.no("here", "example.com", "eve") is None  # the index is not loaded, so its age proves nothing
    knowledge.forget(None, "example.com")
    assert knowledge.no("here", "example.com", "bad") is None


def test_without_keeper_or_with_open_circuit_a_stale_no_is_not_asked(tmp_path: Path) -> None:
    """Nobody to ask: "could not be asked" at once."""
    knowledge = _knowledge(tmp_path)
    assert knowledge.no("here", "example.com", "x") is None
    knowledge.ages = {"here": Age(None, closed=True)}
    assert knowledge.no("here", "example.com", "x") is False
    knowledge.ages = {}
    knowledge.keeper = False
    assert knowledge.no("here", "example.com", "x") is False


def test_spf_record_is_walked(tmp_path: Path) -> None:
    """ip4, ip6, a, mx with prefixes, include and redirect give networks; other qualifiers, macros and ptr none."""
    import dns.resolver

    records = {
        "s.test": {
            "TXT": ['"v=spf1 ip4:192.0.2.0/24 -ip4:192.0.2.66 a:h.test/30//64 mx ptr include:i.test redirect=r.test"'],
            "MX": ["10 m.test."],
        },
        "h.test": {"A": ["198.51.100.5"], "AAAA": ["2001:db8::5"]},
        "m.test": {"A": ["203.0.113.9"]},
        "i.test": {"TXT": ['"v=spf1 ip6:2001:db8:1::/48 exists:%{i}.x.test ?all"', '"something else"']},
        "r.test": {"TXT": ['"v=spf1 ip4:192.0.2.200 " "include:s.test -all"']},
    }
    with Zone(records) as zone:
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers, resolver.port, resolver.lifetime = [zone.host], zone.port, 5.0
        found, seconds = resolve_spf("s.test", resolver)
        assert set(found) == {
            "192.0.2.0/24", "198.51.100.4/30", "2001:db8::/64", "203.0.113.9/32", "2001:db8:1::/48", "192.0.2.200/32",
        }  # fmt: skip
        assert seconds == 60
        with pytest.raises(SpfError, match="no TXT record"):
            resolve_spf("nowhere.test", resolver)


@pytest.mark.parametrize("end", ["-all", "~all", "?all", "+all", "all"])
def test_spf_redirect_counts_only_without_all(end: str) -> None:
    """RFC 7208 6.1: `redirect` is ignored when there is an `all` anywhere in the record."""
    import dns.resolver

    records = {
        "s.test": {"TXT": [f'"v=spf1 ip4:192.0.2.1 redirect=r.test {end}"']},
        "r.test": {"TXT": ['"v=spf1 ip4:192.0.2.2 -all"']},
    }
    with Zone(records) as zone:
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers, resolver.port, resolver.lifetime = [zone.host], zone.port, 5.0
        assert resolve_spf("s.test", resolver)[0] == ("192.0.2.1/32",)


def test_spf_failure_is_an_spf_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in DNS is one error, never another exception."""
    import dns.exception
    import dns.resolver

    def fail(*_: object, **__: object) -> None:
        raise dns.exception.Timeout

    monkeypatch.setattr(dns.resolver.Resolver, "resolve", fail)
    with pytest.raises(SpfError):
        resolve_spf("spf.example.net")


def test_stopped_and_spinning_children_hang() -> None:
    """A silent child that is stopped, and one that only spins, hang; a fresh heartbeat ends the suspicion."""
    ours, theirs = socket.socketpair()
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        child = Child(spinning.pid, Channel(ours))
        child.started -= 20
        child.beat = time.monotonic() - 4
        wait_for(lambda: child.hangs(time.monotonic(), 3.0), 10)
        child.beat = time.monotonic()
        assert not child.hangs(time.monotonic(), 3.0)
        child.beat = time.monotonic() - 4
        spinning.send_signal(signal.SIGSTOP)
        wait_for(lambda: child.hangs(time.monotonic(), 3.0), 5)
    finally:
        spinning.kill()
        spinning.wait()
        ours.close()
        theirs.close()
