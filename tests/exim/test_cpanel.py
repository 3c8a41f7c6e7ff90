# SPDX-License-Identifier: Apache-2.0
"""A cPanel host made of the documented files: its recipients, its traps, its forwarders, and an Exim laid out as
cPanel's with our sections in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.exim.listener import ask
from tests.exim.people import Directory
from tests.exim.tree import put
from tests.mta.daemon import Splitmx
from tests.mta.exim import EximInstance, missing
from tests.mta.places import new_folder
from tests.mta.recording import RecordingLmtp, RecordingSmtp
from tests.mta.sending import send
from tests.mta.waiting import wait_for
from transport.checks import cpanel as check
from transport.checks.dns import Dns
from transport.config.settings import Destination, Domain, FileOptions, Settings
from transport.config.settings import Directory as Table
from transport.directories import open_source
from transport.directories.base import DirectoryError, Listing
from transport.record import Kind, Record

Cleaned = Callable[[Callable[[], object]], None]


@pytest.fixture
def root(folder: Path) -> Path:
    """A host with one account and three domains."""
    root = folder / "host"
    put(
        root,
        "etc/userdomains",
        "*: nobody\nexample.com: acme\nshop.example: acme\nparked.example: acme\nother.test: zeta\n",
    )
    put(root, "etc/trueuserdomains", "example.com: acme\nother.test: zeta\n")
    put(root, "etc/passwd", "root:x:0:0:root:/root:/bin/bash\nacme:x:1001:1001::/home2/acme:/bin/bash\n")
    put(root, "etc/localdomains", "host.example\nexample.com\nshop.example\n")
    put(root, "etc/remotedomains", "parked.example\n")
    put(root, "etc/secondarymx", "")
    put(root, "home2/acme/etc/example.com/passwd",
        "carl:x:1001:1001::/home2/acme/mail/example.com/carl:/x\nDora:x:1001:1001::/h:/x\nbob:x:1001:1001::/h:/x\n"
        "off:x:1001:1001::/h:/x\nkeeps:x:1001:1001::/h:/x\n")  # fmt: skip
    put(root, "home2/acme/etc/.off@example.com.suspended_incoming", "")
    put(root, "home2/acme/etc/shop.example/passwd", "web:x:1001:1001::/h:/x\n")
    put(root, "etc/valiases/example.com",
        "info@example.com: carl@example.com,dora@example.com\nsupport@example.com: \"|/usr/bin/ticket\"\n"
        "nobody@example.com: :blackhole:\nleft@example.com: :fail: has left, really\n"
        "keeps@example.com: x@foreign.example\n"
        "cloudy@example.com: ann@example.com\n*: :fail: No Such User Here\n")  # fmt: skip
    put(root, "etc/valiases/shop.example", "*: acme\n")
    put(root, "var/cpanel/users/acme", "USER=acme\nMXCHECK-example.com=0\nMXCHECK-parked.example=remote\n")
    put(root, "var/cpanel/mainip", "192.0.2.10")
    (root / "usr/local/cpanel/3rdparty/mailman/lists/news_example.com").mkdir(parents=True)
    return root


def read(path: Path, domains: tuple[str, ...] = ("example.com",), form: str = "cpanel") -> Listing:
    """A listing by the way every directory goes."""
    return open_source(Table("cp", "file", FileOptions(str(path), form), b"x" * 16, domains=domains)).list()


def by_name(listing: Listing) -> dict[str, Record]:
    """Address -> record."""
    return {f"{record.local}@{record.domain}": record for record in listing.records}


def test_directory(root: Path) -> None:
    """Mailboxes, forwarders, lists and the account's own mailbox of the asked domains, with their states."""
    listing = read(root)
    found = by_name(listing)
    assert found["carl@example.com"] == Record("carl", "example.com")
    assert found["dora@example.com"].kind is Kind.MAILBOX
    assert not found["off@example.com"].active
    assert found["info@example.com"].targets == ("carl@example.com", "dora@example.com")
    assert found["support@example.com"] == Record("support", "example.com", Kind.ALIAS)
    assert found["nobody@example.com"].targets == ()
    assert found["left@example.com"].targets == ()
    assert found["keeps@example.com"].targets == ("keeps@example.com", "x@foreign.example")
    assert found["cloudy@example.com"].targets == ("ann@example.com",)
    assert found["acme@example.com"].kind is Kind.MAILBOX
    assert {"news@example.com", "news-request@example.com", "news-bounces@example.com"} <= set(found)
    assert not any(name.endswith("@shop.example") for name in found)
    assert not any(name.startswith("*") for name in found)
    assert listing.content_time


def test_suspended_account(root: Path) -> None:
    """Everybody of a suspended account is there, and takes no mail."""
    put(root, "var/cpanel/suspended/acme", "unpaid\n")
    assert {record.active for record in read(root).records} == {False}


def test_nothing_is_written(root: Path) -> None:
    """Reading and checking leave every file as it was."""
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()}
    list(read(root).records)
    check.findings(settings(root))
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()}
    assert before == after


def test_missing_parts_are_faults(root: Path) -> None:
    """No such host, a domain that is elsewhere, a disk that is not mounted: errors, never an empty directory."""
    with pytest.raises(DirectoryError, match="userdomains"):
        read(root / "nowhere")
    with pytest.raises(DirectoryError, match=r"none of strange\.example"):
        read(root, ("strange.example",))
    shutil.rmtree(root / "home2")
    with pytest.raises(DirectoryError, match="no such folder"):
        read(root)


def settings(root: Path, **more: object) -> Settings:
    """A configuration with this host as directory."""
    return Settings(
        directories={"cp": Table("cp", "file", FileOptions(str(root), "cpanel"), b"x" * 16)},
        destinations={"cloud": Destination("cloud", hosts=("h.example",))},
        domains={
            name: Domain(name, local=("cp",), destination="cloud", role="secondary")
            for name in ("example.com", "shop.example", "parked.example")
        },
    )


def test_check(root: Path) -> None:
    """A domain set to Remote with mailboxes, a catch-all, Auto, domain forwarders: each is named with its cure."""
    put(root, "home2/acme/etc/parked.example/passwd", "eve:x:1:1::/h:/x\n")
    put(root, "etc/vdomainaliases/shop.example", "shop.example: example.com\n")
    found = [f"{finding.level}: {finding.text}" for finding in check.findings(settings(root))]
    text = "\n".join(found)
    assert "error: parked.example is set to Remote Mail Exchanger, and 1 mailboxes are here" in text
    assert "error: the default address of shop.example is acme" in text
    assert "shop.example is set to Automatically Detect" in text
    assert "error: shop.example has a domain forwarder to example.com" in text
    assert not [line for line in found if " example.com" in line and "error" in line and "forwarder" not in line]


class _Dns(Dns):
    """Answers as a name server would."""

    def mx(self, name: str) -> tuple[str, ...]:
        return ("cloud.example",)

    def addresses(self, name: str) -> tuple[str, ...]:
        return ("198.51.100.7",)


def test_check_auto_against_dns(root: Path) -> None:
    """Auto that would turn the domain away at the next change of its zone is an error."""
    found = check.findings(settings(root), dns=_Dns())
    assert any("by its MX (cloud.example) it would be remote" in finding.text for finding in found)


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
envelope = "acme.onmicrosoft.example"
peers = ["127.88.8.8"]
[domains."example.com"]
role = "secondary"
local = ["cp"]
remote = ["there"]
destination = "cloud"
unknown = "relay"
outsiders = "reject"
locations = { cloud = "cloud" }
"""


def test_leftovers_and_forwarders(root: Path, folder: Path) -> None:
    """Whoever has a mailbox here and is listed in the cloud is named; the forwarder list has the cloud's people, and
    the commands add what is missing and take away what is not wanted any more."""
    there = Directory(folder / "there.db")
    there.add("ann@example.com")
    there.add("bob@example.com")
    there.add("o'hara@example.com")
    put(root, "etc/valiases/example.com",
        "ann@example.com: ann@acme.onmicrosoft.example\nold@example.com: old@acme.onmicrosoft.example\n"
        "mine@example.com: friend@foreign.example\n*: :fail: no\n")  # fmt: skip
    text = CONFIG.replace("ROOT", str(root)).replace("THERE", there.toml).replace("CLOUD", "192.0.2.1")
    alone = Splitmx(text, folder)
    told = json.loads(alone.run("check", "--json", timeout=120).stdout)
    texts = [finding["text"] for finding in told["findings"]]
    assert any(t.startswith("bob@example.com has a mailbox here and is listed at cloud") for t in texts), texts
    out = folder / "out"
    done = alone.run("build", "--for", "cpanel-forwarders", "--output", str(out))
    assert done.returncode in (0, 1), done.stderr
    rows = (out / "forwarders.csv").read_text().splitlines()
    assert rows == [
        "ann@example.com,ann@acme.onmicrosoft.example",
        "o'hara@example.com,o'hara@acme.onmicrosoft.example",
    ]
    commands = (out / "forwarders.sh").read_text()
    assert subprocess.run(["sh", "-n"], input=commands, text=True, check=False).returncode == 0
    lines = [line for line in commands.splitlines() if line.startswith("uapi")]
    assert lines == [
        "uapi Email add_forwarder domain=example.com email=o%27hara@example.com fwdopt=fwd"
        " fwdemail=o%27hara@acme.onmicrosoft.example",
        "uapi Email delete_forwarder address=old@example.com forwarder=old@acme.onmicrosoft.example",
    ]


def test_forwarders_left_behind(root: Path, folder: Path) -> None:
    """Somebody of the cloud whose mailbox here is gone and whose forwarder or autoresponder is not gets no mail: named,
    unless it leads to the cloud."""
    there = Directory(folder / "there.db")
    for name in ("ann", "eva", "uwe", "tom", "carl"):
        there.add(f"{name}@example.com")
    put(root, "etc/valiases/example.com",
        'eva@example.com: "|/usr/local/cpanel/bin/autorespond eva@example.com /home2/acme/.autorespond"\n'
        "uwe@example.com: friend@foreign.example\nann@example.com: ann@acme.onmicrosoft.example\n"
        "tom@example.com: :fail: has left\nmine@example.com: friend@foreign.example\n"
        "carl@example.com: friend@foreign.example\n*: :fail: no\n")  # fmt: skip
    text = CONFIG.replace("ROOT", str(root)).replace("THERE", there.toml).replace("CLOUD", "192.0.2.1")
    told = json.loads(Splitmx(text, folder).run("check", "--json", timeout=120).stdout)
    texts = [finding["text"] for finding in told["findings"] if "forwarder" in finding["text"]]
    assert [text.split("@")[0] for text in texts] == ["eva", "tom", "uwe"], texts


POPS = {
    "apiversion": 3, "func": "list_pops", "module": "Email",
    "result": {
        "data": [
            {"email": "acme", "login": "Main Account", "suspended_incoming": 0, "suspended_login": 0},
            {"email": "carl@example.com", "login": "carl@example.com", "suspended_incoming": 0, "suspended_login": 1},
            {"email": "off@example.com", "login": "off@example.com", "suspended_incoming": 1, "suspended_login": 0},
        ],
        "errors": None, "messages": None, "metadata": {"transformed": 1}, "status": 1, "warnings": None,
    },
}  # fmt: skip
FORWARDERS = {
    "func": "list_forwarders", "module": "Email",
    "result": {
        "data": [
            {"dest": "info@example.com", "forward": "carl@example.com", "html_dest": "info@example.com"},
            {"dest": "info@example.com", "forward": "x@foreign.example"},
            {"dest": "carl@example.com", "forward": "copy@foreign.example"},
            {"dest": "gone@example.com", "forward": ":fail: gone"},
            {"dest": "tickets@example.com", "forward": "|/usr/bin/ticket"},
        ],
        "errors": None, "status": 1,
    },
}  # fmt: skip


def test_uapi(folder: Path) -> None:
    """The JSON of list_pops and list_forwarders, in one file or in several."""
    together = folder / "all.json"
    together.write_text(json.dumps(POPS) + "\n" + json.dumps(FORWARDERS))
    (folder / "two").mkdir()
    (folder / "two" / "pops.json").write_text(json.dumps(POPS))
    (folder / "two" / "forwarders.json").write_text(json.dumps(FORWARDERS["result"]))
    for path in (together, folder / "two"):
        found = by_name(read(path, form="cpanel-uapi"))
        assert set(found) == {f"{n}@example.com" for n in ("carl", "off", "info", "gone", "tickets")}
        assert found["off@example.com"].active is False
        assert found["carl@example.com"].targets == ("carl@example.com", "copy@foreign.example")
        assert found["info@example.com"].targets == ("carl@example.com", "x@foreign.example")
        assert found["gone@example.com"].targets == found["tickets@example.com"].targets == ()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "half written"),
        ('{"func": "list_pops", "result": {"data": [{"email": "a@ex', "half written"),
        ('{"func": "list_pops", "result": {"data": null, "errors": ["Access denied"], "status": 0}}', "Access denied"),
        ('"text"', "not the JSON of a uapi call"),
        (json.dumps(FORWARDERS), "no answer of uapi Email list_pops"),
    ],
)
def test_uapi_faults(folder: Path, text: str, wanted: str) -> None:
    """An answer that is cut, an error or another's is a fault, never an empty directory."""
    path = folder / "x.json"
    path.write_text(text)
    with pytest.raises(DirectoryError, match=re.escape(wanted)):
        read(path, form="cpanel-uapi")


# The order of cPanel's own parts, in short: limits and permissions of local submitters, then what goes away, then
# aliases, mailboxes, the default address. Ours stand where its markers are.
EXIM = """
LOCAL_CONFIG
domainlist local_domains = lsearch;ROOT/etc/localdomains
domainlist relay_domains = lsearch;ROOT/etc/localdomains : lsearch;ROOT/etc/secondarymx
hostlist relay_hosts = {ip}
acl_smtp_rcpt = acl_smtp_rcpt
begin acl
acl_smtp_rcpt:
LOCAL_ACL
  accept hosts = : +relay_hosts
  require domains = +local_domains
    verify = recipient
  accept
begin routers
check_mail_permissions:
  driver = redirect
  domains = ! +local_domains
  data = :unknown:
LOCAL_ROUTERS
lookuphost:
  driver = manualroute
  domains = ! +local_domains
  route_list = * THE_OUTSIDE
  transport = remote_smtp
  no_more
virtual_aliases_nostar:
  driver = redirect
  domains = +local_domains
  allow_fail
  allow_defer
  data = ${lookup{$local_part@$domain}lsearch{ROOT/etc/valiases/${lookup{$domain}dsearch{ROOT/etc/valiases}}}}
  unseen
virtual_user:
  driver = accept
  domains = +local_domains
  condition = ${lookup{$local_part}lsearch{ROOT/home2/acme/etc/example.com/passwd}{yes}{no}}
  transport = dovecot_virtual_delivery
virtual_aliases:
  driver = redirect
  domains = +local_domains
  allow_fail
  data = ${lookup{*}lsearch{ROOT/etc/valiases/${lookup{$domain}dsearch{ROOT/etc/valiases}}}}
begin transports
remote_smtp:
  driver = smtp
dovecot_virtual_delivery:
  driver = smtp
  protocol = lmtp
  hosts = THE_STORE
  port = 24
  hosts_override
  allow_localhost
LOCAL_TRANSPORTS
"""


@pytest.mark.e2e
def test_exim_as_cpanel_has_it(root: Path, folder: Path, cleaned: Cleaned) -> None:
    """A hosting that is the secondary: its own users' mail for cloud people leaves the host, its default address
    swallows nobody, what the cloud gives back is refused, forwarders and mailboxes work as before."""
    if missing():
        pytest.skip(missing())
    store, cloud, outside = RecordingLmtp(), RecordingSmtp(), RecordingSmtp()
    for server in (store, cloud, outside):
        cleaned(server.stop)
    private = new_folder("cpanel")
    cleaned(lambda: shutil.rmtree(private, ignore_errors=True))
    shutil.copytree(root, private / "host")
    root = private / "host"
    put(
        root,
        "etc/valiases/example.com",
        (root / "etc/valiases/example.com").read_text().replace("*: :fail: No Such User Here", "*: carl@example.com"),
    )
    there = Directory(private / "there.db")
    there.add("ann@example.com")
    text = CONFIG.replace("ROOT", str(root)).replace("THERE", there.toml).replace("CLOUD", cloud.host)
    text = text.replace('envelope = "acme.onmicrosoft.example"\n', "")
    daemon = Splitmx(text, private).start()
    cleaned(daemon.stop)
    wait_for(lambda: ask(private / "state/exim.sock", "carl@example.com")["decision"] == "local", 20, daemon.tail)
    wait_for(lambda: ask(private / "state/exim.sock", "ann@example.com")["decision"] == "relay", 20, daemon.tail)
    local = daemon.run("exim", "show", "--kind", "cpanel", "--part", "local", check=True).stdout
    acl = daemon.run("exim", "show", "--kind", "cpanel", "--part", "acl", check=True).stdout
    sections = dict(re.findall(r"(?ms)^@(\w+)@\n(.*?)(?=^@|\Z)", local))
    conf = EXIM.replace("ROOT", str(root)).replace("THE_OUTSIDE", outside.host).replace("THE_STORE", store.host)
    conf = conf.replace("LOCAL_CONFIG", sections["CONFIG"]).replace("LOCAL_ACL", acl)
    conf = conf.replace("LOCAL_ROUTERS", sections["POSTMAILCOUNT"])
    conf = conf.replace("LOCAL_TRANSPORTS", sections["TRANSPORTSTART"])
    exim = EximInstance(conf, name="cpanel").start()
    cleaned(exim.stop)
    own = send(
        exim.ip, "carl@example.com", ["ann@example.com", "dora@example.com", "cloudy@example.com"], client=exim.ip
    )
    assert set(own.codes.values()) == {250}, own.texts
    cloud.wait(own.subject, "ann@example.com")
    store.wait(own.subject, "dora@example.com")
    exim.sendmail("www@host.example", ["ann@example.com", "info@example.com"], "Subject: form\n\nx\n")
    cloud.wait("form", "ann@example.com")
    store.wait("form", "carl@example.com", "dora@example.com")
    names = ["carl@example.com", "zed@example.com", "off@example.com", "ann@example.com"]
    back = send(exim.ip, "o@outside.test", names, client="127.88.8.8")
    assert list(back.codes.values()) == [250, 550, 550, 451], back.texts
    assert back.texts["zed@example.com"].startswith("5.4.6 ")
    keeps = send(exim.ip, "o@outside.test", "keeps@example.com")
    store.wait(keeps.subject, "keeps@example.com")
    outside.wait(keeps.subject, "x@foreign.example")
