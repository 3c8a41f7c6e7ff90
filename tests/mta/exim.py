# SPDX-License-Identifier: Apache-2.0
"""Private Exim instances: unpacked beside Postfix, with their own spool, configuration and address.

The package conflicts with Postfix's, so that tests/run.sh unpacks it into a folder (SPLITMX_TEST_EXIM). The binary
is copied without its setuid bit: a setuid program ignores LD_LIBRARY_PATH. Started as root it still becomes
Debian-exim by itself; `deliver_drop_privilege` lets it deliver as that user.
"""

from __future__ import annotations

import itertools
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.mta.places import new_address, new_folder
from tests.mta.waiting import wait_for

_numbers = itertools.count(1)


def unpacked() -> Path:
    """Where Exim's packages are unpacked."""
    return Path(os.environ.get("SPLITMX_TEST_EXIM", "/var/cache/splitmx-tests/exim"))


def missing() -> str:
    """Why Exim cannot run here; "" when it can."""
    if os.geteuid() != 0:
        return "Exim needs root"
    if not (unpacked() / "usr/sbin/exim4").exists():
        return f"Exim is not unpacked in {unpacked()}: tests/run.sh does that"
    try:
        pwd.getpwnam("Debian-exim")
    except KeyError:
        return "there is no user Debian-exim: tests/run.sh makes it"
    return ""


def environment() -> dict[str, str]:
    """Where the loader finds Exim's libraries."""
    root = unpacked() / "usr/lib"
    paths = [str(root), *(str(found) for found in root.glob("*-linux-gnu*"))]
    return os.environ | {"LD_LIBRARY_PATH": ":".join(paths), "LC_ALL": "C"}


MAIN = """\
exim_path = {binary}
spool_directory = {spool}
log_file_path = {log}/%slog
pid_file_path = {spool}/exim.pid
primary_hostname = {name}.test
local_interfaces = {ip}
daemon_smtp_ports = {ports}
exim_user = Debian-exim
exim_group = Debian-exim
never_users = root
deliver_drop_privilege = true
keep_environment = LD_LIBRARY_PATH
host_lookup =
rfc1413_hosts =
rfc1413_query_timeout = 0s
smtputf8_advertise_hosts = *
dns_retry = 0
dns_retrans = 1s
log_selector = +all_parents +received_recipients +smtp_confirmation -retry_defer
message_logs = false
smtp_accept_queue_per_connection = 0
smtp_accept_max = 200
remote_max_parallel = 4
smtp_enforce_sync = false
callout_negative_expire = 1s
callout_domain_negative_expire = 1s
callout_positive_expire = 1s
callout_domain_positive_expire = 1s
untrusted_set_sender = *
timeout_frozen_after = 0s
bounce_return_body = false
prdr_enable = false
tls_advertise_hosts =
recipients_max = 5000
"""

RETRY = """
begin retry
* * F,{longest},{interval}
"""


class EximInstance:
    """One Exim, not yet started. `conf` is everything behind the private main options; `{ip}` in it is its address.
    retry: how long an address that was put off waits for its next attempt."""

    def __init__(
        self,
        conf: str,
        *,
        name: str = "",
        ip: str = "",
        ports: Sequence[int] = (25,),
        retry: str = "1s",
    ) -> None:
        self.name = name or f"exim{next(_numbers)}"
        self.retry = RETRY.format(longest="1h" if retry == "1s" else "1d", interval=retry)
        self.root = new_folder(self.name)
        self.ip = ip or new_address()
        self.spool, self.logs = self.root / "spool", self.root / "log"
        user = pwd.getpwnam("Debian-exim")
        for folder in (self.spool, self.logs):
            folder.mkdir(mode=0o750)
            os.chown(folder, user.pw_uid, user.pw_gid)
        self.binary = self.root / "exim4"
        shutil.copyfile(unpacked() / "usr/sbin/exim4", self.binary)
        self.binary.chmod(0o755)
        self.conf = self.root / "exim.conf"
        self.main = MAIN.format(
            binary=self.binary,
            spool=self.spool,
            log=self.logs,
            name=self.name,
            ip=self.ip,
            ports=" : ".join(map(str, ports)),
        )
        self.prefix: list[str] = []
        self.daemon: subprocess.Popen[bytes] | None = None
        self.write(conf)

    def write(self, conf: str) -> None:
        """Put a configuration in place; a running daemon reads it when it starts a process, or at `reload`."""
        text = self.main + "\n" + conf.replace("{ip}", self.ip) + self.retry
        aside = self.conf.with_suffix(".new")
        aside.write_text(text)
        aside.chmod(0o644)
        aside.replace(self.conf)

    def ask_dns(self, server: str) -> bool:
        """Let its resolver ask this server (port 53), in a mount namespace of its own; False where none may be made."""
        resolver = self.root / "resolv.conf"
        resolver.write_text(f"nameserver {server}\noptions timeout:1 attempts:1 trust-ad\n")
        self.prefix = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            'mount --bind "$0" /etc/resolv.conf && exec "$@"',
            str(resolver),
        ]
        return subprocess.run([*self.prefix, "true"], capture_output=True, check=False).returncode == 0

    def command(
        self, *words: str, check: bool = True, stdin: str | bytes | None = None, seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """`exim4 -C CONF …` as root."""
        given = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [*self.prefix, str(self.binary), "-C", str(self.conf), *words],
            input=given, capture_output=True, timeout=seconds, env=environment(),
        )  # fmt: skip
        text = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )
        if check and done.returncode:
            raise AssertionError(
                f"exim {' '.join(words)}: {done.returncode}\n{text.stdout}{text.stderr}\n{self.tail()}"
            )
        return text

    def start(self, queue: str = "-q1s") -> EximInstance:
        """Start the daemon in the foreground, with a queue runner every second, and wait until it listens."""
        self.command("-bV")
        self.daemon = subprocess.Popen(
            [*self.prefix, str(self.binary), "-C", str(self.conf), "-bdf", *([queue] if queue else [])],
            env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        wait_for(self._listens, 20, self.tail)
        return self

    def _listens(self) -> bool:
        assert self.daemon is not None
        assert self.daemon.poll() is None, self.tail()
        try:
            socket.create_connection((self.ip, 25), 1).close()
        except OSError:
            return False
        return True

    def reload(self) -> None:
        """HUP: the daemon starts itself again."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGHUP)
        wait_for(self._listens, 10, self.tail)

    def stop(self) -> None:
        """End all its processes and throw its folders away."""
        if self.daemon is not None:
            try:
                os.killpg(self.daemon.pid, signal.SIGTERM)
                self.daemon.wait(5)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass
            try:
                os.killpg(self.daemon.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.daemon = None
        shutil.rmtree(self.root, ignore_errors=True)

    # what tests ask

    def route(self, *addresses: str) -> str:
        """`exim -bt`: routing of addresses, as text; several addresses in one process."""
        return self.command("-bt", *addresses, check=False).stdout

    def expand(self, text: str) -> str:
        """`exim -be`."""
        return self.command("-be", text).stdout.rstrip("\n")

    def queued(self, *, frozen: bool = False) -> dict[str, list[str]]:
        """Message id -> recipients that still wait; frozen: only of frozen messages."""
        found: dict[str, list[str]] = {}
        current = ""
        for line in self.command("-bp").stdout.splitlines():
            head = re.match(r"\s*\d+\w\s+\S+\s+(\S+)\s+<", line)
            if head:
                current = head[1] if not frozen or "*** frozen ***" in line else ""
                if current:
                    found[current] = []
            elif current and line.strip() and not line.strip().startswith("D "):
                found[current].append(line.strip())
        return found

    def flush(self) -> None:
        """Try all queued mail now, retry times or not."""
        self.command("-qff", check=False)

    def wait_empty(self, seconds: float = 20.0) -> None:
        """Wait until nothing is queued."""
        wait_for(lambda: not self.queued(), seconds, lambda: f"{self.queued()}\n{self.tail()}")

    def sendmail(self, sender: str, recipients: Sequence[str], body: str = "Subject: test\n\nHello\n") -> None:
        """Submit as cron and web forms do."""
        self.command("-i", "-f", sender or "<>", "--", *recipients, stdin=body)

    def log(self, kind: str = "main") -> str:
        """A whole log file: main, reject or panic."""
        path = self.logs / f"{kind}log"
        return path.read_text(errors="replace") if path.exists() else ""

    def tail(self, lines: int = 60) -> str:
        """The end of the logs, for failures."""
        return "\n".join((self.log("main") + "--panic--\n" + self.log("panic")).splitlines()[-lines:])
