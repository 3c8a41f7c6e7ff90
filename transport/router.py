# SPDX-License-Identifier: Apache-2.0
"""Where a recipient's mail goes: the one function behind every face. Pure: no I/O, no clock of its own.

Order of the rules for an address of ours (DESIGN 4 "Freshness", 5.2, 5.3): another spelling of the domain; a wave;
a location word; existence, `local` directories before `remote` ones; postmaster and abuse; `unknown`. When a "no"
that matters is not believed, the verdict is ASK with the look-ups that would settle it; when one of them cannot be
made, TEMP. A recipient that is listed never asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transport.address import Address, external, forms, parse
from transport.config.settings import Domain, Location, Settings, Unknown, Wave
from transport.decision import Decision, Verdict
from transport.expansion import Expansion
from transport.knowledge import Knowledge
from transport.names import Names, Of, shadow_domain
from transport.record import Kind, Row

PASS_FOREIGN = Decision(Verdict.PASS, "not one of our domains")
_HERE = Location()


class Router:
    """Decides for one configuration. Cheap to keep, made anew at each reload."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.names = Names(settings)
        self.delimiters = settings.daemon.recipient_delimiter
        self._order = {
            name: {d: n for n, d in enumerate((*domain.local, *domain.remote))}
            for name, domain in settings.domains.items()
        }
        self._waves: dict[str, list[Wave]] = {}
        for wave in sorted(settings.waves, key=lambda w: w.at, reverse=True):
            self._waves.setdefault(wave.domain, []).append(wave)

    def timed(self, domain: str) -> bool:
        """Whether an answer for this domain can change by the clock alone."""
        entry = self.settings.domains[domain]
        return domain in self._waves or entry.delivery_until is not None

    def decide(
        self,
        knowledge: Knowledge,
        address: Address,
        now: float,
        *,
        observing: bool = False,
        expand: bool = True,
    ) -> Decision:
        """Decide for one address.

        now: unix time. observing: decide for domains with `enabled = "observe"` too (the policy service logs what
        would have been). expand: False leaves `targets` of a listed alias or group empty (for `Expansion`, which
        walks them itself). Never raises on any address.
        """
        place = self.names.place(address.domain)
        if place.of is Of.ENVELOPE and place.destination is not None:
            return Decision(
                Verdict.RELAY,
                f"envelope domain of destination {place.destination.name}",
                destination=place.destination.name,
                listed=True,
                identity=True,
            )
        if place.domain is None or place.of in (Of.COPY, Of.CHUNK):
            return PASS_FOREIGN
        domain = place.domain
        if domain.enabled == "no" or (domain.enabled == "observe" and not observing):
            return Decision(Verdict.PASS, f"domain {domain.name} is {_off(domain)}")
        if place.of is Of.STRIP:
            return self._elsewhere(knowledge, address, domain, domain.name, now, observing, expand)
        if domain.alias_of:
            return self._elsewhere(knowledge, address, domain, domain.alias_of, now, observing, expand)
        match = place.of is Of.MATCH
        return self._in_domain(knowledge, address, domain, now, match=match, expand=expand, observing=observing)

    def _elsewhere(
        self,
        knowledge: Knowledge,
        address: Address,
        domain: Domain,
        target: str,
        now: float,
        observing: bool,
        expand: bool,
    ) -> Decision:
        """`alias_of` and `subdomains = "strip"`: the same local part and extension in the other domain."""
        there = Address(address.local, target, address.original)
        inner = self.decide(knowledge, there, now, observing=observing, expand=expand)
        if inner.verdict in (Verdict.TEMP, Verdict.ASK, Verdict.UNKNOWN, Verdict.PASS):
            return replace(inner, domain=domain.name, reason=f"in {target}: {inner.reason}")
        copies = inner.copies
        if inner.copy:
            store = "local" if inner.copy == "all" else self.settings.domains[target].destination
            copies = (external(address.local, shadow_domain(target, store)),)
        return Decision(
            Verdict.EXPAND,
            f"same address in {target}: {inner.reason}",
            domain=domain.name,
            local_transport=domain.local_transport,
            targets=(external(address.local, target),),
            listed=inner.listed,
            suspended=inner.suspended,
            verify=inner.verify,
            here=inner.here,
            directory=inner.directory,
            extension=inner.extension,
            base=inner.base,
            through=True,
            copies=copies,
            keep=inner.keep,
            until=inner.until,
            findings=inner.findings,
        )

    def _in_domain(
        self,
        knowledge: Knowledge,
        address: Address,
        domain: Domain,
        now: float,
        *,
        match: bool,
        expand: bool,
        observing: bool,
    ) -> Decision:
        name = address.domain
        shapes = forms(address.local, self.delimiters)
        order = self._order[domain.name]
        until = self._next_change(domain, now)
        for base, extension in shapes:
            rows = [row for row in knowledge.rows(name, base) if row.directory in order]
            if len(rows) > 1:
                rows.sort(key=lambda row: order[row.directory])
            wave = self._wave(knowledge, domain, name, base, rows, now) if domain.name in self._waves else None
            if rows or (wave is not None and wave.to != "local"):
                decision = self._listed(knowledge, address, domain, base, extension, rows, wave)
                if any(row.live for row in rows):
                    decision = replace(decision, keep=False)
                if decision.verdict is Verdict.EXPAND and expand:
                    decision = Expansion(self, knowledge, domain, now, observing=observing).of(decision, name)
                elif decision.verdict is Verdict.LOCAL and not match:
                    decision = self.with_copy(domain, decision, now)
                return _until(decision, until)
        decision = self._unlisted(knowledge, address, domain, shapes, now, match=match)
        return _until(decision, until)

    def _next_change(self, domain: Domain, now: float) -> float | None:
        """The next moment at which the clock alone changes answers of this domain."""
        times = [wave.at for wave in self._waves.get(domain.name, ()) if wave.at > now]
        if domain.delivery_until is not None and domain.delivery_until > now:
            times.append(domain.delivery_until)
        return min(times, default=None)

    def _wave(
        self, knowledge: Knowledge, domain: Domain, name: str, base: str, rows: Sequence[Row], now: float
    ) -> Wave | None:
        """The latest passed wave that covers this address or another one of the same directory entry."""
        passed = [wave for wave in self._waves[domain.name] if wave.at <= now]
        if not passed:
            return None
        covered = {external(base, name)}
        for row in rows:
            if row.entry is not None:
                covered.update(external(*pair) for pair in knowledge.same_entry(row.directory, row.entry))
        for wave in passed:
            if not covered.isdisjoint(wave.addresses):
                return wave
        return None

    def _listed(
        self,
        knowledge: Knowledge,
        address: Address,
        domain: Domain,
        base: str,
        extension: str,
        rows: Sequence[Row],
        wave: Wave | None,
    ) -> Decision:
        here = [row for row in rows if row.directory in domain.local]
        first = rows[0] if rows else None
        source = first.directory if first is not None else ""
        placed = next((row for row in rows if row.location), None)
        location = _HERE
        if wave is not None:
            why = f"wave {wave.name}"
            if wave.to != "local":
                location = Location(destination=wave.to)
        elif placed is not None and placed.location:
            known = _location(domain, placed.location)
            if known is None:
                return _unknown_word(domain, placed)
            location, source = known, placed.directory
            why = f"location {placed.location} in directory {placed.directory}"
        elif here:
            source = here[0].directory
            why = f"listed in directory {source}"
        else:
            waiting = self._local_unread(knowledge, domain, address, address.domain)
            if waiting is not None:
                return waiting
            if not domain.destination:
                return _no_destination(domain)
            location = Location(destination=domain.destination)
            why = f"listed in remote directory {source}"
        row = here[0] if here else first
        common = Decision(
            Verdict.LOCAL,
            why,
            domain=domain.name,
            listed=True,
            identity=domain.identity,
            directory=source,
            suspended=row is not None and not row.active,
            extension=extension,
            base=base,
            local_transport=location.local_transport or domain.local_transport,
        )
        if location.destination:
            return replace(common, verdict=Verdict.RELAY, destination=location.destination)
        common = replace(common, here=True)
        if row is None:
            return common
        if row.targets and row.active:
            return replace(common, verdict=Verdict.EXPAND, directory=row.directory, group=row.kind is Kind.GROUP)
        if row.kind is Kind.GROUP and not row.targets:
            finding = f"group {external(base, address.domain)} in directory {row.directory} has no members"
            return replace(common, findings=(finding,))
        return common

    def with_copy(self, domain: Domain, decision: Decision, now: float) -> Decision:
        """A mailbox that is here, with `dual` or `all` on top while it lasts."""
        copy = "" if decision.suspended or not decision.listed else self.copy_of(domain, now)
        if copy != "all":
            return replace(decision, copy=copy) if copy else decision
        reason = decision.reason + '; delivery = "all": the destination is the delivery, the copy is here'
        return replace(decision, verdict=Verdict.RELAY, reason=reason, destination=domain.destination, copy="all")

    @staticmethod
    def copy_of(domain: Domain, now: float) -> str:
        """ "dual" or "all" while that delivery is in force, else ""."""
        if domain.delivery == "split" or not domain.destination:
            return ""
        if domain.delivery_until is not None and now >= domain.delivery_until:
            return ""
        return domain.delivery

    def _local_unread(self, knowledge: Knowledge, domain: Domain, address: Address, name: str) -> Decision | None:
        """Only a remote directory lists it: not relayed before every local one is known to lack it."""
        ask: list[tuple[str, str, str]] = []
        failed = ""
        for directory in domain.local:
            if knowledge.loaded(directory):
                continue
            for base, _ in forms(address.local, self.delimiters):
                believed = knowledge.no(directory, name, base)
                if believed is None:
                    ask.append((directory, base, name))
                elif not believed:
                    failed = directory
        if ask:
            return Decision(Verdict.ASK, "local directories not loaded", domain=domain.name, ask=tuple(ask))
        if failed:
            reason = f"directory {failed} is not loaded and could not be asked; only a remote directory lists it"
            return Decision(
                Verdict.TEMP,
                reason,
                domain=domain.name,
                local_transport=domain.local_transport,
                directory=failed,
                keep=False,
            )
        return None

    def _unlisted(
        self,
        knowledge: Knowledge,
        address: Address,
        domain: Domain,
        shapes: Sequence[tuple[str, str]],
        now: float,
        *,
        match: bool,
    ) -> Decision:
        role = self._role_address(knowledge, address, domain, shapes, now)
        if role is not None:
            return role
        strict = domain.unknown in (Unknown.REJECT, Unknown.CATCHALL) and not match
        ask: list[tuple[str, str, str]] = []
        failed = ""
        for directory in (*domain.local, *domain.remote):
            matters = strict or directory in domain.local
            for base, _ in shapes:
                believed = knowledge.no(directory, address.domain, base)
                if believed is None:
                    ask.append((directory, base, address.domain))
                elif not believed and matters:
                    failed = failed or directory
        if ask:
            return Decision(Verdict.ASK, "not listed; asking live", domain=domain.name, ask=tuple(ask))
        base, extension = shapes[-1]
        common = Decision(
            Verdict.UNKNOWN,
            "no directory lists it",
            domain=domain.name,
            local_transport=domain.local_transport,
            base=base,
            extension=extension,
            keep=False,
        )
        if failed:
            reason = f'directory {failed} could not be asked, and its "no" is needed'
            return replace(common, verdict=Verdict.TEMP, reason=reason, directory=failed)
        if match:
            reason = f'below {domain.name} (subdomains = "match"), listed nowhere'
            verify = domain.unknown is Unknown.VERIFY
            return self._relay_unlisted(domain, common, reason, verify=verify)
        if domain.unknown is Unknown.REJECT:
            return replace(common, reason='no directory lists it, unknown = "reject"')
        if domain.unknown is Unknown.CATCHALL:
            return self._catchall(knowledge, domain, common, now)
        reason = f'no directory lists it, unknown = "{domain.unknown.value}"'
        return self._relay_unlisted(domain, common, reason, verify=domain.unknown is Unknown.VERIFY)

    @staticmethod
    def _relay_unlisted(domain: Domain, common: Decision, reason: str, *, verify: bool) -> Decision:
        if not domain.destination:
            return _no_destination(domain)
        return replace(common, verdict=Verdict.RELAY, reason=reason, destination=domain.destination, verify=verify)

    def _role_address(
        self,
        knowledge: Knowledge,
        address: Address,
        domain: Domain,
        shapes: Sequence[tuple[str, str]],
        now: float,
    ) -> Decision | None:
        """postmaster@ is never UNKNOWN (RFC 5321 4.5.1); abuse@ (RFC 2142) where the configuration names one."""
        base, extension = shapes[-1]
        if base not in ("postmaster", "abuse"):
            return None
        common = Decision(
            Verdict.LOCAL,
            f"{base} of {domain.name}, from the configuration",
            domain=domain.name,
            local_transport=domain.local_transport,
            base=base,
            extension=extension,
            here=True,
        )
        goes_to = domain.postmaster if base == "postmaster" else domain.abuse
        if goes_to:
            return self._to_one(knowledge, domain, common, goes_to, now, never_unknown=True)
        if base == "abuse":
            return None
        finding = f'[domains."{domain.name}"] names no postmaster, and no directory lists postmaster@{domain.name}'
        return replace(common, findings=(finding,))

    def _catchall(self, knowledge: Knowledge, domain: Domain, common: Decision, now: float) -> Decision:
        why = f'no directory lists it, unknown = "catchall:{domain.catchall}"'
        decision = self._to_one(knowledge, domain, replace(common, reason=why, catchall=True), domain.catchall, now)
        return replace(decision, keep=False)

    def _to_one(
        self,
        knowledge: Knowledge,
        domain: Domain,
        common: Decision,
        target: str,
        now: float,
        *,
        never_unknown: bool = False,
    ) -> Decision:
        """EXPAND to an address that the configuration names; TEMP and a finding while that one is unlisted."""
        address = parse(target)
        expand = replace(common, verdict=Verdict.EXPAND, targets=(target,))
        if address is None or address.domain == "":
            return expand
        inner = self.decide(knowledge, address, now, expand=False)
        if inner.verdict is Verdict.ASK:
            return inner
        if inner.verdict is Verdict.TEMP:
            return replace(common, verdict=Verdict.TEMP, reason=f"{target}: {inner.reason}", keep=False)
        if inner.verdict is Verdict.PASS or inner.listed or inner.here:
            return replace(expand, keep=common.keep and inner.keep, until=inner.until)
        finding = f'{target}, named in [domains."{domain.name}"], is itself listed nowhere'
        if never_unknown:
            return replace(expand, findings=(finding,), keep=False)
        return replace(common, verdict=Verdict.TEMP, reason=finding, findings=(finding,), keep=False)


def _until(decision: Decision, until: float | None) -> Decision:
    if until is None or (decision.until is not None and decision.until <= until):
        return decision
    return replace(decision, until=until)


def _off(domain: Domain) -> str:
    return "only observed" if domain.enabled == "observe" else "not enabled"


def _location(domain: Domain, word: str) -> Location | None:
    """What a location word means here; None when `locations` does not know it."""
    known = domain.locations.get(word)
    if known is None and word.startswith("@"):
        known = domain.locations.get(word[1:])
        if known is None and domain.destination:
            known = Location(destination=domain.destination)
    return known


def _unknown_word(domain: Domain, row: Row) -> Decision:
    words = ", ".join(sorted(domain.locations)) or "none"
    finding = (
        f'directory {row.directory} gives location "{row.location}", which locations of '
        f'[domains."{domain.name}"] does not know (known: {words})'
    )
    return Decision(
        Verdict.TEMP,
        finding,
        domain=domain.name,
        listed=True,
        directory=row.directory,
        local_transport=domain.local_transport,
        findings=(finding,),
        keep=False,
    )


def _no_destination(domain: Domain) -> Decision:
    finding = f'[domains."{domain.name}"] has no destination to relay to'
    return Decision(
        Verdict.TEMP,
        finding,
        domain=domain.name,
        local_transport=domain.local_transport,
        findings=(finding,),
        keep=False,
    )
