# SPDX-License-Identifier: Apache-2.0
"""Directories of every kind with the same four things that may happen to a person in them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Protocol

from tests.daemon.site import Site
from tests.mta.waiting import wait_for
from tests.servers import MariaDb, Postgres, SambaAd, Slapd

HERE = ("OK", "lmtp:unix:private/lmtp")
THERE = ("OK", "relay:[192.0.2.9]")

MORE = """
[directories.corp]
{directory}
fresh_for = "{fresh_for}"
sync_every = "1s"
compare_every = "{compare_every}"
{extra}

[domains."example.org"]
local = ["corp"]
destination = "m365"
unknown = "relay"
local_transport = "lmtp:unix:private/lmtp"
locations = {{ cloud = "m365" }}
"""


def config(directory: str, *, fresh_for: str = "0.1s", compare_every: str = "1h", extra: str = "") -> str:
    """Tables for a Site's `more`. Nobody who is moved within an hour was found by a compare."""
    return MORE.format(directory=directory, fresh_for=fresh_for, compare_every=compare_every, extra=extra)


class World(Protocol):
    """A directory of people, by the local parts of their addresses in example.org. `table`: its TOML keys."""

    table: str
    removals: bool  # whether it tells of removals by itself
    suspends: bool

    def add(self, *names: str) -> None: ...
    def move(self, name: str) -> None: ...
    def suspend(self, name: str) -> None: ...
    def remove(self, name: str) -> None: ...


SQL_QUERY = "SELECT address, location, active, stamp FROM people"


class Table:
    """PostgreSQL or MariaDB with a `changed` column (or without)."""

    suspends = True

    def __init__(self, server: Postgres | MariaDb, name: str, *, watermark: bool = True, notify: str = "") -> None:
        self.server, self.name = server, name
        self.removals = bool(notify)
        stamp = "timestamptz DEFAULT now()"
        if isinstance(server, MariaDb):
            stamp = "timestamp(6) DEFAULT current_timestamp(6) ON UPDATE current_timestamp(6)"
        url = server.database(
            name,
            f"CREATE TABLE people (address varchar(200) PRIMARY KEY, location varchar(40), active int DEFAULT 1,"
            f" stamp {stamp}); CREATE TABLE other (n int);",
        )
        if notify:
            server.sql(notify, name)
        self.table = f'type = "sql"\nurl = "{url}"\nquery = "{SQL_QUERY}"\n'
        self.table += 'changed = "stamp"\n' if watermark else ""
        self._touch = ", stamp = now()" if isinstance(server, Postgres) else ""

    def sql(self, text: str) -> str:
        return self.server.sql(text, self.name)

    def add(self, *names: str) -> None:
        rows = ", ".join(f"('{name}@example.org')" for name in names)
        self.sql(f"INSERT INTO people (address) VALUES {rows};")

    def move(self, name: str) -> None:
        self.sql(f"UPDATE people SET location = 'cloud'{self._touch} WHERE address = '{name}@example.org';")

    def suspend(self, name: str) -> None:
        self.sql(f"UPDATE people SET active = 0{self._touch} WHERE address = '{name}@example.org';")

    def remove(self, name: str) -> None:
        self.sql(f"DELETE FROM people WHERE address = '{name}@example.org';")


class Tree:
    """OpenLDAP; the location is an attribute, the suspended have an accountStatus."""

    removals = suspends = True

    def __init__(self, *servers: Slapd) -> None:
        self.server = servers[0]
        urls = ", ".join(f'"{one.url}"' for one in servers)
        self.table = (
            f'type = "ldap"\nurl = [{urls}]\nbase = "{self.server.base}"\nfilter = "(objectClass=inetOrgPerson)"\n'
            'location_attribute = "mailHost"\nsuspended_filter = "(accountStatus=disabled)"\n'
        )

    def dn(self, name: str) -> str:
        return f"uid={name},{self.server.base}"

    def add(self, *names: str) -> None:
        for name in names:
            self.server.person(name, f"{name}@example.org")

    def _set(self, name: str, attribute: str, value: str) -> None:
        self.server.ldif(f"dn: {self.dn(name)}\nchangetype: modify\nreplace: {attribute}\n{attribute}: {value}\n")

    def move(self, name: str) -> None:
        self._set(name, "mailHost", "cloud")

    def suspend(self, name: str) -> None:
        self._set(name, "accountStatus", "disabled")

    def remove(self, name: str) -> None:
        self.server.delete(self.dn(name))


class Controller:
    """Active Directory by its schema; a move is a targetAddress, the suspended are in a `department`."""

    removals = suspends = True

    def __init__(self, server: SambaAd, folder: Path) -> None:
        self.server = server
        self.table = (
            f'type = "ldap"\nschema = "active-directory"\nurl = ["{server.url}"]\nbase = "{server.base}"\n'
            f'bind_dn = "{server.admin}"\nbind_password_file = "{server.secret_file(folder)}"\n'
            'suspended_filter = "(department=left)"\n'
        )
        self._dns: dict[str, str] = {}

    def add(self, *names: str) -> None:
        for name in names:
            self._dns[name] = self.server.user(name, f"{name}@example.org")

    def _set(self, name: str, attribute: str, value: str) -> None:
        self.server.ldif(f"dn: {self._dns[name]}\nchangetype: modify\nreplace: {attribute}\n{attribute}: {value}\n")

    def move(self, name: str) -> None:
        self._set(name, "targetAddress", f"SMTP:{name}@cloud.example")

    def suspend(self, name: str) -> None:
        self._set(name, "department", "left")

    def remove(self, name: str) -> None:
        self.server.delete(self._dns[name])


class Sheet:
    """A CSV file that is replaced by a new one."""

    removals = suspends = True

    def __init__(self, folder: Path) -> None:
        self.path = folder / "people.csv"
        self.rows: dict[str, tuple[str, int]] = {}
        self.table = f'type = "file"\npath = "{self.path}"\nformat = "csv"\nmax_age = "24h"\n'
        self._write()

    def _write(self) -> None:
        text = "address,location,active\n"
        text += "".join(f"{name}@example.org,{place},{active}\n" for name, (place, active) in self.rows.items())
        new = self.path.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.path)

    def add(self, *names: str) -> None:
        self.rows |= dict.fromkeys(names, ("", 1))
        self._write()

    def move(self, name: str) -> None:
        self.rows[name] = ("cloud", 1)
        self._write()

    def suspend(self, name: str) -> None:
        self.rows[name] = ("", 0)
        self._write()

    def remove(self, name: str) -> None:
        del self.rows[name]
        self._write()


class CpanelHost:
    """A cPanel host's files below a folder: mailboxes are added, suspended and removed as cPanel does it."""

    removals = suspends = True

    def __init__(self, folder: Path) -> None:
        self.root = folder / "cpanel"
        self.mail = self.root / "home/acme/etc/example.org"
        self.mail.mkdir(parents=True)
        (self.root / "etc/valiases").mkdir(parents=True)
        (self.root / "etc/userdomains").write_text("example.org: acme\n")
        (self.root / "etc/passwd").write_text("acme:x:1001:1001::/home/acme:/bin/bash\n")
        (self.mail / "passwd").write_text("")
        self.table = f'type = "file"\npath = "{self.root}"\nformat = "cpanel"\n'

    def add(self, *names: str) -> None:
        with (self.mail / "passwd").open("a") as file:
            file.writelines(f"{name}:x:1001:1001::/home/acme/mail/example.org/{name}:/home/acme\n" for name in names)

    def move(self, name: str) -> None:
        """cPanel has no word for it: the mailbox goes."""
        self.remove(name)

    def suspend(self, name: str) -> None:
        (self.root / f"home/acme/etc/.{name}@example.org.suspended_incoming").write_text("")

    def forward(self, name: str, to: str) -> None:
        (self.root / "etc/valiases/example.org").write_text(f"{name}@example.org: {to}\n")

    def remove(self, name: str) -> None:
        lines = (self.mail / "passwd").read_text().splitlines(keepends=True)
        new = self.mail / "passwd.new"
        new.write_text("".join(line for line in lines if not line.startswith(f"{name}:")))
        os.replace(new, self.mail / "passwd")


def readings(site: Site, name: str = "corp") -> dict[str, int]:
    """How many readings of each kind there were: full, feed, named."""
    found: dict[str, int] = site.status()["directories"][name]["readings"]
    return found


def wait_steady(site: Site, name: str = "corp") -> int:
    """Wait until it is loaded, listened to where that is possible, and no compare is due; how many there were."""

    def steady() -> int:
        one = site.status()["directories"][name]
        listening = one.get("listening")
        enough = 1 if listening is None else 2  # once more when LISTEN is there
        calm = one["good_at"] and one["reading_for"] is None and (listening is None or listening["up"])
        return one["readings"]["full"] if calm and one["readings"]["full"] >= enough else 0

    return wait_for(steady, 60, site.splitmx.tail)


def policy(site: Site, recipient: str) -> str:
    """What the policy service says of a recipient at RCPT, from outside."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(site.folder / "policy.sock"))
        sock.sendall(
            "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nclient_address=198.51.100.7\n"
            f"client_name=away.test\nsender=me@away.test\nrecipient={recipient}\ninstance=1.1\n\n".encode()
        )
        return sock.recv(4096).decode().strip().removeprefix("action=")
