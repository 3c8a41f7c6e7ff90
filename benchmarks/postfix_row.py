# SPDX-License-Identifier: Apache-2.0
"""A whole Postfix from smtp-source to smtp-sink: with splitmx in its maps and policy, and with files
instead."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from benchmarks.daemon import DOMAIN, Daemon
from benchmarks.tools import Bench, Result, stop, wait
from tests.mta.places import new_address
from tests.mta.postfix import PostfixInstance, listens

MESSAGES = 2000
SINK_PORT = 2525


def postfix(bench: Bench) -> list[Result]:
    """Messages a second, each to another listed recipient at the other side."""
    if not shutil.which("smtp-sink"):
        return [Result("whole Postfix", "skipped: no smtp-sink", "", "", "none set")]
    sink_ip = new_address()
    folder = bench.work / "people"
    folder.mkdir(exist_ok=True)
    names = [f"{number}ann@{DOMAIN}" for number in range(MESSAGES * 2)]
    (folder / "there.txt").write_text("\n".join(names) + "\n")
    (folder / "here.txt").write_text(f"local@{DOMAIN}\n")
    directories = (
        f'[directories.here]\ntype = "file"\nformat = "list"\npath = "{folder}/here.txt"\n'
        f'[directories.there]\ntype = "file"\nformat = "list"\npath = "{folder}/there.txt"\n'
    )
    daemon = Daemon(bench.work / "postfix", directories, pin=False)
    text = daemon.config.read_text()
    daemon.config.write_text(
        text.replace('hosts = ["mx.other.example"]', f'hosts = ["[{sink_ip}]"]\nport = {SINK_PORT}').replace(
            'local = ["here"]', 'local = ["here"]\nremote = ["there"]'
        )
    )
    daemon.start_loaded()
    sink = subprocess.Popen(["smtp-sink", "-u", "postfix", f"{sink_ip}:{SINK_PORT}", "1000"], stderr=subprocess.DEVNULL)
    figures: dict[str, list[float]] = {"splitmx": [], "files": []}
    try:
        wait("smtp-sink", lambda: listens(sink_ip, SINK_PORT))
        for _ in range(max(1, bench.rounds // 2)):
            for kind in figures:
                figures[kind].append(run(kind, daemon, names, f"relay:[{sink_ip}]:{SINK_PORT}"))
    finally:
        stop(sink)
        daemon.stop()
    ours, files = max(figures["splitmx"]), max(figures["files"])
    return [
        Result(
            f"whole Postfix, {MESSAGES} messages, smtp-source to smtp-sink",
            f"{ours:.0f} messages/s with transport, relay_recipients and policy of splitmx",
            f"{files:.0f}/s with `lmdb:` files and no policy service",
            f"{ours / files:.2f}",
            "none set",
        )
    ]


def run(kind: str, daemon: Daemon, names: list[str], route: str) -> float:
    """Messages a second through a fresh Postfix."""
    settings = {"relay_domains": DOMAIN, "virtual_alias_maps": "", "fast_flush_domains": ""}
    if kind == "splitmx":
        base = f"socketmap:unix:{daemon.socketmap}"
        settings |= {
            "transport_maps": f"{base}:transport",
            "relay_recipient_maps": f"{base}:relay_recipients",
            "smtpd_recipient_restrictions": f"check_policy_service unix:{daemon.policy}, permit_mynetworks, reject",
        }
    instance = PostfixInstance("bench", settings)
    try:
        if kind == "files":
            transport = instance.file("transport", "".join(f"{n} {route}\n" for n in names), type="lmdb")
            recipients = instance.file("recipients", "".join(f"{n} x\n" for n in names), type="lmdb")
            instance.set(transport_maps=f"lmdb:{transport}", relay_recipient_maps=f"lmdb:{recipients}")
        instance.start()
        began = time.monotonic()
        words = ["smtp-source", "-c", "-N", "-s", "20", "-m", str(MESSAGES), "-l", "1000", "-f", "sender@bench.test",
                 "-t", f"ann@{DOMAIN}", f"{instance.ip}:25"]  # fmt: skip
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        wait("delivery of all messages", lambda: sent(instance.log) >= MESSAGES, 120)
        return MESSAGES / (time.monotonic() - began)
    finally:
        instance.stop()


def sent(log: Path) -> int:
    """Messages that the log says were sent."""
    return log.read_text(errors="replace").count("status=sent")
