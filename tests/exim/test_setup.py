# SPDX-License-Identifier: Apache-2.0
"""`exim show` and `exim check`, and what stands in contrib: taken by a real Exim, and by Debian's own configuration."""

from __future__ import annotations

import json
import re
import smtplib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.exim import example
from tests.exim.site import Site
from tests.mta.daemon import COMMAND
from tests.mta.exim import EximInstance, environment, unpacked
from tests.mta.sending import send
from transport.checks.exim import findings
from transport.config.settings import Daemon, Destination, Domain, Listener, Location, Settings
from transport.maps.exim import _domain_lists
from transport.maps.report import BuildReport
from transport.mta.exim import EximError, read
from transport.mta.exim_plan import MAX_INLINE, plan, problems, render

Cleaned = Callable[[Callable[[], object]], None]


def run(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    """A `splitmx` command where Exim's libraries are found."""
    command = [*COMMAND, "--config", str(site.daemon.config), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment())


def test_contrib_is_what_show_prints() -> None:
    """contrib/exim is made of the program's own texts; `python -m tests.exim.example` writes it anew."""
    for name, text in example.files().items():
        assert (example.CONTRIB / name).read_text() == text, name


def test_no_macro_is_part_of_another() -> None:
    """Exim replaces a macro's name wherever it stands, also within another name."""
    for kind in ("plain", "debian", "cpanel"):
        text = "\n".join(render(plan(example.settings(), kind, "both")).values())
        names = sorted(set(re.findall(r"(?m)^(SPLITMX_\w+) =", text)) | set(re.findall(r"\.ifdef (SPLITMX_\w+)", text)))
        assert not [(one, other) for one in names for other in names if one != other and one in other]


def test_every_router_is_for_our_domains() -> None:
    """No router of ours speaks for another domain."""
    routers = plan(example.settings()).text("routers")
    for block in re.split(r"(?m)^(?=splitmx_\w+:)", routers)[1:]:
        assert re.search(r"(?m)^  domains = (\+splitmx_routed|copy-errors\.splitmx\.invalid)$", block), block


def test_problems_are_named() -> None:
    """What an Exim cannot do is said: no listener, a path that it would cut, a store below Postfix's queue."""
    assert any("daemon.exim is empty" in line for line in plan(Settings()).problems)
    long = Settings(daemon=Daemon(exim=(Listener("unix", "/run/" + "x" * 110),)))
    assert any("cut it in silence" in line for line in problems(long, "live"))
    relative = Settings(
        daemon=Daemon(exim=(Listener("unix", "/run/x"),)),
        destinations={"s": Destination("s", hosts=("h.example",))},
        domains={
            "a.example": Domain("a.example", destination="s", local_transport="lmtp:unix:private/dovecot-lmtp"),
            "b.example": Domain("b.example", destination="s", local_transport="lmtp:unix:/run/dovecot/lmtp"),
            "c.example": Domain("c.example", destination="s", locations={"v": Location("", "virtual:")}),
        },
    )
    found = problems(relative, "live")
    assert len(found) == 2
    assert "private/dovecot-lmtp" in found[0]
    assert "locations.v" in found[1]


def test_many_domains_stand_in_a_file() -> None:
    """A list of domains that does not fit into a line of Exim's configuration becomes a file."""
    domains = {f"d{n}.example": Domain(f"d{n}.example", destination="s") for n in range(2000)}
    many = Settings(destinations={"s": Destination("s", hosts=("h.example",))}, domains=domains)
    main = plan(many, maps=Path("/var/lib/splitmx/maps")).text("main")
    assert "domainlist splitmx_domains = partial1-cdb;/var/lib/splitmx/maps/exim_splitmx_domains.cdb\n" in main


def test_every_list_file_is_written(folder: Path) -> None:
    """Whatever list of domains the texts look for in a file, build writes: Exim ends with a panic for a missing one."""
    destinations = {
        f"t{n}": Destination(f"t{n}", hosts=("h.example",), envelope=f"t{n}.tenants.example") for n in range(500)
    }
    domains = {f"d{n}.example": Domain(f"d{n}.example", destination=f"t{n % 500}") for n in range(2000)}
    domains |= {f"o{n}.example": Domain(f"o{n}.example", destination="t0", enabled="observe") for n in range(1000)}
    many = Settings(destinations=destinations, domains=domains)
    main = plan(many, deploy="both", maps=folder).text("main")
    named = re.findall(r"partial1-cdb;(\S+)", main)
    assert len(named) == 4
    aside = folder / "aside"
    aside.mkdir()
    _domain_lists(many, BuildReport(folder), aside, check=False)
    assert not [path for path in named if not Path(path).exists()]
    assert max(len(line) for line in main.splitlines()) < MAX_INLINE


@pytest.mark.e2e
def test_show(site: Site) -> None:
    """show prints every part, and --json the same with its places."""
    done = run(site, "exim", "show", "--kind", "debian", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told["parts"]) == {"main", "acl", "routers", "transports"}
    assert told["parts"]["routers"]["place"] == "/etc/exim4/conf.d/router/120_splitmx"
    text = run(site, "exim", "show", "--part", "routers").stdout
    assert "splitmx_ask:" in text
    assert "begin" not in re.findall(r"(?m)^\w+", text)


@pytest.mark.e2e
def test_check_is_content_with_what_show_prints(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site set up by the book has no finding; what differs is named."""
    words = ("exim", "check", "--exim", str(site.exim.binary), "--exim-config")
    done = run(site, *words, str(site.exim.conf))
    assert done.returncode == 0, done.stdout
    monkeypatch.setenv("LD_LIBRARY_PATH", environment()["LD_LIBRARY_PATH"])
    text = site.exim.conf.read_text()
    for number, (old, new, wanted) in enumerate(
        (
            (
                "  verify_sender = false\n  allow_fail",
                "  allow_fail",
                "router splitmx_suspended is not what it should be",
            ),
            ("splitmx_relay:", "my_relay:", "router splitmx_relay is missing"),
            ("domainlist splitmx_domains = example.com : ", "domainlist splitmx_domains = ", "lacks example.com"),
            (
                "begin routers\n",
                "begin routers\nmine:\n driver = accept\n transport = site_smtp\n",
                "stands before ours",
            ),
            ("acl_smtp_rcpt = acl_check_rcpt", "acl_smtp_rcpt = other", "is no name of an ACL"),
            ("  hosts_require_tls = *\n", "", "transport splitmx_smtp_encrypt is not what it should be"),
            ("acl_check_rcpt:\n", "acl_check_rcpt:\n  accept hosts = 127.0.0.1\n", "accepts recipients before"),
            ("acl_check_rcpt:\n", "acl_check_rcpt:\n  warn control = cutthrough_delivery\n", "forgets recipients"),
            ("begin retry\n* *", "begin retry\nother.example *", "no retry rule is for example.com"),
            (f"SPLITMX_SOCKET = {site.folder}", "SPLITMX_SOCKET = /else", "but the daemon listens at"),
            ("acl_smtp_rcpt = acl_check_rcpt", "", "acl_smtp_rcpt is not set"),
            (
                "begin routers\n",
                "begin routers\nmine:\n driver = redirect\n domains = example.com\n data = info@example.com\n",
                "router mine (redirect) stands before ours",
            ),
        )
    ):
        assert old in text, old
        broken = site.exim.root / f"broken{number}.conf"
        broken.write_text(text.replace(old, new, 1))
        found = findings(site.settings, read(str(site.exim.binary), broken))
        assert any(wanted in f.text and f.level != "note" for f in found), (wanted, found)


@pytest.mark.e2e
def test_check_lets_good_sites_be(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ACL that is called in one line, and aliases before ours, are no findings; of a broken configuration both the
    line and the reason are said."""
    monkeypatch.setenv("LD_LIBRARY_PATH", environment()["LD_LIBRARY_PATH"])
    text = site.exim.conf.read_text()
    other = text.replace("acl_smtp_rcpt = acl_check_rcpt", "acl_smtp_rcpt = outer")
    other = other.replace("begin acl\n", "begin acl\nouter:\n  accept acl = acl_check_rcpt\n", 1)
    aliases = "mine:\n driver = redirect\n data = ${lookup{$local_part}lsearch{/etc/aliases}}\n"
    other = other.replace("begin routers\n", f"begin routers\n{aliases}", 1)
    path = site.exim.root / "other.conf"
    path.write_text(other)
    found = findings(site.settings, read(str(site.exim.binary), path))
    assert not [f for f in found if f.level != "note"]
    assert any(f.text.startswith("transport site_store takes several recipients at once") for f in found)
    path.write_text(text.replace("begin routers", "begin ruoters", 1))
    with pytest.raises(EximError, match=r"(?s)in line \d+ of .*ruoters"):
        read(str(site.exim.binary), path)


@pytest.mark.e2e
def test_check_names_aliases_behind_ours(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the site's aliases stand behind our routers, check says who would be refused."""
    monkeypatch.setenv("LD_LIBRARY_PATH", environment()["LD_LIBRARY_PATH"])
    behind = "mine:\n driver = redirect\n domains = +local_domains\n"
    behind += " data = ${lookup{$local_part}lsearch{/etc/aliases}}\n"
    path = site.exim.root / "behind.conf"
    path.write_text(site.exim.conf.read_text().replace("\nsite_local:\n", f"\n{behind}site_local:\n", 1))
    found = findings(site.settings, read(str(site.exim.binary), path))
    assert [f.level for f in found if f.text.startswith("router mine (aliases) stands behind ours")] == ["warning"]


@pytest.mark.e2e
def test_check_without_an_exim(site: Site) -> None:
    """A missing program is said in one line."""
    done = run(site, "exim", "check", "--exim", "/nonexistent/exim")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.e2e
def test_plain_example_is_taken(site: Site, cleaned: Cleaned) -> None:
    """contrib's whole exim.conf is taken by Exim once its includes are where it says."""
    text = (example.CONTRIB / "plain" / "exim.conf").read_text()
    text = text.replace("/etc/exim4/splitmx", str(example.CONTRIB / "plain")).replace(
        "primary_hostname = mail.example.com", ""
    )
    text = re.sub(r"(?s)begin retry.*", "", text).replace("callout_negative_expire = 10m", "").replace(
        "callout_domain_negative_expire = 10m", "")  # fmt: skip
    exim = EximInstance(text, name="plain")
    cleaned(exim.stop)
    assert "cannot be resolved at this time" in exim.route("ann@example.com")


@pytest.mark.e2e
def test_debian_split_configuration(site: Site, cleaned: Cleaned) -> None:
    """Inside Debian's own split configuration ours come first, and its ACL still has its say."""
    source = unpacked() / "etc/exim4/conf.d"
    if not (source / "router").is_dir():
        pytest.skip("exim4-config is not unpacked beside Exim: tests/run.sh does that")
    folder = site.folder / "conf.d"
    subprocess.run(["cp", "-r", str(source), str(folder)], check=True)
    done = run(site, "exim", "show", "--kind", "debian", "--output", str(folder))
    assert done.returncode == 0, done.stderr
    text = [
        f"DCconfig_internet = 1\nMAIN_RELAY_NETS = 127.0.0.1 : {site.ip}\nMAIN_RELAY_TO_DOMAINS =",
        "MAIN_LOCAL_DOMAINS = @ : +splitmx_domains\nDC_minimaldns = 1\nMAIN_QUALIFY_DOMAIN = site.test",
        f"CHECK_RCPT_LOCAL_ACL_FILE = {site.folder}/rcpt",
        "LOCAL_DELIVERY = store\nCHECK_RCPT_NO_FAIL_TOO_MANY_BAD_RCPT = 1",
    ]
    for part in ("main", "acl", "router", "transport", "rewrite"):
        text += [path.read_text() for path in sorted((folder / part).iterdir())]
    joined = "\n".join(text)
    own = ("exim_path", "spool_directory", "primary_hostname", "local_interfaces", "keep_environment", "host_lookup",
           "timeout_frozen_after", "untrusted_set_sender", "prdr_enable", "log_selector", "smtputf8_advertise_hosts",
           "tls_advertise_hosts", "freeze_tell", "ignore_bounce_errors_after", "log_file_path")  # fmt: skip
    joined = re.sub(rf"(?m)^\s*({'|'.join(own)}) *=?.*(\\\n.*)*$", "", joined)
    store = f"store:\n  driver = smtp\n  protocol = lmtp\n  hosts = {site.store.host}\n  port = 24\n"
    store += "  hosts_override\n  allow_localhost\n"
    joined = joined.replace("begin transports\n", "begin transports\n" + store)
    aliases = site.folder / "aliases"
    aliases.write_text("root: nobody@example.com\nlegacy: bob@example.com\ncarl: bob@example.com\n")
    joined = joined.replace("lsearch{/etc/aliases}", f"lsearch{{{aliases}}}")
    (site.folder / "rcpt").write_text("  drop senders = drop@outside.test\n")
    exim = EximInstance(joined, name="debian").start()
    cleaned(exim.stop)
    sent = send(
        exim.ip, "o@outside.test", ["nobody@example.com", "bob@example.com", "zed@example.com", "x@foreign.example"]
    )
    assert list(sent.codes.values()) == [250, 250, 550, 550], sent.texts
    assert sent.texts["x@foreign.example"] == "relay not permitted"
    site.s.wait(sent.subject, "bob@example.com")
    site.store.wait(sent.subject, "nobody@example.com")
    # Debian's aliases stand behind ours: who is in no directory, root of cron's mail for one, may be among them
    sent = send(exim.ip, "o@outside.test", ["root@example.com", "legacy@example.com", "zed@example.com"])
    assert list(sent.codes.values()) == [250, 250, 550], sent.texts
    site.store.wait(sent.subject, "nobody@example.com")
    site.s.wait(sent.subject, "bob@example.com")
    with pytest.raises(smtplib.SMTPServerDisconnected):  # a `drop` of the site's ends the session
        send(exim.ip, "drop@outside.test", ["nobody@example.com", "bob@example.com"])
    # and so does its real-NAME, for what this host itself has to tell a user
    assert send(exim.ip, "o@outside.test", "real-nobody@example.com").codes == {"real-nobody@example.com": 550}
    exim.sendmail("", ["real-nobody@example.com"], "Subject: error in your .forward\n\nx\n")
    site.store.wait("error in your .forward", "nobody@example.com")


@pytest.mark.e2e
def test_debian_own_generator(site: Site, cleaned: Cleaned) -> None:
    """What update-exim4.conf makes of the split configuration with our files in it is taken by Exim, our ACL runs,
    our routers come first, and `+splitmx_domains` in dc_other_hostnames makes the domains local."""
    generator = unpacked() / "usr/sbin/update-exim4.conf"
    if not generator.exists():
        pytest.skip("update-exim4.conf is not unpacked beside Exim: tests/run.sh does that")
    exim = EximInstance("", name="generated")
    cleaned(exim.stop)
    folder, made = exim.root / "etc", exim.root / "generated.conf"
    folder.mkdir()
    subprocess.run(["cp", "-r", str(unpacked() / "etc/exim4/conf.d"), str(folder)], check=True)
    (folder / "update-exim4.conf.conf").write_text(
        "dc_eximconfig_configtype='internet'\ndc_other_hostnames='mail.site.test:+splitmx_domains'\n"
        "dc_local_interfaces=''\ndc_readhost=''\ndc_relay_domains=''\ndc_minimaldns='false'\ndc_relay_nets=''\n"
        "dc_smarthost=''\nCFILEMODE='644'\ndc_use_split_config='true'\ndc_hide_mailname=''\n"
        "dc_mailname_in_oh='true'\ndc_localdelivery='mail_spool'\n"
    )
    assert run(site, "exim", "show", "--kind", "debian", "--output", str(folder / "conf.d")).returncode == 0
    subprocess.run(["sh", str(generator), "-d", str(folder), "-o", str(made)], check=True, capture_output=True)
    text = made.read_text()
    for name, value in (
        ("exim_path", exim.binary), ("spool_directory", exim.spool), ("log_file_path", f"{exim.logs}/%slog"),
        ("qualify_domain", "site.test"),
    ):  # fmt: skip
        text = re.sub(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
    exim.conf.write_text("keep_environment = LD_LIBRARY_PATH\n" + re.sub(r"(?m)^keep_environment.*$", "", text))
    assert exim.command("-bP", "acl_smtp_rcpt").stdout.strip() == "acl_smtp_rcpt = acl_splitmx_check_rcpt"
    routed = exim.route("bob@example.com", "nobody@example.com", "zed@example.com")
    assert re.search(r"bob@example.com\s+router = splitmx_relay", routed), routed
    assert "zed@example.com is undeliverable" in routed
    assert exim.expand("${if match_domain{example.com}{+local_domains}{yes}{no}}") == "yes"
