# SPDX-License-Identifier: Apache-2.0
"""Many accounts on one cPanel host: what one of them breaks in its own home is its own trouble."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.exim.listener import ask
from tests.exim.people import Directory
from tests.exim.tree import put
from tests.mta.daemon import Splitmx
from tests.mta.waiting import wait_for

CONFIG = """
[daemon]
exim = ["unix:{state}/exim.sock"]
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
hosts = ["192.0.2.9"]
[domains."acme.example"]
local = ["cp"]
remote = ["there"]
destination = "cloud"
unknown = "reject"
[domains."zeta.example"]
local = ["cp"]
remote = ["there"]
destination = "cloud"
unknown = "reject"
"""
HOME = "home/acme/etc/acme.example/passwd"
WHOLE = "ann:x:1:1::/h:/x\nbob:x:1:1::/h:/x\n"


class Host:
    """A daemon beside a host with the accounts acme and zeta; ann and bob are at acme, zoe at zeta, cloud@ at the other
    side of both."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "host"
        put(self.root, "etc/userdomains", "acme.example: acme\nzeta.example: zeta\n")
        put(self.root, "etc/trueuserdomains", "acme.example: acme\nzeta.example: zeta\n")
        put(self.root, "etc/valiases/acme.example", "info@acme.example: ann@acme.example\n*: :fail: no\n")
        put(self.root, HOME, WHOLE)
        put(self.root, "home/zeta/etc/zeta.example/passwd", "zoe:x:1:1::/h:/x\n")
        self.there = Directory(folder / "there.db")
        for domain in ("acme.example", "zeta.example"):
            self.there.add(f"cloud@{domain}")
        self.state = folder / "state"
        self.splitmx = Splitmx(self.text(CONFIG), folder)

    def text(self, config: str) -> str:
        """The configuration with this host's places."""
        return config.replace("ROOT", str(self.root)).replace("THERE", self.there.toml)

    def says(self, recipient: str) -> str:
        """The decision at the wire."""
        return ask(self.state / "exim.sock", recipient)["decision"]

    def until(self, recipient: str, decision: str) -> None:
        """Wait for this decision."""
        wait_for(lambda: self.says(recipient) == decision, 20, lambda: f"{self.says(recipient)}\n{self.splitmx.tail()}")


@pytest.fixture
def host(folder: Path) -> Iterator[Host]:
    """It runs when a test has started it."""
    found = Host(folder)
    try:
        yield found
    finally:
        found.splitmx.stop()


def _giant(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def _many(path: Path, end: str = "\n") -> None:
    new = path.with_name("new")  # half of it would be a list of other mailboxes
    with new.open("w", newline="") as file:
        file.writelines(f"{n:x}:{end}" for n in range(500_002))
    new.rename(path)


def _no_folder(path: Path) -> None:
    path.parent.rmdir()
    path.parent.touch()


BREAKS: dict[str, Callable[[Path], object]] = {
    "link": lambda path: path.symlink_to("/nowhere/passwd"),
    "loop": lambda path: path.symlink_to(path),
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "endless": lambda path: path.symlink_to("/proc/self/pagemap"),
    "folder": lambda path: path.mkdir(),
    "giant": _giant,
    "many": _many,
    "returns": lambda path: _many(path, "\r"),
    "no folder": _no_folder,
    "half": lambda path: path.write_text("ann:x:1:1::/h:/x\nbo"),
    "zeros": lambda path: path.write_bytes(b"ann:x" + bytes(40)),
}


@pytest.mark.parametrize("what", BREAKS)
def test_what_a_tenant_breaks_is_his_own(host: Host, what: str) -> None:
    """His people stay, his strangers are put off, and what happens at the others is seen as ever; once he mends it, so
    is what happened at his."""
    host.splitmx.start()
    for name in ("new@acme.example", "new@zeta.example"):
        host.until(name, "unknown")
    path = host.root / HOME
    path.unlink()
    BREAKS[what](path)
    put(host.root, "home/zeta/etc/zeta.example/passwd", "zoe:x:1:1::/h:/x\nnew:x:1:1::/h:/x\n")
    host.until("new@zeta.example", "local")
    host.until("new@acme.example", "temp")
    assert host.says("nobody@zeta.example") == "unknown"
    assert [host.says(f"{name}@acme.example") for name in ("ann", "bob", "info")] == ["local", "local", "expand"]
    assert host.says("cloud@acme.example") == "relay"
    shown = host.splitmx.run("status")
    line = next(line for line in shown.stdout.splitlines() if line.startswith("! directory cp: acme.example"))
    assert shown.returncode == 1
    assert str(path) in line
    assert "zeta" not in line
    assert str(path) in host.splitmx.tail(), "the log names the file"
    if path.is_dir():
        path.rmdir()
    elif path.parent.is_file():
        path.parent.unlink()
    put(host.root, "home/acme/etc/acme.example/aside", "ann:x:1:1::/h:/x\nnew:x:1:1::/h:/x\n")
    os.replace(host.root / "home/acme/etc/acme.example/aside", path)
    host.until("new@acme.example", "local")
    host.until("bob@acme.example", "unknown")
    assert "acme.example" not in host.splitmx.run("status").stdout


def test_the_reason_is_explained(host: Host) -> None:
    """`explain` says of a stranger who is put off what is wrong at his domain, and nothing of it at another's."""
    host.splitmx.start()
    host.until("new@acme.example", "unknown")
    path = host.root / HOME
    path.unlink()
    os.mkfifo(path)
    host.until("new@acme.example", "temp")
    assert f"this domain could not be read: {path}" in host.splitmx.run("explain", "new@acme.example").stdout
    assert str(path) not in host.splitmx.run("explain", "new@zeta.example").stdout


@pytest.mark.parametrize("daemon", [True, False])
def test_a_domain_is_not_retired_unread(host: Host, daemon: bool) -> None:
    """The cPanel host is the other side: whether nobody is there is not known while the domain cannot be read."""
    config = CONFIG.replace('local = ["cp"]\nremote = ["there"]', 'local = ["there"]\nremote = ["cp"]')
    host.splitmx.write(host.text(config))
    path = host.root / HOME
    path.write_text("")
    os.utime(path, (1, 1))  # one that was emptied a moment ago is no answer
    put(host.root, "etc/valiases/acme.example", "*: :fail: no\n")
    put(host.root, "etc/trueuserdomains", "zeta.example: zeta\n")
    assert host.splitmx.run("retire", "--dry-run", "acme.example").returncode == 0
    path.unlink()
    os.mkfifo(path)
    if daemon:
        host.splitmx.start()
        wait_for(lambda: str(path) in host.splitmx.run("status").stdout, 20, host.splitmx.tail)
    done = host.splitmx.run("retire", "--dry-run", "acme.example")
    assert done.returncode == 75, done.stdout
    assert "not read yet: cp" in done.stderr


def test_strangers_below_a_domain_that_cannot_be_read_are_put_off_without_a_daemon(host: Host) -> None:
    """A command that reads the host by itself takes no absence below that domain for a no."""
    config = CONFIG.replace('unknown = "reject"', 'unknown = "reject"\nsubdomains = "match"', 1)
    host.splitmx.write(host.text(config))
    assert host.splitmx.run("query", "relay_recipients", "new@acme.example").returncode == 1
    assert host.splitmx.run("query", "relay_recipients", "new@sub.acme.example").returncode == 0, "the other side knows"
    path = host.root / HOME
    path.unlink()
    os.mkfifo(path)
    for address in ("new@acme.example", "new@sub.acme.example"):
        assert host.splitmx.run("query", "relay_recipients", address).returncode == 75, address


def test_a_tenant_who_was_never_read(host: Host) -> None:
    """Broken from the start: who is here is not known, so that nobody of his is relayed or refused; others are served,
    and his, too, once he mends it."""
    path = host.root / HOME
    path.unlink()
    path.symlink_to("/nowhere")
    host.splitmx.start()
    host.until("zoe@zeta.example", "local")
    host.until("cloud@zeta.example", "relay")
    host.until("nobody@zeta.example", "unknown")
    assert {host.says(f"{name}@acme.example") for name in ("ann", "cloud", "nobody")} == {"temp"}
    path.unlink()
    path.write_text(WHOLE)
    for name, decision in (("ann", "local"), ("cloud", "relay"), ("nobody", "unknown")):
        host.until(f"{name}@acme.example", decision)


def test_a_tenant_whose_people_are_all_at_the_other_side(host: Host) -> None:
    """He was read once: that nobody of his is here is known, and the cloud's people are relayed while his files are
    broken, over a restart, too."""
    path = host.root / HOME
    path.write_text("")
    put(host.root, "etc/valiases/acme.example", "*: :fail: no\n")
    put(host.root, "etc/trueuserdomains", "zeta.example: zeta\n")
    host.splitmx.start()
    host.until("new@acme.example", "unknown")
    path.unlink()
    os.mkfifo(path)
    host.until("new@acme.example", "temp")
    assert host.says("cloud@acme.example") == "relay"
    host.splitmx.stop()
    host.splitmx.start()
    host.until("zoe@zeta.example", "local")
    host.until("cloud@acme.example", "relay")
    assert host.says("new@acme.example") == "temp"


def test_a_home_whose_name_is_no_text(host: Host) -> None:
    """A folder's name may be any octets: the others are read, and file and cure are named all the same."""
    home = os.fsencode(host.root) + b"/home/caf\xe9"
    os.rename(host.root / "home/acme", home)
    put(host.root, "etc/passwd", b"acme:x:1:1::/home/caf\xe9:/bin/sh\n")
    host.splitmx.start()
    host.until("new@acme.example", "unknown")
    os.unlink(home + b"/etc/acme.example/passwd")
    os.mkfifo(home + b"/etc/acme.example/passwd")
    host.until("new@acme.example", "temp")
    assert [host.says(name) for name in ("ann@acme.example", "new@zeta.example")] == ["local", "unknown"]
    assert "caf\\udce9/etc/acme.example/passwd is no file of cPanel's" in host.splitmx.run("status").stdout


@pytest.mark.parametrize("how", ["the host", "itself"])
def test_a_domain_is_added_that_cannot_be_read(host: Host, how: str) -> None:
    """A new domain of a directory that was read: whoever of its people is at the other side, too, is not relayed before
    it is known who is here; then he stays."""
    host.there.add("zoe@zeta.example")
    host.splitmx.write(host.text(CONFIG[: CONFIG.index('[domains."zeta.example"]')]))
    host.splitmx.start()
    host.until("new@acme.example", "unknown")
    path = host.root / ("etc/userdomains" if how == "the host" else "home/zeta/etc")
    aside = path.rename(path.with_name("aside"))
    if how == "itself":
        path.touch()
    host.splitmx.write(host.text(CONFIG))
    host.splitmx.reload()
    host.until("zoe@zeta.example", "temp")
    wait_for(lambda: str(path) in host.splitmx.run("status").stdout, 20, host.splitmx.tail)
    assert [host.says(f"{name}@zeta.example") for name in ("zoe", "cloud", "new")] == ["temp"] * 3
    assert [host.says(f"{name}@acme.example") for name in ("ann", "cloud")] == ["local", "relay"]
    path.unlink(missing_ok=True)
    aside.rename(path)
    for name, decision in (("zoe", "local"), ("cloud", "relay"), ("new", "unknown")):
        host.until(f"{name}@zeta.example", decision)


def test_when_nobody_of_the_host_can_be_read(host: Host) -> None:
    """A disk that is not mounted: everybody who was listed stays, and who is not is put off, not refused."""
    host.splitmx.start()
    host.until("new@acme.example", "unknown")
    (host.root / "home").rename(host.root / "away")
    for domain in ("acme.example", "zeta.example"):
        host.until(f"new@{domain}", "temp")
        assert host.says(f"cloud@{domain}") == "relay"
    assert [host.says(name) for name in ("ann@acme.example", "zoe@zeta.example")] == ["local", "local"]
    assert "is the disk with the accounts mounted" in host.splitmx.run("status").stdout
    (host.root / "away").rename(host.root / "home")
    for domain in ("acme.example", "zeta.example"):
        host.until(f"new@{domain}", "unknown")


@pytest.mark.parametrize("how", ["mended", "enabled"])
def test_a_tenant_who_is_read_for_the_first_time_moves_nobody(host: Host, how: str) -> None:
    """Mailboxes here of people who are listed at the other side, too, are here at once: there is no other side on which
    they were before, whether his files were broken from the start or his domain is new in the configuration."""
    names = [f"both{n}" for n in range(30)]
    path, whole = host.root / HOME, host.splitmx.config.read_text()
    for name in names:
        host.there.add(f"{name}@acme.example")
    path.write_text(WHOLE[:3] if how == "mended" else "".join(f"{name}:x:1:1::/h:/x\n" for name in names))
    if how == "enabled":
        start, end = whole.index('[domains."acme'), whole.index('[domains."zeta')
        host.splitmx.write(whole[:start] + whole[end:])
    host.splitmx.start()
    host.until("nobody@zeta.example", "unknown")
    if how == "mended":
        assert host.says("both0@acme.example") == "temp"
        path.write_text("".join(f"{name}:x:1:1::/h:/x\n" for name in names))
    else:
        host.splitmx.write(whole)
        host.splitmx.reload()
    for name in names:
        host.until(f"{name}@acme.example", "local")
    assert not host.splitmx.run("status", "--json").stdout.count("moved")


@pytest.mark.parametrize("how", ["emptied", "removed"])
def test_a_file_that_is_written_in_place_begins_empty(host: Host, how: str) -> None:
    """Whoever edits the list of his mailboxes by hand: between emptying and writing nobody of it has left."""
    host.splitmx.start()
    host.until("new@acme.example", "unknown")
    path = host.root / HOME
    if how == "emptied":
        path.write_text("")
    else:
        path.unlink()
    host.until("new@acme.example", "temp")
    assert host.says("bob@acme.example") == "local"
    path.write_text("bob:x:1:1::/h:/x\n")
    host.until("ann@acme.example", "unknown")
    assert host.says("bob@acme.example") == "local"
    path.write_text("")
    host.until("bob@acme.example", "unknown")  # and once it is left alone it is believed


def test_every_fault_is_named_when_nobody_can_be_read(host: Host) -> None:
    """The last account that could be read breaks: its file is named beside the other's."""
    host.splitmx.start()
    host.until("new@acme.example", "unknown")
    for account in ("acme", "zeta"):
        path = host.root / f"home/{account}/etc/{account}.example/passwd"
        path.unlink()
        os.mkfifo(path)
        host.until(f"new@{account}.example", "temp")
    wait_for(lambda: "/zeta.example/passwd" in host.splitmx.run("status").stdout, 10, host.splitmx.tail)
    assert "/acme.example/passwd" in host.splitmx.run("status").stdout
    assert "/zeta.example/passwd" in host.splitmx.tail()


def test_who_was_not_read_is_no_witness(host: Host) -> None:
    """Everybody of the other domain is gone while one cannot be read: nobody speaks for the host, so it is held."""
    host.splitmx.start()
    host.until("new@acme.example", "unknown")
    path = host.root / HOME
    path.unlink()
    os.mkfifo(path)
    host.until("new@acme.example", "temp")
    (host.root / "etc/trueuserdomains").write_text("acme.example: acme\n")
    put(host.root, "home/zeta/etc/zeta.example/passwd", "")
    wait_for(lambda: "zeta.example: 2 removed held back" in host.splitmx.run("status").stdout, 20, host.splitmx.tail)
    assert host.splitmx.run("sync", "cp").returncode == 75
    assert host.says("zoe@zeta.example") == "local"


def test_who_was_not_read_makes_no_majority(host: Host) -> None:
    """Two of the three domains that could be read are empty at once: that is held back, however many people the one has
    that could not be read."""
    sizes = {"acme": 300, "one": 12, "two": 12, "three": 30}
    lines = "".join(f"{name}.example: {name}\n" for name in (*sizes, "zeta"))
    put(host.root, "etc/userdomains", lines)
    for name, size in sizes.items():
        people = "".join(f"p{n}:x:1:1::/h:/x\n" for n in range(size))
        put(host.root, f"home/{name}/etc/{name}.example/passwd", people)
    tables = [
        f'[domains."{name}.example"]\nlocal = ["cp"]\ndestination = "cloud"\n' for name in ("one", "two", "three")
    ]
    host.splitmx.write(host.text(CONFIG) + "".join(tables))
    host.splitmx.start()
    host.until("p1@one.example", "local")
    path = host.root / HOME
    path.unlink()
    os.mkfifo(path)
    host.until("new@acme.example", "temp")
    for name in ("one", "two"):
        put(host.root, f"home/{name}/etc/{name}.example/passwd", "")
    host.splitmx.run("sync", "cp")
    wait_for(lambda: "12 removed held back" in host.splitmx.run("status").stdout, 10, host.splitmx.tail)
    assert [host.says(f"p1@{name}.example") for name in ("one", "two", "three")] == ["local"] * 3


def test_each_is_named_in_the_log(host: Host) -> None:
    """However many were broken before: nobody's fault stays unnamed."""
    names = [f"old{n}.example" for n in range(8)]
    tables = "".join(f'[domains."{name}"]\nlocal = ["cp"]\ndestination = "cloud"\n' for name in names)
    start = CONFIG.index('[domains."acme.example"]')
    host.splitmx.write(host.text(CONFIG[:start] + tables + CONFIG[start:]))
    with (host.root / "etc/userdomains").open("a") as file:
        file.writelines(f"{name}: gone\n" for name in names)
    host.splitmx.start()
    host.until("zoe@zeta.example", "local")
    path = host.root / HOME
    path.unlink()
    os.mkfifo(path)
    for name in (*names, "acme.example"):
        wait_for(lambda name=name: f"domain={name} " in host.splitmx.log.read_text(), 20, host.splitmx.tail)  # type: ignore[misc]


def test_without_a_daemon(host: Host) -> None:
    """`explain` alone knows the same; `check` names file and cure."""
    path = host.root / HOME
    path.unlink()
    os.mkfifo(path)
    alone = host.splitmx.run("explain", "--json", "nobody@acme.example")
    assert alone.returncode == 75, alone.stdout
    assert str(path) in alone.stderr
    assert host.splitmx.run("explain", "zoe@zeta.example").returncode == 0
    checked = host.splitmx.run("check", timeout=120)
    assert f"acme.example could not be read: {path}" in checked.stdout, checked.stdout
