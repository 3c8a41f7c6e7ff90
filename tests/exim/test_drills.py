# SPDX-License-Identifier: Apache-2.0
"""The daemon killed, hung, lying: mail waits and arrives, nothing is lost, other domains notice nothing. And
addresses made to break out."""

from __future__ import annotations

import contextlib
import re
import smtplib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.exim.listener import Stub
from tests.exim.site import Site, exim_conf
from tests.mta.exim import EximInstance
from tests.mta.sending import OUTSIDE, Sent, send
from tests.mta.waiting import wait_for
from transport.config.settings import Daemon, Destination, Domain, Listener, Settings

pytestmark = pytest.mark.e2e

GOOD = {
    "ann": b"decision=local",
    "bob": b"decision=relay hosts={s} port=25 tls=may address=bob@example.com verify=no",
    "sales": b"decision=expand targets=ann@example.com,bob@example.com",
}

BAD: list[bytes | None] = [
    None,  # closes without a word
    b"",
    b"\n",
    b"decision=",
    b"decision=relay",
    b"decision=relay hosts={s} port=25 tls=may address=bob@exam",
    b"decision=relay hosts= port=25 tls=may address=bob@example.com verify=no",
    b"decision=relay hosts={s} port=25 tls=maybe address=bob@example.com verify=no",
    b"decision=relay hosts={s} port=x tls=may address=bob@example.com verify=no",
    b"decision=relay hosts=${{run{{/bin/touch {mark}}}}} port=25 tls=may address=bob@example.com verify=no",
    b"decision=relay hosts={s};$acl_m_splitmx port=25 tls=may address=bob@example.com verify=no",
    b"decision=expand",
    b"decision=expand members=2 targets=ann@exam",
    b"decision=loca",
    b"decision=locally",
    b"decision=temp",
    b"decision=ask",
    b"decision=local copy=rel",
    b"decision=loop",
    b"decision=refuse code=550",
    b"decision=loop code=250 text=fine",
    b"LOCAL",
    b"OK local",
    b"<html>502 Bad Gateway</html>",
    b"\xff\xfe\x00\x01" * 100,
    b"decision=\x00local",
]


class Bench:
    """An Exim whose daemon is a stub under the test's control."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.path = site.folder / "stub.sock"
        self.mark = Path("/var/tmp") / f"{site.folder.name}-broken-out"
        self.settings = Settings(
            daemon=Daemon(exim=(Listener("unix", str(self.path)),)),
            destinations={"s": Destination("s", hosts=(site.s.host,))},
            domains={"example.com": Domain("example.com", destination="s")},
        )
        conf = exim_conf(self.settings, store=site.store, outside=site.outside)
        self.stub: Stub | None = None
        self.exim = EximInstance(conf, name="bench")
        self.answer_well()
        self.exim.start()

    def _serve(self, answer: Callable[[bytes], bytes | None]) -> None:
        if self.stub is not None:
            self.stub.close()
        self.stub = Stub(self.path, answer)

    def fill(self, reply: bytes | None) -> bytes | None:
        """Put names into a reply's text."""
        if reply is None:
            return None
        return reply.replace(b"{s}", self.site.s.host.encode()).replace(b"{mark}", str(self.mark).encode()).replace(
            b"{{", b"{"
        ).replace(b"}}", b"}")  # fmt: skip

    def answer_well(self) -> None:
        """As the contract has it, with nothing more."""

        def answer(line: bytes) -> bytes | None:
            local = line.rpartition(b"recipient=")[2].partition(b"@")[0].decode("utf-8", "replace").lower()
            return self.fill(GOOD.get(local, b'decision=unknown code=550 text="5.1.1 nobody"'))

        self._serve(answer)

    def answer_badly(self, reply: bytes | None) -> None:
        """The same to everything."""
        self._serve(lambda line: self.fill(reply))

    def gone(self) -> None:
        """Nobody listens."""
        if self.stub is not None:
            self.stub.close()
            self.stub = None

    def send(self, *recipients: str, sender: str = "o@outside.test") -> Sent:
        """One transaction."""
        return send(self.exim.ip, sender, list(recipients))

    def stop(self) -> None:
        """Everything."""
        self.exim.stop()
        self.gone()


@pytest.fixture(scope="module")
def bench(site: Site) -> Iterator[Bench]:
    """One for the module; each test leaves it answering well."""
    made = Bench(site)
    yield made
    made.stop()


def test_the_contract_alone(bench: Bench) -> None:
    """The texts work with replies that hold no more than the contract names."""
    sent = bench.send("ann@example.com", "bob@example.com", "sales@example.com", "zed@example.com")
    assert list(sent.codes.values()) == [250, 250, 250, 550]
    assert sent.texts["zed@example.com"] == "5.1.1 nobody"
    bench.site.store.wait(sent.subject, "ann@example.com")
    bench.site.s.wait(sent.subject, "bob@example.com")


@pytest.mark.parametrize("reply", BAD)
def test_bad_answers_defer(bench: Bench, reply: bytes | None) -> None:
    """Whatever is no complete answer is 451 at RCPT and a deferral at delivery: never a bounce, never delivered
    elsewhere; foreign mail flows meanwhile."""
    bench.answer_badly(reply)
    try:
        assert bench.send("ann@example.com").codes == {"ann@example.com": 451}
        routed = bench.exim.route("ann@example.com", "x@foreign.example")
        assert "ann@example.com cannot be resolved at this time" in routed
        assert "router = site_outside" in routed
        assert not bench.mark.exists()
    finally:
        bench.answer_well()


def test_lies_in_the_midst_of_deliveries(bench: Bench, cleaned: Callable[[Callable[[], object]], None]) -> None:
    """Accepted, then only nonsense, then well again: delivered, once, nothing lost."""
    conf = exim_conf(bench.settings, store=bench.site.store, outside=bench.site.outside, extra="queue_only")
    exim = EximInstance(conf, name="lied-to").start(queue="")
    cleaned(exim.stop)
    queued: list[str] = []
    for number in range(10):
        names = ["ann@example.com", "bob@example.com", "sales@example.com"]
        sent = send(exim.ip, f"n{number}@lies.example", names)
        assert sent.data == 250
        queued.append(sent.subject)
    for reply in (None, b"", b"decision=relay hosts={s} port=25", b"decision=expand members=2 targets=ann@example.co"):
        bench.answer_badly(reply)
        exim.flush()
    bench.gone()
    exim.flush()
    assert not [s for s in queued if bench.site.store.of(s) or bench.site.s.of(s)]
    assert len(exim.queued()) == 10
    bench.answer_well()
    exim.flush()
    exim.wait_empty(30)
    for subject in queued:
        bench.site.store.wait(subject, "ann@example.com")
        bench.site.s.wait(subject, "bob@example.com")
    assert not [m for m in bench.site.outside.mails if any("lies.example" in name for name in m.recipients)]


def test_an_ipv6_host_that_begins_with_a_colon(bench: Bench) -> None:
    """An IPv4 address in IPv6's form (::ffff:…) is a next hop like any other."""
    bench.answer_badly(
        b"decision=relay hosts=::ffff:c000:201;192.0.2.1 port=25 tls=may address=b@example.com verify=no"
    )
    try:
        routed = bench.exim.route("b@example.com")
        assert "router = splitmx_relay" in routed
        assert "host ::ffff:c000:201 " in routed
    finally:
        bench.answer_well()


BREAKOUTS = [
    "${run{/bin/touch MARK}}",
    '"${run{/bin/touch MARK}}"',
    '"$acl_m_splitmx"',
    '"a b"',
    '"a: b; c"',
    '"a,b"',
    '"a\\"b"',
    '"a\\\\b"',
    '" decision=local"',
    '"x\\" decision=local y=\\""',
    "'`|;",
    '"|/bin/touch MARK"',
    '"/etc/passwd"',
    '":include:/etc/passwd"',
    '":blackhole:"',
    '"%s%n"',
    '"a@b@c"',
    '"x\tz"',
    "x" * 60 + "{" * 300,
]


@pytest.mark.parametrize("local", BREAKOUTS)
def test_break_out(site: Site, local: str) -> None:
    """An address made to break out does nothing but get an answer, in ACL, routers and transports alike."""
    mark = Path("/var/tmp") / f"{site.folder.name}-mark"
    local = local.replace("MARK", str(mark))
    for domain, wanted in (("example.com", range(500, 600)), ("relay.example", range(200, 600))):
        sent = site.send(f"{local}@{domain}", probe=False)
        (code,) = sent.codes.values()
        assert code in wanted, sent.texts
    site.exim.flush()
    assert not mark.exists()


def test_break_out_in_raw_octets(site: Site) -> None:
    """NUL, bare line ends and octets that are no text in an address are refused."""
    for octets in (b"a\x00b", b'"a\x00b"', b'"a\\\nb"', b"\xff\xfe", b'"\xc3"', b'"\x01\x02"', b'"\x7f"'):
        smtp = smtplib.SMTP(site.exim.ip, local_hostname="client.test", source_address=(OUTSIDE, 0))
        smtp.ehlo()
        smtp.mail("o@outside.test")
        assert smtp.sock is not None
        smtp.sock.sendall(b"RCPT TO:<" + octets + b"@example.com>\r\n")
        with contextlib.suppress(smtplib.SMTPServerDisconnected):  # Exim's own answer to some of it
            code, _ = smtp.getreply()
            assert 400 <= code < 600, octets
        smtp.close()


def test_hung_daemon(site: Site) -> None:
    """A daemon that hangs: our mail is put off within seconds, foreign mail flows, and all arrives afterwards."""
    before = site.send(["ann@example.com", "bob@example.com"])
    site.store.wait(before.subject, "ann@example.com")
    site.daemon.freeze()
    try:
        began = time.monotonic()
        foreign = send(site.exim.ip, "x@site.test", "y@foreign.example", client=site.exim.ip)
        assert foreign.data == 250
        site.outside.wait(foreign.subject, "y@foreign.example")
        assert time.monotonic() - began < 3
        late = send(site.exim.ip, "o@foreign.example", "bob@example.com", client=site.exim.ip)
        assert late.codes == {"bob@example.com": 451}
        site.exim.sendmail("cron@site.test", ["bob@example.com"], "Subject: while hung\n\nx\n")
    finally:
        site.daemon.thaw()
    site.s.wait("while hung", "bob@example.com")
    assert site.send("bob@example.com").data == 250


def test_killed_daemon(site: Site) -> None:
    """A daemon that is dead: the same, at once; and after its start everything that waited is delivered."""
    site.daemon.kill()
    try:
        began = time.monotonic()
        names = ["ann@example.com", "bob@example.com", "sales@dual.example", "ann@all.example"]
        sent = send(site.exim.ip, "o@foreign.example", names, client=site.exim.ip)
        assert set(sent.codes.values()) == {451}, sent.texts
        assert time.monotonic() - began < 2
        site.exim.sendmail("cron@site.test", names, "Subject: while dead\n\nx\n")
        foreign = send(site.exim.ip, "x@site.test", "y@foreign.example", client=site.exim.ip)
        site.outside.wait(foreign.subject, "y@foreign.example")
    finally:
        site.daemon.start()
    site.store.wait("while dead", "ann@dual.example", "ann@example.com")
    site.store2.wait("while dead", "ann@all.example")
    site.s.wait("while dead", "ann@all.example", "ann@dual.example", "bob@dual.example", "bob@example.com")
    assert site.exim.log("panic") == ""  # nothing was written to a file that only looked like our socket
    assert "\ndecide " not in site.exim.log()


def test_address_that_appears(site: Site) -> None:
    """Somebody who is added after a refusal is taken at once (case 104)."""
    wait_for(lambda: site.ask("zed@example.com")["decision"] == "unknown", 15, site.daemon.tail)
    assert site.send("newbie@example.com").codes == {"newbie@example.com": 550}
    site.there.add("newbie@example.com")
    wait_for(lambda: site.send("newbie@example.com", probe=True).codes["newbie@example.com"] == 250, 10)
    sent = site.send("newbie@example.com")
    site.s.wait(sent.subject, "newbie@example.com")


def test_socket_is_one_question_an_address(site: Site, bench: Bench) -> None:
    """The routers ask once an address and never name a client; the ACL asks once and names it."""
    assert bench.stub is not None
    bench.answer_well()
    assert bench.stub is not None
    bench.stub.asked.clear()
    sent = bench.send("bob@example.com")
    bench.site.s.wait(sent.subject, "bob@example.com")
    lines = [line.decode() for line in bench.stub.asked]
    with_client = [line for line in lines if "client=" in line]
    assert len(with_client) == 1
    assert re.fullmatch(
        rf"decide client={re.escape(OUTSIDE)} listener=\[{re.escape(bench.exim.ip)}\]:25 cert= outsider=yes bounce=no"
        r" recipient=bob@example\.com\n",
        with_client[0],
    )
    # once for `verify = recipient`, once at delivery
    assert [line for line in lines if "client=" not in line] == ["decide recipient=bob@example.com\n"] * 2


def test_dribbling_and_silent_clients(site: Site) -> None:
    """The daemon's listener tolerates a half-close and many connections at once."""
    path = str(site.folder / "exim.sock")
    connections = []
    for _ in range(200):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        connections.append(connection)
    assert site.ask("ann@example.com")["decision"] == "local"
    for connection in connections:
        connection.sendall(b"decide recipient=ann@example.com\n")
        connection.shutdown(socket.SHUT_WR)
    assert {connection.recv(1000) for connection in connections} == {b"decision=local"}
    for connection in connections:
        connection.close()
