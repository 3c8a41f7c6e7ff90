# SPDX-License-Identifier: Apache-2.0
"""Only our domains depend on us: with splitmx stopped or hung, everything else on the host is as it was."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable

import pytest

from tests.e2e.site import US, Cleaned, Site
from tests.mta.recording import RecordingSmtp
from tests.mta.waiting import wait_for

Break = Callable[[Site], None]


def stopped(site: Site) -> None:
    """The service is stopped: its sockets refuse."""
    site.splitmx.stop()


def hung(site: Site) -> None:
    """Every process of it is stopped by SIGSTOP: its sockets accept and stay silent."""
    site.splitmx.freeze()


def running(site: Site) -> None:
    """Nothing is wrong."""


class Life:
    """A site with transport entries, aliases, a catch-all and an archive of its own."""

    def __init__(self, cleaned: Cleaned, deploy: str, chroot: bool = False) -> None:
        self.smart, self.partner, self.single = RecordingSmtp(), RecordingSmtp(), RecordingSmtp()
        for server in (self.smart, self.partner, self.single):
            cleaned(server.stop)
        self.site = site = Site(cleaned, deploy=deploy, chroot=chroot)
        routes = site.mta.file(
            "transport",
            f"own.test smtp:{self.single.nexthop}\n.partner.test smtp:{self.partner.nexthop}\n"
            f"one@mixed.test smtp:{self.partner.nexthop}\n* smtp:{self.smart.nexthop}\n",
            type="lmdb",
        )
        aliases = site.mta.file(
            "virtual",
            "vdomain.test x\ninfo@vdomain.test ann@own.test\n@vdomain.test all@own.test\n"
            "legacy@example.com ann@example.com\nSRS0=x@example.com back@own.test\n",
            type="lmdb",
        )
        archive = site.mta.file("bcc", "@example.com archive@own.test\n@vdomain.test archive@own.test\n", type="lmdb")
        recipients = site.mta.file("relayed", "known@relayed.test x\n", type="lmdb")
        site.mta.set(
            transport_maps=f"lmdb:{routes}",
            virtual_alias_maps=f"lmdb:{aliases}",
            recipient_bcc_maps=f"lmdb:{archive}",
            relay_domains="relayed.test",
            relay_recipient_maps=f"lmdb:{recipients}",
        )
        site.install()

    def foreign(self) -> None:
        """What has nothing to do with our domains: same codes and places as ever."""
        names = ["a@own.test", "b@deep.partner.test", "one@mixed.test", "two@mixed.test", "x@elsewhere.test"]
        sent = self.site.send(*names, client=US)
        assert set(sent.codes.values()) == {250}
        self.single.wait(sent.subject, "a@own.test")
        self.partner.wait(sent.subject, "b@deep.partner.test", "one@mixed.test")
        self.smart.wait(sent.subject, "two@mixed.test", "x@elsewhere.test")

        sent = self.site.send("info@vdomain.test", "any@vdomain.test", "known@relayed.test", "un@relayed.test")
        assert list(sent.codes.values()) == [250, 250, 250, 550]
        self.single.wait(sent.subject, "ann@own.test", "all@own.test", "archive@own.test")
        self.smart.wait(sent.subject, "known@relayed.test")

    def ours(self) -> None:
        """Our domain with the site's own alias, SRS address and archive: they mean what they meant."""
        sent = self.site.send("legacy@example.com", "SRS0=x@example.com", "bob@example.com")
        assert set(sent.codes.values()) == {250}
        self.site.store.wait(sent.subject, "ann@example.com")
        self.site.secondary.wait(sent.subject, "bob@example.com")
        self.single.wait(sent.subject, "archive@own.test", "back@own.test")


@pytest.mark.parametrize("deploy", ["live", "static", "both"])
def test_site_keeps_its_life(cleaned: Cleaned, deploy: str) -> None:
    """Own domain, parent, address and `*` routes, aliases, catch-all, SRS, archive: all as before."""
    life = Life(cleaned, deploy)

    life.foreign()
    life.ours()

    assert life.site.check() == []


@pytest.mark.parametrize("deploy", ["live", "both"])
@pytest.mark.parametrize("broken", [stopped, hung])
def test_foreign_mail_flows_without_us(cleaned: Cleaned, deploy: str, broken: Break) -> None:
    """Every map and the policy service configured, the daemon stopped or hung: foreign mail flows at full speed."""
    life = Life(cleaned, deploy)
    life.ours()

    broken(life.site)

    life.foreign()


def test_chrooted_site_without_us(cleaned: Cleaned) -> None:
    """The guard works inside the chroot too."""
    life = Life(cleaned, "live", chroot=True)
    stopped(life.site)

    life.foreign()


def test_ours_wait_while_stopped(cleaned: Cleaned) -> None:
    """With the daemon stopped our recipients get 4xx, never 5xx; afterwards they get their mail, also what waited."""
    site = Site(cleaned).install()
    site.secondary.stop()
    waiting = site.send("bob@example.com")
    assert waiting.data == 250

    site.splitmx.stop()
    sent = site.send("ann@example.com", "bob@example.com", "zed@example.com")
    assert {code // 100 for code in sent.codes.values()} == {4}
    site.secondary.start()
    site.mta.flush()

    site.splitmx.start()
    site.wait_known("ann@example.com")
    site.mta.flush()
    site.secondary.wait(waiting.subject, "bob@example.com")
    # Another sender and recipient: smtpd remembers a temporary failure of a pair for its life.
    sent = site.send("ann@example.com", sender="again@away.test")
    site.arrives(sent, here=["ann@example.com"])
    numbers = itertools.count()

    def refused() -> bool:
        name = f"zed{next(numbers)}@example.com"
        return site.send(name, probe=True).codes[name] == 550

    wait_for(refused, 20, site.tails)


def test_listed_flow_from_files_while_stopped(cleaned: Cleaned) -> None:
    """Deployed both ways, listed addresses without an extension need no running daemon."""
    site = Site(cleaned, deploy="both").install()
    stopped(site)

    sent = site.send("ann@example.com", "bob@example.com", "sales@example.com", "zed@example.com")

    assert sent.codes == {
        "ann@example.com": 250,
        "bob@example.com": 250,
        "sales@example.com": 250,
        "zed@example.com": 451,
    }
    site.arrives(sent, here=["ann@example.com"], there=["bob@example.com"], out=["outside@world.test"])


@pytest.mark.parametrize("which", ["worker", "keeper"])
def test_hung_process_is_replaced(cleaned: Cleaned, which: str) -> None:
    """A worker or keeper that hangs is killed and replaced; then ours and foreign mail flow, without anybody's help."""
    site = Site(cleaned).install()
    victims = site.splitmx.pids(which)
    assert victims
    for pid in victims:
        site.splitmx.signal(pid, signal.SIGSTOP)

    codes: dict[str, int] = {}
    ours = threading.Thread(target=lambda: codes.update(site.send("ann@example.com", sender="first@away.test").codes))
    ours.start()
    foreign = site.send("x@elsewhere.test", client=US)
    site.world.wait(foreign.subject, "x@elsewhere.test", seconds=60)

    wait_for(lambda: set(site.splitmx.pids(which)).isdisjoint(victims), 30, site.splitmx.tail)
    ours.join(60)
    wait_for(
        lambda: site.send("ann@example.com", sender="second@away.test", probe=True).codes["ann@example.com"] == 250, 30
    )
    assert codes["ann@example.com"] in (250, 451)
