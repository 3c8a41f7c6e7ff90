# SPDX-License-Identifier: Apache-2.0
"""dual towards a destination that wants another recipient on the wire: copies are changed as relayed mail is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.exim.listener import Stub
from tests.exim.site import Site, exim_conf
from tests.mta.exim import EximInstance
from tests.mta.sending import send
from tests.mta.waiting import wait_for
from transport.config.settings import Daemon, Destination, Domain, Listener, Settings

pytestmark = pytest.mark.e2e

OUTSIDE = "o@outside.test"


def test_envelope(site: Site) -> None:
    """The copy goes to the envelope domain with sender, extension and headers kept; the mail here is unchanged."""
    sent = site.send(["ann@dualtenant.example", "carl+news@dualtenant.example", "bob@dualtenant.example"])
    site.store.wait(sent.subject, "ann@dualtenant.example", "carl+news@dualtenant.example")
    mails = site.s.wait(sent.subject, "ann@tenant.example", "carl+news@tenant.example", "bob@tenant.example")
    assert {mail.sender for mail in mails} == {OUTSIDE}
    assert {mail.headers["To"] for mail in mails} == {"ann@dualtenant.example"}


def test_mailbox_that_forwards(site: Site) -> None:
    """A mailbox among its own targets keeps its mail, forwards it, and its copy goes to the envelope domain."""
    sent = site.send("keeps@dualtenant.example")
    site.store.wait(sent.subject, "keeps@dualtenant.example")
    site.outside.wait(sent.subject, "friend@foreign.example")
    site.s.wait(sent.subject, "keeps@tenant.example")


def test_plus_strip(site: Site) -> None:
    """A destination that knows no extensions gets its copies without; here the extension stays."""
    names = ["ann+news@dualstrip.example", "carl@dualstrip.example", "bob+a+b@dualstrip.example"]
    sent = site.send(names)
    site.store.wait(sent.subject, "ann+news@dualstrip.example", "carl@dualstrip.example")
    site.s.wait(sent.subject, "ann@dualstrip.example", "carl@dualstrip.example", "bob@dualstrip.example")
    twice = site.send("ann+a+b@dualstrip.example")
    site.store.wait(twice.subject, "ann+a+b@dualstrip.example")
    (mail,) = site.s.wait(twice.subject, "ann@dualstrip.example")
    assert mail.sender == OUTSIDE


def test_odd_spellings(site: Site) -> None:
    """A copy keeps its recipient's case, quotes and letters; a quoted local part loses its extension, too."""
    for name in ('"ann b"', "josé", "mixed"):
        site.here.add(f"{name}@dualstrip.example")
    site.daemon.run("sync", check=True)
    names = ['"ann b+news"@dualstrip.example', "josé@dualstrip.example", "Mixed+news@dualstrip.example"]
    sent = site.send(names, options=["SMTPUTF8"])
    site.store.wait(sent.subject, *names)
    site.s.wait(sent.subject, '"ann b"@dualstrip.example', "josé@dualstrip.example", "Mixed@dualstrip.example")


def test_envelope_and_plus_strip(site: Site) -> None:
    """Both at once, and for the members of a group."""
    sent = site.send(["ann+news@dualboth.example", "carl@dualboth.example"])
    site.store.wait(sent.subject, "ann+news@dualboth.example", "carl@dualboth.example")
    site.s.wait(sent.subject, "ann@strip-tenant.example", "carl@strip-tenant.example")
    group = site.send("sales+x@dualboth.example")
    site.store.wait(group.subject, "ann+x@dualboth.example")
    site.s.wait(group.subject, "ann@strip-tenant.example", "bob@strip-tenant.example")


def test_a_refused_copy_tells_nobody(site: Site) -> None:
    """Neither the sender nor, with bounce = "postmaster", the postmaster hears of a copy that was refused; of relayed
    mail the postmaster does."""
    for domain in ("tenant.example", "quiet-tenant.example"):
        site.s.replies[f"carl@{domain}"] = site.s.replies[f"bob@{domain}"] = "550 5.1.1 not here"
    site.s.replies["carl@dualstrip.example"] = "550 5.1.1 not here"
    domains = ("dualtenant.example", "dualquiet.example", "dualstrip.example")
    for domain in domains:
        sent = site.send(f"carl+x@{domain}", f"teller@{domain}.foreign.example")
        site.store.wait(sent.subject, f"carl+x@{domain}")
    wait_for(lambda: not any("carl" in name for names in site.exim.queued().values() for name in names), 20)
    told = [name for mail in (*site.outside.mails, *site.store.mails) for name in mail.recipients]
    ours = tuple(f"{who}@{domain}" for who in ("teller", "postmaster") for domain in domains)
    assert not [name for name in told if name.startswith(ours)]
    site.send("bob@dualquiet.example", "teller@relayed.foreign.example")
    site.store.wait_to("postmaster@dualquiet.example")
    site.s.replies.clear()


def test_failure_here_is_told(site: Site) -> None:
    """The silence of a changed copy is not the delivery's: when the store here refuses, the sender is told."""
    for domain in ("dualtenant.example", "dualstrip.example"):
        site.store.replies[f"ann+full@{domain}"] = "550 5.2.2 full"
        site.send(f"ann+full@{domain}", f"learns@{domain}.foreign.example")
        site.outside.wait_to(f"learns@{domain}.foreign.example")
    site.store.replies.clear()


def test_strip_extension(site: Site, cleaned: Callable[[Callable[[], object]], None]) -> None:
    """With SPLITMX_STRIP_EXTENSION the mail here loses its extension, and nobody gets a second copy of it."""
    conf = exim_conf(site.settings, store=site.store, outside=site.outside, extra="SPLITMX_STRIP_EXTENSION = yes")
    exim = EximInstance(conf, name="strip").start()
    cleaned(exim.stop)
    names = ["ann+x@dual.example", "keeps+x@dual.example", "ann+x@dualtenant.example", "ann+x@example.com"]
    sent = send(exim.ip, OUTSIDE, names)
    site.store.wait(sent.subject, "ann@dual.example", "keeps@dual.example", "ann@dualtenant.example", "ann@example.com")
    exim.wait_empty()
    site.s.wait(sent.subject, "ann+x@dual.example", "keeps+x@dual.example", "ann+x@tenant.example")
    site.outside.wait(sent.subject, "friend+x@foreign.example")


def test_an_extension_is_no_ending(site: Site) -> None:
    """A sender's extension that looks like the ending of a copy, or of kept mail, is an extension: nobody's mail is
    taken for a copy of it."""
    for ending in ("copy", "kept"):
        sent = site.send([f"keeps+.splitmx-{ending}@all.example", f"keeps+.splitmx-{ending}@dual.example"])
        site.store2.wait(sent.subject, f"keeps+.splitmx-{ending}@all.example")
        site.store.wait(sent.subject, f"keeps+.splitmx-{ending}@dual.example")
        site.s.wait(sent.subject, *sent.codes)


USERFORWARD = """
userforward:
  driver = redirect
  domains = dual.example : dualtenant.example
  local_part_suffix = +*
  local_part_suffix_optional
  data = ${if eq{$local_part}{carl}{\\carl@$domain, friend@foreign.example}}
  check_ancestor
site_local:
"""


@pytest.mark.parametrize("extra", ["", "SPLITMX_STRIP_EXTENSION = yes"])
def test_a_forward_file_that_keeps(site: Site, cleaned: Callable[[Callable[[], object]], None], extra: str) -> None:
    """Mail to carl+news whose .forward keeps it and sends it on: one copy at the destination, as for carl."""
    conf = exim_conf(site.settings, store=site.store, outside=site.outside, extra=extra)
    exim = EximInstance(conf.replace("\nsite_local:\n", USERFORWARD), name="forwards").start()
    cleaned(exim.stop)
    site.here.add("carl+own@dual.example")
    site.daemon.run("sync", check=True)
    own = send(exim.ip, OUTSIDE, "carl+own@dual.example", subject=f"forward file of its own{extra}")
    site.s.wait(own.subject, "carl+own@dual.example", "carl@dual.example")
    for number, name in enumerate(("carl", "carl+news")):
        people = [f"{name}@dual.example", f"{name}@dualtenant.example"]
        sent = send(exim.ip, OUTSIDE, people, subject=f"forward file {number}{extra}")
        exim.wait_empty()
        kept = ["carl@dual.example", "carl@dualtenant.example"]
        site.store.wait(sent.subject, *kept)
        site.outside.wait(sent.subject, "friend@foreign.example")
        site.s.wait(sent.subject, f"{name}@dual.example", f"{name}@tenant.example")


REWRITE = r"""
begin rewrite
*@tenant.example  $1@dualtenant.example
^(.*)\.splitmx-\w+@ $1@elsewhere.example
"""


def test_rewriting_of_the_site(site: Site, cleaned: Callable[[Callable[[], object]], None]) -> None:
    """A rule that writes the tenant's addresses as ours, as for mail that comes from there, leaves copies and relayed
    mail alone."""
    conf = exim_conf(site.settings, store=site.store, outside=site.outside) + REWRITE
    exim = EximInstance(conf, name="rewrites").start()
    cleaned(exim.stop)
    names = ["ann@dualtenant.example", "bob@dualtenant.example", "ann@dual.example", "keeps@dual.example"]
    sent = send(exim.ip, OUTSIDE, names)
    exim.wait_empty()
    site.store.wait(sent.subject, *(name for name in names if not name.startswith("bob")))
    site.s.wait(sent.subject, "ann@tenant.example", "bob@tenant.example", "ann@dual.example", "keeps@dual.example")


def test_cutthrough_forgets_nobody(site: Site, cleaned: Callable[[Callable[[], object]], None]) -> None:
    """A site's ACL that passes mail on while it comes in (cutthrough): who is listed at the other side, behind somebody
    whose mail goes that way, gets it too, and a copy is made."""
    path = site.folder / "cutthrough.sock"
    hop = f"hosts={site.s.host} port=25 tls=may"
    store = f"store_via=smtp store_hosts={site.second.host} store_port=25"
    replies = {
        "zed": f"decision=relay {hop} verify=yes",
        "bob": f"decision=relay {hop} verify=no",
        "ann": f"decision=local copy=relay {store} {hop} verify=no",
        "carl": f"decision=local {store} verify=no",
    }
    stub = Stub(path, lambda line: replies[line.decode().rpartition("recipient=")[2].partition("@")[0]].encode())
    cleaned(stub.close)
    settings = Settings(
        daemon=Daemon(exim=(Listener("unix", str(path)),)),
        destinations={"s": Destination("s", hosts=(site.s.host,))},
        domains={"cut.example": Domain("cut.example", destination="s")},
    )
    conf = exim_conf(settings, store=site.store, outside=site.outside)
    cut = "acl_check_rcpt:\n  warn control = cutthrough_delivery\n"
    exim = EximInstance(conf.replace("acl_check_rcpt:\n", cut), name="cutthrough").start()
    cleaned(exim.stop)
    for here, there in (("carl", "bob"), ("", "zed bob"), ("ann", "ann"), ("carl ann", "ann"), ("ann", "zed ann")):
        first = there.split() if here in there else here.split()
        names = [f"{name}@cut.example" for name in dict.fromkeys([*first, *here.split(), *there.split()])]
        sent = send(exim.ip, OUTSIDE, names, subject=f"cutthrough {here} {there}")
        assert set(sent.codes.values()) == {250}
        site.second.wait(sent.subject, *(f"{name}@cut.example" for name in here.split()))
        site.s.wait(sent.subject, *(f"{name}@cut.example" for name in there.split()))
