# SPDX-License-Identifier: Apache-2.0
"""The soak's load: connections of three protocols that come and go, at a bounded rate, and the judgement."""

from __future__ import annotations

import itertools
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from policyd.protocols import socketmap
from tests.daemon.site import LOCAL, REMOTE, Client
from tests.soak.site import HERE, SUSPENDED, THERE, Person, SoakSite

TEMP = "temp"

_strangers = itertools.count(1)


class Load:
    """`clients` threads that ask together `rate` questions a second until `stop` is set. wrong: what must be empty."""

    def __init__(self, site: SoakSite, rate: float, clients: int = 16) -> None:
        self.site = site
        self.stop = threading.Event()
        self.asked: Counter[str] = Counter()
        self.temps: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.slowest = 0.0
        self._pause = clients / rate
        works: list[Callable[[], None]] = [self._client] * clients + [self._idle, self._rude]
        self.threads = [threading.Thread(target=self._run, args=(work,), daemon=True) for work in works]
        for thread in self.threads:
            thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        while not self.stop.is_set():
            try:
                work()
            except (OSError, EOFError, ValueError) as error:
                if not self.stop.is_set():
                    self.wrong.append(f"{time.strftime('%H:%M:%S')} a connection was lost: {error!r}")
                    self.stop.wait(1)

    def _client(self) -> None:
        """One connection's life."""
        speak = random.choices((self._socketmap, self._policy, self._exim), (6, 3, 1))[0]
        speak(random.randint(1, 60))

    def _whom(self) -> Person:
        kind = random.random()
        if kind < 0.5:
            return random.choice(self.site.steady)
        if kind < 0.75:
            return random.choice(self.site.churn)
        domain = random.choice(("example.com", "example.org"))
        return Person(f"stranger{next(_strangers)}@{domain}", THERE, THERE)

    def _socketmap(self, many: int) -> None:
        client = self.site.client()
        try:
            for _ in range(many):
                person = self._whom()
                begun, may = time.monotonic(), person.may_be()
                status, value = client.ask("transport", person.address)
                said = {LOCAL: HERE, REMOTE: THERE}.get(value, value) if status == "OK" else status.lower()
                # the route of a suspended mailbox is where it is
                self._judge("socketmap", person, said, {HERE if one == SUSPENDED else one for one in may}, begun)
                if self.stop.wait(self._pause):
                    return
        finally:
            client.close()

    def _policy(self, many: int) -> None:
        with self._connect("policy.sock") as sock:
            for _ in range(many):
                person = self._whom()
                begun, may = time.monotonic(), person.may_be()
                sock.sendall(
                    "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\n"
                    f"client_address=198.51.100.{random.randint(1, 250)}\nsender=s{random.random()}@away.test\n"
                    f"recipient={person.address}\nqueue_id=\ninstance={random.random()}\nsize=0\n\n".encode()
                )
                text = _until(sock, b"\n\n").decode().strip().removeprefix("action=")
                if text == "DUNNO" or text == "reject_unverified_recipient":
                    # a relayed address may be DUNNO (unknown = relay, or moved) or be verified
                    said = THERE if text != "DUNNO" or THERE in may else HERE
                elif text.startswith("550 5.2.1"):
                    said = SUSPENDED
                else:
                    said = TEMP if text.startswith("DEFER_IF_PERMIT") else text
                self._judge("policy", person, said, may, begun)
                if self.stop.wait(self._pause):
                    return

    def _exim(self, many: int) -> None:
        for _ in range(max(1, many // 10)):
            person = self._whom()
            begun, may = time.monotonic(), person.may_be()
            with self._connect("exim.sock") as sock:
                sock.sendall(f"decide client=198.51.100.9 recipient={person.address}\n".encode())
                text = _until(sock, b"").decode()
            word = text.partition(" ")[0].removeprefix("decision=").strip()
            said = {"local": HERE, "relay": THERE, "suspended": SUSPENDED, "temp": TEMP}.get(word, text)
            self._judge("exim", person, said, may, begun)
            if self.stop.wait(self._pause):
                return

    def _judge(self, face: str, person: Person, said: str, before: set[str], begun: float) -> None:
        """before: what was allowed when it was asked; meanwhile it may have changed."""
        after = person.may_be()
        after = {HERE if one == SUSPENDED else one for one in after} if face == "socketmap" else after
        self.asked[face] += 1
        self.slowest = max(self.slowest, time.monotonic() - begun)
        if said == TEMP and person not in self.site.steady:
            self.temps[face] += 1
        elif said not in before | after:
            changed = f", changed {time.monotonic() - person.since:.1f} s ago" if person.since else ""
            self.wrong.append(
                f"{time.strftime('%H:%M:%S')} {face} {person.address}: {said}, not {before | after}{changed}"
            )

    def _connect(self, name: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(str(self.site.folder / name))
        return sock

    def _idle(self) -> None:
        """Connections that say nothing, fifty at a time, the oldest replaced each second."""
        held: list[socket.socket] = []
        try:
            while not self.stop.wait(1):
                held.append(self._connect(random.choice(("map.sock", "policy.sock"))))
                if len(held) > 50:
                    held.pop(0).close()
        finally:
            for sock in held:
                sock.close()

    def _rude(self) -> None:
        """Half requests, nonsense, and clients that leave before their answer."""
        while not self.stop.wait(2):
            whole = socketmap.request("transport", f"rude{next(_strangers)}@example.com")
            with self._connect("map.sock") as sock:
                sock.sendall(random.choice((whole[:7], whole, whole * 5, b"nonsense\n", b"999999999:x")))
            with self._connect("exim.sock") as sock:
                sock.sendall(b"decide recipient=" + b"x" * random.randint(1, 5000))

    def end(self) -> None:
        """No more questions."""
        self.stop.set()
        for thread in self.threads:
            thread.join(30)


def fill(path: Path, domain: str, many: int) -> None:
    """Ask for strangers as fast as answers come, so that every bounded memory is full before measuring begins."""

    def work(share: int) -> None:
        client = Client(path, 60)
        for _ in range(0, share, 50):
            for _ in range(50):  # of which some are answered at once, and some wait for the directory
                client.send("transport", f"fill{next(_strangers)}@{domain}")
            for _ in range(50):
                client.receive()
        client.close()

    threads = [threading.Thread(target=work, args=(many // 8,), daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _until(sock: socket.socket, end: bytes) -> bytes:
    """Bytes up to `end`, or to the end of the stream. EOFError when it closed before."""
    data = b""
    while not (end and data.endswith(end)):
        more = sock.recv(65536)
        if not more:
            if end:
                raise EOFError("closed before the answer")
            return data
        data += more
    return data
