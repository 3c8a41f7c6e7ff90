# SPDX-License-Identifier: Apache-2.0
"""What Exim remembers of an address that had to wait holds up nobody else's queued mail."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.exim.listener import Stub
from tests.exim.site import Site, exim_conf
from tests.mta.exim import EximInstance
from transport.config.settings import Daemon, Destination, Domain, Listener, Settings

pytestmark = pytest.mark.e2e

Cleaned = Callable[[Callable[[], object]], None]


def test_who_waits_for_the_daemon_waits_alone(site: Site, cleaned: Cleaned) -> None:
    """Files and no daemon: while mail for a stranger waits, queued mail for listed people is delivered all the same."""
    maps = site.folder / "maps-retry"
    site.daemon.run("build", "--for", "exim", "--output", str(maps))
    conf = exim_conf(
        site.settings, store=site.store, outside=site.outside, deploy="both", maps=maps,
        socket=str(site.folder / "gone.sock"),
    )  # fmt: skip
    exim = EximInstance(conf, name="retry", retry="1h")
    cleaned(exim.stop)
    exim.sendmail("cron@site.test", ["zed@example.com"], "Subject: stranger waits\n\nx\n")
    assert list(exim.queued().values()) == [["zed@example.com"]]
    exim.command("-odq", "-i", "-f", "cron@site.test", "ann@example.com", "bob@example.com",
                 stdin="Subject: known goes\n\nx\n")  # fmt: skip
    exim.command("-q")
    site.store.wait("known goes", "ann@example.com")
    site.s.wait("known goes", "bob@example.com")


class Copies:
    """An Exim whose daemon is a stub: ann is here with a copy there (dual), so are cleo and dora, in a store of their
    own; bob and bea are there with a copy here (all); eve keeps her mail in that store and forwards it."""

    def __init__(self, site: Site, cleaned: Cleaned, there: str = "", here: str = "") -> None:
        path = site.folder / "copies.sock"
        store = f"store_via=lmtp store_hosts={here or site.store2.host} store_port=24"
        way = "hosts={} port=25 tls=may verify=no"
        dual = f"decision=local copy=relay {way.format(there or site.s.host)}"
        both = f"decision=relay copy=local {store} {way.format(site.s.host)}"
        stored = f"{dual.rpartition(' hosts=')[0]} {store} {way.format(site.s.host)}"
        keeps = f"decision=expand self=local {store} targets=eve@copies.example,friend@foreign.example verify=no"
        replies = {b"ann": dual, b'"ann b"': dual, b"bob": both, b"bea": both, b"cleo": stored, b"dora": stored}
        replies[b"eve"] = keeps
        replies[b"fay+news"] = replies[b"fay"] = both.replace(" verify", " address=fay@copies.example verify")
        stub = Stub(path, lambda line: replies.get(_asked(line), "decision=unknown").encode())
        cleaned(stub.close)
        settings = Settings(
            daemon=Daemon(exim=(Listener("unix", str(path)),)),
            destinations={"s": Destination("s", hosts=(site.s.host,))},
            domains={"copies.example": Domain("copies.example", destination="s")},
        )
        self.exim = EximInstance(exim_conf(settings, store=site.store, outside=site.outside), name="copies", retry="1h")
        cleaned(self.exim.stop)

    def submit(self, subject: str, *names: str) -> None:
        """Mail to people in copies.example, delivered by a queue run."""
        people = [f"{name}@copies.example" for name in names]
        self.exim.command("-odq", "-i", "-f", "o@site.test", "--", *people, stdin=f"Subject: {subject}\n\nx\n")
        self.exim.command("-q")


def _asked(line: bytes) -> bytes:
    return line.rpartition(b"recipient=")[2].rpartition(b"@")[0]


def test_a_copy_without_a_way_waits_alone(site: Site, cleaned: Cleaned) -> None:
    """The names of the destination's hosts, or of the store's, are unknown to the DNS: the copy waits, the mail does
    not."""
    copies = Copies(site, cleaned, "does-not-exist.invalid", "does-not-exist.invalid")
    names = ["ann", '"ann b"', "bob"]
    copies.submit("no way for copies", *names)
    site.store.wait("no way for copies", "ann@copies.example", '"ann b"@copies.example')
    site.s.wait("no way for copies", "bob@copies.example")
    assert len(copies.exim.queued()) == 1


def test_a_copy_put_off_holds_up_nothing(site: Site, cleaned: Cleaned) -> None:
    """The destination, or the store, puts a copy off (greylisting, a full box): later mail for the same people goes
    its way, and the copy comes later, once."""
    copies = Copies(site, cleaned)
    site.s.replies["ann@copies.example"] = site.store2.replies["bob@copies.example"] = "451 4.2.2 later"
    copies.submit("copies put off", "ann", "bob")
    site.store.wait("copies put off", "ann@copies.example")
    site.s.wait("copies put off", "bob@copies.example")
    copies.submit("the next mail", "ann", "bob")
    site.store.wait("the next mail", "ann@copies.example")
    site.s.wait("the next mail", "bob@copies.example")
    del site.s.replies["ann@copies.example"], site.store2.replies["bob@copies.example"]
    copies.exim.flush()
    copies.exim.wait_empty()
    for subject in ("copies put off", "the next mail"):
        site.store.wait(subject, "ann@copies.example")
        site.s.wait(subject, "ann@copies.example", "bob@copies.example")
        site.store2.wait(subject, "bob@copies.example")


def test_nobody_gets_again_what_was_delivered(site: Site, cleaned: Cleaned) -> None:
    """While copies wait, and other recipients of the message too, whoever has the mail does not get it once more with
    every attempt."""
    copies = Copies(site, cleaned)
    late = {site.store2: ["dora", "bob", "bea"], site.s: ["bea", "cleo", "dora"], site.outside: []}
    for server, names in late.items():
        server.replies.update({f"{name}@copies.example": "451 4.2.2 later" for name in names})
    site.outside.replies["friend@foreign.example"] = "451 4.2.2 later"
    copies.submit("only once", "bob", "bea", "cleo", "dora", "eve")
    for _ in range(3):
        copies.exim.flush()
    for server in late:
        server.replies.clear()
    copies.exim.flush()
    copies.exim.wait_empty()
    people = [f"{name}@copies.example" for name in ("bea", "bob", "cleo", "dora")]
    site.store2.wait("only once", *people, "eve@copies.example")
    site.s.wait("only once", *people)
    site.outside.wait("only once", "friend@foreign.example")


def test_a_copy_here_is_one(site: Site, cleaned: Cleaned) -> None:
    """all towards a destination that knows no extensions: one mail there without, one copy here with it."""
    copies = Copies(site, cleaned)
    copies.submit("one copy here", "fay+news")
    site.s.wait("one copy here", "fay@copies.example")
    copies.exim.wait_empty()
    site.store2.wait("one copy here", "fay+news@copies.example")
