# SPDX-License-Identifier: Apache-2.0
"""A private Postfix: its own configuration, queue and data folders, its own loopback address on port 25."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.mta.places import new_address, new_folder
from tests.mta.waiting import wait_for

SERVICES = """\
{ip}:25   inet  n - {c} - - smtpd
pickup    unix  n - {c} 60 1 pickup
cleanup   unix  n - {c} - 0 cleanup
qmgr      unix  n - n 2 1 qmgr
tlsmgr    unix  - - {c} 1000? 1 tlsmgr
rewrite   unix  - - {c} - - trivial-rewrite
bounce    unix  - - {c} - 0 bounce
defer     unix  - - {c} - 0 bounce
trace     unix  - - {c} - 0 bounce
verify    unix  - - {c} - 1 verify
flush     unix  n - {c} 1000? 0 flush
proxymap  unix  - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp      unix  - - {c} - - smtp
relay     unix  - - {c} - - smtp
  -o syslog_name={name}/relay
showq     unix  n - {c} - - showq
error     unix  - - {c} - - error
retry     unix  - - {c} - - error
discard   unix  - - {c} - - discard
local     unix  - n n - - local
virtual   unix  - n n - - virtual
lmtp      unix  - - {c} - - lmtp
anvil     unix  - - {c} - 1 anvil
scache    unix  - - {c} - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


def available() -> bool:
    """Whether a private Postfix can be run here: installed, and we are root."""
    return os.geteuid() == 0 and shutil.which("postfix") is not None


class PostfixInstance:
    """One Postfix. Start it with `start()`; `stop()` removes its folders.

    ip: its smtpd listens on port 25 there and its smtp(8) speaks from there. chroot: the services that Debian
    puts into the queue folder are put there. settings: main.cf entries beside the plain ones.
    """

    def __init__(
        self, name: str, settings: Mapping[str, str] | None = None, *, chroot: bool = False, ip: str = ""
    ) -> None:
        self.name = name
        self.ip = ip or new_address()
        self.root = new_folder(name)
        self.config = self.root / "etc"
        self.queue = self.root / "q"
        self.data = self.root / "data"
        self.log = self.root / "mail.log"
        for folder in (self.config, self.queue, self.data):
            folder.mkdir()
        shutil.chown(self.data, "postfix", "postfix")
        self.socket_folder = self.queue / "splitmx"
        self.socket_folder.mkdir()
        shutil.chown(self.socket_folder, "postfix", "postfix")
        main = {
            "compatibility_level": "3.6",
            "queue_directory": str(self.queue),
            "data_directory": str(self.data),
            "daemon_directory": "/usr/lib/postfix/sbin",
            "command_directory": "/usr/sbin",
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "maillog_file": str(self.log),
            "maillog_file_prefixes": str(self.root),
            "syslog_name": name,
            "myhostname": f"{name}.test",
            "mydestination": "$myhostname, localhost",
            "myorigin": "$myhostname",
            "mynetworks": f"127.0.0.1/32 {self.ip}/32",
            # Only addresses of real interfaces are allowed here; smtpd's own stands in master.cf.
            "inet_interfaces": "127.0.0.1",
            "proxy_interfaces": self.ip,
            "inet_protocols": "ipv4",
            "smtp_bind_address": self.ip,
            "smtp_host_lookup": "native",
            "smtpd_peername_lookup": "no",
            "alias_maps": "",
            "alias_database": "",
            "local_recipient_maps": "",
            "biff": "no",
            "recipient_delimiter": "+",
            "append_dot_mydomain": "no",
            "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
            "smtpd_error_sleep_time": "0",
            "smtpd_hard_error_limit": "10000",
            "smtpd_soft_error_limit": "10000",
            "smtpd_client_connection_count_limit": "0",
            "in_flow_delay": "0",
            "minimal_backoff_time": "1s",
            "maximal_backoff_time": "2s",
            "queue_run_delay": "1s",
            "transport_retry_time": "1s",
            "smtp_connect_timeout": "5s",
            "smtp_tls_security_level": "may",
        } | dict(settings or {})
        (self.config / "main.cf").write_text("".join(f"{k} = {v}\n" for k, v in main.items()))
        (self.config / "master.cf").write_text(SERVICES.format(ip=self.ip, name=name, c="y" if chroot else "n"))
        if chroot:
            self._fill_chroot()
        self.running = False
        self._past = time.time() - 60

    def _fill_chroot(self) -> None:
        """What Debian's start script copies into the queue folder."""
        etc = self.queue / "etc"
        etc.mkdir(exist_ok=True)
        for name in ("services", "hosts", "resolv.conf", "nsswitch.conf", "localtime", "host.conf"):
            if Path("/etc", name).exists():
                shutil.copy(Path("/etc", name), etc / name)

    def command(self, *words: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a Postfix command with `-c` this configuration."""
        self.cool()
        done = subprocess.run(
            [words[0], "-c", str(self.config), *words[1:]],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.tail()}")
        return done

    def cool(self) -> None:
        """Date the configuration back: whatever reads a file that just changed waits until it is some seconds old."""
        for path in self.config.iterdir():
            if path.suffix not in (".db", ".lmdb", ".cdb"):
                os.utime(path, (self._past, self._past))

    def start(self) -> PostfixInstance:
        """Start it, and wait until smtpd listens."""
        self.command("postfix", "start")
        self.running = True
        wait_for(lambda: listens(self.ip), 20, self.tail)
        return self

    def stop(self) -> None:
        """Stop it and throw its folders away."""
        if self.running:
            self.command("postfix", "stop", check=False)
            self.running = False
        shutil.rmtree(self.root, ignore_errors=True)

    def reload(self) -> None:
        """`postfix reload`, and wait until it was done: an idle smtpd(8) might take one more client as before."""
        before = self.text().count("refreshing")
        old = self._idle_smtpds()
        self.command("postfix", "reload")
        wait_for(lambda: self.text().count("refreshing") > before and self._reloaded() > before, 15, self.tail)
        wait_for(lambda: not old & self._idle_smtpds(), 15, self.tail)

    def _idle_smtpds(self) -> set[str]:
        """Process ids of smtpd(8) without a client."""
        master = (self.queue / "pid/master.pid").read_text().strip()
        found = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended
                head, _, tail = stat.read_text().rpartition(") ")
                if head.endswith("(smtpd") and tail.split()[1] == master:  # proc(5): state, ppid
                    found.add(stat.parent.name)
        last = dict(re.findall(r"/smtpd\[(\d+)\]: (connect|disconnect) from", self.text()))
        return {pid for pid in found if last.get(pid) != "connect"}

    def _reloaded(self) -> int:
        return len(re.findall(r"postfix/master\[\d+\]: reload|/master\[\d+\]: reload", self.text()))

    def set(self, **settings: str) -> None:
        """`postconf -e` for each; reload yourself."""
        self.command("postconf", "-e", *(f"{key}={value}" for key, value in settings.items()))

    def get(self, name: str) -> str:
        """The value in force, `postconf -hx`."""
        return self.command("postconf", "-hx", name).stdout.strip()

    def file(self, name: str, text: str, *, type: str = "") -> Path:
        """Write a file into the configuration folder; with `type`, make its map with postmap."""
        path = self.config / name
        path.write_text(text)
        if type:
            self.command("postmap", f"{type}:{path}")
        return path

    def apply(self, script: str) -> None:
        """Run the shell lines that `splitmx postfix show` printed, as an administrator would.

        Only `postfix check` is left to the start, which does the same.
        """
        script = script.replace("\npostfix check\n", "\n")
        environment = os.environ | {"MAIL_CONFIG": str(self.config)}
        done = subprocess.run(["sh", "-eu"], input=script, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{script}"
        self.cool()

    def query(self, key: str, table: str) -> str | None:
        """`postmap -q`: the value or None; an error raises."""
        done = self.command("postmap", "-q", key, table, check=False)
        if done.returncode == 0:
            return done.stdout.rstrip("\n")
        assert not done.stderr.strip(), done.stderr
        return None

    def queued(self) -> list[dict[str, Any]]:
        """The queue, as `postqueue -j` tells it."""
        out = self.command("postqueue", "-j").stdout
        return [json.loads(line) for line in out.splitlines()]

    def delayed(self) -> dict[str, str]:
        """Queued recipients with the reason of the last delay."""
        return {r["address"]: r.get("delay_reason", "") for m in self.queued() for r in m["recipients"]}

    def flush(self) -> None:
        """Try all queued mail now.

        What a delivery agent still holds from the attempt before, qmgr(8) puts off for a minute (QMGR_MESSAGE_LOCKED
        in its source). Retries after a second, on a busy machine, meet that: such mail is tried again at once.
        """
        for _ in range(10):
            held = self._held()
            self.command("postqueue", "-f")
            end = time.monotonic() + 0.3
            while self._held() == held:
                if time.monotonic() > end:
                    return
                time.sleep(0.02)

    def _held(self) -> int:
        return self.text().count("skipped, still being delivered")

    def wait_empty(self, seconds: float = 20.0) -> None:
        """Wait until nothing is queued; mail as in `flush` is tried again."""
        tried = 0

        def empty() -> bool:
            nonlocal tried
            queue, held = self.queued(), self._held()
            if queue and held > tried:
                self.flush()
                tried = self._held()
            return not queue

        wait_for(empty, seconds, lambda: f"{self.queued()}\n{self.tail()}")

    def sendmail(self, sender: str, recipients: Sequence[str], body: str = "Subject: test\n\nHello\n") -> None:
        """Submit as cron and web forms do."""
        done = subprocess.run(
            ["sendmail", "-C", str(self.config), "-i", "-f", sender, "--", *recipients],
            input=body, capture_output=True, text=True, timeout=30,
            env=os.environ | {"MAIL_CONFIG": str(self.config)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def text(self) -> str:
        """The whole mail log so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self, lines: int = 40) -> str:
        """The end of the mail log, for failures."""
        return "\n".join(self.text().splitlines()[-lines:])

    def warnings(self) -> list[str]:
        """Lines of the log that speak of trouble."""
        return [line for line in self.text().splitlines() if re.search(r"(warning|error|fatal|panic): ", line)]


def listens(host: str, port: int = 25) -> bool:
    """Whether something accepts connections there."""
    import socket

    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True
