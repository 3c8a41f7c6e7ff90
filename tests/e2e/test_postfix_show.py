# SPDX-License-Identifier: Apache-2.0
"""What `splitmx postfix show` prints for sites of many kinds, and where it refuses."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from tests.e2e.plans import apply, has, planned, prepared, tables
from tests.e2e.site import Cleaned, Site
from transport.config.load import load
from transport.maps.write import HEADER
from transport.mta.postfix import read
from transport.mta.postfix_plan import make
from transport.mta.postfix_text import script


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
    own = site.mta.file("own", "example.com virtual\n")
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


def test_blanks_in_the_sites_own_tables(cleaned: Cleaned) -> None:
    """A table of the site's with blanks in it that would have to go into master.cf is a problem, not half a set-up."""
    own = "inline:{ a@example.com=x, b@away.test=y }"
    settings = {"virtual_mailbox_domains": "example.com", "virtual_mailbox_maps": own, "smtp_generic_maps": own}
    site = Site(cleaned, domain={"local_transport": '""', "delivery": '"dual"'}, settings=settings)

    _, plan = planned(site)

    found = [problem for problem in plan.problems if "master.cf takes no blanks" in problem]
    assert [problem.split("=")[0] for problem in found] == [
        f"{site.mta.ip}:25/inet would need -o virtual_mailbox_maps",
        "dual-there/unix would need -o smtp_generic_maps",
    ]
