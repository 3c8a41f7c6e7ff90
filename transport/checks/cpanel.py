# SPDX-License-Identifier: Apache-2.0
"""A cPanel host's own settings beside ours: what would route a split domain away, swallow its mail, or keep a second
mailbox of somebody who has moved."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from transport.address import Address, external
from transport.checks.dns import Dns, DnsError
from transport.checks.finding import Finding, error, note, warning
from transport.config.settings import Domain, FileOptions, Settings
from transport.decision import Verdict
from transport.directories.base import DirectoryError
from transport.directories.cpanel import Tree
from transport.directories.reading import address_in
from transport.index.reader import Reader
from transport.maps.snapshot import Snapshot
from transport.router import Router

SHOWN = 20
"""Leftover mailboxes of one domain that are named; the rest is counted."""

_LOCAL = "cPanel > Email Routing > Local Mail Exchanger; splitmx then decides for each recipient"


def roots(settings: Settings) -> list[Path]:
    """Root folders of the cPanel hosts that the directories name, and this host's when it is one."""
    found = [
        Path(directory.options.path)
        for directory in settings.directories.values()
        if isinstance(directory.options, FileOptions) and directory.options.format == "cpanel"
    ]
    if Path("/usr/local/cpanel/version").exists():
        found.append(Path("/"))
    return list(dict.fromkeys(found))


def findings(settings: Settings, reader: Reader | None = None, dns: Dns | None = None) -> list[Finding]:
    """Everything found on every cPanel host. reader: the loaded index, for leftovers; dns: for Auto."""
    found: list[Finding] = []
    for root in roots(settings):
        tree = Tree(root)
        try:
            owners = tree.owners()
        except DirectoryError as fault:
            found.append(warning(f"cPanel below {root}: {fault}", fault.hint))
            continue
        for domain in settings.domains.values():
            if domain.enabled == "no":
                continue
            if domain.name not in owners:
                if _reads(settings, domain, root):
                    found.append(
                        warning(
                            f"{domain.name} is on no account of the cPanel host below {root}: nobody of it is here",
                            "take the directory out of its `local` if the account has moved",
                        )
                    )
                continue
            try:
                found += _routing(tree, owners[domain.name], domain, dns)
                found += _swallowing(tree, domain)
                found += _leftovers(tree, owners[domain.name], settings, domain, reader)
                found += _forwarders(tree, owners[domain.name], settings, domain, reader)
            except DirectoryError as fault:
                found.append(warning(f"{domain.name}, cPanel below {root}: {fault}", fault.hint))
    return list(dict.fromkeys(found))


def _reads(settings: Settings, domain: Domain, root: Path) -> bool:
    """Whether the domain's people are looked for on this host and nowhere else."""
    options = [settings.directories[name].options for name in domain.local]
    return bool(options) and all(
        isinstance(found, FileOptions) and found.format == "cpanel" and Path(found.path) == root for found in options
    )


def _routing(tree: Tree, account: str, domain: Domain, dns: Dns | None) -> Iterator[Finding]:
    name = domain.name
    state, choice = tree.state(name), tree.choice(account, name)
    mailboxes = tree.mailboxes(account, name)
    if state in ("remote", "secondary"):
        word = "Remote" if state == "remote" else "Backup"
        if mailboxes:
            yield error(
                f"{name} is set to {word} Mail Exchanger, and {len(mailboxes)} mailboxes are here (for example"
                f" {mailboxes[0]}@{name}): this host "
                + (
                    "refuses their mail from outside and sends its own users' mail for them away"
                    if state == "remote"
                    else "queues their mail for the lower MX and never delivers it"
                ),
                _LOCAL,
            )
        else:
            yield warning(f"{name} is set to {word} Mail Exchanger: nobody here gets its mail", _LOCAL)
    elif not state:
        yield warning(f"{name} has an account on this host and stands in no list of mail domains", _LOCAL)
    if choice == "auto":
        yield from _automatic(tree, name, state, dns)
    if tree.domain_forwarder(name):
        yield error(
            f"{name} has a domain forwarder to {tree.domain_forwarder(name)}: it takes whoever is not listed",
            "remove it in cPanel > Forwarders; alias_of in [domains] does it for listed people",
        )


def _automatic(tree: Tree, name: str, state: str, dns: Dns | None) -> Iterator[Finding]:
    """Automatically Detect is computed from the zone when that is saved, and not followed."""
    ours = _own_addresses(tree)
    if dns is None or not ours:
        yield note(f"{name} is set to Automatically Detect Configuration: a change of its zone may move it", _LOCAL)
        return
    try:
        hosts = dns.mx(name)
        lowest = hosts[0] if hosts else name
        addresses = set(dns.addresses(lowest)) if lowest else set()
        rest = set() if addresses & ours else {address for host in hosts[1:] for address in dns.addresses(host)}
    except DnsError as fault:
        yield note(f"{name} is set to Automatically Detect Configuration, and its MX cannot be looked up: {fault}")
        return
    would = "local" if addresses & ours else "secondary" if rest & ours else "remote"
    if would != state and state:
        yield error(
            f"{name} is set to Automatically Detect Configuration and is {state} now, but by its MX ({lowest or '.'}) "
            f"it would be {would}: the next change of its zone moves it",
            _LOCAL,
        )
    elif would != "local":
        yield warning(f"{name} is set to Automatically Detect Configuration, which makes it {would}", _LOCAL)


def _own_addresses(tree: Tree) -> set[str]:
    """The host's addresses: var/cpanel/mainip, etc/ips, etc/mailips."""
    found: set[str] = set()
    for name in ("var/cpanel/mainip", "etc/ips", "etc/mailips", "var/cpanel/cpnat"):
        for line in (tree.text(name) or "").splitlines():
            for word in line.replace("=", ":").replace(",", ":").split(":")[:2] + line.split():
                try:
                    found.add(str(ip_address(word.strip())))
                except ValueError:
                    continue
    return {text for text in found if not text.startswith("255.")}


def _swallowing(tree: Tree, domain: Domain) -> Iterator[Finding]:
    default = tree.aliases(domain.name).default
    if not default or default.startswith(":fail:"):
        return
    if default.startswith(":blackhole:"):
        yield error(
            f"the default address of {domain.name} throws mail for everybody unlisted away (:blackhole:)",
            'cPanel > Default Address > "Discard with error to sender"',
        )
        return
    yield error(
        f"the default address of {domain.name} is {default.split(',')[0][:80]}: where splitmx is not asked first, it"
        " swallows the mail of everybody who is at the other side",
        'cPanel > Default Address > "Discard with error to sender"; for a catch-all use unknown = "catchall:…"',
    )


def _leftovers(
    tree: Tree, account: str, settings: Settings, domain: Domain, reader: Reader | None
) -> Iterator[Finding]:
    if reader is None or not domain.destination:
        return
    now = time.time()
    snapshot = Snapshot(settings, reader, now)
    router = Router(settings)
    moved: list[str] = []
    both: list[str] = []
    for local in tree.mailboxes(account, domain.name):
        address = address_in(f"{local}@{domain.name}")
        if address is None:
            continue
        decision = router.decide(snapshot, Address(*address), now, observing=True)
        rows = snapshot.rows(address.domain, address.local)
        if decision.verdict is Verdict.RELAY and not decision.here:
            moved.append(f"{local}@{domain.name}")
        elif any(row.directory in domain.remote for row in rows) and not any(row.location for row in rows):
            both.append(f"{local}@{domain.name}")
    for text in moved[:SHOWN]:
        yield warning(
            f"{text} has moved to {domain.destination} and still has a mailbox here: what does not ask splitmx"
            " delivers into it",
            "save its old mail, then delete the account (or suspend its incoming mail)",
        )
    for text in both[:SHOWN]:
        yield error(
            f"{text} has a mailbox here and is listed at {domain.destination}, and no location says which counts: its"
            " mail stays here",
            "delete the account if the person has moved, or set a location",
        )
    more = max(0, len(moved) - SHOWN) + max(0, len(both) - SHOWN)
    if more:
        yield warning(f"and {more} more mailboxes of {domain.name} like these")


def _forwarders(
    tree: Tree, account: str, settings: Settings, domain: Domain, reader: Reader | None
) -> Iterator[Finding]:
    """Forwarders and autoresponders of people at the other side who have no mailbox here: they count as here."""
    if reader is None or not domain.destination:
        return
    now = time.time()
    router, snapshot = Router(settings), Snapshot(settings, reader, now)
    envelopes = {destination.envelope for destination in settings.destinations.values() if destination.envelope}
    boxes = [*tree.mailboxes(account, domain.name), account]
    mailboxes = {address[:2] for local in boxes if (address := address_in(f"{local}@{domain.name}"))}
    found: list[str] = []
    for name, words in tree.aliases(domain.name).entries.items():
        address = address_in(name if "@" in name else f"{name}@{domain.name}")
        if address is None or address.domain != domain.name or address[:2] in mailboxes:
            continue
        rows = snapshot.rows(address.domain, address.local)
        if not any(row.directory in domain.remote for row in rows) or any(row.location for row in rows):
            continue
        if router.decide(snapshot, Address(*address), now, observing=True).verdict is Verdict.RELAY:
            continue  # a wave says so
        targets = [target for word in words if (target := address_in(word))]
        if not any(target.domain in envelopes for target in targets):
            found.append(external(address.local, address.domain))
    for text in sorted(found)[:SHOWN]:
        yield error(
            f"{text} is listed at {domain.destination} and has a forwarder or an autoresponder here, but no mailbox:"
            f" its mail goes there, and not to {domain.destination}",
            "cPanel > Forwarders or Autoresponders: delete it, or set a location",
        )
    if len(found) > SHOWN:
        yield warning(f"and {len(found) - SHOWN} more forwarders of {domain.name} like these")
