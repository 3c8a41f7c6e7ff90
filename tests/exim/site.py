# SPDX-License-Identifier: Apache-2.0
"""A site with Exim: configuration texts, directories, recorders, the daemon or a stand-in for it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.mta.daemon import Splitmx
from tests.mta.exim import EximInstance
from tests.mta.places import new_address, new_folder
from tests.mta.recording import RecordingLmtp, RecordingSmtp, certificate, tls_context
from tests.mta.sending import Sent, send
from tests.mta.waiting import wait_for
from transport.config.load import load
from transport.config.settings import Settings
from transport.mta.exim_plan import plan

COLUMNS = "address TEXT PRIMARY KEY, kind TEXT, targets TEXT, location TEXT, active INTEGER"


class Directory:
    """An SQLite database of recipients."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as database:
            database.execute(f"CREATE TABLE recipients ({COLUMNS})")

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.path)) as database, database:
            yield database

    def add(self, address: str, *, kind: str = "", targets: str = "", location: str = "", active: int = 1) -> None:
        """List one address, or change it."""
        row = (address, kind or None, targets or None, location or None, active)
        with self._open() as database:
            database.execute("INSERT OR REPLACE INTO recipients VALUES (?, ?, ?, ?, ?)", row)

    def remove(self, address: str) -> None:
        """List it no more."""
        with self._open() as database:
            database.execute("DELETE FROM recipients WHERE address = ?", (address,))

    @property
    def toml(self) -> str:
        """Its keys in the configuration."""
        query = "SELECT address, kind, targets, location, active FROM recipients"
        return f'type = "sql"\nurl = "sqlite:///{self.path}"\nquery = "{query}"\nsync_every = "1s"\nfresh_for = "1s"\n'


def exim_conf(
    settings: Settings,
    *,
    store: RecordingLmtp,
    outside: RecordingSmtp,
    local: str = "+splitmx_domains",
    deploy: str = "live",
    maps: Path | None = None,
    socket: str = "",
    sender_verify: bool = False,
    extra: str = "",
    before: str = "",
    map_type: str = "cdb",
) -> str:
    """A plain exim.conf as docs/exim.md describes it: local mail goes to `store`, foreign mail to `outside`.

    extra: more lines for the main section. before: routers before ours.
    """
    made = plan(settings, "plain", deploy, maps, socket=socket, map_type=map_type)
    verify = "  require verify = sender\n" if sender_verify else ""
    return f"""{extra}
{made.text("main")}
domainlist local_domains = @ : {local}
domainlist relay_to_domains = +splitmx_domains
hostlist relay_from_hosts = 127.0.0.1 : {{ip}}
acl_smtp_rcpt = acl_check_rcpt
begin acl
acl_check_rcpt:
{made.text("acl")}
{verify}  accept hosts = : +relay_from_hosts
  require message = relay not permitted
    domains = +local_domains : +relay_to_domains
  require verify = recipient
  accept
begin routers
{before}
{made.text("routers")}
site_outside:
  driver = manualroute
  domains = ! +local_domains
  route_list = * {outside.host}
  transport = site_smtp
  no_more
site_local:
  driver = accept
  domains = +local_domains
  local_part_suffix = +*
  local_part_suffix_optional
  transport = site_store
begin transports
site_smtp:
  driver = smtp
  hosts_avoid_tls = *
site_store:
  driver = smtp
  protocol = lmtp
  hosts = {store.host}
  port = 24
  hosts_override
  allow_localhost
  rcpt_include_affixes
{made.text("transports")}
"""


def ask(path: Path, recipient: str, words: str = "") -> dict[str, str]:
    """One question at an exim listener; the pairs of the answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(f"decide {words}{' ' if words else ''}recipient={recipient}\n".encode())
        connection.shutdown(socket.SHUT_WR)
        reply = connection.makefile("rb").read().decode()
    return {key: value.strip('"') for key, value in re.findall(r'(\w+)=("[^"]*"|\S*)', reply)}


class Stub:
    """Listens where the daemon would and answers as a function says; None closes without a word."""

    def __init__(self, path: Path, answer: Callable[[bytes], bytes | None]) -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self.path = path
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        path.chmod(0o666)
        self._listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            line = connection.makefile("rb").readline()
            self.asked.append(line)
            reply = self.answer(line)
            if reply is not None:
                connection.sendall(reply)

    def close(self) -> None:
        """Nobody listens there any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink(missing_ok=True)


class Site:
    """Exim with the daemon beside it and one domain for each option. Names of domains say what they show."""

    def __init__(self) -> None:
        self.folder = new_folder("eximsite")
        self.here = Directory(self.folder / "here.db")
        self.there = Directory(self.folder / "there.db")
        self.store, self.store2 = RecordingLmtp(), RecordingLmtp()
        self.outside, self.s = RecordingSmtp(), RecordingSmtp()
        self.second = RecordingSmtp()
        self.ip = new_address()
        self.peer, self.cloud = "127.77.1.1", "127.77.2.2"
        self.down = new_address()
        self._tls()
        people(self)
        self.daemon = Splitmx(self.toml(), self.folder)
        self.settings = load(self.daemon.config)
        self.exim = EximInstance("", name="site", ip=self.ip, ports=(25, 2525))

    def _tls(self) -> None:
        authority = certificate("ca.test")
        self.ca = authority[0]
        self.self_signed = RecordingSmtp(tls=tls_context(*certificate("self.test")))
        self.wrong_name = RecordingSmtp(tls=tls_context(*certificate("other.test", authority=authority)))
        host = new_address()
        self.right_name = RecordingSmtp(tls=tls_context(*certificate(host, authority=authority)), host=host)

    def toml(self) -> str:
        """The configuration."""
        both = 'local = ["here"]\nremote = ["there"]\n'
        return f"""
[daemon]
exim = ["unix:{self.folder}/exim.sock?mode=0666"]
control = "unix:{self.folder}/control.sock"
metrics = "unix:{self.folder}/metrics.sock"
state = "{self.folder}/state"
[directories.here]
{self.here.toml}
[directories.there]
{self.there.toml}
[destinations.s]
hosts = ["{self.s.host}"]
peers = ["{self.peer}", "listener:{self.ip}:2525"]
[destinations.cloud]
hosts = ["{self.s.host}"]
peers = ["{self.cloud}"]
[destinations.primary]
hosts = ["{self.s.host}"]
peers = ["{self.peer}"]
[destinations.several]
hosts = ["{self.down}", "{self.second.host}"]
[destinations.dead]
hosts = ["{self.down}"]
[destinations.tenant]
hosts = ["{self.s.host}"]
envelope = "tenant.example"
[destinations.strip]
hosts = ["{self.s.host}"]
plus = "strip"
[destinations.tenant-quiet]
hosts = ["{self.s.host}"]
envelope = "quiet-tenant.example"
bounce = "postmaster"
[destinations.tenant-strip]
hosts = ["{self.s.host}"]
envelope = "strip-tenant.example"
plus = "strip"
[destinations.quiet]
hosts = ["{self.s.host}"]
bounce = "postmaster"
[destinations.itself]
hosts = ["{self.ip}"]
[destinations.nowhere]
hosts = ["does-not-exist.invalid"]
[destinations.tls-none]
hosts = ["{self.self_signed.host}"]
tls = "none"
[destinations.tls-may]
hosts = ["{self.self_signed.host}"]
tls = "may"
[destinations.tls-encrypt]
hosts = ["{self.self_signed.host}"]
tls = "encrypt"
[destinations.tls-plain]
hosts = ["{self.s.host}"]
tls = "encrypt"
[destinations.tls-untrusted]
hosts = ["{self.self_signed.host}"]
tls = "ca"
[destinations.tls-ca]
hosts = ["{self.wrong_name.host}"]
tls = "ca"
[destinations.tls-wrong]
hosts = ["{self.wrong_name.host}"]
tls = "ca+name"
[destinations.tls-right]
hosts = ["{self.right_name.host}"]
tls = "ca+name"
[destinations.tls-dane]
hosts = ["{self.right_name.host}"]
tls = "dane"

[domains."example.com"]
{both}destination = "s"
unknown = "reject"
locations = {{ moved = "s", stay = "local", store2 = "local:lmtp:[{self.store2.host}]:24", {self._words()} }}
postmaster = "ann@example.com"
[domains."shared.example"]
{both}destination = "cloud"
unknown = "reject"
[domains."alias.example"]
alias_of = "example.com"
[domains."xn--bcher-kva.example"]
{both}destination = "s"
unknown = "reject"
[domains."relay.example"]
local = ["here"]
destination = "s"
unknown = "relay"
[domains."verify.example"]
local = ["here"]
destination = "s"
unknown = "verify"
[domains."verifydead.example"]
{both}destination = "dead"
unknown = "verify"
[domains."catchall.example"]
{both}destination = "s"
unknown = "catchall:info@catchall.example"
[domains."dual.example"]
{both}destination = "s"
unknown = "reject"
delivery = "dual"
[domains."dualtenant.example"]
{both}destination = "tenant"
unknown = "reject"
delivery = "dual"
[domains."dualstrip.example"]
{both}destination = "strip"
unknown = "reject"
delivery = "dual"
[domains."dualboth.example"]
{both}destination = "tenant-strip"
unknown = "reject"
delivery = "dual"
[domains."dualquiet.example"]
{both}destination = "tenant-quiet"
unknown = "reject"
delivery = "dual"
[domains."all.example"]
{both}destination = "s"
unknown = "reject"
delivery = "all"
local_transport = "lmtp:[{self.store2.host}]:24"
[domains."tenant-users.example"]
{both}destination = "tenant"
unknown = "reject"
[domains."strip.example"]
{both}destination = "strip"
unknown = "reject"
[domains."quiet.example"]
{both}destination = "quiet"
unknown = "reject"
[domains."several.example"]
{both}destination = "several"
unknown = "reject"
[domains."subs.example"]
{both}destination = "s"
unknown = "reject"
subdomains = "strip"
[domains."match.example"]
{both}destination = "s"
unknown = "reject"
subdomains = "match"
[domains."few.example"]
{both}destination = "s"
unknown = "reject"
group_members = false
[domains."secondary.example"]
role = "secondary"
{both}destination = "primary"
unknown = "relay"
outsiders = "reject"
[domains."peeronly.example"]
role = "secondary"
{both}destination = "primary"
unknown = "relay"
outsiders = "relay"
peer_only = true
[domains."off.example"]
enabled = false
{both}destination = "s"
unknown = "reject"
[domains."observed.example"]
enabled = "observe"
{both}destination = "s"
unknown = "reject"
[waves.past]
at = "2020-01-01T00:00:00Z"
domain = "example.com"
to = "s"
addresses = ["wave.past@example.com"]
[waves.future]
at = "2099-01-01T00:00:00Z"
domain = "example.com"
to = "s"
addresses = ["wave.future@example.com"]
"""

    @staticmethod
    def _words() -> str:
        names = ("none", "may", "encrypt", "plain", "untrusted", "ca", "wrong", "right", "dane")
        words = [f'tls-{name} = "tls-{name}"' for name in names]
        words += [f'{name} = "{name}"' for name in ("itself", "nowhere", "dead")]
        return ", ".join(words)

    def start(self) -> None:
        """Everything, and wait until all listens."""
        self.daemon.start()
        conf = exim_conf(
            self.settings,
            store=self.store,
            outside=self.outside,
            local="+splitmx_domains : off.example : observed.example",
            extra=f"SPLITMX_CA_FILE = {self.ca}",
            sender_verify=True,
        )
        self.exim.write(conf)
        self.exim.start()
        wait_for(lambda: self.ask("zed@example.com")["decision"] == "unknown", 20, self.daemon.tail)

    def ask(self, recipient: str, words: str = "") -> dict[str, str]:
        """The daemon's answer, as `${extract` reads it."""
        return ask(self.folder / "exim.sock", recipient, words)

    def send(self, recipients: str | Sequence[str], sender: str = "o@outside.test", **more: Any) -> Sent:
        """One SMTP transaction with this Exim."""
        return send(self.exim.ip, sender, recipients, **more)

    def stop(self) -> None:
        """Everything."""
        self.exim.stop()
        self.daemon.stop()
        for server in (self.store, self.store2, self.outside, self.s, self.second, self.self_signed, self.wrong_name,
                       self.right_name):  # fmt: skip
            server.stop()


def people(site: Site) -> None:
    """Who is where."""
    here, there = site.here, site.there
    for domain in (
        "example.com", "shared.example", "relay.example", "verify.example", "verifydead.example", "catchall.example",
        "dual.example", "dualtenant.example", "dualstrip.example", "dualboth.example", "dualquiet.example",
        "all.example", "tenant-users.example", "strip.example", "quiet.example",
        "several.example", "subs.example", "match.example", "few.example", "off.example", "observed.example",
        "xn--bcher-kva.example",
    ):  # fmt: skip
        here.add(f"ann@{domain}")
        here.add(f"carl@{domain}")
        here.add(f"sales@{domain}", kind="group", targets=f"ann@{domain} bob@{domain} ann@{domain}")
        there.add(f"bob@{domain}")
    for domain in ("secondary.example", "peeronly.example"):
        here.add(f"carl@{domain}")
        there.add(f"ann@{domain}")
    here.add("info@catchall.example")
    d = "@example.com"
    here.add(f"a.smith{d}", kind="alias", targets=f"ann{d}")
    here.add(f"b.jones{d}", kind="alias", targets=f"bob{d}")
    here.add(f"x.loop{d}", kind="alias", targets=f"y.loop{d}")
    here.add(f"y.loop{d}", kind="alias", targets=f"x.loop{d}")
    here.add(f"out{d}", kind="alias", targets="friend@foreign.example")
    here.add(f"keeps{d}", targets=f"keeps{d} friend@foreign.example")
    here.add(f"nested{d}", kind="group", targets=f"sales{d} carl{d} keeps{d}")
    here.add(f"off{d}", active=0)
    here.add(f"withoff{d}", kind="alias", targets=f"off{d}")
    here.add(f"moved{d}", location="moved")
    here.add(f"stay{d}", location="stay")
    there.add(f"stay{d}")
    here.add(f"two{d}", location="store2")
    here.add(f"odd{d}", location="nobody-knows")
    here.add(f"wave.past{d}")
    here.add(f"wave.future{d}")
    here.add(f"nobody{d}")  # a system user, for Debian's own routers
    here.add(f'"john doe"{d}')
    there.add(f'"jane doe"{d}')
    there.add(f"o'brien{d}")
    there.add(f"a$b{d}")
    here.add(f"money{d}", kind="alias", targets=f'a$b{d} "jane doe"{d}')
    here.add("nobox@dual.example")
    here.add("keeps@dual.example", targets="keeps@dual.example friend@foreign.example")
    here.add("keeps@dualtenant.example", targets="keeps@dualtenant.example friend@foreign.example")
    here.add("keeps@all.example", targets="keeps@all.example friend@foreign.example")
    for name in ("none", "may", "encrypt", "plain", "untrusted", "ca", "wrong", "right", "dane"):
        there.add(f"{name}{d}", location=f"tls-{name}")
    for name in ("itself", "nowhere", "dead"):
        there.add(f"{name}{d}", location=name)
    here.add(f"everyone{d}", kind="group", targets=" ".join(f"member{n}@foreign.example" for n in range(2300)))
    _folder_rights(site.folder)


def _folder_rights(folder: Path) -> None:
    for path in folder.iterdir():
        os.chmod(path, 0o644 if path.is_file() else 0o755)
