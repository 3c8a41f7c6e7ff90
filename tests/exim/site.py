# SPDX-License-Identifier: Apache-2.0
"""A site with Exim: its configuration, recorders, the daemon beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.exim.configuration import toml
from tests.exim.listener import ask
from tests.exim.people import Directory, people
from tests.mta.daemon import Splitmx
from tests.mta.exim import EximInstance
from tests.mta.places import new_address, new_folder
from tests.mta.recording import RecordingLmtp, RecordingSmtp, certificate, tls_context
from tests.mta.sending import Sent, send
from tests.mta.waiting import wait_for
from transport.config.load import load
from transport.config.settings import Settings
from transport.mta.exim_plan import plan


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
        self.daemon = Splitmx(toml(self), self.folder)
        self.settings = load(self.daemon.config)
        self.exim = EximInstance("", name="site", ip=self.ip, ports=(25, 2525))

    def _tls(self) -> None:
        authority = certificate("ca.test")
        self.ca = authority[0]
        self.self_signed = RecordingSmtp(tls=tls_context(*certificate("self.test")))
        self.wrong_name = RecordingSmtp(tls=tls_context(*certificate("other.test", authority=authority)))
        host = new_address()
        self.right_name = RecordingSmtp(tls=tls_context(*certificate(host, authority=authority)), host=host)

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
