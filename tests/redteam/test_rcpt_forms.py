# SPDX-License-Identifier: Apache-2.0
"""Every form of an address that SMTP allows, through a real Postfix (MTA-FACTS: how addresses are presented)."""

from __future__ import annotations

import smtplib
from collections.abc import Callable

import pytest

from tests.e2e.site import PEOPLE, Site
from tests.mta.sending import OUTSIDE
from tests.mta.waiting import wait_for

ODD = (
    ('"john doe"@example.com', "mailbox", "", None, 1),
    ("o'brien@example.com", "mailbox", "", None, 1),
    ("jörg@example.com", "mailbox", "", None, 1),
    ("u@bücher.test", "mailbox", "", None, 1),
    ("us%er@example.com", "mailbox", "", None, 1),
    ('"a@b"@example.com', "mailbox", "", None, 1),
    ("plus+listed@example.com", "mailbox", "", None, 1),
    ("chief@example.com", "alias", '"john doe"@example.com, jörg@example.com', None, 1),
)
BOOKS = """
[domains."bücher.test"]
local = ["here"]
remote = ["there"]
destination = "there"
unknown = "reject"
postmaster = "u@bücher.test"
local_transport = "{site.store.transport}"
"""

HERE = {
    "ANN@EXAMPLE.COM": "ann@example.com",
    '"ann"@example.com': "ann@example.com",
    "Ann+News@example.com": "ann+news@example.com",
    '"john doe"@example.com': '"john doe"@example.com',
    '"John Doe"@Example.com': '"john doe"@example.com',
    '"john doe+x y"@example.com': '"john doe+x y"@example.com',
    "o'brien@example.com": "o'brien@example.com",
    "ann@example.com.": "ann@example.com",
    "@relay.test:ann@example.com": "ann@example.com",
    "plus+listed@example.com": "plus+listed@example.com",
    "u@xn--bcher-kva.test": "u@xn--bcher-kva.test",
}
UNKNOWN = (
    "+ann@example.com", '"ann@example.com"@example.com', '"john"@example.com', "john@example.com",
    '"a@b"@example.com', "us%er@example.com",  # Postfix itself: allow_untrusted_routing = no
    "plus@example.com", "ann%example.com@example.com", "ann_@example.com", "an%@example.com",
    "plus+listed+x@example.com", "v@xn--bcher-kva.test", '"ann "@example.com', '""@example.com',
)  # fmt: skip


@pytest.mark.parametrize("deploy", ["live", "static", "both"])
def test_every_form_of_a_recipient(cleaned: Callable[[Callable[[], object]], None], deploy: str) -> None:
    """Whatever the spelling: who is listed gets the mail under his own name, who is not is refused at RCPT."""
    site = Site(cleaned, deploy=deploy, people=(*PEOPLE, *ODD), tables=BOOKS).install()
    for form, arrived in HERE.items():
        sent = site.send(form)
        assert (form, sent.codes[form]) == (form, 250), sent.texts
        _arrives_folded(site, sent.subject, [arrived], form)
    refused = site.send(*UNKNOWN, probe=True)
    assert {form: code for form, code in refused.codes.items() if not 500 <= code < 600} == {}
    sent = site.send("jörg@example.com", "u@bücher.test", "JÖRG+x@example.com")
    assert set(sent.codes.values()) == {250}, sent.texts


SUSPENDED = ("gone", "gone+x", "gone%example.com", "example.com!gone", "gone%example.com%", "gone%example.com@{host}",
             "gone%example.com@[{ip}]", '"gone%example.com"', "gone%example.com@localhost")  # fmt: skip


def test_routed_recipients_meet_the_policy_service(cleaned: Callable[[Callable[[], object]], None]) -> None:
    """A recipient without a domain, a percent hack, a bang path: Postfix takes each for gone, who is suspended."""
    site = Site(cleaned, settings={"myorigin": "example.com"}).install()
    assert "policy_context=@example.com" in site.show()
    forms = ["gone@example.com", *(form.format(host=f"{site.mta.name}.test", ip=site.mta.ip) for form in SUSPENDED)]
    with smtplib.SMTP(site.mta.ip, 25, local_hostname="x.test", source_address=(OUTSIDE, 0)) as client:
        client.ehlo()
        replies = {}
        for form in (*forms, "ann", "ann%example.com", "postmaster"):
            client.docmd("MAIL", "FROM:<me@away.test>")
            replies[form] = client.docmd("RCPT", f"TO:<{form}>")
            client.docmd("RSET")
    assert {form: r for form, r in replies.items() if r[0] != 250 and not r[1].startswith(b"5.2.1")} == {}
    assert [form for form, reply in replies.items() if reply[0] == 250] == ["ann", "ann%example.com", "postmaster"]


def _arrives_folded(site: Site, subject: str, wanted: list[str], form: str) -> None:
    def got() -> list[str]:
        return [name.lower() for name in site.store.recipients(subject)]

    wait_for(lambda: got() == wanted, 20, lambda: f"{form}: {got()} instead of {wanted}\n{site.tails()}")
