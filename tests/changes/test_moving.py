# SPDX-License-Identifier: Apache-2.0
"""A mailbox moves in the order of docs/moving.md, past busy smtpds and with mail in the queue."""

from __future__ import annotations

import smtplib
import sqlite3
from contextlib import closing

from tests.daemon.site import Client
from tests.e2e.site import Cleaned, Site
from tests.mta.sending import OUTSIDE, Sent
from tests.mta.waiting import wait_for

BUSY = 6  # sessions that stay open, each with an smtpd of its own that has seen the recipient before


class Session:
    """An SMTP session that stays open: its smtpd keeps what the resolver once said."""

    def __init__(self, site: Site) -> None:
        self.smtp = smtplib.SMTP(site.mta.ip, 25, local_hostname="client.test", timeout=60, source_address=(OUTSIDE, 0))
        self.smtp.ehlo()

    def send(self, recipient: str, subject: str, sender: str = "me@away.test") -> Sent:
        """One more message in this session."""
        sent = Sent(subject)
        self.smtp.docmd("MAIL", f"FROM:<{sender}>")
        code, text = self.smtp.docmd("RCPT", f"TO:<{recipient}>")
        sent.codes[recipient], sent.texts[recipient] = code, text.decode()
        if code == 250:
            sent.data = self.smtp.data(f"Subject: {subject}\r\nTo: {recipient}\r\n\r\nHello\r\n")[0]
        else:
            self.smtp.rset()
        return sent


def make(cleaned: Cleaned, **more: str) -> Site:
    """Two workers; nothing but `flush` brings a change within the test, unless `more` says otherwise."""
    here = {
        "type": '"sql"',
        "query": '"SELECT address, kind, targets, location, active FROM recipients"',
        "compare_every": '"1h"',
        "sync_every": '"1h"',
        "fresh_for": '"1s"',
    } | more
    site = Site(cleaned, daemon={"workers": "2"}, domain={"locations": '{ cloud = "there" }'}, here=here)
    site.text = site.text.replace('type = "sql"', f'type = "sql"\nurl = "sqlite:///{site.people}"')
    site.splitmx.write(site.text)
    return site.install()


def change(site: Site, text: str, *values: str) -> None:
    with closing(sqlite3.connect(site.people)) as db:
        db.execute(text, values)
        db.commit()


def every_worker(site: Site, key: str, value: str) -> bool:
    """Whether forty connections, which both workers accept some of, all get this route."""
    clients = [Client(site.mta.socket_folder / "socketmap.sock") for _ in range(40)]
    try:
        return {client.ask("transport", key) for client in clients} == {("OK", value)}
    finally:
        for client in clients:
            client.close()


def test_move_in_its_right_order(cleaned: Cleaned) -> None:
    """The location, `flush`, `postqueue -f`: old sessions, new ones and the queue all reach the new side."""
    site = make(cleaned)
    there = f"relay:{site.secondary.nexthop}"
    sessions = [Session(site) for _ in range(BUSY)]
    for number, session in enumerate(sessions):
        assert session.send("carl@example.com", f"before {number}").data == 250
        site.store.wait(f"before {number}", "carl@example.com")
    assert every_worker(site, "carl@example.com", site.store.transport)
    # Mail waits for the old mailbox: by its own name, and expanded out of an alias.
    site.add(("all@example.com", "alias", "carl@example.com", None, 1))
    site.store.replies["carl@example.com"] = "452 4.2.2 full"
    direct, expanded = site.send("carl@example.com"), site.send("all@example.com")
    assert direct.data == expanded.data == 250
    wait_for(lambda: len(site.mta.queued()) == 2 and site.mta.delayed(), 60, site.tails)

    change(site, "UPDATE recipients SET location = 'cloud' WHERE address = 'carl@example.com'")
    done = site.splitmx.run("flush", "carl@example.com")
    assert done.returncode == 0, done.stderr
    assert "forgotten by all 2 workers" in done.stdout
    assert every_worker(site, "carl@example.com", there)
    assert "RELAY" in site.explain("carl@example.com")

    # The queue manager repeats its last answer for 30 s; another recipient makes it forget (docs/moving.md).
    other = site.send("ann@example.com")
    site.store.wait(other.subject, "ann@example.com")
    for number, session in enumerate(sessions):
        assert session.send("carl@example.com", f"after {number}").data == 250
        site.secondary.wait(f"after {number}", "carl@example.com", seconds=60)
        session.smtp.quit()
    site.mta.flush()
    site.secondary.wait(direct.subject, "carl@example.com")
    site.secondary.wait(expanded.subject, "carl@example.com")
    site.mta.wait_empty()
    assert site.store.recipients(direct.subject) == site.store.recipients(expanded.subject) == []
    sent = site.send("carl@example.com", "ann@example.com")
    site.arrives(sent, here=["ann@example.com"], there=["carl@example.com"])


def test_expansion_does_not_follow(cleaned: Cleaned) -> None:
    """An alias is expanded once: mail in the queue goes to the target that it had, by that target's present route."""
    site = make(cleaned)
    site.store.replies["ann@example.com"] = "452 4.2.2 full"
    sent = site.send("a.smith@example.com")
    assert sent.data == 250
    wait_for(lambda: site.mta.delayed(), 30, site.tails)
    change(site, "UPDATE recipients SET targets = 'carl@example.com' WHERE address = 'a.smith@example.com'")
    assert site.splitmx.run("flush", "a.smith@example.com").returncode == 0
    site.store.replies.clear()
    site.mta.flush()
    site.arrives(sent, here=["ann@example.com"])
    site.arrives(site.send("a.smith@example.com"), here=["carl@example.com"])


def test_flush_of_the_domain(cleaned: Cleaned) -> None:
    """Many who moved at once: `flush DOMAIN` reads its directories, and every worker answers anew."""
    site = make(cleaned)
    change(site, "UPDATE recipients SET location = 'cloud' WHERE kind = 'mailbox'")
    done = site.splitmx.run("flush", "example.com")
    assert done.returncode == 0, done.stdout + done.stderr
    for address in ("ann@example.com", "carl@example.com"):
        assert every_worker(site, address, f"relay:{site.secondary.nexthop}")
    sent = site.send("ann@example.com", "carl@example.com", "sales@example.com")
    site.arrives(sent, there=["ann@example.com", "bob@example.com", "carl@example.com"], out=["outside@world.test"])


def test_removal_for_good(cleaned: Cleaned) -> None:
    """Out of the directory, `flush`, and the address is refused at RCPT instead of bouncing at the store."""
    site = make(cleaned)
    session = Session(site)
    assert session.send("carl@example.com", "removal before").data == 250
    site.remove("carl@example.com")
    assert site.splitmx.run("flush", "carl@example.com").returncode == 0
    assert session.send("carl@example.com", "removal after").codes == {"carl@example.com": 550}
    assert site.send("carl@example.com").codes == {"carl@example.com": 550}


def test_try_again_later_ends_with_the_smtpd(cleaned: Cleaned) -> None:
    """Who came while a directory was away stays put off in that session, and is let in by the next smtpd."""
    site = make(cleaned, sync_every='"1s"', compare_every='"1s"')
    away = site.people.with_suffix(".away")
    site.people.rename(away)
    session = Session(site)
    names = (f"late{number}@example.com" for number in range(1000))

    def deferred() -> str:
        name = next(names)  # a new one each time: what was once resolved well is not resolved again
        return name if session.send(name, "never").codes[name] in (450, 451) else ""

    late = wait_for(deferred, 60, site.tails)
    away.rename(site.people)
    site.add((late, "mailbox", "", None, 1))
    wait_for(lambda: site.query("relay_recipients", late) == "LOCAL", 60, site.tails)
    assert session.send(late, "again").codes == {late: 451}
    assert session.send(late, "other", "other@away.test").codes == {late: 250}
    session.smtp.quit()
    wait_for(lambda: site.send(late, probe=True).codes[late] == 250, 60, site.tails)
    services = site.mta.command("postconf", "-P").stdout
    assert "/inet/max_use = 20\n" in services
    assert "/inet/max_idle = 20s\n" in services
