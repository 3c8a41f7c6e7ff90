# SPDX-License-Identifier: Apache-2.0
"""Several servers behind one host name, at ports of their own: each gets its own mail.

Exim hands an open connection on to other mail that waits for a host of that *name*, whatever its port.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.exim.listener import Stub
from tests.exim.site import exim_conf
from tests.mta.exim import EximInstance
from tests.mta.recording import Recorder, RecordingLmtp, RecordingSmtp
from transport.config.settings import Daemon, Destination, Domain, Listener, Location, Settings

pytestmark = pytest.mark.e2e

Cleaned = Callable[[Callable[[], object]], None]


@pytest.mark.parametrize("at_once", [4, 1])
def test_mail_that_waited_goes_to_its_own_port(folder: Path, cleaned: Cleaned, at_once: int) -> None:
    """After all of them were down, and in one message for all of them too: no mail goes down another port's
    connection."""
    cloud, store, outside = RecordingSmtp(), RecordingLmtp(), RecordingSmtp()
    servers: dict[str, Recorder] = {
        "a": cloud,
        "b": RecordingSmtp(host=cloud.host, port=2525),
        "c": store,
        "d": RecordingLmtp(host=store.host, port=2424),
        "e": RecordingSmtp(host=cloud.host, port=2626),
        "f": RecordingLmtp(host=store.host, port=2626),
    }
    for server in (*servers.values(), outside):
        cleaned(server.stop)

    def answer(line: bytes) -> bytes:
        name = line.rpartition(b"recipient=")[2].decode().strip()
        server = servers[name[0]]
        if name[0] in "abe":
            told = f"relay hosts={server.host} port={server.port} tls=may address={name} verify=no"
        else:
            told = f"local store_via=lmtp store_hosts={server.host} store_port={server.port} verify=no"
        return f"decision={told}".encode()

    stub = Stub(folder / "exim.sock", answer)
    cleaned(stub.close)
    places = {str(at): Location("", f"lmtp:[{store.host}]:{at}") for at in (24, 2424, 2626)}
    settings = Settings(
        daemon=Daemon(exim=(Listener("unix", str(stub.path)),)),
        destinations={str(at): Destination(str(at), hosts=(cloud.host,), port=at) for at in (25, 2525, 2626)},
        domains={"example.com": Domain("example.com", destination="25", locations=places)},
    )
    exim = EximInstance("", name="ports", retry="1h")
    cleaned(exim.stop)
    exim.main = exim.main.replace("remote_max_parallel = 4", f"remote_max_parallel = {at_once}")
    exim.write(exim_conf(settings, store=store, outside=outside))
    for server in servers.values():
        server.stop()
    names = [f"{who}{n}@example.com" for n in range(3) for who in "baefdc"]
    for name in names:
        exim.sendmail("o@site.test", [name])
    exim.command("-odq", "-i", "-f", "o@site.test", "--", *(f"{who}9@example.com" for who in "baefdc"), stdin="\nx\n")
    for server in servers.values():
        server.start()
    exim.flush()
    exim.wait_empty()
    arrived = {who: sorted(n for mail in servers[who].mails for n in mail.recipients) for who in servers}
    assert arrived == {who: [f"{who}{n}@example.com" for n in (0, 1, 2, 9)] for who in servers}
