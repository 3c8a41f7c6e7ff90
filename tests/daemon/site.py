# SPDX-License-Identifier: Apache-2.0
"""A daemon over a private SQLite directory (and more, if a test adds it), and clients that speak its protocols."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path
from typing import Any

from policyd import control_client
from policyd.protocols import socketmap
from tests.mta.daemon import Splitmx
from tests.mta.waiting import wait_for
from tests.servers.sqlite import SqliteTable

LOCAL = "lmtp:unix:private/lmtp"
REMOTE = "relay:[192.0.2.9]"

CONFIG = """
[daemon]
socketmap = ["unix:{folder}/map.sock?mode=0660"]
policy = ["unix:{folder}/policy.sock"]
exim = ["unix:{folder}/exim.sock"]
control = "unix:{folder}/control.sock"
metrics = "inet:127.0.0.1:{port}"
state = "{folder}/state"
workers = {workers}

[directories.here]
type = "sql"
url = "sqlite:///{folder}/people.db"
query = "SELECT address, kind, targets, location, active FROM recipients"
fresh_for = "{fresh_for}"
sync_every = "{sync_every}"
{directory}

[destinations.m365]
hosts = ["192.0.2.9"]

[domains."example.com"]
local = ["here"]
destination = "m365"
local_transport = "{local}"
{domain}
{more}
"""


class Client:
    """One socketmap connection."""

    def __init__(self, path: Path, timeout: float = 20.0) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        self.sock.connect(str(path))
        self.buffer = bytearray()

    def send(self, name: str, key: str | bytes) -> None:
        """A request, without waiting."""
        self.sock.sendall(socketmap.request(name, key))

    def receive(self) -> tuple[str, str]:
        """The next reply. EOFError when the daemon closed."""
        while (end := socketmap.next_reply(self.buffer)) is None:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self.buffer += data
        frame = bytes(self.buffer[:end])
        del self.buffer[:end]
        return socketmap.parse_reply(frame)

    def ask(self, name: str, key: str | bytes) -> tuple[str, str]:
        """One question, one answer."""
        self.send(name, key)
        return self.receive()

    def close(self) -> None:
        """Hang up."""
        self.sock.close()


class Site:
    """A daemon with `people` in its directory."""

    def __init__(
        self,
        folder: Path,
        *people: str,
        workers: int = 1,
        fresh_for: str = "5s",
        sync_every: str = "1s",
        directory: str = "",
        domain: str = "",
        more: str = "",
    ) -> None:
        self.folder = folder
        self.people = folder / "people.db"
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.values: dict[str, Any] = {
            "workers": workers, "fresh_for": fresh_for, "sync_every": sync_every, "directory": directory,
            "domain": domain, "more": more,
        }  # fmt: skip
        self.directory = SqliteTable(self.people)
        self.sql, self.add, self.remove = self.directory.execute, self.directory.add, self.directory.remove
        for address in people:
            self.add(address)
        self.splitmx = Splitmx(self.config(), folder)
        self.map = folder / "map.sock"
        self.control_socket = folder / "control.sock"

    def config(self, **changes: Any) -> str:
        """The configuration's text, with changes that stay."""
        self.values |= changes
        return CONFIG.format(folder=self.folder, port=self.port, local=LOCAL, **self.values)

    def start(self) -> Site:
        """Start it and wait until the directories are loaded."""
        self.splitmx.start()
        self.loaded()
        return self

    def loaded(self) -> None:
        """Wait until every directory was read."""
        wait_for(self._is_loaded, 30, self.splitmx.tail)

    def _is_loaded(self) -> bool:
        try:
            found = self.status()
        except control_client.ControlError:
            return False
        directories = found["directories"].values()
        workers = found["workers"]["running"]
        return (
            bool(directories)
            and all(one.get("good_at") for one in directories)
            and all(worker["generation"] == found["index"]["generation"] for worker in workers)
        )

    def client(self, timeout: float = 20.0) -> Client:
        """A new socketmap connection."""
        return Client(self.map, timeout)

    def ask(self, key: str, name: str = "transport") -> tuple[str, str]:
        """One question on a connection of its own."""
        client = self.client()
        try:
            return client.ask(name, key)
        finally:
            client.close()

    def answers(self, key: str, value: str, seconds: float = 20.0) -> None:
        """Wait until `transport` answers this."""
        wait_for(lambda: self._ask_if_up(key) == ("OK", value), seconds, self.splitmx.tail)

    def _ask_if_up(self, key: str) -> tuple[str, str] | None:
        try:
            return self.ask(key)
        except (OSError, EOFError):
            return None

    def refused(self) -> bool:
        """Whether a connection is refused at once."""
        try:
            self.client().close()
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        return False

    def control(self, do: str, **more: Any) -> dict[str, Any]:
        """One control request."""
        return control_client.request(str(self.control_socket), {"do": do, **more})

    def status(self) -> dict[str, Any]:
        """What `splitmx status` is told."""
        found: dict[str, Any] = self.control("status")["status"]
        return found

    def metrics(self) -> str:
        """What Prometheus is told."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as reply:
            return str(reply.read(), "utf-8")

    def pids(self, role: str) -> list[int]:
        """Processes of a role: keeper, worker."""
        found = []
        for pid in self.splitmx.processes():
            try:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
            except OSError:
                continue
            if name.startswith(f"splitmx-{role}"):
                found.append(pid)
        return sorted(found)

    def log(self) -> str:
        """Everything logged so far."""
        return self.splitmx.log.read_text(errors="replace")

    def stop(self) -> None:
        """Stop it, whatever state it is in."""
        self.splitmx.stop()
