# SPDX-License-Identifier: Apache-2.0
"""An after-queue filter such as amavis: mail passes Postfix twice, and everything happens once."""

from __future__ import annotations

import smtplib
import threading

import pytest

from tests.e2e.site import Cleaned, Site
from tests.mta.places import new_address
from tests.mta.postfix import listens
from tests.mta.recording import Mail, RecordingSmtp
from tests.mta.waiting import wait_for


class Filter(RecordingSmtp):
    """Takes mail on port 25 of its address, and gives it back to Postfix, as amavis does."""

    def __init__(self, back: str) -> None:
        self.back = back
        self.done = 0
        super().__init__()
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            wait_for(lambda: len(self.mails) > self.done, 3600)
            mail: Mail = self.mails[self.done]
            with smtplib.SMTP(self.back, 25, local_hostname="filter.test", source_address=(self.host, 0)) as smtp:
                smtp.sendmail(mail.sender, mail.recipients, mail.content)
            self.done += 1


def with_filter(cleaned: Cleaned, side: str, **domain: str) -> Site:
    """A site with a filter; no_address_mappings stands on the `public` or on the `again` side."""
    site = Site(cleaned, domain=domain)
    back = new_address()
    scanner = Filter(back)
    cleaned(scanner.stop)
    never = "receive_override_options=no_address_mappings"
    again = "-o content_filter= -o mynetworks=127.0.0.0/8 -o smtpd_recipient_restrictions=permit_mynetworks,reject"
    again += f" -o {never}" if side == "again" else " -o receive_override_options=no_unknown_recipient_checks"
    site.mta.command("postconf", "-Me", f"{back}:25/inet={back}:25 inet n - n - - smtpd {again}")
    site.mta.set(content_filter=f"smtp:{scanner.nexthop}")
    if side == "public":
        site.mta.set(receive_override_options="no_address_mappings")  # sendmail(1) too, as contrib has it
    site.install()
    wait_for(lambda: listens(back), 10, site.tails)
    return site


@pytest.mark.parametrize("side", ["public", "again"])
def test_mail_through_a_filter(cleaned: Cleaned, side: str) -> None:
    """Routing, aliases and groups are right behind a filter, whichever side expands."""
    site = with_filter(cleaned, side)

    sent = site.send("ann@example.com", "bob@example.com", "zed@example.com", "sales@example.com")

    assert list(sent.codes.values()) == [250, 250, 550, 250]
    site.arrives(sent, here=["ann@example.com"], there=["bob@example.com"], out=["outside@world.test"])
    assert [line for line in site.check() if line.startswith("error")] == []


@pytest.mark.parametrize("side", ["public", "again"])
def test_exactly_one_copy(cleaned: Cleaned, side: str) -> None:
    """Dual delivery through a filter makes one copy, under the real name."""
    site = with_filter(cleaned, side, delivery='"dual"')

    sent = site.send("ann@example.com")

    site.arrives(sent, here=["ann@example.com"], there=["ann@example.com"])
