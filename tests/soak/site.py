# SPDX-License-Identifier: Apache-2.0
"""The soak's daemon: two workers over SQLite and slapd, whose people change all the time."""

from __future__ import annotations

import random
import shutil
import threading
import time
from dataclasses import dataclass, field

import ldap3

from tests.daemon.site import Site
from tests.mta.places import new_folder
from tests.servers.slapd import ADMIN, PASSWORD, SUFFIX, Slapd

STEADY = 200  # people of each directory that never change
CHURN = 120  # and that come, go, move and are suspended
GRACE = 20.0  # seconds within which a change must be an answer: many times each directory's lag, on a busy machine

HERE, THERE, SUSPENDED = "here", "there", "suspended"

MORE = """
[directories.corp]
type = "ldap"
url = ["{url}"]
base = "ou=people,{suffix}"
filter = "(objectClass=inetOrgPerson)"
location_attribute = "mailHost"
suspended_filter = "(accountStatus=disabled)"
fresh_for = "1s"
sync_every = "1s"
compare_every = "30s"

[domains."example.org"]
local = ["corp"]
destination = "m365"
unknown = "relay"
local_transport = "lmtp:unix:private/lmtp"
locations = {{ cloud = "m365" }}
loop_grace = "{grace}s"
"""


@dataclass
class Person:
    """Somebody whose place is known. since: CLOCK_MONOTONIC of the last change."""

    address: str
    place: str = HERE
    before: str = HERE
    since: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def may_be(self) -> set[str]:
        """What an answer may say that was asked for and came at this moment."""
        with self.lock:
            return {self.place} if time.monotonic() - self.since > GRACE else {self.place, self.before}


class SoakSite(Site):
    """A Site with a second directory, and people who change."""

    def __init__(self, workers: int = 2) -> None:
        self.slapd = Slapd()
        folder = new_folder("soak")
        self.grace = 600
        super().__init__(
            folder, workers=workers, fresh_for="1s", directory='compare_every = "2s"',
            domain='locations = { cloud = "m365" }', more=self._more(),
        )  # fmt: skip
        self.steady = [Person(f"p{n}@{domain}") for domain in ("example.com", "example.org") for n in range(STEADY)]
        self.churn = [Person(f"c{n}@{domain}") for domain in ("example.com", "example.org") for n in range(CHURN)]
        names = [f"{word}{n}" for word, most in (("p", STEADY), ("c", CHURN)) for n in range(most)]
        for name in names:
            self.add(f"{name}@example.com")
        self.slapd.load("\n".join(_entry(name) for name in names))
        self.connection = ldap3.Connection(
            ldap3.Server(self.slapd.url, get_info=ldap3.NONE), ADMIN, PASSWORD, auto_bind=True
        )

    def _more(self) -> str:
        return MORE.format(url=self.slapd.url, suffix=SUFFIX, grace=self.grace)

    def change_settings(self) -> None:
        """Another configuration, and SIGHUP."""
        self.grace = 1200 - self.grace
        self.splitmx.write(self.config(more=self._more()))
        self.splitmx.reload()

    def change(self) -> None:
        """Something happens to somebody."""
        person = random.choice(self.churn)
        now = time.monotonic()
        if now - person.since < 2 * GRACE:
            return  # so that most of them can be judged
        place = random.choice([one for one in (HERE, THERE, "moved", SUSPENDED) if one != person.place])
        with person.lock:
            person.before, person.since = person.place, now
            person.place = THERE if place == "moved" else place
        if person.address.endswith("@example.com"):
            self._change_row(person.address, place)
        else:
            self._change_entry(person.address, place)
        with person.lock:
            person.since = time.monotonic()

    def _change_row(self, address: str, place: str) -> None:
        self.remove(address)
        if place != THERE:
            self.sql(
                "INSERT INTO recipients (address, location, active) VALUES (?, ?, ?)",
                address, "cloud" if place == "moved" else None, int(place != SUSPENDED),
            )  # fmt: skip

    def _change_entry(self, address: str, place: str) -> None:
        name = address.partition("@")[0]
        dn = f"uid={name},ou=people,{SUFFIX}"
        self.connection.delete(dn)
        if place != THERE:
            attributes: dict[str, str] = {"cn": name, "sn": name, "mail": address}
            if place == "moved":
                attributes["mailHost"] = "cloud"
            if place == SUSPENDED:
                attributes["accountStatus"] = "disabled"
            if not self.connection.add(dn, ["inetOrgPerson", "mailPerson"], attributes):
                raise RuntimeError(str(self.connection.result))

    def close(self) -> None:
        """Stop everything."""
        self.stop()
        self.slapd.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _entry(name: str) -> str:
    return (
        f"dn: uid={name},ou=people,{SUFFIX}\nobjectClass: inetOrgPerson\nobjectClass: mailPerson\ncn: {name}\n"
        f"sn: {name}\nmail: {name}@example.org\n"
    )
