# SPDX-License-Identifier: Apache-2.0
"""Exim and Postfix share a domain and point at each other, in both roles. Strangers are relayed by both: without loop
protection this goes round until hops are counted."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.e2e.site import Site as PostfixSite
from tests.exim.listener import ask
from tests.exim.people import Directory
from tests.exim.site import exim_conf
from tests.mta.daemon import Splitmx
from tests.mta.exim import EximInstance, missing
from tests.mta.places import new_address, new_folder
from tests.mta.recording import RecordingLmtp, RecordingSmtp
from tests.mta.sending import Sent, send
from tests.mta.waiting import wait_for
from transport.config.load import load

pytestmark = pytest.mark.e2e

Cleaned = Callable[[Callable[[], object]], None]


class EximSide:
    """One Exim with its daemon and store; `domain` and `peers` are lines of the configuration."""

    def __init__(self, cleaned: Cleaned, ip: str, other: str, here: str, there: str, domain: str, peers: str) -> None:
        self.ip = ip
        self.folder = new_folder("eximpair")
        cleaned(lambda: shutil.rmtree(self.folder, ignore_errors=True))
        self.store, outside = RecordingLmtp(), RecordingSmtp()
        local, remote = Directory(self.folder / "here.db"), Directory(self.folder / "there.db")
        local.add(here)
        local.add("team@example.com", kind="group", targets="ann@example.com carl@example.com")
        remote.add(there)
        self.daemon = Splitmx(
            f"""
[daemon]
exim = ["unix:{self.folder}/exim.sock?mode=0666"]
control = "unix:{self.folder}/control.sock"
metrics = "unix:{self.folder}/metrics.sock"
state = "{self.folder}/state"
[directories.here]
{local.toml}
[directories.there]
{remote.toml}
[destinations.other]
hosts = ["{other}"]
{peers}
[domains."example.com"]
local = ["here"]
remote = ["there"]
destination = "other"
{domain}
""",
            self.folder,
        ).start()
        cleaned(self.daemon.stop)
        settings = load(self.daemon.config)
        # local clients are told apart from the peer by their address
        conf = exim_conf(settings, store=self.store, outside=outside, sender_verify=True)
        conf = conf.replace("hostlist relay_from_hosts = 127.0.0.1 : {ip}", "hostlist relay_from_hosts = 127.0.0.1")
        # its own address towards the other side, which knows it as a peer
        conf = f"SPLITMX_INTERFACE = {ip}\n" + conf
        self.exim = EximInstance(conf, name="eximpair", ip=ip).start()
        cleaned(self.exim.stop)
        wait_for(lambda: ask(self.folder / "exim.sock", here)["decision"] == "local", 20, self.daemon.tail)
        wait_for(lambda: ask(self.folder / "exim.sock", there)["decision"] == "relay", 20, self.daemon.tail)
        # a "no" counts once the directories have been read and their canaries are known
        wait_for(lambda: ask(self.folder / "exim.sock", "no@example.com")["decision"] == "relay", 20, self.daemon.tail)


def postfix_side(
    cleaned: Cleaned, ip: str, other: str, here: str, there: str, domain: dict[str, str], exclusive: str
) -> PostfixSite:
    """One Postfix with its daemon and store."""
    site = PostfixSite(
        cleaned,
        ip=ip,
        name=f"postfix{ip.rpartition('.')[2]}",
        people=[("ann@example.com", "mailbox", "", None, 1), (here, "mailbox", "", None, 1)][
            here == "ann@example.com" :
        ],
        remote=[there],
        domain={"postmaster": f'"{here}"'} | domain,
        destination={"hosts": f'["{other}"]', "peers": f'["{other}/32"]', "exclusive": exclusive},
    )
    if here != "ann@example.com":
        site.remove("ann@example.com")
    site.splitmx.start()
    site.wait_known(here)
    site.build()
    site.mta.apply(site.show())
    site.mta.start()
    return site


class Pair:
    """ann is at the primary, carl at the secondary, zed nowhere."""

    def __init__(self, cleaned: Cleaned, exim_is: str) -> None:
        first, second = new_address(), new_address()
        ann, carl = "ann@example.com", "carl@example.com"
        lines = 'unknown = "relay"\nrole = "{}"\n'
        if exim_is == "primary":
            peers = f'peers = ["{second}"]\nexclusive = true'
            exim = EximSide(cleaned, first, second, ann, carl, lines.format("primary"), peers)
            domain = {"role": '"secondary"', "unknown": '"relay"', "outsiders": '"reject"'}
            postfix = postfix_side(cleaned, second, first, carl, ann, domain, "false")
            self.primary, self.secondary = exim.store, postfix.store
        else:
            postfix = postfix_side(cleaned, first, second, ann, carl, {"unknown": '"relay"'}, "true")
            domain_lines = lines.format("secondary") + 'outsiders = "reject"'
            exim = EximSide(cleaned, second, first, carl, ann, domain_lines, f'peers = ["{first}"]')
            self.primary, self.secondary = postfix.store, exim.store
        self.first, self.second = first, second
        self.exim, self.postfix = exim, postfix

    def quiet(self) -> bool:
        """Whether nothing waits on either side."""
        return not self.exim.exim.queued() and not self.postfix.mta.queued()

    def tails(self) -> str:
        """Both logs, for failures."""
        return f"{self.exim.exim.tail(30)}\n{self.postfix.mta.tail(30)}"

    def hops(self, sent: Sent) -> int:
        """How many hosts the mail has passed, at most."""
        mails = [*self.primary.of(sent.subject), *self.secondary.of(sent.subject)]
        return max(len(mail.message.get_all("Received", [])) for mail in mails)


@pytest.fixture(scope="module", params=["primary", "secondary"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Exim in the role, Postfix in the other."""
    if missing():
        pytest.skip(missing())
    todo: list[Callable[[], object]] = []
    try:
        yield Pair(todo.append, request.param)
    finally:
        for action in reversed(todo):
            action()


def test_each_gets_their_mail(pair: Pair) -> None:
    """From outside by the primary, and from own clients of either side: everybody gets one copy, in one hop more at
    most."""
    outside = send(pair.first, "o@world.test", ["ann@example.com", "carl@example.com"])
    assert set(outside.codes.values()) == {250}, outside.texts
    own = send(pair.second, "carl@example.com", ["ann@example.com", "carl@example.com"], client="127.0.0.1")
    assert set(own.codes.values()) == {250}, own.texts
    back = send(pair.first, "ann@example.com", ["ann@example.com", "carl@example.com"], client="127.0.0.1")
    assert set(back.codes.values()) == {250}, back.texts
    for sent in (outside, own, back):
        pair.primary.wait(sent.subject, "ann@example.com")
        pair.secondary.wait(sent.subject, "carl@example.com")
        assert pair.hops(sent) <= 2


def test_strangers_go_round_never(pair: Pair) -> None:
    """Somebody nobody knows, written to by our own people: refused on the way back, told to the sender, once."""
    for host, sender, store in (
        (pair.second, "carl@example.com", pair.secondary),
        (pair.first, "ann@example.com", pair.primary),
    ):
        before = len(store.mails)
        came = partial(lambda mails, known: len(mails) > known, store.mails, before)
        asked = send(host, sender, "zed@example.com", client="127.0.0.1")
        assert asked.codes == {"zed@example.com": 250}, asked.texts
        wait_for(came, 20, pair.tails)
        wait_for(pair.quiet, 20, pair.tails)
        told = store.mails[before:]
        assert [(m.sender, m.recipients) for m in told] == [("", [sender])]
        assert b"5.4.6" in told[0].content


def test_group_by_the_exim_side(pair: Pair) -> None:
    """A group that the Exim side owns reaches both sides' members, also when the other side's people write to it with
    sender verification on."""
    for sender in ("carl@example.com", "ann@example.com"):
        for client in ("127.0.0.1", pair.postfix.mta.ip):
            sent = send(pair.exim.ip, sender, "team@example.com", client=client)
            assert sent.codes == {"team@example.com": 250}, sent.texts
            pair.primary.wait(sent.subject, "ann@example.com")
            pair.secondary.wait(sent.subject, "carl@example.com")
