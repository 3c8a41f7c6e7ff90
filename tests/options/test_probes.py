# SPDX-License-Identifier: Apache-2.0
"""Probes of `unknown = "verify"`: apart from mail, by the right way, without secrets, with short memories."""

from __future__ import annotations

import pytest

from tests.e2e.site import PEOPLE, Cleaned, Site
from tests.mta.recording import RecordingSmtp
from tests.mta.waiting import wait_for

TABLES = """
[destinations.cloud]
hosts = ["{site.world.host}"]
service = "cloud"
[domains."cloud.test"]
local = ["here"]
remote = ["there"]
destination = "cloud"
unknown = "verify"
local_transport = "{site.store.transport}"
[domains."old.test"]
alias_of = "cloud.test"
local_transport = "{site.store.transport}"
"""


@pytest.fixture(scope="module")
def site(kept: Cleaned) -> Site:
    """Two domains with verify to two destinations; the site has a route of its own, too."""
    people = [*PEOPLE, ("ann@cloud.test", "mailbox", "", None, 1), ("to.zed@cloud.test", "alias", "zed@cloud.test",
              None, 1)]  # fmt: skip
    own = RecordingSmtp()
    kept(own.stop)
    return Site(
        kept,
        domain={"unknown": '"verify"'},
        people=people,
        tables=TABLES,
        settings={
            "address_verify_poll_delay": "1s",
            "transport_maps": f"inline:{{{{vip@example.com=smtp:{own.nexthop}}}}}",
            "relay_destination_rate_delay": "2s",
        },
    ).install()


def code(site: Site, address: str) -> tuple[int, str]:
    """What RCPT TO is told in the end."""
    sent = site.send(address, probe=True)
    return sent.codes[address], sent.texts[address]


def until(site: Site, address: str, wanted: int) -> str:
    """Ask until it is told so; the text."""
    wait_for(lambda: code(site, address)[0] == wanted, 30, site.tails)
    return code(site, address)[1]


def test_row_12_probes_are_apart_from_mail(site: Site) -> None:
    """Row 12: a probe takes a service of its own; mail that crawls or waits holds up no probe."""
    slow = [site.send("bob@example.com") for _ in range(5)]  # one each 2 s
    until(site, "zoe@example.com", 250)

    assert any("postfix/probe-relay/smtp" in line and "zoe@example.com" in line
               for line in site.mta.text().splitlines())  # fmt: skip
    until(site, "zoe@cloud.test", 250)
    assert any("probe-cloud/smtp" in line and "zoe@cloud.test" in line for line in site.mta.text().splitlines())
    sent = site.send("zoe@cloud.test")
    site.arrives(sent, out=["zoe@cloud.test"])
    assert any("postfix/cloud/smtp" in line and "zoe@cloud.test" in line for line in site.mta.text().splitlines())
    for mail in slow:
        site.secondary.wait(mail.subject, "bob@example.com")


def test_case_6_refusal_tells_nothing(site: Site) -> None:
    """Case 6: 550 with a neutral text: no inner host, no inner answer; at another name of the domain too."""
    site.world.replies["no@cloud.test"] = "550 5.1.1 inner-host.corp says: no such user"

    for name in ("no@cloud.test", "no@old.test"):
        text = until(site, name, 550)
        assert "Address unknown" in text
        assert "inner" not in text
        assert site.world.host not in text


def test_alias_of_a_stranger_is_probed(site: Site) -> None:
    """An alias with one target that nobody lists is judged by that target."""
    site.world.replies["zed@cloud.test"] = "550 5.1.1 no"

    until(site, "to.zed@cloud.test", 550)
    assert code(site, "ann@cloud.test")[0] == 250
    assert "ann@cloud.test" not in site.world.asked


def test_a_new_mailbox_is_not_refused_for_days(site: Site) -> None:
    """All settings of ADDRESS_VERIFICATION_README that matter are printed, applied and checked."""
    shown = site.show()
    for line in (
        "address_verify_negative_refresh_time = 10m",
        "address_verify_negative_expire_time = 1h",
        "unverified_recipient_reject_code = 550",
        "unverified_recipient_reject_reason = Address unknown",
        "address_verify_transport_maps = ",
    ):
        assert line in shown
    assert site.check() == []
    site.mta.set(address_verify_negative_expire_time="3d")
    assert any("address_verify_negative_expire_time" in line for line in site.check())
    site.mta.set(address_verify_negative_expire_time="1h")


def test_the_sites_own_route_counts_for_probes(site: Site) -> None:
    """A route of the site's own stays before ours, in address_verify_transport_maps too."""
    value = site.mta.get("address_verify_transport_maps")

    assert value.startswith("inline:")
    assert value.index("probes.regexp") < value.rindex("socketmap")
