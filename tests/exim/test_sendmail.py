# SPDX-License-Identifier: Apache-2.0
"""contrib/sendmail with a real Sendmail: it speaks the same socketmap as Postfix."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.exim.example import CONTRIB
from tests.mta.daemon import Splitmx
from tests.mta.places import new_address
from tests.mta.waiting import wait_for

pytestmark = pytest.mark.e2e

ROOT = Path(os.environ.get("SPLITMX_TEST_SENDMAIL", "/var/cache/splitmx-tests/sendmail"))
PROGRAM = ROOT / "usr/libexec/sendmail/sendmail"
CF = ROOT / "usr/share/sendmail/cf"
Cleaned = Callable[[Callable[[], object]], None]


class Session:
    """Sendmail's `-bs` on pipes."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.reply()

    def reply(self) -> str:
        """One reply, whole."""
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline()]
        while lines[-1][3:4] == "-":
            lines.append(self.process.stdout.readline())
        return "".join(lines)

    def say(self, line: str) -> str:
        """One command and its reply."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\r\n")
        self.process.stdin.flush()
        return self.reply()


@pytest.fixture
def made(folder: Path, cleaned: Cleaned) -> tuple[Splitmx, list[str]]:
    """A daemon with a tcp socketmap, and the command of a Sendmail that asks it."""
    if os.geteuid() != 0 or not PROGRAM.exists():
        pytest.skip(f"Sendmail is not unpacked in {ROOT}: tests/run.sh does that, as root")
    host = new_address()
    (folder / "here.txt").write_text("ann@example.com\n")
    (folder / "there.txt").write_text("bob@example.com\n")
    daemon = Splitmx(
        f"""
[daemon]
socketmap = ["inet:{host}:10460"]
control = "unix:{folder}/control.sock"
metrics = "unix:{folder}/metrics.sock"
state = "{{state}}"
[directories.here]
type = "file"
format = "list"
path = "{folder}/here.txt"
[directories.there]
type = "file"
format = "list"
path = "{folder}/there.txt"
[destinations.s]
hosts = ["192.0.2.1"]
[domains."example.com"]
local = ["here"]
remote = ["there"]
destination = "s"
unknown = "reject"
""",
        folder,
    ).start()
    cleaned(daemon.stop)
    snippet = folder / "splitmx.m4"
    snippet.write_text(
        (CONTRIB.parent / "sendmail" / "splitmx.m4").read_text().replace("10460@127.0.0.1", f"10460@{host}")
    )
    (folder / "queue").mkdir()
    (folder / "switch").write_text("hosts files\naliases files\n")  # no DNS
    (folder / "sendmail.mc").write_text(
        f"include(`{CF}/m4/cf.m4')dnl\nOSTYPE(`linux')dnl\nFEATURE(`accept_unresolvable_domains')dnl\n"
        f"FEATURE(`accept_unqualified_senders')dnl\nFEATURE(`nocanonify')dnl\n"
        f"define(`confSERVICE_SWITCH_FILE',`{folder}/switch')dnl\ndefine(`QUEUE_DIR',`{folder}/queue')dnl\n"
        f"define(`confDOMAIN_NAME',`sm.test')dnl\nLOCAL_DOMAIN(`example.com')dnl\ninclude(`{snippet}')dnl\n"
        "MAILER(`local')dnl\nMAILER(`smtp')dnl\n"
    )
    done = subprocess.run(
        [str(ROOT / "usr/bin/m4"), f"-D_CF_DIR_={CF}/", "sendmail.mc"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    (folder / "sendmail.cf").write_text(done.stdout)
    wait_for(lambda: daemon.run("query", "transport", "bob@example.com").returncode == 0, 20, daemon.tail)
    # a host name without a domain makes Sendmail sleep for a minute
    named = ["unshare", "--uts", "sh", "-c", 'hostname sm.test && exec "$0" "$@"']
    if subprocess.run([*named, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no UTS namespace may be made here: Sendmail would sleep")
    return daemon, [*named, str(PROGRAM), f"-C{folder}/sendmail.cf"]


def test_sendmail(made: tuple[Splitmx, list[str]]) -> None:
    """Who is there is routed to the destination, who is here is delivered here, strangers are refused, foreign mail
    goes its way; without the daemon ours is put off."""
    daemon, command = made
    wait_for(lambda: daemon.run("query", "relay_recipients", "zed@example.com").returncode == 1, 20, daemon.tail)
    asked = "3,0 bob@example.com\n3,0 ann@example.com\n3,0 x@foreign.example\n"
    done = subprocess.run([*command, "-bt"], input=asked, capture_output=True, text=True, timeout=60, check=False)
    routes = re.findall(r"(?m)^parse +returns: (.*)", done.stdout)
    assert routes[0].startswith("$# esmtp $@ [ 192 . 0 . 2 . 1 ] $: bob")
    assert routes[1].startswith("$# local $: ann")
    assert routes[2].startswith("$# esmtp $@ foreign . example . $:") or "foreign . example" in routes[2]
    session = Session([*command, "-bs"])
    session.say("EHLO client.test")
    session.say("MAIL FROM:<o@sm.test>")
    assert session.say("RCPT TO:<bob@example.com>").startswith("250 ")
    assert session.say("RCPT TO:<zed@example.com>").startswith("550 5.1.1 ")
    daemon.kill()
    session.say("RSET")
    later = Session([*command, "-bs"])
    later.say("EHLO client.test")
    later.say("MAIL FROM:<o@sm.test>")
    assert later.say("RCPT TO:<bob@example.com>").startswith("4")
    assert later.say("RCPT TO:<x@foreign.example>").startswith("250 ")
    for one in (session, later):
        one.say("QUIT")
        one.process.wait(10)


def test_a_longer_name_is_another_domain(made: tuple[Splitmx, list[str]]) -> None:
    """example.com.au is not example.com: its mail goes its own way, and nobody is refused or looked up for it."""
    daemon, command = made
    wait_for(lambda: daemon.run("query", "relay_recipients", "zed@example.com").returncode == 1, 20, daemon.tail)
    asked = "3,0 bob@example.com.au\n3,0 bob@example.com\n3,0 bob@example.com.\n"
    done = subprocess.run([*command, "-bt"], input=asked, capture_output=True, text=True, timeout=60, check=False)
    routes = re.findall(r"(?m)^parse +returns: (.*)", done.stdout)
    assert len(routes) == 3, done.stdout
    assert "192 . 0 . 2 . 1" not in routes[0]
    assert all(route.startswith("$# esmtp $@ [ 192 . 0 . 2 . 1 ] $: bob") for route in routes[1:]), routes
    session = Session([*command, "-bs"])
    session.say("EHLO client.test")
    session.say("MAIL FROM:<o@sm.test>")
    assert session.say("RCPT TO:<zed@example.com.au>").startswith("250 ")
    assert session.say("RCPT TO:<bob@example.com>").startswith("250 ")
    assert session.say("RCPT TO:<zed@example.com.>").startswith("550 5.1.1 ")
    session.say("QUIT")
    session.process.wait(10)
