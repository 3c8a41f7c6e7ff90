# SPDX-License-Identifier: Apache-2.0
"""What else a site has set: smarthosts, customers with ETRN, short names, filters."""

from __future__ import annotations

import smtplib

import pytest

from tests.e2e.site import Cleaned, Site
from tests.e2e.test_filter import with_filter
from tests.mta.milter import Milter
from tests.mta.places import new_address
from tests.mta.recording import RecordingSmtp, certificate, tls_context
from tests.mta.sending import OUTSIDE
from tests.mta.waiting import wait_for


def test_a_store_that_is_down_keeps_its_mail_from_the_smarthost(cleaned: Cleaned) -> None:
    """With smtp_fallback_relay mail for a store reached by SMTP waits for it, and is not sent round by the MX."""
    store, smarthost = RecordingSmtp(), RecordingSmtp()
    for server in (store, smarthost):
        cleaned(server.stop)
    site = Site(
        cleaned,
        settings={"smtp_fallback_relay": smarthost.nexthop},
        domain={"local_transport": f'"store:{store.nexthop}"'},
    )
    site.mta.command("postconf", "-Me", "store/unix=store unix - - n - - smtp")
    site.install()
    assert [line for line in site.check() if line.startswith("error")] == []
    store.stop()

    sent = site.send("ann@example.com")

    wait_for(lambda: "refused" in site.mta.delayed().get("ann@example.com", ""), 20, site.tails)
    assert smarthost.recipients(sent.subject) == []
    store.start()
    store.wait(sent.subject, "ann@example.com")


def test_a_store_by_the_service_of_all_mail(cleaned: Cleaned) -> None:
    """Where the store's service is that of all mail, the smarthost cannot be switched off: a problem, by name."""
    settings = {"smtp_fallback_relay": "[192.0.2.1]"}
    site = Site(cleaned, settings=settings, domain={"local_transport": '"smtp:[192.0.2.2]"'})

    done = site.splitmx.run("postfix", "show", "--config-directory", str(site.mta.config))

    assert done.returncode == 1
    assert "PROBLEM: smtp_fallback_relay = [192.0.2.1] would get what the store smtp:[192.0.2.2]" in done.stdout


def test_a_smarthost_that_speaks_tls_at_once(cleaned: Cleaned) -> None:
    """With smtp_tls_wrappermode for a smarthost at port 465, mail and copies reach the other side all the same."""
    settings = {"relayhost": "[192.0.2.1]:465", "smtp_tls_wrappermode": "yes", "smtp_tls_security_level": "encrypt"}
    site = Site(cleaned, settings=settings, domain={"delivery": '"dual"'})
    site.secondary.tls = tls_context(*certificate(site.secondary.host))
    site.install()
    assert site.check() == []

    sent = site.send("ann@example.com", "bob@example.com")

    site.arrives(sent, here=["ann@example.com"], there=["ann@example.com", "bob@example.com"])


@pytest.mark.parametrize("how", ["every host", "by sender"])
def test_a_password_for_the_smarthost(cleaned: Cleaned, how: str) -> None:
    """The other side offers AUTH, and is not told the password that main.cf has for a smarthost; its mail arrives."""
    settings = {"smtp_sasl_auth_enable": "yes", "smtp_sasl_security_options": "noanonymous"}
    if how == "by sender":
        settings |= {"smtp_sender_dependent_authentication": "yes"}
    table = "static:us:secret" if how == "every host" else "inline:{me@away.test=us:secret}"
    site = Site(cleaned, settings={**settings, "smtp_sasl_password_maps": table}, domain={"delivery": '"dual"'})
    site.secondary.extensions += ("AUTH PLAIN LOGIN",)
    site.install()
    assert site.check() == []

    sent = site.send("ann@example.com", "bob@example.com")

    site.arrives(sent, here=["ann@example.com"], there=["ann@example.com", "bob@example.com"])


def test_a_password_that_is_meant_for_the_other_side(cleaned: Cleaned) -> None:
    """A site that logs in at the destination on purpose goes on to: nothing is switched off."""
    site = Site(cleaned, settings={"smtp_sasl_auth_enable": "yes", "smtp_sender_dependent_authentication": "yes"})
    own = site.mta.file("passwords", f"{site.secondary.nexthop} us:secret\n")
    site.mta.set(smtp_sasl_password_maps=f"texthash:{own}")

    assert "smtp_sasl_auth_enable" not in site.show()


def test_tls_at_once_by_the_service_of_all_mail(cleaned: Cleaned) -> None:
    """Where the destination's service carries all mail to such a smarthost, it asks for one of its own, by name."""
    settings = {"relayhost": "[192.0.2.1]:465", "smtp_tls_wrappermode": "yes", "smtp_tls_security_level": "encrypt"}
    site = Site(cleaned, settings=settings, destination={"service": '"smtp"'})

    done = site.splitmx.run("postfix", "show", "--config-directory", str(site.mta.config))

    assert done.returncode == 1
    assert (
        "PROBLEM: smtp_tls_wrappermode = yes: [destinations.there] does not speak TLS before it greets" in done.stdout
    )


@pytest.mark.parametrize("key", ["example.com", ".com", "*"])
def test_the_sites_own_route_of_a_domain(cleaned: Cleaned, key: str) -> None:
    """Who is here keeps the route that the site's own transport table has for the domain: a problem until it is named
    as local_transport, which then is where the mail arrives."""
    site = Site(cleaned, domain={"local_transport": '""'})
    own = site.mta.file("transport", f"{key} {site.store.transport}\n", type="lmdb")
    site.mta.set(transport_maps=f"lmdb:{own}", virtual_mailbox_domains="example.com", virtual_transport="error:no")
    shown = site.splitmx.run("postfix", "show", "--config-directory", str(site.mta.config))
    assert shown.returncode == 1
    assert f"PROBLEM: lmdb:{own} routes example.com ({key}) by {site.store.transport}" in shown.stdout
    site.text = site.text.replace('local_transport = ""', f'local_transport = "{site.store.transport}"')
    site.splitmx.write(site.text)
    if key != "*":
        return
    site.install()

    sent = site.send("ann@example.com", "bob@example.com")

    site.arrives(sent, here=["ann@example.com"], there=["bob@example.com"])


def test_customers_keep_etrn(cleaned: Cleaned) -> None:
    """ETRN for a relayed domain of the site works as before, and ours has no flush log."""
    site = Site(cleaned, settings={"relay_domains": "customer.test", "relay_recipient_maps": "static:ok"}).install()
    with smtplib.SMTP(site.mta.ip, 25, local_hostname="x.test", source_address=(OUTSIDE, 0)) as client:
        client.ehlo()
        codes = [client.docmd("ETRN", name)[0] for name in ("customer.test", "example.com")]
    assert codes == [250, 459]
    assert not [line for line in site.show().splitlines() if "fast_flush_domains" in line and "splitmx" in line]
    assert not [line for line in site.check() if "fast_flush_domains" in line]


@pytest.mark.parametrize("parameter", ["relay_domains", "virtual_mailbox_domains", "mydestination"])
def test_a_domain_that_comes_later(cleaned: Cleaned, parameter: str) -> None:
    """Our recipient map refuses nobody of a domain that the site adds to ours later: it had none, and all were."""
    site = Site(cleaned, settings={} if parameter == "relay_domains" else {parameter: "example.com"}).install()
    site.mta.set(**{parameter: f"{site.mta.get(parameter)}, customer.test"})
    site.mta.reload()

    sent = site.send("you@customer.test", "bob@example.com", "zed@example.com")

    assert list(sent.codes.values()) == [250, 250, 550]


def test_short_names_meet_the_policy_service(cleaned: Cleaned) -> None:
    """With append_dot_mydomain gone@example is gone@example.com to Postfix, who is suspended: refused as such."""
    site = Site(cleaned, settings={"append_dot_mydomain": "yes", "mydomain": "com", "myorigin": "example"}).install()
    wrong = ("gone@example", "gone+x@EXAMPLE", "gone%example", "example!gone", '"gone@example"', "gone")

    sent = site.send(*wrong, "ann@example", "gone@other.com", client="127.0.0.1", probe=True)

    assert {name: text[:5] for name, text in sent.texts.items() if name in wrong} == dict.fromkeys(wrong, "5.2.1")
    assert (sent.codes["ann@example"], sent.codes["gone@other.com"]) == (250, 250)


def test_copies_made_behind_a_filter_never_bounce(cleaned: Cleaned) -> None:
    """With no_address_mappings on the way in, a copy that the other side refuses is the sender's business no more."""
    site = with_filter(cleaned, "public", delivery='"dual"')
    assert not [line for line in site.check() if "filter" in line]
    site.secondary.replies["ann@example.com"] = "550 5.1.1 no"

    sent = site.send("ann@example.com")

    wait_for(lambda: "status=bounced" in site.mta.text(), 20, site.tails)
    site.arrives(sent, here=["ann@example.com"])
    assert site.world.mails == []


def test_copies_leave_as_mail_does(cleaned: Cleaned) -> None:
    """A copy has the source address, greeting and sender of relayed mail, by which the other side knows us."""
    site = Site(
        cleaned,
        settings={"smtp_generic_maps": "inline:{root@host.local=us@world.test}"},
        domain={"delivery": '"dual"'},
        destination={"service": '"cloud"'},
    )
    address = new_address()
    own = f"-o smtp_bind_address={address} -o smtp_helo_name=out.example.com"
    site.mta.command("postconf", "-Me", f"cloud/unix=cloud unix - - n - - smtp {own}")
    site.install()
    assert [line for line in site.check() if line.startswith("error")] == []

    sent = site.send("ann@example.com", "bob@example.com", sender="root@host.local")

    site.arrives(sent, here=["ann@example.com"], there=["ann@example.com", "bob@example.com"])
    seen = {(mail.client, mail.helo, mail.sender) for mail in site.secondary.mails}
    assert seen == {(address, "out.example.com", "us@world.test")}


def test_a_lost_table_of_domains_is_back_soon(cleaned: Cleaned) -> None:
    """Without the guard's table Postfix takes no mail for anybody: it is back by itself, and so is the mail."""
    site = Site(cleaned, deploy="both").install()
    (site.maps / "domains.sqlite").write_bytes(b"")
    wait_for(lambda: (site.maps / "domains.sqlite").stat().st_size, 20, site.tails)
    site.mta.reload()

    sent = site.send("ann@example.com", "bob@example.com", "x@elsewhere.test", client="127.0.0.1")

    site.arrives(sent, here=["ann@example.com"], there=["bob@example.com"], out=["x@elsewhere.test"])


@pytest.mark.parametrize("where", ["main.cf", "master.cf"])
def test_a_site_that_does_without_its_own_policy_services(cleaned: Cleaned, where: str) -> None:
    """Where the site lets mail pass while its greylisting is silent, ours is put off all the same while we are."""
    name = "smtpd_policy_service_default_action"
    site = Site(cleaned, settings={name: "DUNNO"} if where == "main.cf" else {})
    if where == "master.cf":
        site.mta.command("postconf", "-P", f"{site.mta.ip}:25/inet/{name}=DUNNO")
    site.install()
    with smtplib.SMTP(site.mta.ip, 25, local_hostname="x.test", source_address=(OUTSIDE, 0)) as client:
        client.ehlo()
        client.docmd("MAIL", "FROM:<me@away.test>")
        before = client.docmd("RCPT", "TO:<gone@example.com>")[0]
        site.splitmx.stop()  # a restart, of which this smtpd(8) hears at its next question
        site.splitmx.start()
        site.wait_known("ann@example.com")
        after = client.docmd("RCPT", "TO:<gone@example.com>")[0]
    assert (before, after) == (550, 451)
    assert site.check() == []


def test_restrictions_under_a_name_of_the_sites_own(cleaned: Cleaned) -> None:
    """A secondary refuses strangers from outside where the site's restrictions have a name and end in permit."""
    site = Site(
        cleaned,
        settings={
            "common": "permit_mynetworks, reject_unauth_destination, permit",
            "smtpd_recipient_restrictions": "$common",
        },
        domain={"role": '"secondary"', "unknown": '"relay"', "outsiders": '"reject"'},
    ).install()

    sent = site.send("zed@example.com", "ann@example.com")

    assert list(sent.codes.values()) == [550, 250]
    assert site.send("zed@example.com", client="127.0.0.1", probe=True).codes == {"zed@example.com": 250}
    assert site.check() == []


def test_a_milter_adds_and_takes_off_recipients(cleaned: Cleaned) -> None:
    """An alias that a milter adds is expanded and routed, who it takes off gets nothing, whom it refuses is refused,
    and what it put on hold goes on when it is released."""
    milter = Milter(remove=["bea@example.com"], add=["b.jones@example.com"], refuse=["carl@example.com"], hold="odd")
    cleaned(milter.stop)
    site = Site(cleaned, settings={"smtpd_milters": milter.place}).install()

    sent = site.send("a.smith@example.com", "bea@example.com", "carl@example.com")

    assert list(sent.codes.values()) == [250, 250, 550]
    wait_for(lambda: [mail["queue_name"] for mail in site.mta.queued()] == ["hold"], 20, site.tails)
    site.mta.command("postsuper", "-H", "ALL")
    site.arrives(sent, here=["ann@example.com"], there=["bob@example.com"])


def test_a_milter_that_takes_an_alias_off(cleaned: Cleaned) -> None:
    """Who is named beside an alias keeps the mail when a milter takes the alias off, where the site has set what that
    takes."""
    milter = Milter(remove=["a.smith@example.com"])
    cleaned(milter.stop)
    site = Site(cleaned, settings={"smtpd_milters": milter.place, "enable_original_recipient": "yes"}).install()

    sent = site.send("a.smith@example.com", "ann@example.com")

    site.arrives(sent, here=["ann@example.com"])
    assert site.check() == []


@pytest.mark.parametrize("parameter", ["smtpd_milters", "non_smtpd_milters"])
def test_what_milters_have_to_know(cleaned: Cleaned, parameter: str) -> None:
    """Beside milters `postfix show` says what enable_original_recipient = no means for them."""
    site = Site(cleaned, settings={parameter: "inet:192.0.2.1:10025"})

    assert "# note: enable_original_recipient = no beside milters" in site.show()
