# SPDX-License-Identifier: Apache-2.0
"""The harness itself: a private Postfix moves mail between the recorders, chrooted or not."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mta import postfix
from tests.mta.recording import RecordingLmtp, RecordingSmtp, certificate, tls_context
from tests.mta.sending import send
from tests.mta.waiting import wait_for

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not postfix.available(), reason="Postfix and root are needed"),
]
Cleaned = Callable[[Callable[[], object]], None]


@pytest.mark.parametrize("chroot", [False, True])
def test_mail_reaches_store_and_next_hop(cleaned: Cleaned, chroot: bool) -> None:
    """One message to a store by LMTP and a next hop by SMTP with TLS: both get it, envelope kept."""
    mta = postfix.PostfixInstance("plain", chroot=chroot)
    cleaned(mta.stop)
    cert, key = certificate(mta.ip)
    store, secondary = RecordingLmtp({"ann@ours.test"}), RecordingSmtp(tls=tls_context(cert, key))
    cleaned(store.stop)
    cleaned(secondary.stop)
    routes = mta.file("routes", f"ours.test {store.transport}\nthere.test relay:{secondary.nexthop}\n")
    mta.set(relay_domains="ours.test, there.test", transport_maps=f"texthash:{routes}")
    mta.start()

    sent = send(mta.ip, "me@away.test", ["Ann@ours.test", "bob@there.test"])

    assert sent.data == 250
    (here,) = store.wait(sent.subject, "Ann@ours.test")
    (there,) = secondary.wait(sent.subject, "bob@there.test")
    assert (here.sender, there.sender) == ("me@away.test", "me@away.test")
    assert there.tls
    assert there.client == mta.ip
    mta.wait_empty()


def test_mail_that_an_agent_still_holds_is_waited_for(cleaned: Cleaned) -> None:
    """Postfix puts off for a minute what an agent has not let go of yet: `wait_empty` has it tried again before."""
    mta = postfix.PostfixInstance("held")
    cleaned(mta.stop)
    secondary = RecordingSmtp({"bob@there.test": "450 4.2.0 later"})
    cleaned(secondary.stop)
    mta.set(default_transport=f"smtp:{secondary.nexthop}", mynetworks="127.0.0.0/8")
    mta.start()
    sent = send(mta.ip, "me@away.test", ["bob@there.test"])

    def held() -> list[Path]:
        return [path for path in (mta.queue / "deferred").rglob("*") if path.is_file()]

    # the agent itself may be the one that holds it
    found = wait_for(lambda: held() or "still being delivered" in mta.text(), 20, mta.tail)
    if isinstance(found, list):
        with contextlib.suppress(FileNotFoundError), found[0].open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            wait_for(lambda: "still being delivered" in mta.text(), 20, mta.tail)
    secondary.replies.clear()
    mta.wait_empty()

    assert secondary.recipients(sent.subject) == ["bob@there.test"]


def test_replies_of_the_recorder_are_told(cleaned: Cleaned) -> None:
    """A recorder answers each recipient as scripted, and remembers who was asked for."""
    recorder = RecordingSmtp({"no@x.test": "550 5.1.1 no", "@later.test": "450 4.2.0 later"}, port=0)
    cleaned(recorder.stop)

    sent = send(recorder.host, "", ["no@x.test", "a@later.test", "yes@x.test"], port=recorder.port)

    assert sent.codes == {"no@x.test": 550, "a@later.test": 450, "yes@x.test": 250}
    assert recorder.recipients(sent.subject) == ["yes@x.test"]
    assert recorder.asked == ["no@x.test", "a@later.test", "yes@x.test"]
