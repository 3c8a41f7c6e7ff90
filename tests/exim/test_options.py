# SPDX-License-Identifier: Apache-2.0
"""Each option with a real Exim: where the mail arrives, with which envelope, and what the sender was told."""

from __future__ import annotations

import pytest

from tests.exim.site import Site
from tests.mta.waiting import wait_for

pytestmark = pytest.mark.e2e


def test_split(site: Site) -> None:
    """Who is here is delivered here, who is there is relayed, a stranger is refused, one copy each (cases 1-4)."""
    sent = site.send(["ann@example.com", "bob@example.com", "zed@example.com"])
    assert sent.codes == {"ann@example.com": 250, "bob@example.com": 250, "zed@example.com": 550}
    assert sent.texts["zed@example.com"].startswith("5.1.1 ")
    site.store.wait(sent.subject, "ann@example.com")
    (mail,) = site.s.wait(sent.subject, "bob@example.com")
    assert mail.sender == "o@outside.test"


def test_case_and_quotes(site: Site) -> None:
    """Case and needless quotes mean nothing (cases 13, 21)."""
    sent = site.send(["ANN@Example.COM", '"carl"@example.com', "BOB@EXAMPLE.com"])
    assert set(sent.codes.values()) == {250}
    wait_for(lambda: len(site.store.recipients(sent.subject)) == 2, 10, site.exim.tail)
    arrived = {name.lower().replace('"', "") for name in site.store.recipients(sent.subject)}
    assert arrived == {"ann@example.com", "carl@example.com"}
    wait_for(lambda: site.s.of(sent.subject), 10, site.exim.tail)


def test_extensions(site: Site) -> None:
    """ann+news is ann and keeps its extension, bob+news is relayed as it is, zed+x and ann-x are unknown
    (cases 15, 16, 18, 20)."""
    sent = site.send(["ann+news@example.com", "bob+news@example.com", "zed+x@example.com", "ann-x@example.com"])
    assert list(sent.codes.values()) == [250, 250, 550, 550]
    site.store.wait(sent.subject, "ann+news@example.com")
    site.s.wait(sent.subject, "bob+news@example.com")


def test_plus_strip(site: Site) -> None:
    """With plus = "strip" the other side gets the address without the extension (case 17)."""
    sent = site.send("bob+news@strip.example")
    site.s.wait(sent.subject, "bob@strip.example")


def test_odd_local_parts(site: Site) -> None:
    """Local parts with blanks, apostrophes and dollar signs reach whom they name."""
    names = ['"john doe"@example.com', '"jane doe"@example.com', "o'brien@example.com", "a$b@example.com"]
    sent = site.send(names)
    assert set(sent.codes.values()) == {250}, sent.texts
    site.store.wait(sent.subject, '"john doe"@example.com')
    site.s.wait(sent.subject, '"jane doe"@example.com', "a$b@example.com", "o'brien@example.com")


def test_alias_to_odd_local_parts(site: Site) -> None:
    """Targets that no reply can hold as they are arrive nevertheless."""
    sent = site.send("money@example.com")
    site.s.wait(sent.subject, '"jane doe"@example.com', "a$b@example.com")


@pytest.mark.parametrize(
    "address", ['"loc user"@example.com', '""@example.com', "a%b@example.com", "a!b@example.com", '"a:b;c"@example.com']
)
def test_strange_strangers(site: Site, address: str) -> None:
    """A strange address that nobody lists is refused as any other (cases 22, 24, 26)."""
    assert site.send(address).codes == {address: 550}


def test_u_label(site: Site) -> None:
    """A U-label, in capitals too, and its A-label are one domain (cases 27, 28)."""
    sent = site.send(["bob@xn--bcher-kva.example", "bob@bücher.example", "zed@bücher.example", "ann@BÜCHER.Example"])
    assert list(sent.codes.values()) == [250, 250, 550, 250], sent.texts
    site.s.wait(sent.subject, "bob@xn--bcher-kva.example")


def test_unknown_relay(site: Site) -> None:
    """unknown = "relay": a stranger is relayed (case 5)."""
    sent = site.send("zed@relay.example")
    site.s.wait(sent.subject, "zed@relay.example")


def test_letters_are_relayed_as_they_came(site: Site) -> None:
    """Folded, straße and a final sigma may be somebody else's name at the other side: relayed unchanged."""
    sent = site.send(["Straße@relay.example", "γιώργος+x@relay.example", "jose\u0301@relay.example"])
    site.s.wait(sent.subject, *sent.codes)


def test_unknown_verify(site: Site) -> None:
    """unknown = "verify": the destination is asked before the mail is taken (cases 6, 7)."""
    site.s.replies["no@verify.example"] = "550 5.1.1 no such user"
    sent = site.send(["no@verify.example", "yes@verify.example", "ann@verify.example"])
    assert list(sent.codes.values()) == [550, 250, 250]
    assert "s.test" not in sent.texts["no@verify.example"]
    site.s.wait(sent.subject, "yes@verify.example")


def test_unknown_verify_unreachable(site: Site) -> None:
    """With the destination down strangers wait, listed people are taken and queued (cases 8, 9)."""
    sent = site.send(["zed@verifydead.example", "bob@verifydead.example"], probe=True)
    assert 400 <= sent.codes["zed@verifydead.example"] < 500
    assert sent.codes["bob@verifydead.example"] == 250


def test_catchall(site: Site) -> None:
    """Strangers go to the catch-all address, listed people never, bounces are refused (cases 10-12)."""
    sent = site.send(["typo@catchall.example", "bob@catchall.example"])
    site.store.wait(sent.subject, "info@catchall.example")
    site.s.wait(sent.subject, "bob@catchall.example")
    assert site.send("typo@catchall.example", "").codes == {"typo@catchall.example": 550}


def test_aliases(site: Site) -> None:
    """Aliases lead to people here, there and elsewhere; a loop of aliases is nobody (cases 33-36)."""
    names = ["a.smith@example.com", "b.jones@example.com", "out@example.com", "x.loop@example.com"]
    sent = site.send(names)
    assert list(sent.codes.values()) == [250, 250, 250, 550]
    site.store.wait(sent.subject, "ann@example.com")
    site.s.wait(sent.subject, "bob@example.com")
    site.outside.wait(sent.subject, "friend@foreign.example")


def test_alias_with_extension(site: Site) -> None:
    """What stood behind an alias goes on to its target."""
    sent = site.send("a.smith+x@example.com")
    site.store.wait(sent.subject, "ann+x@example.com")


def test_groups(site: Site) -> None:
    """Everybody in a group gets one copy, also when listed twice or addressed besides (cases 37, 38)."""
    sent = site.send(["sales@example.com", "ann@example.com", "nested@example.com"])
    site.store.wait(sent.subject, "ann@example.com", "carl@example.com", "keeps@example.com")
    site.s.wait(sent.subject, "bob@example.com")
    site.outside.wait(sent.subject, "friend@foreign.example")
    few = site.send("sales@few.example")
    site.store.wait(few.subject, "ann@few.example")
    site.exim.wait_empty()
    assert sorted(site.store.recipients(sent.subject)) == ["ann@example.com", "carl@example.com", "keeps@example.com"]
    assert site.s.recipients(sent.subject) == ["bob@example.com"]
    assert site.outside.recipients(sent.subject) == ["friend@foreign.example"]
    assert site.s.recipients(few.subject) == []


def test_large_group(site: Site) -> None:
    """A group that fits into no reply reaches every member, once."""
    sent = site.send("everyone@example.com")
    wait_for(lambda: len(site.outside.recipients(sent.subject)) == 2300, 30, site.exim.tail)
    assert len(set(site.outside.recipients(sent.subject))) == 2300


def test_mailbox_that_forwards(site: Site) -> None:
    """A mailbox among its own targets keeps its copy."""
    sent = site.send("keeps@example.com")
    site.store.wait(sent.subject, "keeps@example.com")
    site.outside.wait(sent.subject, "friend@foreign.example")


def test_domain_alias(site: Site) -> None:
    """alias_of: the same local part and extension in the other domain; strangers stay strangers."""
    sent = site.send(["ann+t@alias.example", "bob@alias.example", "zed@alias.example"])
    assert list(sent.codes.values()) == [250, 250, 550]
    site.store.wait(sent.subject, "ann+t@example.com")
    site.s.wait(sent.subject, "bob@example.com")


def test_subdomains(site: Site) -> None:
    """exact: not ours; strip: the same local part in the domain; match: relayed (cases 30-32)."""
    names = ["ann@sub.example.com", "ann@sub.subs.example", "zed@x.y.subs.example", "any@sub.match.example"]
    sent = site.send(names)
    assert list(sent.codes.values()) == [550, 250, 550, 250]
    assert "relay not permitted" in sent.texts["ann@sub.example.com"]
    site.store.wait(sent.subject, "ann@subs.example")
    site.s.wait(sent.subject, "any@sub.match.example")


def test_dual(site: Site) -> None:
    """dual: who is here gets the mail and the destination a copy with the sender kept; a refused copy tells nobody;
    strangers are refused (cases 75-77)."""
    sent = site.send(["ann@dual.example", "bob@dual.example", "zed@dual.example"])
    assert list(sent.codes.values()) == [250, 250, 550]
    site.store.wait(sent.subject, "ann@dual.example")
    mails = site.s.wait(sent.subject, "ann@dual.example", "bob@dual.example")
    assert {mail.sender for mail in mails} == {"o@outside.test"}
    site.s.replies["carl@dual.example"] = "550 5.1.1 not here"
    refused = site.send("carl@dual.example", "teller@foreign.example")
    site.store.wait(refused.subject, "carl@dual.example")
    site.exim.wait_empty()
    assert "teller@foreign.example" not in [n for mail in site.outside.mails for n in mail.recipients]
    bounce = site.send("carl@dual.example", "")
    site.store.wait(bounce.subject, "carl@dual.example")
    wait_for(lambda: not any("carl@dual.example" in names for names in site.exim.queued().values()), 10, site.exim.tail)


def test_dual_failure_here_is_told(site: Site) -> None:
    """The silence of a copy is not the delivery's: when the store here refuses, the sender is told."""
    site.store.replies["nobox@dual.example"] = "550 5.1.1 no such box"
    site.send("nobox@dual.example", "learns@foreign.example")
    site.outside.wait_to("learns@foreign.example")


def test_dual_by_group_and_alias(site: Site) -> None:
    """Members get their copy once, also those of a group who are addressed besides."""
    sent = site.send(["sales@dual.example", "ann@dual.example", "keeps@dual.example"])
    site.store.wait(sent.subject, "ann@dual.example", "keeps@dual.example")
    site.s.wait(sent.subject, "ann@dual.example", "bob@dual.example", "keeps@dual.example")
    site.outside.wait(sent.subject, "friend@foreign.example")


def test_all(site: Site) -> None:
    """all: the destination is the delivery, its refusal bounces; the copy here is silent and keeps the sender
    (case 79)."""
    sent = site.send(["ann@all.example", "bob@all.example", "keeps@all.example"])
    (copy,) = site.store2.wait(sent.subject, "ann@all.example", "keeps@all.example")
    assert copy.sender == "o@outside.test"
    site.s.wait(sent.subject, "ann@all.example", "bob@all.example", "keeps@all.example")
    site.s.replies["carl@all.example"] = "550 5.1.1 not here"
    site.store2.replies["carl@all.example"] = "550 5.1.1 not here"
    site.send("carl@all.example", "hears@foreign.example")
    (report,) = site.outside.wait_to("hears@foreign.example")
    assert b"carl@all.example" in report.content
    assert b"splitmx-" not in report.content
    site.exim.wait_empty()
    assert [m.recipients for m in site.outside.mails].count(["hears@foreign.example"]) == 1


def test_envelope(site: Site) -> None:
    """envelope: RCPT changes, the headers do not (case 80)."""
    sent = site.send(["bob@tenant-users.example", "sales@tenant-users.example"])
    (mail,) = site.s.wait(sent.subject, "bob@tenant.example")
    assert mail.headers["To"] == "bob@tenant-users.example"
    site.store.wait(sent.subject, "ann@tenant-users.example")


def test_envelope_domain_is_not_ours(site: Site) -> None:
    """Nobody may relay through us to the envelope domain."""
    assert site.send("bob@tenant.example").codes == {"bob@tenant.example": 550}


def test_bounce_to_postmaster(site: Site) -> None:
    """bounce = "postmaster": the wire keeps the sender; a refusal after queueing is told to the postmaster alone
    (case 58)."""
    site.s.replies["bob@quiet.example"] = "550 5.1.1 gone"
    before = len(site.store.mails)
    site.send("bob@quiet.example", "asker@foreign.example")
    told = wait_for(
        lambda: [m for m in site.store.mails[before:] if m.recipients == ["postmaster@quiet.example"]],
        10,
        site.exim.tail,
    )
    assert told[0].sender == ""
    assert ["asker@foreign.example"] not in [m.recipients for m in site.outside.mails]
    del site.s.replies["bob@quiet.example"]
    sent = site.send("bob@quiet.example", "asker@foreign.example")
    (mail,) = site.s.wait(sent.subject, "bob@quiet.example")
    assert mail.sender == "asker@foreign.example"


def test_bounce_to_sender(site: Site) -> None:
    """bounce = "sender", the default: the sender is told; a null sender never (cases 57, 59)."""
    site.s.replies["bob@strip.example"] = "550 5.1.1 gone"
    site.send("bob@strip.example", "teller2@foreign.example")
    wait_for(lambda: ["teller2@foreign.example"] in [m.recipients for m in site.outside.mails], 5, site.exim.tail)
    assert site.send("bob@strip.example", "").data == 250
    wait_for(lambda: ["bob@strip.example"] in site.exim.queued(frozen=True).values(), 10, site.exim.tail)


def test_several_hosts(site: Site) -> None:
    """The second host gets the mail when the first is down."""
    sent = site.send("bob@several.example")
    site.second.wait(sent.subject, "bob@several.example")


def test_tls(site: Site) -> None:
    """Each level gives what it promises, and never less (cases 47, 64, 85)."""
    names = [f"{name}@example.com" for name in ("none", "may", "encrypt", "ca", "right")]
    bad = [f"{name}@example.com" for name in ("plain", "untrusted", "wrong", "dane")]
    sent = site.send(names + bad)
    assert set(sent.codes.values()) == {250}
    servers = (site.self_signed, site.wrong_name, site.right_name)

    def arrived() -> dict[str, bool]:
        return {n: mail.tls for server in servers for mail in server.of(sent.subject) for n in mail.recipients}

    wait_for(lambda: len(arrived()) == len(names), 15, site.exim.tail)
    secure = arrived()
    assert secure == {
        "none@example.com": False,
        "may@example.com": True,
        "encrypt@example.com": True,
        "ca@example.com": True,
        "right@example.com": True,
    }
    wait_for(lambda: all(f"== {name} R=splitmx_" in site.exim.log() for name in bad), 10, site.exim.tail)
    assert not set(bad) & {*arrived(), *site.s.recipients(sent.subject)}
    wait_for(lambda: set(bad) <= {n for q in site.exim.queued().values() for n in q}, 5, site.exim.tail)


def test_stores(site: Site) -> None:
    """A location may name another store here."""
    sent = site.send(["two@example.com", "two+x@example.com"])
    site.store2.wait(sent.subject, "two+x@example.com", "two@example.com")


def test_locations(site: Site) -> None:
    """A location word outranks where the mailbox is; a word nobody knows is "later"."""
    sent = site.send(["moved@example.com", "stay@example.com", "odd@example.com"])
    assert list(sent.codes.values()) == [250, 250, 451]
    site.s.wait(sent.subject, "moved@example.com")
    site.store.wait(sent.subject, "stay@example.com")


def test_waves(site: Site) -> None:
    """A passed wave moves its people, a future one does not (case 90)."""
    sent = site.send(["wave.past@example.com", "wave.future@example.com"])
    site.s.wait(sent.subject, "wave.past@example.com")
    site.store.wait(sent.subject, "wave.future@example.com")


def test_suspended(site: Site) -> None:
    """Suspended people are refused as such and never relayed, by an alias too; as senders they are good (case 91)."""
    sent = site.send(["off@example.com", "withoff@example.com"])
    assert set(sent.codes.values()) == {550}
    assert all(text.startswith("5.2.1 ") for text in sent.texts.values())
    assert site.send("ann@example.com", "off@example.com", probe=True).codes == {"ann@example.com": 250}


def test_postmaster(site: Site) -> None:
    """postmaster@ is never unknown (cases 60, 62)."""
    sent = site.send(["postmaster@example.com", "postmaster@dual.example", "abuse@dual.example"])
    assert list(sent.codes.values()) == [250, 250, 550]
    site.store.wait(sent.subject, "ann@example.com", "postmaster@dual.example")


def test_off_and_observed(site: Site) -> None:
    """A domain that is off or only observed is the site's own business (cases 29, 73)."""
    for domain in ("off.example", "observed.example"):
        sent = site.send([f"ann@{domain}", f"bob@{domain}", f"zed@{domain}"])
        assert set(sent.codes.values()) == {250}
        site.store.wait(sent.subject, f"ann@{domain}", f"bob@{domain}", f"zed@{domain}")
    wait_for(lambda: "zed@observed.example" in site.daemon.run("observe", "report").stdout, 10, site.daemon.tail)


def test_itself_and_nowhere(site: Site) -> None:
    """A next hop that is this host, or that nobody knows, is deferred, never frozen or bounced (case 82)."""
    sent = site.send(["itself@example.com", "nowhere@example.com"])
    assert set(sent.codes.values()) == {250}
    wait_for(
        lambda: {"itself@example.com", "nowhere@example.com"} <= {n for q in site.exim.queued().values() for n in q},
        10,
        site.exim.tail,
    )
    stuck = {name for names in site.exim.queued(frozen=True).values() for name in names}
    assert not stuck & {"itself@example.com", "nowhere@example.com"}


def test_submission(site: Site) -> None:
    """Mail of this host's own programs takes the same way (cases 50, 66)."""
    site.exim.sendmail("cron@site.test", ["bob@example.com", "ann@example.com"], "Subject: from cron\n\nx\n")
    site.s.wait("from cron", "bob@example.com")
    site.store.wait("from cron", "ann@example.com")


def test_long_lines(site: Site) -> None:
    """A line longer than SMTP allows (an HTML mail in one line) is passed on as it came: no bounce, no lost copy."""
    names = ["bob@example.com", "two@example.com", "ann@all.example", "carl@dualstrip.example"]
    site.exim.sendmail("cron@foreign.example", names, f"Subject: one long line\n\n<p>{'x' * 4000}</p>\n")
    site.s.wait("one long line", "bob@example.com", "ann@all.example", "carl@dualstrip.example")
    site.store2.wait("one long line", "two@example.com", "ann@all.example")


def test_options_of_later_versions(site: Site) -> None:
    """Exim 4.94 starts with these texts: an option that it does not know (4.95 brought it) stands behind an .ifdef."""
    later = "message_linelength_limit"
    lines = site.exim.conf.read_text().splitlines()
    before = [lines[n - 1] for n, line in enumerate(lines) if line.strip().startswith(later)]
    assert before
    assert set(before) == {f".ifdef _OPT_TRANSPORT_SMTP_{later.upper()}"}


def test_many_recipients(site: Site) -> None:
    """A hundred recipients, half of them there: one transaction each way carries them (case 98)."""
    names = [f"ann+{n}@example.com" for n in range(50)] + [f"bob+{n}@example.com" for n in range(50)]
    sent = site.send(names)
    assert set(sent.codes.values()) == {250}
    (mail,) = site.s.wait(sent.subject, *names[50:])
    assert len(mail.recipients) == 50
    site.store.wait(sent.subject, *names[:50])


def test_never_signs(site: Site) -> None:
    """Relayed mail bears no DKIM signature of ours."""
    sent = site.send("bob@example.com")
    (mail,) = site.s.wait(sent.subject, "bob@example.com")
    assert "DKIM-Signature" not in mail.headers
    for level in ("none", "may", "encrypt", "ca", "ca_name", "dane"):
        options = site.exim.command("-bP", "transport", f"splitmx_smtp_{level}").stdout
        assert "dkim_domain = \n" in options


def test_null_sender(site: Site) -> None:
    """Bounces for people at the other side pass (cases 55, 56)."""
    sent = site.send(["bob@example.com", "zed@example.com"], "")
    assert list(sent.codes.values()) == [250, 550]
    (mail,) = site.s.wait(sent.subject, "bob@example.com")
    assert mail.sender == ""
