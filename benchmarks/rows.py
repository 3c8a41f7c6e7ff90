# SPDX-License-Identifier: Apache-2.0
"""The rows that need nothing but splitmx: rates, CPU, latency, memory, start, command line, compare,
build."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time

from benchmarks.daemon import (
    COMMAND,
    DOMAIN,
    Daemon,
    proportional,
    resident,
    sqlite_directory,
    sqlite_table,
    transport_frame,
    users,
)
from benchmarks.tools import (
    ANY_CORE,
    ROOT,
    Bench,
    Result,
    cpu_seconds,
    fastest,
    finish,
    least,
    wait,
    write_frames,
)

QUIET = 'compare_every = "1h"\nsync_every = "1h"\n'
UNIFORM = 1_000_000  # random requests before they come again


def prepare(bench: Bench) -> None:
    """Directory, requests and a warm index for the rows below."""
    source = bench.work / "source.db"
    directories = sqlite_directory(source, bench.size)
    rng = random.Random(1)
    names = list(users(bench.size))
    write_frames(bench.work / "hot", (transport_frame(u) for u in rng.sample(names, min(1000, len(names)))))
    write_frames(bench.work / "one", [transport_frame(names[len(names) // 2])])
    write_frames(bench.work / "uniform", (transport_frame(rng.choice(names)) for _ in range(UNIFORM)))
    write_frames(bench.work / "policy", (policy_frame(u, n) for n, u in enumerate(rng.choices(names, k=20_000))))
    write_frames(
        bench.work / "exim", (f"decide recipient={u}@{DOMAIN}\n".encode() for u in rng.choices(names, k=20_000))
    )
    few = rng.sample(names, min(1000, len(names)))
    write_frames(bench.work / "policy-hot", (policy_frame(rng.choice(few), n) for n in range(20_000)))
    daemon = Daemon(bench.work / "main", directories)
    started = time.monotonic()
    daemon.start_loaded()
    print(f"  {bench.size} recipients loaded in {time.monotonic() - started:.1f} s", file=sys.stderr)
    daemon.stop()


def policy_frame(user: str, number: int) -> bytes:
    """A request as smtpd(8) 3.7 sends it at RCPT; what differs with each request in life differs here."""
    return (
        "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nhelo_name=mail.sender.example\n"
        f"queue_id={number:X}\nsender=user{number}@sender.example\nrecipient={user}@{DOMAIN}\nrecipient_count=0\n"
        "client_address=192.0.2.25\nclient_name=mail.sender.example\nreverse_client_name=mail.sender.example\n"
        f"instance={number:x}.{number * 7919:x}.0\nsasl_method=\nsasl_username=\nsasl_sender=\nsize={number * 37}\n"
        "ccert_subject=\nccert_issuer=\nccert_fingerprint=\nccert_pubkey_fingerprint=\n"
        "encryption_protocol=TLSv1.3\nencryption_cipher=TLS_AES_256_GCM_SHA384\nencryption_keysize=256\n"
        f"etrn_domain=\nstress=\nclient_port={1024 + number % 60000}\npolicy_context=\n"
        "server_address=192.0.2.1\nserver_port=25\n\n"
    ).encode()


def main_daemon(bench: Bench, *, workers: int = 1, pin: bool = True) -> Daemon:
    """The daemon over the index that `prepare` filled."""
    text = sqlite_table(bench.work / "source.db", QUIET)
    return Daemon(bench.work / "main", text, workers=workers, pin=pin).start()


def rates(bench: Bench) -> list[Result]:
    """Hot, uniform, one connection, policy, Exim; then the worker's memory after all that."""
    daemon = main_daemon(bench)
    results = []
    try:
        daemon.quiet()
        for name, file, connections, span, goal_rate, goal_cpu in (
            ("hot answers, 100 connections", "hot", 100, 0, 0.6, "1.8 ×"),
            (f"uniform over {bench.size:,} recipients, 100 connections", "uniform", 100, UNIFORM, 0.25, "15 µs"),
        ):
            ours, floor = bench.beside_floor(daemon.socketmap, bench.work / file, connections, daemon.pid, span=span)
            ratio, cpu, floor_cpu = fastest(ours) / fastest(floor), least(ours, "cpu"), least(floor, "cpu")
            enough = cpu / floor_cpu <= 1.8 if goal_cpu == "1.8 ×" else cpu <= 15
            results.append(
                Result(
                    name,
                    f"{fastest(ours) / 1000:.0f} k/s, {cpu:.1f} µs CPU, p99 {least(ours, 'p99'):.0f} µs",
                    f"{fastest(floor) / 1000:.0f} k/s, {floor_cpu:.1f} µs CPU",
                    f"{ratio:.2f} of the rate, {cpu / floor_cpu:.2f} × CPU",
                    f"≥ {goal_rate} of the rate, ≤ {goal_cpu} CPU",
                    ratio >= goal_rate and enough,
                )
            )
        ours, floor = bench.beside_floor(daemon.socketmap, bench.work / "one", 1, daemon.pid)
        ratio = least(ours, "p50") / least(floor, "p50")
        results.append(
            Result(
                "one connection, p50",
                f"{least(ours, 'p50'):.1f} µs",
                f"{least(floor, 'p50'):.1f} µs",
                f"{ratio:.2f} ×",
                "≤ 1.15 ×",
                ratio <= 1.15,
            )
        )
        for name, file in (("policy, 1,000 recipients", "policy-hot"), ("policy, 20,000 recipients", "policy")):
            ours, floor = bench.beside_floor(
                daemon.policy, bench.work / file, 100, daemon.pid, reply="DUNNO", kind="policy", span=20_000
            )
            results.append(
                Result(
                    f"{name}, 100 connections; instance, queue_id, client_port, size vary",
                    f"{fastest(ours) / 1000:.0f} k/s, {least(ours, 'cpu'):.1f} µs CPU",
                    f"{fastest(floor) / 1000:.0f} k/s, {least(floor, 'cpu'):.1f} µs CPU",
                    f"{fastest(ours) / fastest(floor):.2f} of the rate",
                    "none set",
                )
            )
        ours, floor = bench.beside_floor(
            daemon.exim, bench.work / "exim", 50, daemon.pid, reply="decision=local verify=no", kind="exim", span=20_000
        )
        results.append(
            Result(
                "exim, 20,000 recipients, 50 at once, each on a connection of its own",
                f"{fastest(ours) / 1000:.1f} k/s, {least(ours, 'cpu'):.0f} µs CPU",
                f"{fastest(floor) / 1000:.1f} k/s, {least(floor, 'cpu'):.0f} µs CPU",
                f"{fastest(ours) / fastest(floor):.2f} of the rate",
                "thousands a second",
                fastest(ours) >= 2000,
            )
        )
        worker = daemon.children()["workers"][0]
        mega = resident(worker)
        results.append(
            Result(
                f"memory of a worker, {bench.size:,} recipients, after the rows above",
                f"{mega:.0f} MB resident ({proportional(worker):.0f} MB Pss)",
                "",
                "",
                "≤ 80 MB",
                mega <= 80,
            )
        )
    finally:
        daemon.stop()
    return results


def answers_ok(daemon: Daemon) -> bool:
    """Whether a listed recipient is answered with OK."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        try:
            sock.connect(str(daemon.socketmap))
            sock.sendall(transport_frame(next(iter(users(1)))))
            return b":OK " in sock.recv(4096)
        except OSError:
            return False


def workers(bench: Bench) -> list[Result]:
    """Two workers beside one, not pinned: on two cores the load takes its share."""
    figures = {}
    for count in (1, 2):
        daemon = main_daemon(bench, workers=count, pin=False)
        try:
            daemon.quiet()
            rounds = [
                bench.load(daemon.socketmap, bench.work / "uniform", 100, pid=daemon.pid, offset=n * 100_000)
                for n in range(bench.rounds)
            ]
            figures[count] = rounds
        finally:
            daemon.stop()
    one, two = figures[1], figures[2]
    return [
        Result(
            "two workers, uniform",
            f"{fastest(two) / 1000:.0f} k/s, {least(two, 'cpu'):.1f} µs CPU",
            f"one worker: {fastest(one) / 1000:.0f} k/s, {least(one, 'cpu'):.1f} µs CPU",
            f"{fastest(two) / fastest(one):.2f} of the rate",
            f"none set ({os.cpu_count()} cores, one of them for the load)",
        )
    ]


def first_answer(bench: Bench) -> float:
    """Seconds from one exec to the first right answer."""
    began = time.monotonic()
    daemon = Daemon(bench.work / "main", sqlite_table(bench.work / "source.db", QUIET), pin=False)
    try:
        daemon.start()
        wait("the first answer", lambda: answers_ok(daemon))
        return time.monotonic() - began
    finally:
        daemon.stop()


def start(bench: Bench) -> list[Result]:
    """From exec to the first right answer with the whole index."""
    took = min(first_answer(bench) for _ in range(max(3, bench.rounds)))
    return [
        Result(
            f"start to first answer, index of {bench.size:,}", f"{took * 1000:.0f} ms", "", "", "≤ 500 ms", took <= 0.5
        )
    ]


def query(bench: Bench) -> list[Result]:
    """`splitmx query` beside Python doing nothing."""
    daemon = main_daemon(bench)
    try:
        daemon.quiet()
        words = [*COMMAND, "--config", str(daemon.config), "query", "transport", f"{next(iter(users(1)))}@{DOMAIN}"]
        ours, bare = [], []
        for _ in range(10):
            ours.append(timed(words))
            bare.append(timed([sys.executable, "-c", "pass"]))
    finally:
        daemon.stop()
    mine, its = min(ours), min(bare)
    return [
        Result(
            "`splitmx query` from the shell",
            f"{mine * 1000:.0f} ms",
            f"`python3 -c pass` {its * 1000:.0f} ms",
            f"{(mine - its) * 1000:.0f} ms more",
            "≤ 150 ms more",
            mine - its <= 0.15,
        )
    ]


def timed(words: list[str]) -> float:
    """Seconds a command takes; it must succeed."""
    began = time.monotonic()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    return time.monotonic() - began


def compare(bench: Bench) -> list[Result]:
    """A full compare of everything without a change, and what the workers' clients see of it."""
    daemon = main_daemon(bench, pin=False)
    try:
        daemon.quiet()
        keeper = daemon.children()["keeper"][0]
        daemon.run("sync")  # the keeper's imports and connections are made
        quiet = bench.load(daemon.socketmap, bench.work / "uniform", 50, rate=4000, seconds=5, core=ANY_CORE)
        load = bench.start_load(
            daemon.socketmap, bench.work / "uniform", 50, rate=4000, seconds=8, offset=200_000, core=ANY_CORE
        )
        before, began = cpu_seconds(keeper), time.monotonic()
        done = daemon.run("sync")
        took = time.monotonic() - began
        cpu = cpu_seconds(keeper) - before
        busy = finish(load)
        if done.returncode not in (0, 1):
            raise RuntimeError(f"splitmx sync: {done.stdout}{done.stderr}")
    finally:
        daemon.stop()
    ratio = busy["p99"] / quiet["p99"]
    return [
        Result(
            f"{bench.size:,} rows, full compare without a change",
            f"{cpu:.1f} s of the keeper ({took:.1f} s on the clock); p99 {busy['p99']:.0f} µs at 4,000/s",
            f"without: p99 {quiet['p99']:.0f} µs",
            f"p99 {ratio:.1f} ×",
            "≤ 5 s of the keeper, p99 ≤ 2 ×",
            cpu <= 5 and ratio <= 2,
        )
    ]


def static(bench: Bench) -> list[Result]:
    """All static maps as lmdb, beside postmap alone on the finished texts."""
    if not shutil.which("postmap"):
        return [Result("all static maps built", "skipped: no postmap", "", "", "≤ 1.5 ×")]
    daemon = main_daemon(bench)
    out = bench.work / "maps"
    try:
        daemon.quiet()
        times, alone = [], []
        for _ in range(max(2, bench.rounds // 2)):
            shutil.rmtree(out, ignore_errors=True)
            began = time.monotonic()
            done = daemon.run("build", "--output", str(out), "--type", "lmdb")
            times.append(time.monotonic() - began)
            if done.returncode not in (0, 1):
                raise RuntimeError(f"splitmx build: {done.stdout}{done.stderr}")
            texts = [path for path in out.iterdir() if path.with_name(path.name + ".lmdb").exists()]
            alone.append(0.0)
            for path in texts:
                copy = bench.work / path.name
                shutil.copy(path, copy)
                copy.with_name(copy.name + ".lmdb").unlink(missing_ok=True)  # an old one has its pages already
                began = time.monotonic()
                subprocess.run(["postmap", f"lmdb:{copy}"], check=True)
                alone[-1] += time.monotonic() - began
    finally:
        daemon.stop()
    ratio = min(times) / min(alone)
    return [
        Result(
            f"{bench.size:,} recipients: all static maps built",
            f"{min(times):.1f} s",
            f"`postmap lmdb:` alone {min(alone):.1f} s",
            f"{ratio:.2f} ×",
            "≤ 1.5 ×",
            ratio <= 1.5,
        )
    ]
