# SPDX-License-Identifier: Apache-2.0
"""Mail through an Exim laid out as cPanel's own: nothing lost, doubled, or sent or refused wrongly."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.exim.cpanel_layout import kept, layout, programs
from tests.exim.listener import ask
from tests.exim.people import Directory
from tests.exim.tree import put
from tests.mta.daemon import Splitmx
from tests.mta.exim import EximInstance, environment, missing
from tests.mta.places import new_folder
from tests.mta.recording import RecordingLmtp, RecordingSmtp
from tests.mta.sending import send
from tests.mta.waiting import wait_for

pytestmark = pytest.mark.e2e

CONFIG = """
[daemon]
exim = ["unix:{state}/exim.sock?mode=0666"]
control = "unix:{state}/control.sock"
metrics = "unix:{state}/metrics.sock"
state = "{state}"
[directories.cp]
type = "file"
format = "cpanel"
path = "ROOT"
sync_every = "1s"
[directories.there]
THERE
[destinations.cloud]
hosts = ["CLOUD"]
peers = ["127.88.8.8"]
[domains."example.com"]
role = "secondary"
local = ["cp"]
remote = ["there"]
destination = "cloud"
unknown = "relay"
outsiders = "reject"
[domains."mx.example"]
local = ["cp"]
remote = ["there"]
destination = "cloud"
unknown = "reject"
[domains."all.example"]
local = ["cp"]
remote = ["there"]
destination = "cloud"
unknown = "catchall:carl@all.example"
[domains."zeta.example"]
local = ["cp"]
remote = ["there"]
destination = "cloud"
unknown = "reject"
"""
ACME = ("example.com", "mx.example", "all.example")
FILTER = """# Exim filter
if $header_subject: contains "to the cloud" then
  deliver "ann@mx.example"
endif
"""
PEER = "127.88.8.8"


class Host:
    """The host, its daemon and Exim, and who is around it."""

    def __init__(self) -> None:
        self.folder = new_folder("cpanel-layout")
        self.root = root = self.folder / "host"
        self.store, self.cloud, self.outside = RecordingLmtp(), RecordingSmtp(), RecordingSmtp()
        self.there = Directory(self.folder / "there.db")
        put(root, "etc/userdomains", "".join(f"{name}: acme\n" for name in ACME) + "zeta.example: zeta\n*: nobody\n")
        put(root, "etc/trueuserdomains", "example.com: acme\nzeta.example: zeta\n")
        put(root, "etc/passwd", "acme:x:1001:1001::/home/acme:/bin/bash\nzeta:x:1002:1002::/home/zeta:/bin/bash\n")
        put(root, "etc/localdomains", "".join(f"{name}\n" for name in (*ACME, "zeta.example")))
        for name in ("etc/secondarymx", "etc/remotedomains", "etc/vdomainaliases/none"):
            put(root, name, "")
        for domain in (*ACME, "zeta.example"):
            put(root, f"etc/vfilters/{domain}", FILTER)
        put(root, "etc/manualmx", "manual.example: " + self.outside.host + "\n")
        for domain in ACME:
            put(root, f"home/acme/etc/{domain}/passwd",
                "".join(f"{name}:x:1:1::/h:/x\n" for name in ("carl", "dora", "keeps", "off", "box")))  # fmt: skip
            put(root, f"home/acme/etc/.off@{domain}.suspended_incoming", "")
            put(root, f"home/acme/etc/{domain}/.boxtrapperenable-box", "")
            put(root, f"usr/local/cpanel/3rdparty/mailman/lists/news_{domain}/config.pck", "")
            put(root, f"etc/valiases/{domain}",
                f"info@{domain}: carl@{domain},dora@{domain},ann@{domain}\ncloudy@{domain}: ann@{domain}\n"
                f"away@{domain}: friend@foreign.example\nkeeps@{domain}: friend@foreign.example\n"
                f'ticket@{domain}: "|{root}/bin/keep ticket"\ncarl@{domain}: "|{root}/bin/keep autorespond"\n'
                f"gone@{domain}: :fail: has left\nhole@{domain}: :blackhole:\n*: :fail: No Such User\n")  # fmt: skip
            self.there.add(f"ann@{domain}")
        put(root, "home/zeta/etc/zeta.example/passwd", "zoe:x:1:1::/h:/x\n")
        put(root, "etc/valiases/zeta.example", "*: :fail: No Such User Here\n")
        self.there.add("ann@zeta.example")
        programs(root)
        text = CONFIG.replace("ROOT", str(root)).replace("THERE", self.there.toml).replace("CLOUD", self.cloud.host)
        self.daemon = Splitmx(text, self.folder, LD_LIBRARY_PATH=environment()["LD_LIBRARY_PATH"])
        self.exim: EximInstance | None = None

    def start(self) -> None:
        """Everything; until both directories are read."""
        self.daemon.start()
        for name in ("nobody@zeta.example", "nobody@mx.example"):
            wait_for(lambda name=name: self.says(name) == "unknown", 20, self.daemon.tail)  # type: ignore[misc]
        conf = layout(self.root, self.daemon, store=self.store.host, outside=self.outside.host)
        self.exim = EximInstance(conf, name="cpanel")
        put(self.root, "etc/relayhosts", f"{self.exim.ip}\n")
        self.folder.chmod(0o755)
        self.exim.start()

    def says(self, recipient: str) -> str:
        """The decision at the wire."""
        return ask(self.folder / "state/exim.sock", recipient)["decision"]

    @property
    def mx(self) -> EximInstance:
        """The running Exim."""
        assert self.exim is not None
        return self.exim

    def all_of(self, subject: str) -> dict[str, list[str]]:
        """Who got it where, once the queue is empty."""
        wait_for(
            lambda: not self.mx.command("-bp").stdout.strip(),
            20,
            lambda: self.mx.command("-bp").stdout + self.mx.tail(),
        )
        around = {"store": self.store, "cloud": self.cloud, "outside": self.outside}
        found = {name: sorted(server.recipients(subject)) for name, server in around.items()}
        returned = f"Subject: {subject}\n".encode()
        bounces = [
            mail.content.replace(b"\r", b"").decode()[:1500]
            for mail in (*self.outside.mails, *self.cloud.mails, *self.store.mails)
            if mail.subject != subject and returned in mail.content.replace(b"\r", b"")
        ]
        assert not bounces, "\n".join(bounces) + self.mx.tail()
        for name in ("ticket", "autorespond", "boxtrapper", "mailman"):
            found[name] = [name] * kept(self.root, name, subject)
        return {name: who for name, who in found.items() if who}

    def stop(self) -> None:
        """Everything."""
        if self.exim is not None:
            self.exim.stop()
        self.daemon.stop()
        for server in (self.store, self.cloud, self.outside):
            server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """Started once for this module."""
    if missing():
        pytest.skip(missing())
    found = Host()
    try:
        found.start()
        yield found
    finally:
        found.stop()


def test_one_mail_for_everybody(host: Host) -> None:
    """From outside and from a user of the host: mailboxes, groups, forwarders, programs, lists and the cloud's people,
    each once and where they are."""
    names = ["carl", "dora+x", "ann", "ann+x", "info", "cloudy", "away", "keeps", "ticket", "box", "hole"]
    names += ["news", "news-request"]
    for client in ("127.0.0.77", host.mx.ip):
        sent = send(host.mx.ip, "o@foreign.example", [f"{name}@mx.example" for name in names], client=client)
        assert set(sent.codes.values()) == {250}, sent.texts
        assert host.all_of(sent.subject) == {
            "store": [f"{name}@mx.example" for name in ("carl", "dora+x", "dora", "keeps")],
            "cloud": ["ann+x@mx.example", "ann@mx.example"],
            "outside": ["friend@foreign.example"],
            "ticket": ["ticket"],
            "autorespond": ["autorespond"],
            "boxtrapper": ["boxtrapper"],
            "mailman": ["mailman", "mailman"],
        }


def test_senders_who_are_at_the_other_side(host: Host) -> None:
    """Sender verification knows who is where: people of the cloud write to people here, unknown ones of ours do not."""
    sent = send(host.mx.ip, "ann@mx.example", ["carl@mx.example"], client="127.0.0.78")
    assert set(sent.codes.values()) == {250}, sent.texts
    assert host.all_of(sent.subject) == {"store": ["carl@mx.example"], "autorespond": ["autorespond"]}
    bad = send(host.mx.ip, "nobody@mx.example", ["carl@mx.example"], client="127.0.0.78")
    assert set(bad.codes.values()) == {550}, bad.texts


def test_refused(host: Host) -> None:
    """Strangers, who has left, whose mail is suspended: told at once, and nobody is relayed for."""
    names = ["nobody@mx.example", "gone@mx.example", "off@mx.example", "nobody@example.com", "off@example.com",
             "x@elsewhere.example"]  # fmt: skip
    sent = send(host.mx.ip, "o@foreign.example", names, client="127.0.0.77")
    assert set(sent.codes.values()) <= {525, 550}, sent.texts
    assert host.all_of(sent.subject) == {}


def test_catchall(host: Host) -> None:
    """A stranger's mail goes to who takes it, with his programs."""
    sent = send(host.mx.ip, "o@foreign.example", ["nobody@all.example", "ann@all.example"], client="127.0.0.77")
    assert set(sent.codes.values()) == {250}, sent.texts
    assert host.all_of(sent.subject) == {
        "store": ["carl@all.example"],
        "cloud": ["ann@all.example"],
        "autorespond": ["autorespond"],
    }


def test_from_the_cloud(host: Host) -> None:
    """Role secondary: what the primary brings for who is here is taken, what it gives back is refused or put off."""
    names = [f"{name}@example.com" for name in ("carl", "info", "ticket", "news", "nobody", "ann", "off")]
    sent = send(host.mx.ip, "o@foreign.example", names, client=PEER)
    assert list(sent.codes.values()) == [250, 250, 250, 250, 550, 451, 550], sent.texts
    assert host.all_of(sent.subject) == {
        "store": ["carl@example.com", "dora@example.com"],
        "cloud": ["ann@example.com"],
        "ticket": ["ticket"],
        "autorespond": ["autorespond"],
        "mailman": ["mailman"],
    }


def test_users_of_the_host(host: Host) -> None:
    """Mail to the cloud, to strangers (the primary decides) and to others leaves, the last one signed; a web form's,
    too; a filter of the domain sends a copy to the cloud."""
    names = ["ann@example.com", "nobody@example.com", "friend@foreign.example", "y@manual.example"]
    sent = send(host.mx.ip, "carl@example.com", names, client=host.mx.ip)
    assert set(sent.codes.values()) == {250}, sent.texts
    assert host.all_of(sent.subject) == {
        "cloud": ["ann@example.com", "nobody@example.com"],
        "outside": ["friend@foreign.example", "y@manual.example"],
    }
    assert {mail.headers.get("X-Signed") for mail in host.outside.of(sent.subject)} == {"dkim", None}
    host.mx.sendmail("www@host.example", ["ann@mx.example", "info@mx.example"], "Subject: a form\n\nx\n")
    assert host.all_of("a form") == {
        "store": ["carl@mx.example", "dora@mx.example"],
        "cloud": ["ann@mx.example"],
        "autorespond": ["autorespond"],
    }
    filtered = send(host.mx.ip, "o@foreign.example", ["dora@mx.example"], subject="to the cloud 1", client="127.0.0.77")
    assert host.all_of(filtered.subject) == {"cloud": ["ann@mx.example"]}


def test_srs(host: Host) -> None:
    """What the host forwards has a sender of its own, and what bounces finds the way back, from whomever it comes."""
    for domain in ("mx.example", "all.example", "example.com"):
        sent = send(host.mx.ip, "o@origin.example", [f"away@{domain}"], client=PEER)
        assert set(sent.codes.values()) == {250}, sent.texts
        (mail,) = host.outside.wait(sent.subject, "friend@foreign.example")
        assert mail.sender.upper().startswith("SRS0="), mail.sender
        assert mail.sender.endswith(f"@{domain}")
        for client in ("127.0.0.77", PEER):
            bounce = send(host.mx.ip, "", [mail.sender], client=client)
            assert set(bounce.codes.values()) == {250}, (domain, client, bounce.texts)
            assert host.all_of(bounce.subject) == {"outside": ["o@origin.example"]}
        forged = send(host.mx.ip, "", [f"SRS0=AAAA=ZZ=origin.example=o@{domain}"], client="127.0.0.77")
        assert set(forged.codes.values()) == {550}, forged.texts


def test_a_tenant_breaks_his_files(host: Host) -> None:
    """At the wire of a real Exim: his people get their mail, his strangers are put off, others are refused as ever."""
    path = host.root / "home/zeta/etc/zeta.example/passwd"
    whole = path.read_text()
    path.write_text(whole + "yv")
    try:
        wait_for(lambda: host.says("nobody@zeta.example") == "temp", 20, host.daemon.tail)
        names = ["zoe@zeta.example", "ann@zeta.example", "nobody@zeta.example", "nobody@mx.example"]
        sent = send(host.mx.ip, "o@foreign.example", names, client="127.0.0.77")
        assert list(sent.codes.values()) == [250, 250, 451, 550], sent.texts
        host.cloud.wait(sent.subject, "ann@zeta.example")
    finally:
        path.write_text(whole)
    host.store.wait(sent.subject, "zoe@zeta.example")
    wait_for(lambda: host.says("nobody@zeta.example") == "unknown", 20, host.daemon.tail)


def test_exim_check(host: Host) -> None:
    """`exim check` knows its own parts in there again."""
    words = ("exim", "check", "--exim", str(host.mx.binary), "--exim-config", str(host.mx.conf))
    found = host.daemon.run(*words, timeout=120)
    assert found.returncode == 0, found.stdout + found.stderr
