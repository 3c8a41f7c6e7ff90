# SPDX-License-Identifier: Apache-2.0
"""Makes contrib/postfix/*.sh: what `postfix show` prints for typical sites, under a Debian system's usual names.

`python -m tests.e2e.fragments` writes them; a test compares them with what is printed now.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.site import Site

FOLDER = Path(__file__).resolve().parents[2] / "contrib" / "postfix"
LMTP = '"lmtp:unix:private/dovecot-lmtp"'


@dataclass
class Fragment:
    """One typical site: what it had in main.cf, and the keys of its domain and destination."""

    title: str
    settings: dict[str, str] = field(default_factory=dict)
    domain: dict[str, str] = field(default_factory=dict)
    destination: dict[str, str] = field(default_factory=dict)
    deploy: str = "live"
    chroot: bool = True


FRAGMENTS = {
    "relay-lmtp": Fragment("A relay domain whose people get their mail by LMTP"),
    "virtual-mailbox": Fragment(
        "A domain in virtual_mailbox_domains, stored by LMTP",
        {
            "virtual_mailbox_domains": "example.com",
            "virtual_mailbox_maps": "proxy:mysql:/etc/postfix/mailboxes.cf",
            "virtual_transport": "lmtp:unix:private/dovecot-lmtp",
        },
        {"local_transport": '""'},
    ),
    "virtual-delivery": Fragment(
        "A domain in virtual_mailbox_domains, stored by virtual(8)",
        {"virtual_mailbox_domains": "example.com", "virtual_mailbox_maps": "texthash:/etc/postfix/mailboxes"},
        {"local_transport": '""'},
    ),
    "mydestination": Fragment(
        "A domain in mydestination with unix users",
        {
            "mydestination": "$myhostname, localhost, example.com",
            "alias_maps": "texthash:/etc/aliases",
            "local_recipient_maps": "proxy:unix:passwd.byname $alias_maps",
        },
        {"local_transport": '""'},
    ),
    "static": Fragment("Static maps alone", deploy="static"),
    "both": Fragment("Static maps first, live maps behind them", deploy="both"),
    "verify": Fragment("Unknown addresses are probed at the other side", domain={"unknown": '"verify"'}),
    "secondary": Fragment(
        "The MX is the other side; this host is the secondary",
        domain={"role": '"secondary"', "unknown": '"relay"', "peer_only": "true"},
        destination={"peers": '["198.51.100.0/24"]'},
    ),
    "dual": Fragment("Dual delivery: who is here gets a copy at the other side", domain={"delivery": '"dual"'}),
    "all": Fragment("Everything goes to the other side, with a copy here", domain={"delivery": '"all"'}),
    "observe": Fragment("Observing: nothing changes but the log", domain={"enabled": '"observe"'}),
    "tls": Fragment("The other side has to prove its name", destination={"tls": '"ca+name"'}),
}


def text(name: str, cleaned: Callable[[Callable[[], object]], None]) -> str:
    """One fragment as it is printed now, with usual names for private ones."""
    wanted = FRAGMENTS[name]
    domain = {"local_transport": LMTP} | wanted.domain
    if name == "all":
        domain["local_transport"] = '"lmtp:[127.0.0.1]:24"'
    site = Site(
        cleaned,
        settings=wanted.settings,
        domain=domain,
        destination={"hosts": '["example-com.mail.protection.outlook.com"]'} | wanted.destination,
        deploy=wanted.deploy,
        chroot=wanted.chroot,
    )
    site.mta.set(local_recipient_maps=wanted.settings.get("local_recipient_maps", "$alias_maps"))
    shown = site.show()
    for private, usual in (
        (str(site.maps), "/var/lib/splitmx/maps"),
        (str(site.mta.config), "/etc/postfix"),
        (str(site.mta.queue), "/var/spool/postfix"),
        (f"{site.mta.ip}:25/inet", "smtp/inet"),
    ):
        shown = shown.replace(private, usual)
    shown = re.sub(r"on Postfix [\d.]+ in", "on a Postfix in", shown)
    return f"# {wanted.title}.\n#\n{shown}"


def main() -> None:
    """Write all of them."""
    todo: list[Callable[[], object]] = []
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in FRAGMENTS:
        (FOLDER / f"{name}.sh").write_text(text(name, todo.append))
    for action in reversed(todo):
        action()


if __name__ == "__main__":
    main()
