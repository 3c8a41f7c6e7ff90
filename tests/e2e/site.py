# SPDX-License-Identifier: Apache-2.0
"""A whole site for end-to-end tests: a Postfix with a life of its own, splitmx beside it, store, secondary, world."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.mta.daemon import Splitmx
from tests.mta.places import new_folder
from tests.mta.postfix import PostfixInstance
from tests.mta.recording import RecordingLmtp, RecordingSmtp
from tests.mta.sending import OUTSIDE, Sent, send
from tests.mta.waiting import wait_for
from tests.servers.sqlite import QUERY, SqliteTable

Cleaned = Callable[[Callable[[], object]], None]

US = "127.0.0.1"
"""A client in mynetworks."""

PEOPLE = (
    # address, kind, targets, location, active
    ("ann@example.com", "mailbox", "", None, 1),
    ("carl@example.com", "mailbox", "", None, 1),
    ("a.smith@example.com", "alias", "ann@example.com", None, 1),
    ("b.jones@example.com", "alias", "bob@example.com", None, 1),
    ("sales@example.com", "group", "ann@example.com, bob@example.com, outside@world.test", None, 1),
    ("gone@example.com", "mailbox", "", None, 0),
)
REMOTE = ("bob@example.com", "bea@example.com")
_STRANGER = ("query", "relay_recipients", "nobody.at.all@example.com")


class Site:
    """Made in steps, so that a test can change what it is about: `Site(...)`, `install()`, then mails.

    domain: keys of `[domains."example.com"]` beside the plain ones. tables: further TOML. deploy: live, static, both.
    settings: the site's own main.cf, before splitmx. people: rows of the SQL directory `here`;
    here: another directory in its place.
    """

    def __init__(
        self,
        cleaned: Cleaned,
        *,
        deploy: str = "live",
        domain: Mapping[str, str] | None = None,
        destination: Mapping[str, str] | None = None,
        daemon: Mapping[str, str] | None = None,
        tables: str = "",
        settings: Mapping[str, str] | None = None,
        people: Iterable[tuple[str, str, str, str | None, int]] = PEOPLE,
        remote: Iterable[str] = REMOTE,
        here: Mapping[str, str] | None = None,
        local: str = '["here"]',
        chroot: bool = False,
        name: str = "primary",
        ip: str = "",
    ) -> None:
        self.deploy = deploy
        self.folder = new_folder("site")
        cleaned(lambda: shutil.rmtree(self.folder, ignore_errors=True))
        self.maps = self.folder / "maps"
        self.store, self.secondary, self.world = RecordingLmtp(), RecordingSmtp(), RecordingSmtp()
        for server in (self.store, self.secondary, self.world):
            cleaned(server.stop)
        self.mta = PostfixInstance(
            name, {"default_transport": f"smtp:{self.world.nexthop}", **(settings or {})}, chroot=chroot, ip=ip
        )
        cleaned(self.mta.stop)
        self.people = self.folder / "people.db"
        self.remote = self.folder / "remote.txt"
        self.directory = SqliteTable(self.people)
        self.remove = self.directory.remove
        self.add(*people)
        self.list_remote(*remote)
        a_while_ago = time.time() - 10  # the daemon would wait a second for a file that was just written
        os.utime(self.remote, (a_while_ago, a_while_ago))
        own = {
            "local": local,
            "remote": '["there"]',
            "destination": '"there"',
            "unknown": '"reject"',
            "postmaster": '"ann@example.com"',
            "local_transport": f'"{self.store.transport}"',
        } | dict(domain or {})
        sqlite = {"type": '"sql"', "url": f'"{self.directory.url}"', "query": f'"{QUERY}"'}
        there = {"hosts": f'["{self.secondary.host}"]'} | dict(destination or {})
        sockets = self.mta.socket_folder
        main = {
            "socketmap": f'["unix:{sockets}/socketmap.sock?mode=0660&group=postfix"]',
            "policy": f'["unix:{sockets}/policy.sock?mode=0660&group=postfix"]',
            "control": f'"unix:{self.folder}/control.sock"',
            "metrics": f'"inet:{self.store.host}:9464"',
            "state": f'"{self.folder}/state"',
        } | dict(daemon or {})
        if deploy == "static":
            main |= {"socketmap": "[]", "policy": "[]"}
        self.text = (
            _table("daemon", main)
            + _table("directories.here", {"sync_every": '"1s"'} | dict(here or sqlite))
            + _table("directories.there", {"type": '"file"', "path": f'"{self.remote}"', "format": '"list"',
                                           "sync_every": '"1s"'})
            + _table("destinations.there", there)
            + _table('domains."example.com"', own)
            + tables.format(site=self)
        )  # fmt: skip
        if deploy in ("both", "static"):
            self.text += _table("static", {"directory": f'"{self.maps}"', "types": '["lmdb"]'})
        self.splitmx = Splitmx(self.text, self.folder, MAIL_CONFIG=str(self.mta.config))
        cleaned(self.splitmx.stop)

    # directories

    def add(self, *rows: tuple[str, str, str, str | None, int]) -> None:
        """List people in the SQL directory."""
        self.directory.add_all(rows)

    def list_remote(self, *addresses: str) -> None:
        """Write the file directory `there`."""
        new = self.remote.with_suffix(".new")
        new.write_text("".join(f"{address}\n" for address in addresses))
        new.replace(self.remote)

    # running

    def install(self, start: bool = True) -> Site:
        """Start splitmx, write the tables, apply what `postfix show` prints, start or reload Postfix."""
        self.splitmx.start()
        self.wait_known("ann@example.com")
        self.build()
        self.mta.apply(self.show())
        if self.mta.running:
            self.mta.reload()
        elif start:
            self.mta.start()
        return self

    def wait_known(self, address: str) -> None:
        """Wait until the index lists somebody."""
        if self.deploy == "static":
            text = self.maps / "relay_recipients"
            wait_for(lambda: text.exists() and address in text.read_text(), 20, self.splitmx.tail)
        else:
            wait_for(lambda: self.query("relay_recipients", address), 20, self.splitmx.tail)
            # a file's "no" counts only when it was read since the start
            wait_for(lambda: self.splitmx.run(*_STRANGER).returncode != 75, 20, self.splitmx.tail)

    def query(self, name: str, key: str) -> str:
        """`splitmx query`: the value, "" for not found and for trouble."""
        return self.splitmx.run("query", name, key).stdout.strip()

    def explain(self, address: str) -> str:
        """`splitmx explain`, as text."""
        return self.splitmx.run("explain", address).stdout

    def build(self) -> None:
        """`splitmx build`."""
        words = ["build", "--output", str(self.maps), "--type", "lmdb"]
        # The daemon may be building just now.
        wait_for(lambda: self.splitmx.run(*words).returncode in (0, 1), 20, lambda: self.splitmx.run(*words).stderr)

    def show(self) -> str:
        """`splitmx postfix show`."""
        self.mta.cool()
        words = ["postfix", "show", "--deploy", self.deploy, "--maps", str(self.maps)]
        done = self.splitmx.run(*words, "--config-directory", str(self.mta.config))
        assert done.returncode == 0, done.stdout + done.stderr
        # A site whose postconf names another default type than the tests build.
        return re.sub(r"\b(hash|btree|cdb):(?=/dev/shm|/var/tmp)", "lmdb:", done.stdout)

    def check(self) -> list[str]:
        """`splitmx postfix check`: errors and warnings, one line each."""
        self.mta.cool()
        words = ["postfix", "check", "--deploy", self.deploy, "--maps", str(self.maps)]
        done = self.splitmx.run(*words, "--config-directory", str(self.mta.config))
        return [line for line in done.stdout.splitlines() if line.startswith(("error", "warning"))]

    def configure(self, old: str, new: str) -> None:
        """Change the configuration and let the daemon load it."""
        assert old in self.text
        self.text = self.text.replace(old, new)
        self.splitmx.write(self.text)
        self.splitmx.reload()

    # mails

    def send(self, *recipients: str, sender: str = "me@away.test", client: str = OUTSIDE, **more: Any) -> Sent:
        """A message to this Postfix, from outside unless `client` says otherwise."""
        return send(self.mta.ip, sender, recipients, client=client, **more)

    def tails(self) -> str:
        """The ends of both logs, for failures."""
        return f"{self.mta.tail()}\n{self.splitmx.tail(20)}"

    def arrives(
        self, sent: Sent, *, here: Iterable[str] = (), there: Iterable[str] = (), out: Iterable[str] = ()
    ) -> None:
        """Wait until exactly these have got it, and nothing of it waits."""
        wanted = [sorted(here), sorted(there), sorted(out)]

        def got() -> list[list[str]]:
            return [s.recipients(sent.subject) for s in (self.store, self.secondary, self.world)]

        wait_for(
            lambda: got() == wanted,
            20,
            lambda: f"{got()} instead of {wanted}\n{self.mta.tail()}\n{self.splitmx.tail(20)}",
        )
        self.mta.wait_empty()
        assert got() == wanted


def _table(name: str, keys: Mapping[str, str]) -> str:
    return f"\n[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())


def file(path: Path, text: str) -> Path:
    """Write a file and give it back."""
    path.write_text(text)
    return path
