# SPDX-License-Identifier: Apache-2.0
"""The main job: each recipient's mail arrives on the right side, in every way to deploy and every address class."""

from __future__ import annotations

import pytest

from tests.e2e.site import Cleaned, Site
from tests.mta.waiting import wait_for

RECIPIENTS = {
    "ann@example.com": 250,
    "bob@example.com": 250,
    "zed@example.com": 550,
    "a.smith@example.com": 250,
    "sales@example.com": 250,
}


def try_everything(site: Site) -> None:
    """All in one message, then each by itself: the same codes, the same places, the sender kept."""
    sent = site.send(*RECIPIENTS)
    assert sent.codes == RECIPIENTS
    site.arrives(sent, here=["ann@example.com"], there=["bob@example.com"], out=["outside@world.test"])
    for server in (site.store, site.secondary, site.world):
        assert {mail.sender for mail in server.of(sent.subject)} == {"me@away.test"}
        assert {mail.headers["To"] for mail in server.of(sent.subject)} == {"ann@example.com"}

    for recipient, code in RECIPIENTS.items():
        sent = site.send(recipient)
        assert sent.codes == {recipient: code}
        group = recipient.startswith("sales")
        site.arrives(
            sent,
            here=["ann@example.com"] if group or recipient.startswith("a") else [],
            there=["bob@example.com"] if group or recipient.startswith("bob") else [],
            out=["outside@world.test"] if group else [],
        )


@pytest.mark.parametrize("deploy", ["live", "static", "both"])
def test_relay_class_with_lmtp(cleaned: Cleaned, deploy: str) -> None:
    """A domain new to this Postfix becomes a relay domain; people here get their mail by LMTP."""
    site = Site(cleaned, deploy=deploy).install()

    try_everything(site)

    assert site.check() == []


def test_chrooted_services(cleaned: Cleaned) -> None:
    """With Debian's chroots the guard, the sockets and the static files are found as well."""
    site = Site(cleaned, deploy="both", chroot=True).install()

    try_everything(site)

    assert site.check() == []


@pytest.mark.parametrize("deploy", ["live", "both"])
def test_virtual_mailbox_class(cleaned: Cleaned, deploy: str) -> None:
    """A domain that already is a virtual mailbox domain stays one, with its virtual_transport and its own map."""
    site = Site(cleaned, deploy=deploy, domain={"local_transport": '""'})
    table = site.mta.file("mailboxes", "ann@example.com x\ncarl@example.com x\nown@other.test x\n")
    site.mta.set(
        virtual_mailbox_domains="example.com, other.test",
        virtual_mailbox_maps=f"texthash:{table}",
        virtual_transport=site.store.transport,
    )
    site.install()

    try_everything(site)
    sent = site.send("own@other.test", "stranger@other.test")
    assert sent.codes == {"own@other.test": 250, "stranger@other.test": 550}
    site.arrives(sent, here=["own@other.test"])

    assert site.check() == []
    assert site.mta.get("relay_domains") == "$mydestination" or "splitmx" not in site.mta.get("relay_domains")


def test_virtual_mailbox_class_with_virtual_delivery(cleaned: Cleaned) -> None:
    """Where virtual(8) itself delivers, the live recipient map stands on smtpd only, and mail is stored."""
    site = Site(cleaned, deploy="live", domain={"local_transport": '""'})
    boxes = site.folder / "boxes"
    boxes.mkdir()
    boxes.chmod(0o777)
    table = site.mta.file("mailboxes", "ann@example.com ann\ncarl@example.com carl\n")
    site.mta.set(
        virtual_mailbox_domains="example.com",
        virtual_mailbox_maps=f"texthash:{table}",
        virtual_mailbox_base=str(boxes),
        virtual_uid_maps="static:65534",
        virtual_gid_maps="static:65534",
    )
    site.install()

    sent = site.send("ann@example.com", "bob@example.com", "zed@example.com")
    assert sent.codes == {"ann@example.com": 250, "bob@example.com": 250, "zed@example.com": 550}
    site.arrives(sent, there=["bob@example.com"])

    assert sent.subject in (boxes / "ann").read_text()
    assert site.check() == []


def test_mydestination_with_unix_users(cleaned: Cleaned) -> None:
    """A domain in mydestination stays there: unix users, /etc/aliases, .forward and commands work as before."""
    site = Site(
        cleaned,
        domain={"local_transport": '""', "local": '["unix", "etc-aliases"]'},
        tables="""
[directories.unix]
type = "file"
path = "{site.folder}/passwd"
format = "passwd"
[directories.etc-aliases]
type = "file"
path = "{site.folder}/aliases"
format = "aliases"
""",
    )
    spool = site.folder / "spool"
    spool.mkdir()
    spool.chmod(0o1777)
    program = spool / "program"
    (site.folder / "passwd").write_text("man:x:1006:12::/home/man:/bin/sh\ngames:x:1005:60::/home/games:/bin/sh\n")
    aliases = site.folder / "aliases"
    aliases.write_text(f'boss: man\nticket: "|cat > {program}"\n')
    site.mta.command("postalias", f"lmdb:{aliases}")
    (site.folder / "games.forward").write_text("outside@world.test\n")
    site.mta.set(
        mydestination="example.com, $myhostname, localhost",
        alias_maps=f"lmdb:{aliases}",
        local_recipient_maps="unix:passwd.byname $alias_maps",
        mail_spool_directory=str(spool),
        forward_path=f"{site.folder}/$user.forward",
        allow_mail_to_commands="alias, forward",
        default_privs="nobody",
    )
    site.splitmx.start()
    site.wait_known("man@example.com")
    site.build()
    site.mta.apply(site.show())
    site.mta.start()

    names = ["man", "boss", "games", "ticket", "bob", "zed"]
    sent = site.send(*(f"{name}@example.com" for name in names))
    assert list(sent.codes.values()) == [250, 250, 250, 250, 250, 550]
    site.arrives(sent, there=["bob@example.com"], out=["outside@world.test"])

    assert (spool / "man").read_text().count(f"Subject: {sent.subject}\n") == 2  # itself and boss
    assert sent.subject in program.read_text()
    assert site.check() == []


def test_extension_case_and_quotes(cleaned: Cleaned) -> None:
    """Extensions are kept on both sides, case is folded, needless quotes mean nothing."""
    site = Site(cleaned).install()

    sent = site.send("ANN+News@Example.COM", "bob+x@example.com", "a.smith+y@example.com", '"carl"@example.com')

    assert set(sent.codes.values()) == {250}
    site.arrives(
        sent,
        here=["ann+News@example.com".lower(), "ann+y@example.com", "carl@example.com"],
        there=["bob+x@example.com"],
    )


def test_suspended_and_postmaster(cleaned: Cleaned) -> None:
    """A suspended recipient exists and is refused with 5.2.1; postmaster is never unknown."""
    site = Site(cleaned).install()

    sent = site.send("gone@example.com", "postmaster@example.com")

    assert sent.texts["gone@example.com"].startswith("5.2.1")
    assert sent.codes == {"gone@example.com": 550, "postmaster@example.com": 250}
    site.arrives(sent, here=["ann@example.com"])


def test_local_submission(cleaned: Cleaned) -> None:
    """Mail from cron and sendmail takes the same ways, and a stranger's bounces instead of leaving."""
    site = Site(cleaned).install()

    site.mta.sendmail("root@primary.test", ["ann@example.com", "bob@example.com"], "Subject: cron\n\nHello\n")

    site.store.wait("cron", "ann@example.com")
    site.secondary.wait("cron", "bob@example.com")


def test_new_mailbox_is_known_soon(cleaned: Cleaned) -> None:
    """Who is added to a live directory gets mail within moments, who is removed is refused as soon."""
    site = Site(cleaned).install()
    assert site.send("new@example.com").codes == {"new@example.com": 550}

    site.add(("newer@example.com", "mailbox", "", None, 1))
    wait_for(lambda: site.send("newer@example.com", probe=True).codes["newer@example.com"] == 250)
    sent = site.send("newer@example.com")
    site.arrives(sent, here=["newer@example.com"])
    site.remove("newer@example.com")
    wait_for(lambda: site.send("newer@example.com", probe=True).codes["newer@example.com"] == 550)
