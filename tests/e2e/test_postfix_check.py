# SPDX-License-Identifier: Apache-2.0
"""`postfix check` on a real Postfix: every trap by its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.plans import apply, has, prepared
from tests.e2e.site import Cleaned, Site

Change = Callable[[Site], None]


def swap(name: str, old: str, new: str) -> Change:
    """Replace text in a main.cf value."""

    def change(site: Site) -> None:
        value = site.mta.command("postconf", "-h", name).stdout.strip()
        assert old in value
        site.mta.set(**{name: value.replace(old, new)})

    return change


def put(**settings: str) -> Change:
    """Set main.cf values; `{config}` and `{maps}` are filled in."""
    return lambda site: site.mta.set(
        **{k: v.format(config=site.mta.config, maps=site.maps) for k, v in settings.items()}
    )


def behind_permit(site: Site) -> None:
    """Move the policy service behind permit_mynetworks."""
    value = site.mta.command("postconf", "-h", "smtpd_recipient_restrictions").stdout.strip()
    site.mta.set(smtpd_recipient_restrictions=f"permit_mynetworks, {value}")


def own_alias(site: Site) -> None:
    """A site's catch-all for our domain."""
    own = site.mta.file("own", "@example.com ann@example.com\n")
    value = site.mta.command("postconf", "-h", "virtual_alias_maps").stdout.strip()
    site.mta.set(virtual_alias_maps=f"texthash:{own}, {value}")


def archive(site: Site) -> None:
    """A site's archive for our domain."""
    own = site.mta.file("archive", "@example.com archive@corp.test\n")
    value = site.mta.command("postconf", "-h", "recipient_bcc_maps").stdout.strip()
    site.mta.set(recipient_bcc_maps=f"texthash:{own}, {value}")


def override(place: str) -> Change:
    """Set one `-o` of a master.cf service; `{ip}` is filled in."""

    def change(site: Site) -> None:
        site.mta.command("postconf", "-P", place.format(ip=site.mta.ip))

    return change


def own_list(site: Site) -> None:
    """The site's restrictions by a name of its own, which ends with permit."""
    value = site.mta.command("postconf", "-h", "smtpd_recipient_restrictions").stdout.strip()
    site.mta.set(base="permit_mynetworks, reject_unauth_destination, permit")
    site.mta.set(smtpd_recipient_restrictions=value.replace("permit_mynetworks", "$base", 1))


def unguarded(site: Site) -> None:
    """A live map without the guard."""
    site.mta.set(transport_maps="socketmap:unix:splitmx/socketmap.sock:transport")


TRAPS: dict[str, tuple[Change, str, dict[str, Any]]] = {
    "here in a recipient parameter": (
        swap("relay_recipient_maps", ":relay_recipients}", ":here}"),
        "uses the map here",
        {},
    ),
    "own catch-all with unknown = relay": (
        own_alias,
        "takes everybody at the other side",
        {"domain": {"unknown": '"relay"'}},
    ),
    "own catch-all with unknown = verify": (
        own_alias,
        "takes everybody at the other side",
        {"domain": {"unknown": '"verify"'}},
    ),
    "own catch-all without identity": (own_alias, "takes all mail of example.com", {"domain": {"identity": "false"}}),
    "subdomains taken by accident": (put(relay_domains="example.com"), "takes every subdomain", {}),
    "delimiters differ": (put(recipient_delimiter="-"), "recipient_delimiter", {}),
    "owner names are cut": (put(recipient_delimiter="+-", owner_request_special="no"), "owner_request_special", {}),
    "files lose extensions": (
        put(propagate_unmatched_extensions="canonical"),
        "propagate_unmatched_extensions lacks virtual",
        {"deploy": "both"},
    ),
    "policy behind permit_mynetworks": (behind_permit, "stands behind permit_mynetworks", {}),
    "live map without guard": (unguarded, "asks the daemon for every address of this host", {}),
    "live tls policy": (
        put(smtp_tls_policy_maps="socketmap:unix:splitmx/socketmap.sock:tls_policy"),
        "smtp_tls_policy_maps asks the daemon",
        {},
    ),
    "archive and dual": (archive, "exclude each other", {"domain": {"delivery": '"dual"'}}),
    "archive and all": (archive, "exclude each other", {"domain": {"delivery": '"all"'}}),
    "second class": (put(virtual_mailbox_domains="example.com"), "example.com stands in", {}),
    "no CA file": (put(smtp_tls_CAfile="", smtp_tls_CApath=""), "smtp_tls_CAfile", {"destination": {"tls": '"ca"'}}),
    "dane without DNSSEC": (
        put(smtp_dns_support_level=""),
        "smtp_dns_support_level",
        {"destination": {"tls": '"dane"'}},
    ),
    "policy without time limits": (
        swap("splitmx", ", timeout=5s, try_limit=1", ""),
        "splitmx = check_policy_service",
        {},
    ),
    "policy that lets loops pass": (
        swap("splitmx", " }", ", default_action=DUNNO }"),
        "splitmx = check_policy_service",
        {"domain": {"role": '"secondary"'}},
    ),
    "verify with default times": (
        put(address_verify_negative_expire_time="3d"),
        "address_verify_negative_expire_time",
        {"domain": {"unknown": '"verify"'}},
    ),
    "unlisted recipients accepted": (put(smtpd_reject_unlisted_recipient="no"), "smtpd_reject_unlisted_recipient", {}),
    "small groups only": (put(virtual_alias_expansion_limit="1000"), "virtual_alias_expansion_limit", {}),
    "own maps behind ours": (
        swap("virtual_alias_maps", "virtual_alias}", "virtual_alias}, static:x"),
        "behind our entries",
        {},
    ),
    "duplicates with copies": (
        put(enable_original_recipient="yes"),
        "enable_original_recipient",
        {"domain": {"delivery": '"dual"'}},
    ),
    "aliases left out by a cleanup service": (
        override("cleanup/unix/virtual_alias_maps="),
        "has a cleanup(8) without our virtual_alias_maps: aliases and groups go to the store as they are",
        {},
    ),
    "copies left out by a cleanup service": (
        override("cleanup/unix/recipient_bcc_maps="),
        "has a cleanup(8) without our recipient_bcc_maps: no copies are made",
        {"domain": {"delivery": '"dual"'}},
    ),
    "aliases left out": (put(receive_override_options="no_address_mappings"), "25/inet has no_address_mappings", {}),
    "routes of its own": (override("rewrite/unix/transport_maps="), "rewrite/unix has its own transport_maps", {}),
    "relocated as a whole": (
        put(relocated_maps="inline:{{@example.com=new@x.test}}"),
        "refuses every address of example.com",
        {},
    ),
    "the second call is never reached": (
        own_list,
        "permit stands before check_recipient_access",
        {"domain": {"role": '"secondary"'}},
    ),
    "everybody's mail waits with ours": (put(always_bcc="ann@example.com"), "mail of every domain is put off", {}),
    "other mail is copied to us": (
        put(sender_bcc_maps="inline:{{@other.test=archive@example.com}}"),
        "copies mail (@other.test) to archive@example.com: with the daemon stopped that mail is put off",
        {},
    ),
    "mail for others is copied to us": (
        put(recipient_bcc_maps="static:ann"),
        "to ann: with the daemon stopped",
        {"settings": {"myorigin": "example.com"}},
    ),
    "postmaster gets the bounces": (
        put(biff="no"),
        "has no setting for another address",
        {"destination": {"bounce": '"postmaster"'}, "daemon": {"exim": '["inet:127.0.0.1:10463"]'}},
    ),
}


@pytest.mark.parametrize("name", TRAPS)
def test_trap_is_named(cleaned: Cleaned, name: str) -> None:
    """Each trap is found where it is set, and not before."""
    change, text, options = TRAPS[name]
    before = name not in ("postmaster gets the bounces",)
    site = prepared(cleaned, **options) if before else Site(cleaned, **options)
    site.maps.mkdir()
    (site.maps / "relay_domains").write_text("/^example\\.com$/ x\n")
    assert not before or not has(site, text)

    change(site)

    assert has(site, text), site.check()


def front(name: str, table: str) -> Change:
    """Put a table of the site before ours."""

    def change(site: Site) -> None:
        value = site.mta.command("postconf", "-h", name).stdout.strip()
        site.mta.set(**{name: f"{table}, {value}"})

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (front("virtual_alias_maps", r"regexp:{{/@example\.com$$/ ann@example.com}}"), "takes all mail of example.com"),
        (front("transport_maps", r"regexp:{{/@example\.com$$/ smtp:x}}"), "routes every address of example.com"),
        (front("recipient_canonical_maps", "static:x@y.test"), "rewrites every address of example.com"),
        (front("canonical_maps", "inline:{@example.com=x@y.test}"), "rewrites every address of example.com"),
        (put(smtp_generic_maps="inline:{{@example.com=x@y.test}}"), "writes @example.com into something else"),
        (put(receive_override_options="no_unknown_recipient_checks"), "has no_unknown_recipient_checks"),
        (front("relay_recipient_maps", "inline:{@example.com=x}"), "addresses that nobody lists are accepted"),
    ],
)
def test_own_patterns_before_ours(cleaned: Cleaned, change: Change, text: str) -> None:
    """A table of the site that answers for every address is asked before ours: each is named."""
    site = prepared(cleaned)
    assert not has(site, text)

    change(site)

    assert has(site, text), site.check()


def test_own_tls_policy_for_the_same_host(cleaned: Cleaned) -> None:
    """A weaker policy of the site for the same next hop is asked before ours, and named."""
    site = prepared(cleaned, destination={"tls": '"encrypt"'})
    assert not has(site, "does not count")

    front("smtp_tls_policy_maps", f"inline:{{{{ {site.secondary.nexthop} = may }}}}")(site)

    assert has(site, "does not count")


def test_class_table_that_cannot_be_asked(cleaned: Cleaned) -> None:
    """With a class table that does not answer nobody knows the class: a problem, never a new class."""
    site = Site(cleaned)
    site.mta.set(virtual_mailbox_domains="proxy:mysql:/nowhere/domains.cf")

    done = site.splitmx.run("postfix", "show", "--config-directory", str(site.mta.config))

    assert done.returncode == 1
    assert "PROBLEM: virtual_mailbox_domains: proxy:mysql:/nowhere/domains.cf could not be asked" in done.stdout


def test_virtual_map_in_main_cf(cleaned: Cleaned) -> None:
    """Where virtual(8) delivers, a live virtual_mailbox_maps in main.cf is an error: virtual(8) refuses it."""
    site = Site(cleaned, domain={"local_transport": '""'})
    site.mta.set(virtual_mailbox_domains="example.com", virtual_mailbox_base="/nowhere")
    apply(site, site.show())
    assert not has(site, "virtual(8)")

    override = site.mta.command("postconf", "-Ph", f"{site.mta.ip}:25/inet/virtual_mailbox_maps").stdout.strip()
    site.mta.set(virtual_mailbox_maps=override)

    assert has(site, "virtual(8) refuses that")


def test_before_queue_filter(cleaned: Cleaned) -> None:
    """What a filter gives back needs neither the policy service nor a second look at who exists."""
    site = prepared(cleaned)
    again = "-o smtpd_authorized_xforward_hosts=127.0.0.0/8 -o smtpd_recipient_restrictions=permit_mynetworks,reject"
    again += " -o mynetworks=127.0.0.0/8 -o receive_override_options=no_unknown_recipient_checks"
    site.mta.command("postconf", "-P", f"{site.mta.ip}:25/inet/smtpd_proxy_filter=127.0.0.1:10025")
    site.mta.command("postconf", "-Me", f"127.0.0.1:10026/inet=127.0.0.1:10026 inet n - n - - smtpd {again}")

    assert not has(site, "without the policy service")
    assert not has(site, "no_unknown_recipient_checks")


def test_after_queue_filter_without_no_address_mappings(cleaned: Cleaned) -> None:
    """Copies would be made twice through a filter: named, and cured by receive_override_options on one side."""
    site = prepared(cleaned, domain={"delivery": '"dual"'})
    site.mta.set(content_filter="smtp:[127.0.0.1]:10024")
    site.mta.command("postconf", "-Me", "127.0.0.1:10025/inet=127.0.0.1:10025 inet n - n - - smtpd -o content_filter=")
    assert has(site, "passes cleanup twice")

    site.mta.command("postconf", "-P", "127.0.0.1:10025/inet/receive_override_options=no_address_mappings")

    assert not has(site, "passes cleanup twice")
    assert has(site, "copies are made before the after-queue filter"), "a filter without DSN lets them bounce"

    site.mta.command("postconf", "-PX", "127.0.0.1:10025/inet/receive_override_options")
    site.mta.command("postconf", "-P", f"{site.mta.ip}:25/inet/receive_override_options=no_address_mappings")

    assert has(site, "mail by pickup/unix passes cleanup twice"), "what sendmail(1) takes goes the same way"

    site.mta.command("postconf", "-P", "pickup/unix/receive_override_options=no_address_mappings")

    assert not has(site, "filter")

    site.mta.command("postconf", "-P", "127.0.0.1:10025/inet/receive_override_options=no_address_mappings")

    assert has(site, "neither on the way in nor behind the after-queue filter are our virtual_alias_maps asked")


def test_a_cleanup_service_for_the_way_in(cleaned: Cleaned) -> None:
    """A filter between two cleanup services, of which the first has no maps, as amavis documents it: one copy each."""
    site = prepared(cleaned, domain={"delivery": '"dual"'})
    site.mta.set(content_filter="smtp:[127.0.0.1]:10024", cleanup_service_name="pre-cleanup")
    entry = "pre-cleanup unix n - n - 0 cleanup -o virtual_alias_maps= -o recipient_bcc_maps="
    site.mta.command("postconf", "-Me", f"pre-cleanup/unix={entry}")
    again = "-o content_filter= -o cleanup_service_name=cleanup"
    site.mta.command("postconf", "-Me", f"127.0.0.1:10025/inet=127.0.0.1:10025 inet n - n - - smtpd {again}")

    assert not has(site, "cleanup")


def test_lines_that_are_missing_are_no_fault_of_services(cleaned: Cleaned) -> None:
    """Before `postfix show` was applied main.cf lacks our maps, and no service is told to take something out for it."""
    site = Site(cleaned, domain={"delivery": '"dual"'})
    assert has(site, "virtual_alias_maps lacks")
    assert not has(site, "a cleanup(8) without our")

    override("cleanup/unix/virtual_alias_maps=")(site)

    assert has(site, "a cleanup(8) without our virtual_alias_maps")
    assert not has(site, "a cleanup(8) without our recipient_bcc_maps")

    site.mta.command("postconf", "-PX", "cleanup/unix/virtual_alias_maps")
    site.mta.set(content_filter="smtp:[127.0.0.1]:10024")
    site.mta.command("postconf", "-Me", "127.0.0.1:10025/inet=127.0.0.1:10025 inet n - n - - smtpd -o content_filter=")

    assert not has(site, "neither on the way in nor behind")


def test_origin_in_a_file(cleaned: Cleaned) -> None:
    """Debian's `myorigin = /etc/mailname` counts with what the file says, for copies to a bare name too."""
    site = prepared(cleaned)
    site.mta.set(always_bcc="archive")
    assert not has(site, "always_bcc")

    site.mta.set(myorigin=str(site.mta.file("mailname", "example.com\n")))

    assert has(site, "always_bcc = archive: with the daemon stopped mail of every domain is put off")


def test_restrictions_by_a_name(cleaned: Cleaned) -> None:
    """An smtpd(8) whose `-o` names a list of main.cf meets the policy service if that list has it."""
    site = prepared(cleaned)
    value = site.mta.command("postconf", "-h", "smtpd_recipient_restrictions").stdout.strip()
    site.mta.set(mx_recipient_restrictions=value)

    override("{ip}:25/inet/smtpd_recipient_restrictions=$mx_recipient_restrictions")(site)

    assert not has(site, "without the policy service")


def test_aliases_of_the_site_make_no_copies(cleaned: Cleaned) -> None:
    """With dual delivery the site's own alias tables are noted: whom they lead to people of ours gets no copy."""
    site = prepared(
        cleaned, domain={"delivery": '"dual"'}, settings={"virtual_alias_maps": "inline:{a@b.test=c@d.test}"}
    )

    done = site.splitmx.run("postfix", "check", "--config-directory", str(site.mta.config))

    assert "note: virtual_alias_maps: an address that inline:{a@b.test=c@d.test} brings to people" in done.stdout


@pytest.mark.parametrize(
    ("domain", "text"),
    [
        ({"unknown": '"catchall:carl@example.com"'}, "bounces (from <>) to addresses of example.com that"),
        ({"role": '"secondary"', "outsiders": '"reject"'}, "outsiders' mail for addresses of example.com that"),
    ],
)
def test_addresses_that_the_sites_tables_alone_know(cleaned: Cleaned, domain: dict[str, str], text: str) -> None:
    """What the policy service refuses before the site's own tables (SRS, say) have their say is noted."""
    site = Site(cleaned, domain=domain, settings={"recipient_canonical_maps": "inline:{SRS0=x@example.com=a@b.test}"})

    done = site.splitmx.run("postfix", "check", "--config-directory", str(site.mta.config))

    assert f"note: recipient_canonical_maps: {text}" in done.stdout


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (put(smtpd_reject_unlisted_sender="yes"), "main.cf"),
        (override("{ip}:25/inet/smtpd_sender_restrictions=permit_mynetworks,reject_unlisted_sender"), ":25/inet"),
    ],
)
def test_who_sends_has_to_be_listed(cleaned: Cleaned, change: Change, place: str) -> None:
    """With reject_unlisted_sender our people cannot send anywhere while the daemon is stopped: noted."""
    site = prepared(cleaned)

    change(site)

    done = site.splitmx.run("postfix", "check", "--config-directory", str(site.mta.config))
    assert re.search(
        f"^note: \\S*{place} has reject_unlisted_sender: with the daemon stopped", done.stdout, re.MULTILINE
    )
