# SPDX-License-Identifier: Apache-2.0
"""The harness itself: a private Postfix moves mail between the recorders, chrooted or not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.mta import postfix
from tests.mta.recording import RecordingLmtp, RecordingSmtp, certificate, tls_context
from tests.mta.sending import send

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


def test_replies_of_the_recorder_are_told(cleaned: Cleaned) -> None:
    """A recorder answers each recipient as scripted, and remembers who was asked for."""
    recorder = RecordingSmtp({"no@x.test": "550 5.1.1 no", "@later.test": "450 4.2.0 later"}, port=0)
    cleaned(recorder.stop)

    sent = send(recorder.host, "", ["no@x.test", "a@later.test", "yes@x.test"], port=recorder.port)

    assert sent.codes == {"no@x.test": 550, "a@later.test": 450, "yes@x.test": 250}
    assert recorder.recipients(sent.subject) == ["yes@x.test"]
    assert recorder.asked == ["no@x.test", "a@later.test", "yes@x.test"]
