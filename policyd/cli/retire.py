# SPDX-License-Identifier: Apache-2.0
"""`splitmx retire DOMAIN`: end the split of a domain when nobody is at the other side any more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from policyd.cli import EXIT_GOOD
from policyd.cli.common import Found, Stop, config_option, examples, json_option, note, print_json, visible

if TYPE_CHECKING:
    from transport.config.settings import Domain, Settings

_SHOWN = 20
_HINT = "docs/install.md, step 7, says what to do"
_UNREAD = "splitmx status says why; after a change of the configuration: systemctl reload splitmx"


class _Remote:
    """Counts the lines of `relay_recipients` that are relayed."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def write(self, text: str) -> None:
        """Lines `key TAB value`."""
        number = text.count("\tRELAY\n")
        self.count += number
        if number and len(self.first) < _SHOWN:
            found = (line.partition("\t")[0] for line in text.splitlines() if line.endswith("\tRELAY"))
            self.first.extend(list(found)[: _SHOWN - len(self.first)])


class _Nowhere:
    def write(self, text: str) -> None:
        """Nothing is kept."""


@click.command(epilog=examples("splitmx retire example.com --dry-run", "splitmx retire example.com"))
@config_option
@json_option
@click.argument("domain")
@click.option("--dry-run", is_flag=True, help="Only say whether it could be done.")
@click.option("--force", is_flag=True, help="Retire it although recipients are at the other side: they will bounce.")
def retire(config: Path, as_json: bool, domain: str, dry_run: bool, force: bool) -> int:
    """End the split of DOMAIN: refuse while recipients are at the other side, else set `enabled = false`.

    Routes of copies and of envelope domains stay for mail that is queued; the [domains] table can be removed after
    maximal_queue_lifetime (5 days).

    Exit codes: 0 done, 1 recipients are at the other side (they are named), 2 no such domain, 75 a directory could
    not be read.
    """
    from transport.address import fold_domain
    from transport.config.load import load

    settings = load(config)
    entry = settings.domains.get(fold_domain(domain) or "")
    if entry is None:
        raise Stop(f"{visible(domain)} is not a [domains] table of {config}")
    reasons, first = _reasons(settings, entry)
    if reasons and not force:
        if as_json:
            print_json({"domain": entry.name, "done": False, "reasons": reasons, "first": first, "warnings": []})
        for address in first:
            note(visible(address))
        raise Found(f"{entry.name} is not retired: {'; '.join(reasons)}", _HINT)
    text = _disabled(config.read_text("utf-8"), entry.name)
    warnings = list(_warnings(settings, entry))
    if not dry_run:
        from policyd.cli.configfile import install, reload_daemon

        install(config, text)
        reload_daemon(config)
    if as_json:
        done = {"done": not dry_run, "reasons": reasons, "first": first, "warnings": warnings}
        print_json({"domain": entry.name, **done})
    else:
        for warning in warnings:
            note(f"warning: {warning}; {_HINT}")
        click.echo(f"{entry.name}: {'could be retired' if dry_run else 'retired, enabled = false'}")
        for line in _next(settings):
            click.echo(line)
    return EXIT_GOOD


def _next(settings: Settings) -> Iterator[str]:
    """What remains to be done, in the words of the MTA that asks."""
    exim = bool(settings.daemon.exim) or (settings.static is not None and "exim" in settings.static.for_)
    if settings.daemon.socketmap or settings.daemon.policy or not exim:
        yield "next: splitmx postfix show says which settings of Postfix name it; postfix reload"
        yield "      remove its [domains] table when the queue is empty of it (postqueue -p)"
    if exim:
        yield "next: splitmx exim show prints Exim's parts without it; reload Exim"
        yield "      remove its [domains] table after that, when the queue is empty of it (exim -bp)"


def _reasons(settings: Settings, domain: Domain) -> tuple[list[str], list[str]]:
    """Why it has to stay, and the first addresses at the other side."""
    import time

    from policyd.cli import index
    from policyd.cli.common import Later
    from transport.maps.population import MAPS, Population
    from transport.maps.snapshot import Snapshot

    reasons = []
    aliases = sorted(other.name for other in settings.domains.values() if other.alias_of == domain.name)
    if aliases:
        reasons.append(f"{', '.join(aliases)} has alias_of = {domain.name}")
    if not domain.remote and domain.unknown.value in ("relay", "verify") and not domain.alias_of:
        reasons.append(
            f'unknown = "{domain.unknown.value}" relays whoever is not listed, and no remote directory says who that is'
        )
    domains = {**settings.domains}
    domains = {name: replace(one, enabled="yes" if name == domain.name else "no") for name, one in domains.items()}
    if domain.alias_of:
        return reasons, []
    with index.opened(settings) as at_hand:
        if at_hand.faults:
            raise Later("; ".join(at_hand.faults))
        reader, names = at_hand.reader, (*domain.local, *domain.remote)
        unread = [n for n in names if not (reader.loaded(n, domain.name) and reader.read_last(n, domain.name))]
        if unread:  # a daemon keeps the index: it has not read them, or by an older configuration
            raise Later(f"not read yet: {', '.join(unread)}; whoever is at the other side is not known", _UNREAD)
        alone = replace(settings, domains=domains)
        remote = _Remote()
        sinks = {name: remote if name == "relay_recipients" else _Nowhere() for name in MAPS}
        now = time.time()
        survey = Population(alone, Snapshot(alone, reader, now), now).write(sinks)
    if undecided := sum(survey.left_out.values()):
        reasons.append(f"{undecided} recipients cannot be decided: {next(iter(survey.left_out))}")
        remote.first.extend(address for address, _ in survey.first)
    if remote.count:
        reasons.insert(0, f"{remote.count} recipients are at the other side")
    return reasons, remote.first


def _warnings(settings: Settings, domain: Domain) -> Iterator[str]:
    """What the MTA has to be told at once, for nobody here to lose mail."""
    if _only_way(settings, domain):
        yield (
            f"Postfix has {domain.name} in relay_domains and reached who is here by splitmx alone, through"
            f" {domain.local_transport}: without it their mail goes to the domain's MX"
        )


def _only_way(settings: Settings, domain: Domain) -> bool:
    """Whether this host's Postfix asks us for the route of a domain in relay_domains, and has none of its own.

    False where there is no Postfix, or it cannot be read.
    """
    from transport.mta import postfix, postfix_plan
    from transport.mta.postfix_parts import RELAY

    deploy, maps = postfix_plan.default_deploy(settings), postfix_plan.maps_directory(settings)
    try:
        found = postfix.read()
        planner = postfix_plan.Planner(settings, found, deploy, maps)
        asks = any(map(planner.is_ours, postfix.split_list(found.value("transport_maps"))))
        if not asks or planner.plan.classes.get(domain.name) != RELAY:
            return False
        return not any(found.lookup(table, [domain.name]) for table in planner.own("transport_maps"))
    except (postfix.PostfixError, OSError):
        return False


def _disabled(text: str, name: str) -> str:
    """The configuration's text with `enabled = false` in this domain's table. Ends the command where that fails."""
    import tomllib

    from transport.address import fold_domain

    by_hand = f'[domains."{name}"] has no table header of its own in the file', "set its enabled = false by hand"
    start = next((end for found, end in _headers(text) if fold_domain(found) == name), None)
    if start is None:
        raise Stop(*by_hand)
    following = re.compile(r"^[ \t]*\[", re.MULTILINE).search(text, start)
    end = following.start() if following else len(text)
    table = text[start:end]
    line = re.compile(
        r"^([ \t]*(?:enabled|\"enabled\"|'enabled')[ \t]*=[ \t]*)(?:true|false|\"[^\"\n]*\"|'[^'\n]*')", re.MULTILINE
    )
    table = line.sub(r"\1false", table, count=1) if line.search(table) else "\nenabled = false" + table
    changed = text[:start] + table + text[end:]
    try:
        tables = tomllib.loads(changed)["domains"]
        done = any(fold_domain(key) == name and one.get("enabled") is False for key, one in tables.items())
    except tomllib.TOMLDecodeError:
        done = False
    if not done:  # a line that only looks like a header, in a text of several lines
        raise Stop(*by_hand)
    return changed


def _headers(text: str) -> Iterator[tuple[str, int]]:
    """The domains that have a table header of their own, as they are written, and where it ends."""
    import tomllib

    for found in re.finditer(r"^[ \t]*\[[ \t]*[\"']?domains\b[^\n]*$", text, re.MULTILINE):
        try:
            below = tomllib.loads(found[0]).get("domains")
        except tomllib.TOMLDecodeError:
            continue
        if isinstance(below, dict):
            for name, table in below.items():
                if table == {}:
                    yield name, found.end()
