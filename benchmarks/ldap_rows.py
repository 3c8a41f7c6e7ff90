# SPDX-License-Identifier: Apache-2.0
"""The rows beside Postfix's own `ldap:` map, on the same slapd: postmap, live misses, strangers, a hung
directory."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.daemon import DOMAIN, Daemon, transport_frame, users
from benchmarks.tools import (
    ANY_CORE,
    LOAD_CORE,
    SERVER_CORE,
    Bench,
    Result,
    fastest,
    finish,
    least,
    netstring,
    pinned,
    stop,
    wait,
    write_frames,
)
from tests.servers.slapd import SUFFIX, Slapd

PEOPLE = 20_000
STRANGERS = 2_000_000  # each is asked once


@contextmanager
def slapd(names: Iterable[str] = ()) -> Iterator[Slapd]:
    """A slapd with these local parts, else PEOPLE entries, that counts its operations."""
    server = Slapd(start=False)
    try:
        server.conf.write_text(server.conf.read_text() + "\ndatabase monitor\naccess to * by * read\n")
        server.load(
            "\n".join(
                f"dn: uid={user},ou=people,{SUFFIX}\nobjectClass: inetOrgPerson\nuid: {user}\ncn: {user}\nsn: x\n"
                f"mail: {user}@{DOMAIN}\n"
                for user in names or users(PEOPLE)
            )
        )
        server.start()
        yield server
    finally:
        server.close()


def searches(server: Slapd) -> int:
    """Search operations that slapd has completed so far."""
    words = ["ldapsearch", "-x", "-LLL", "-H", server.url, "-s", "base",
             "-b", "cn=Search,cn=Operations,cn=Monitor", "monitorOpCompleted"]  # fmt: skip
    out = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return next(int(line.split()[1]) for line in out.splitlines() if line.startswith("monitorOpCompleted:"))


def directories(server: Slapd, more: str = "") -> str:
    """The `[directories.here]` of that slapd."""
    return (
        f'[directories.here]\ntype = "ldap"\nurl = ["{server.url}"]\nbase = "{server.base}"\n'
        f'filter = "(objectClass=inetOrgPerson)"\naddress_attributes = ["mail"]\n{more}'
    )


def ldap_map(bench: Bench, server: Slapd, result: str = "%s") -> str:
    """Postfix's own map over the same entries. result: its result_format (ldap_table(5))."""
    path = bench.work / ("ldap.cf" if result == "%s" else "ldap-route.cf")
    path.write_text(
        f"server_host = {server.url}\nversion = 3\nbind = no\nsearch_base = {server.base}\n"
        f"query_filter = (mail=%s)\nresult_attribute = mail\nresult_format = {result}\n"
    )
    path.chmod(0o644)
    return f"ldap:{path}"


def timed_postmap(table: str, keys: Path) -> float:
    """Seconds that `postmap -q -` takes with these keys."""
    with keys.open("rb") as stdin:
        began = time.monotonic()
        words = ["postmap", "-q", "-", table]
        done = subprocess.run(words, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.stderr:
            raise RuntimeError(done.stderr)
        return time.monotonic() - began


def postmap(bench: Bench) -> list[Result]:
    """All 20,000 recipients through one `postmap -q -`."""
    keys = bench.work / "keys"
    keys.write_text("".join(f"{user}@{DOMAIN}\n" for user in users(PEOPLE)))
    with slapd() as server:
        daemon = Daemon(bench.work / "ldap", directories(server), pin=False).start_loaded()
        try:
            table = f"socketmap:unix:{daemon.socketmap}:relay_recipients"
            timed_postmap(table, keys)
            ours, its = [], []
            for _ in range(bench.rounds):
                its.append(timed_postmap(ldap_map(bench, server), keys))
                ours.append(timed_postmap(table, keys))
        finally:
            daemon.stop()
            shutil.rmtree(daemon.work)
    ratio = min(ours) / min(its)
    return [
        Result(
            "20,000 keys through `postmap -q -`",
            f"{min(ours):.2f} s",
            f"Postfix's `ldap:` {min(its):.2f} s",
            f"{ratio:.2f} × its time",
            "faster",
            ratio < 1,
        )
    ]


def strangers_file(bench: Bench) -> Path:
    """Requests for addresses that nobody has, each once."""
    path = bench.work / "strangers"
    if not path.exists():
        write_frames(path, (netstring(f"relay_recipients stranger{n}@{DOMAIN}") for n in range(STRANGERS)))
    return path


def known_file(bench: Bench) -> Path:
    """Requests for listed recipients at random."""
    path = bench.work / "known"
    if not path.exists():
        rng = random.Random(2)
        names = list(users(PEOPLE))
        write_frames(path, (transport_frame(rng.choice(names)) for _ in range(200_000)))
    return path


def misses(bench: Bench) -> list[Result]:
    """Unlisted addresses, all asked live, beside as many postmap processes at once."""
    frames = strangers_file(bench)
    per, many = 400, 100
    ours: list[dict[str, float]] = []
    its: list[dict[str, float]] = []
    with slapd() as server:
        table = ldap_map(bench, server)
        for number in range(many):
            (bench.work / f"keys{number}").write_text(
                "".join(f"stranger{number * per + n}@{DOMAIN}\n" for n in range(per))
            )
        daemon = Daemon(bench.work / "ldap", directories(server, 'fresh_for = "0s"\n'), pin=False).start_loaded()
        try:
            bench.load(daemon.socketmap, frames, many, seconds=1)
            for number in range(bench.rounds):
                before = searches(server)
                one = bench.load(daemon.socketmap, frames, many, offset=(number + 1) * 150_000, pid=daemon.pid)
                one["queries"] = (searches(server) - before) / one["answers"]
                one["rate"] *= 1 - one["temp"] / one["answers"]
                ours.append(one)
                before = searches(server)
                took = at_once(bench, table, many)
                queries = (searches(server) - before) / many / per
                its.append({"rate": many * per / took, "queries": queries})
        finally:
            daemon.stop()
            shutil.rmtree(daemon.work)
    ratio = fastest(ours) / fastest(its)
    queries = max(one["queries"] for one in ours) / least(its, "queries")
    return [
        Result(
            f"live misses, {many} connections",
            f"{fastest(ours) / 1000:.1f} k/s, {least(ours, 'cpu'):.0f} µs CPU, "
            f"{sum(one['temp'] for one in ours):.0f} TEMP",
            f"Postfix's `ldap:`, {many} processes: {fastest(its) / 1000:.1f} k/s",
            f"{ratio:.2f} × as many, {queries:.3f} of the queries",
            "as many, ≤ 0.1 of the queries",
            ratio >= 1 and queries <= 0.1,
        )
    ]


def at_once(bench: Bench, table: str, many: int) -> float:
    """Seconds until so many `postmap -q -` are through with their keys."""
    began = time.monotonic()
    children = []
    for number in range(many):
        with (bench.work / f"keys{number}").open("rb") as stdin:
            words = ["postmap", "-q", "-", table]
            children.append(subprocess.Popen(words, stdin=stdin, stdout=subprocess.DEVNULL))
    for child in children:
        child.wait()
    return time.monotonic() - began


def strangers(bench: Bench) -> list[Result]:
    """Known recipients at 4,000/s, alone and while strangers are asked live as fast as the directory answers: daemon
    and directory on one core, both loads on the other, then as the kernel places them. Beside it what others do to
    such a load: a program that only uses a fifth of a core, and (for the C server that answers a constant) 50 postmap
    processes that ask the same strangers of Postfix's own `ldap:` map."""
    found = []
    with slapd() as server:
        for held in (True, False):
            _place(server.process.pid, SERVER_CORE if held else ANY_CORE)
            daemon = Daemon(bench.work / "ldap", directories(server, 'fresh_for = "0s"\n'), pin=held).start_loaded()
            try:
                found += _beside_strangers(bench, daemon, held)
            finally:
                daemon.stop()
                shutil.rmtree(daemon.work)
        found.append(_others_beside_strangers(bench, server))
    return found


def _place(pid: int, core: str) -> None:
    """Hold a process and its threads to these cores."""
    if (os.cpu_count() or 1) > 1:
        subprocess.run(["taskset", "-acp", core, str(pid)], check=True, stdout=subprocess.DEVNULL)


def _beside_strangers(bench: Bench, daemon: Daemon, held: bool) -> list[Result]:
    core = LOAD_CORE if held else ANY_CORE
    quiet, busy, spun, speed = [], [], [], 0.0
    known = known_file(bench)
    bench.load(daemon.socketmap, known, 50, seconds=1)
    for number in range(bench.rounds):
        quiet.append(bench.load(daemon.socketmap, known, 50, rate=4000, core=core))
        words = ["nice", "-n", "10", str(bench.work / "load"), str(daemon.socketmap), "netstring",
                 str(strangers_file(bench)), "50", str(bench.seconds + 1.5), "0",
                 str(number * 300_000 + held * 150_000)]  # fmt: skip
        other = subprocess.Popen(pinned(core, words), stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)
        busy.append(bench.load(daemon.socketmap, known, 50, rate=4000, core=core))
        speed = max(speed, finish(other)["rate"])
        if not held:
            spin = subprocess.Popen(pinned(ANY_CORE, [str(bench.work / "spin"), str(bench.seconds + 1)]))
            time.sleep(0.5)
            spun.append(bench.load(daemon.socketmap, known, 50, rate=4000, core=core))
            spin.wait()
    where = "daemon and load on a core each" if held else "all where the kernel puts them"
    name = f"known recipients (4,000/s) while strangers are asked live ({speed / 1000:.1f} k/s), {where}"
    results = [_compared(name, busy, quiet, "without: ", "p99 ≤ 2 ×")]
    if spun:
        name = "the same, instead of strangers a program that spins for 2 ms a hundred times a second"
        results.append(_compared(name, spun, quiet, "without: ", "none set"))
    return results


def _others_beside_strangers(bench: Bench, server: Slapd) -> Result:
    many = 50
    table = ldap_map(bench, server)
    process, path = bench.floor("OK relay:[mx.example.net]")
    _place(process.pid, ANY_CORE)
    quiet, busy, asked, took = [], [], 0, 0.0
    try:
        for number in range(bench.rounds):
            quiet.append(bench.load(path, known_file(bench), 50, rate=4000, core=ANY_CORE))
            children = []
            began = time.monotonic()
            for child in range(many):
                first = (number * many + child) * 100_000
                words = [
                    "sh",
                    "-c",
                    f"seq -f 'stranger%.0f@{DOMAIN}' {first} {first + 99_999} | nice -n 10 postmap -q - {table}",
                ]
                children.append(subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL))
            before = searches(server)
            time.sleep(0.5)
            busy.append(bench.load(path, known_file(bench), 50, rate=4000, core=ANY_CORE))
            asked, took = asked + searches(server) - before, took + time.monotonic() - began
            for one in children:
                os.killpg(one.pid, signal.SIGKILL)
                one.wait()
    finally:
        stop(process)
    name = f"the same: the C server beside 50 processes that ask Postfix's `ldap:` ({asked / took / 1000:.1f} k/s)"
    return _compared(name, busy, quiet, "without: ", "none set")


def _compared(name: str, ours: list[dict[str, float]], quiet: list[dict[str, float]], beside: str, goal: str) -> Result:
    ratio = least(ours, "p99") / least(quiet, "p99")
    return Result(
        name,
        f"p50 {least(ours, 'p50'):.0f} µs, p99 {least(ours, 'p99'):.0f} µs",
        f"{beside}p50 {least(quiet, 'p50'):.0f} µs, p99 {least(quiet, 'p99'):.0f} µs",
        f"p99 {ratio:.1f} ×",
        goal,
        ratio <= 2 if "≤" in goal else None,
    )


def hung(bench: Bench) -> list[Result]:
    """slapd is stopped with SIGSTOP: known recipients go on, strangers are TEMP soon, then at once."""
    with slapd() as server:
        daemon = Daemon(bench.work / "ldap", directories(server, 'fresh_for = "0s"\n'), pin=False).start_loaded()
        other: subprocess.Popen[str] | None = None
        try:
            bench.load(daemon.socketmap, known_file(bench), 50, seconds=1)
            quiet = [
                bench.load(daemon.socketmap, known_file(bench), 50, rate=4000, core=ANY_CORE)
                for _ in range(bench.rounds)
            ]
            server.hang()
            other = bench.start_load(daemon.socketmap, strangers_file(bench), 20, rate=200, core=ANY_CORE,
                                     seconds=(bench.rounds + 1) * bench.seconds)  # fmt: skip
            busy = [
                bench.load(daemon.socketmap, known_file(bench), 50, rate=4000, core=ANY_CORE)
                for _ in range(bench.rounds)
            ]
            first = finish(other)
            other = None
            later = bench.load(daemon.socketmap, strangers_file(bench), 20, rate=200, core=ANY_CORE, offset=500_000)
            server.cont()
            cured = time.monotonic()
            wait("strangers are answered again", lambda: settled(bench, daemon), 60)
            cured = time.monotonic() - cured
        finally:
            server.cont()
            if other is not None:
                stop(other)
            daemon.stop()
            shutil.rmtree(daemon.work)
    ratio = least(busy, "p99") / least(quiet, "p99")
    if later["ok"] + later["notfound"]:
        print("  strangers were answered by a stopped directory", file=sys.stderr)
    return [
        Result(
            "a hung directory (SIGSTOP): known recipients (4,000/s)",
            f"p50 {least(busy, 'p50'):.0f} µs, p99 {least(busy, 'p99'):.0f} µs",
            f"without: p50 {least(quiet, 'p50'):.0f} µs, p99 {least(quiet, 'p99'):.0f} µs",
            f"p99 {ratio:.1f} ×",
            "p99 ≤ 2 ×",
            ratio <= 2,
        ),
        Result(
            "a hung directory (SIGSTOP): strangers (200/s)",
            f"first TEMP after {first['first_temp']:.2f} s, then p99 {later['p99'] / 1000:.1f} ms",
            f"answered again {cured:.1f} s after SIGCONT",
            "",
            "first TEMP within 1.5 s, then at once",
            0 < first["first_temp"] <= 1.5 and later["p99"] < 50_000 and not later["ok"] + later["notfound"],
        ),
    ]


def settled(bench: Bench, daemon: Daemon) -> bool:
    """Whether a stranger's "no" is believed again."""
    out = bench.load(daemon.socketmap, strangers_file(bench), 1, seconds=0.2, rate=10, offset=random.randrange(10**6))
    return bool(out["notfound"]) and not out["temp"]
