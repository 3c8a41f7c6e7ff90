# SPDX-License-Identifier: Apache-2.0
"""A whole Postfix from smtp-source to smtp-sink: as `splitmx postfix show` sets it up, with static files, and with
`ldap:` maps of its own."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from benchmarks.daemon import DOMAIN, Daemon
from benchmarks.ldap_rows import ldap_map, slapd
from benchmarks.tools import Bench, Result, stop, wait
from tests.mta.places import new_address
from tests.mta.postfix import PostfixInstance, listens
from tests.servers.slapd import Slapd

MESSAGES = 2000
SINK_PORT = 2525
KINDS = {
    "splitmx": "live: socketmap behind the guard, policy service, all maps of `postfix show`",
    "lmdb": "`lmdb:` files for transport and recipients, no policy service",
    "ldap": "`ldap:` for both, no policy service",
}


def postfix(bench: Bench) -> list[Result]:
    """Messages a second, each to another listed recipient at the other side."""
    if not shutil.which("smtp-sink"):
        return [Result("whole Postfix", "skipped: no smtp-sink", "", "", "none set")]
    sink_ip = new_address()
    folder = bench.work / "people"
    folder.mkdir(exist_ok=True)
    locals_ = [f"{number}ann" for number in range(MESSAGES * 2)]
    (folder / "there.txt").write_text("".join(f"{name}@{DOMAIN}\n" for name in locals_))
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
    figures: dict[str, list[float]] = {kind: [] for kind in KINDS}
    try:
        wait("smtp-sink", lambda: listens(sink_ip, SINK_PORT))
        with slapd(locals_) as server:
            run = Run(bench, daemon, server, locals_, f"relay:[{sink_ip}]:{SINK_PORT}")
            for _ in range(max(2, bench.rounds // 2)):
                for kind in figures:
                    figures[kind].append(run.once(kind))
    finally:
        stop(sink)
        daemon.stop()
    ours = max(figures["splitmx"])
    return [
        Result(
            f"whole Postfix, {MESSAGES} messages, smtp-source to smtp-sink",
            f"{ours:.0f} messages/s ({KINDS['splitmx']})",
            f"{max(figures[kind]):.0f}/s ({KINDS[kind]})",
            f"{ours / max(figures[kind]):.2f}",
            "none set",
        )
        for kind in ("lmdb", "ldap")
    ]


class Run:
    """Fresh Postfix instances over the same people and the same next hop."""

    def __init__(self, bench: Bench, daemon: Daemon, server: Slapd, names: list[str], route: str) -> None:
        self.bench = bench
        self.daemon = daemon
        self.server = server
        self.names = names
        self.route = route

    def once(self, kind: str) -> float:
        """Messages a second."""
        instance = PostfixInstance("bench", {"relay_domains": DOMAIN, "fast_flush_domains": ""})
        try:
            getattr(self, f"_{kind}")(instance)
            instance.start()
            began = time.monotonic()
            words = ["smtp-source", "-c", "-N", "-s", "20", "-m", str(MESSAGES), "-l", "1000", "-f", "me@bench.test",
                     "-t", f"ann@{DOMAIN}", f"{instance.ip}:25"]  # fmt: skip
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
            wait("delivery of all messages", lambda: sent(instance.log) >= MESSAGES, 120)
            return MESSAGES / (time.monotonic() - began)
        finally:
            instance.stop()

    def _splitmx(self, instance: PostfixInstance) -> None:
        """Word for word what `splitmx postfix show` prints for this Postfix."""
        maps = str(self.bench.work / "maps")
        built = self.daemon.run("build", "--output", maps, "--type", "lmdb")
        if built.returncode not in (0, 1):
            raise RuntimeError(built.stderr)
        words = ["postfix", "show", "--deploy", "live", "--maps", maps, "--config-directory", str(instance.config)]
        shown = self.daemon.run(*words)
        if shown.returncode:
            raise RuntimeError(shown.stdout + shown.stderr)
        instance.apply(shown.stdout)

    def _lmdb(self, instance: PostfixInstance) -> None:
        transport = instance.file("transport", "".join(f"{n}@{DOMAIN} {self.route}\n" for n in self.names), type="lmdb")
        recipients = instance.file("recipients", "".join(f"{n}@{DOMAIN} x\n" for n in self.names), type="lmdb")
        instance.set(transport_maps=f"lmdb:{transport}", relay_recipient_maps=f"lmdb:{recipients}")

    def _ldap(self, instance: PostfixInstance) -> None:
        instance.set(
            transport_maps=f"proxy:{ldap_map(self.bench, self.server, self.route)}",
            relay_recipient_maps=f"proxy:{ldap_map(self.bench, self.server)}",
        )


def sent(log: Path) -> int:
    """Messages that the log says were sent."""
    return log.read_text(errors="replace").count("status=sent")
