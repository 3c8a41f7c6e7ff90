# SPDX-License-Identifier: Apache-2.0
"""`postfix show` and `postfix check` on a real Postfix: what is kept, what is refused, every trap by its name."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.site import Cleaned, Site
from transport.checks.postfix import findings
from transport.config.load import load
from transport.maps.write import HEADER
from transport.mta.postfix import Postfix, read
from transport.mta.postfix_parts import Plan
from transport.mta.postfix_plan import make
from transport.mta.postfix_text import script


def prepared(cleaned: Cleaned, **more: Any) -> Site:
    """A site whose Postfix has all lines; neither of them runs."""
    site = Site(cleaned, **more)
    found, plan = planned(site)
    apply(site, script(plan, found))
    return site


@contextmanager
def tables(lines: str) -> Iterator[None]:
    """The files that the lines of `postfix show` want to see, for a moment, as if `splitmx build` had been run."""
    wanted = re.search("^for table in (.*); do$", lines, re.MULTILINE)
    assert wanted is not None
    missing = [path for path in map(Path, shlex.split(wanted[1])) if not path.exists()]
    folders = {path.parent for path in missing if not path.parent.exists()}
    for path in missing:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    yield
    for path in missing:
        path.unlink()
    for folder in folders:
        folder.rmdir()


def apply(site: Site, lines: str) -> None:
    """Run the lines on this site's Postfix."""
    with tables(lines):
        site.mta.apply(lines)


def planned(site: Site) -> tuple[Postfix, Plan]:
    """What `postfix show` works with; the commands themselves are tested elsewhere."""
    site.mta.cool()
    found = read(site.mta.config)
    return found, make(load(site.splitmx.config), found, site.deploy, site.maps)


def has(site: Site, text: str) -> bool:
    """Whether `postfix check` says it, as an error or a warning."""
    found, plan = planned(site)
    return any(text in f.text for f in findings(load(site.splitmx.config), found, plan) if f.level != "note")


def test_existing_values_stay_before_ours(cleaned: Cleaned) -> None:
    """The site's own maps and restrictions keep their place; showing it again changes nothing."""
    site = Site(cleaned, deploy="both")
    own = site.mta.file("own", "a@b.test c@d.test\n")
    site.mta.set(
        virtual_alias_maps=f"texthash:{own}",
        smtpd_recipient_restrictions="permit_mynetworks, reject_unauth_destination, check_client_access static:OK",
        smtpd_restriction_classes="mine",
        mine="permit",
        relay_domains="other.test",
    )
    first = site.show()
    apply(site, first)

    aliases = site.mta.command("postconf", "-h", "virtual_alias_maps").stdout.split(", ")
    assert aliases[0] == f"texthash:{own}"
    assert aliases[1] == f"lmdb:{site.maps}/virtual_alias"
    assert "pipemap:{sqlite:" in aliases[2]
    restrictions = site.mta.command("postconf", "-h", "smtpd_recipient_restrictions").stdout.strip()
    assert restrictions.startswith("check_recipient_access sqlite:")
    assert restrictions.endswith("permit_mynetworks, reject_unauth_destination, check_client_access static:OK")
    assert site.mta.get("smtpd_restriction_classes").startswith("mine, splitmx")
    assert site.mta.get("relay_domains").startswith("other.test, regexp:")
    apply(site, site.show())
    assert site.mta.command("postconf", "-h", "virtual_alias_maps").stdout.split(", ") == aliases
    assert site.mta.command("postconf", "-h", "smtpd_recipient_restrictions").stdout.strip() == restrictions


@pytest.mark.parametrize("parameter", ["mydestination", "virtual_mailbox_domains", "relay_domains"])
def test_class_is_never_changed(cleaned: Cleaned, parameter: str) -> None:
    """A domain stays in the class parameter that names it, and no other one gets it."""
    site = Site(cleaned)
    site.mta.set(**{parameter: "example.com"})
    apply(site, site.show())

    assert site.mta.get(parameter) == "example.com"
    if parameter != "relay_domains":
        assert "splitmx" not in site.mta.get("relay_domains")
        assert f"{site.maps}" not in site.mta.get("relay_domains")


def test_the_lines_end_at_the_first_error(cleaned: Cleaned) -> None:
    """Piped into a shell, half of them is never taken for all of them."""
    site = Site(cleaned)
    printed = site.splitmx.run("postfix", "show", "--config-directory", str(site.mta.config)).stdout
    broken = printed.replace("postconf -e", "false; postconf -e", 1)
    assert broken != printed
    before = (site.mta.config / "main.cf").read_text()
    with tables(broken):
        assert subprocess.run(["sh"], input=broken, capture_output=True, text=True, check=False).returncode == 1
    assert (site.mta.config / "main.cf").read_text() == before


@pytest.mark.parametrize("running", [True, False])
def test_the_lines_need_their_tables(cleaned: Cleaned, running: bool) -> None:
    """With a table missing Postfix would take no mail for anybody: it is named, and a running Postfix is left alone."""
    site = Site(cleaned)
    printed = site.splitmx.run("postfix", "show", "--config-directory", str(site.mta.config)).stdout
    if running:
        site.mta.start()
    before = (site.mta.config / "main.cf").read_text()

    done = subprocess.run(["sh"], input=printed, capture_output=True, text=True, check=False)

    assert (done.returncode, (site.mta.config / "main.cf").read_text() == before) == (
        (1, True) if running else (0, False)
    )
    assert "domains.sqlite is missing: run splitmx build" in done.stderr
    assert "relay_domains is missing: run splitmx build" in done.stderr


def test_a_folder_that_main_cf_cannot_name(cleaned: Cleaned) -> None:
    """A blank in a path would be the end of it in main.cf, and of all mail: refused by name."""
    site = Site(cleaned, deploy="both")
    site.maps = site.folder / "our maps"

    _, plan = planned(site)

    assert any(f"Postfix cannot name {site.maps}" in problem for problem in plan.problems)


def test_relay_domains_that_repeat_mydestination(cleaned: Cleaned) -> None:
    """The default of old main.cf files, `relay_domains = $mydestination`, is no second class."""
    site = Site(
        cleaned,
        domain={"local_transport": '""'},
        settings={"compatibility_level": "0", "mydestination": "$myhostname, example.com"},
    )

    _, plan = planned(site)

    assert (plan.problems, plan.classes) == ([], {"example.com": "mydestination"})
    assert not has(site, "example.com stands in")


@pytest.mark.parametrize("spelling", ["bücher.example", "xn--bcher-kva.example"])
def test_class_of_a_domain_in_either_spelling(cleaned: Cleaned, spelling: str) -> None:
    """Whichever spelling main.cf has, the domain keeps its class, and the spelling that is missing is named."""
    table = (
        '[domains."bücher.example"]\nlocal = ["here"]\nremote = ["there"]\ndestination = "there"\nunknown = "reject"\n'
    )
    site = Site(cleaned, tables=table, settings={"virtual_mailbox_domains": spelling})

    _, plan = planned(site)

    assert (plan.problems, plan.classes["xn--bcher-kva.example"]) == ([], "virtual_mailbox_domains")
    (other,) = {"bücher.example", "xn--bcher-kva.example"} - {spelling}
    assert any(f"virtual_mailbox_domains lacks {other}" in note for note in plan.notes)


def test_two_classes_and_alias_class_are_refused(cleaned: Cleaned) -> None:
    """A domain in two classes, or in virtual_alias_domains, is named as a problem."""
    site = Site(cleaned)
    words = ["postfix", "show", "--config-directory", str(site.mta.config)]
    site.mta.set(relay_domains="example.com", mydestination="example.com")
    done = site.splitmx.run(*words)
    assert done.returncode == 1
    assert "PROBLEM: example.com stands in mydestination and relay_domains" in done.stdout
    before = (site.mta.config / "main.cf").read_text()
    piped = subprocess.run(["sh"], input=done.stdout, capture_output=True, text=True, check=False)
    assert (piped.returncode, "PROBLEM" in piped.stderr) == (1, True)
    assert (site.mta.config / "main.cf").read_text() == before, "what cannot work was done"

    site.mta.set(relay_domains="", mydestination="", virtual_alias_domains="example.com")
    assert "PROBLEM: example.com is in virtual_alias_domains" in site.splitmx.run(*words).stdout


def test_relay_class_needs_a_local_transport(cleaned: Cleaned) -> None:
    """Without local_transport mail for people here would go to the domain's MX: refused."""
    site = Site(cleaned, domain={"local_transport": '""'})
    done = site.splitmx.run("postfix", "show", "--config-directory", str(site.mta.config))

    assert done.returncode == 1
    assert "has no local_transport" in done.stdout


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
    "everybody's mail waits with ours": (put(always_bcc="ann@example.com"), "mail of every domain is put off", {}),
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


def test_socket_outside_the_chroot(cleaned: Cleaned) -> None:
    """A socket that chrooted services cannot reach is refused, with the place where it belongs."""
    site = Site(cleaned, chroot=True, daemon={"socketmap": '["unix:/run/splitmx/socketmap.sock"]'})
    done = site.splitmx.run("postfix", "show", "--config-directory", str(site.mta.config))

    assert "chrooted services cannot reach it" in done.stdout
    assert f"{site.mta.queue}/splitmx/" in done.stdout


def test_each_instance_has_its_listener(cleaned: Cleaned) -> None:
    """With several Postfix instances each is given the sockets that its own chroot reaches."""
    first = '"unix:/nowhere/first/splitmx/{}.sock"'
    site = Site(cleaned, chroot=True)
    for name in ("socketmap", "policy"):
        site.text = site.text.replace(f"{name} = [", f"{name} = [{first.format(name)}, ")
    site.splitmx.write(site.text)

    _, plan = planned(site)

    assert plan.problems == []
    routes, policy = plan.setting("transport_maps"), plan.setting("splitmx")
    assert routes is not None
    assert policy is not None
    assert "socketmap:unix:splitmx/socketmap.sock:transport" in routes.value
    assert "unix:splitmx/policy.sock" in policy.value


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

    assert not has(site, "filter")


def test_policy_context_needs_its_postfix(cleaned: Cleaned) -> None:
    """Before 3.1 Postfix would not know the word, and take no mail for the domain: refused by name."""
    site = Site(cleaned, domain={"role": '"secondary"'})
    found, plan = planned(site)
    assert plan.problems == []

    old = make(load(site.splitmx.config), replace(found, version=(3, 0, 4)))

    assert any("policy_context" in problem for problem in old.problems)


def test_without_sqlite_the_site_decides(cleaned: Cleaned) -> None:
    """Without sqlite tables a site with a domain or `*` entry of its own is refused by name, another one served."""
    site = Site(cleaned, settings={"transport_maps": "inline:{*=smtp:[127.0.0.1]}"})
    settings = load(site.splitmx.config)
    found = read(site.mta.config)
    poor = replace(found, tables=found.tables - {"sqlite"})

    refused = make(settings, poor)
    assert any("would hide the site's own" in problem and "*" in problem for problem in refused.problems)

    site.mta.set(transport_maps="")
    found = read(site.mta.config)
    served = make(settings, replace(found, tables=found.tables - {"sqlite"}))
    assert served.problems == []
    routes = served.setting("transport_maps")
    assert routes is not None
    assert routes.ours[0].startswith("regexp:")
    aliases = served.setting("virtual_alias_maps")
    assert aliases is not None
    assert "pipemap:{regexp:" in aliases.ours[0]


def test_maps_in_the_sites_own_folder(cleaned: Cleaned) -> None:
    """With our maps in Postfix's own folder the site's entries from there stay, and its domain keeps its class."""
    site = Site(cleaned, deploy="both", domain={"local_transport": '""'})
    site.maps = site.mta.config
    own = site.mta.file("own", "example.com x\n")
    site.mta.set(transport_maps=f"texthash:{own}", virtual_mailbox_domains=f"texthash:{own}")

    _, plan = planned(site)

    routes = plan.setting("transport_maps")
    assert routes is not None
    assert routes.value.startswith(f"texthash:{own}, ")
    assert plan.classes == {"example.com": "virtual_mailbox_domains"}
    assert plan.problems == []
    site.mta.file("transport", "away.test smtp:[192.0.2.1]\n")
    _, plan = planned(site)
    assert any(f"{site.maps}/transport was not written by splitmx" in problem for problem in plan.problems)


def test_files_of_a_deployment_that_ended(cleaned: Cleaned) -> None:
    """Files in front that nobody keeps up to date any more, here or in another folder, are errors; show ends it."""
    site = prepared(cleaned, deploy="both")
    site.maps.mkdir()
    for name in ("transport", "relay_recipients", "virtual_alias", "relay_domains"):
        (site.maps / name).write_text(HEADER)
    before = f"lmdb:{site.maps}/transport"
    assert not has(site, "nobody keeps")

    site.deploy = "live"
    assert has(site, f"transport_maps has {before}, which nobody keeps up to date")
    site.deploy, site.maps = "both", site.folder / "elsewhere"
    assert has(site, f"transport_maps has {before}, which nobody keeps up to date")

    found, plan = planned(site)
    apply(site, script(plan, found))
    assert before not in site.mta.get("transport_maps")
    assert not has(site, "nobody keeps")
