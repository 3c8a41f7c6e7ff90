# SPDX-License-Identifier: Apache-2.0
"""Where a recipient's mail goes: the one function behind every face. Pure: no I/O, no clock of its own.

Order of the rules for an address of ours (DESIGN 4 "Freshness", 5.2, 5.3): another spelling of the domain; a wave;
a location word; existence, `local` directories before `remote` ones; postmaster and abuse; `unknown`. When a "no"
that matters is not believed, the verdict is ASK with the look-ups that would settle it; when one of them cannot be
made, TEMP. A recipient that is listed never asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from transport.address import Address, external, forms
from transport.config.settings import Domain, Location, Settings, Wave
from transport.copies import shadow
from transport.decision import Decision, Verdict
from transport.expansion import Expansion
from transport.knowledge import Knowledge, Question
from transport.names import Names, Of
from transport.record import Kind, Row
from transport.unlisted import no_destination, unlisted

PASS_FOREIGN = Decision(Verdict.PASS, "not one of our domains")
_HERE = Location()


class Router:
    """Decides for one configuration. Cheap to keep, made anew at each reload."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.names = Names(settings)
        self.delimiters = settings.daemon.recipient_delimiter
        self._order: dict[tuple[str, ...], dict[str, int]] = {}
        self._waves: dict[str, list[Wave]] = {}
        for wave in sorted(settings.waves, key=lambda w: w.at, reverse=True):
            self._waves.setdefault(wave.domain, []).append(wave)

    def timed(self, domain: str) -> bool:
        """Whether an answer for this domain can change by the clock alone."""
        entry = self.settings.domains[domain]
        return domain in self._waves or entry.delivery_until is not None

    def _order_of(self, directories: tuple[str, ...]) -> dict[str, int]:
        order = self._order.get(directories)
        if order is None:
            order = self._order[directories] = {name: number for number, name in enumerate(directories)}
        return order

    def decide(self, knowledge: Knowledge, address: Address, now: float, *, observing: bool = False) -> Decision:
        """Decide for one address.

        now: unix time. observing: decide for domains with `enabled = "observe"` too (the policy service logs what
        would have been). Never raises on any address.
        """
        return self.answer(Question(knowledge, now, observing), address)

    def answer(self, question: Question, address: Address) -> Decision:
        """Decide under the terms of `question`."""
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
        if domain.enabled == "no" or (domain.enabled == "observe" and not question.observing):
            return Decision(Verdict.PASS, f"domain {domain.name} is {_off(domain)}")
        if place.of is Of.STRIP:
            return self._elsewhere(question, address, domain, domain.name)
        if domain.alias_of:
            return self._elsewhere(question, address, domain, domain.alias_of)
        return self._in_domain(question, address, domain, match=place.of is Of.MATCH)

    def _elsewhere(self, question: Question, address: Address, domain: Domain, target: str) -> Decision:
        """`alias_of` and `subdomains = "strip"`: the same local part and extension in the other domain."""
        inner = self.answer(question, Address(address.local, target, address.original))
        if inner.verdict in (Verdict.TEMP, Verdict.ASK, Verdict.UNKNOWN, Verdict.PASS):
            return replace(inner, domain=domain.name, reason=f"in {target}: {inner.reason}")
        copies = inner.copies
        if inner.copy and inner.verdict is not Verdict.EXPAND:
            copies = (shadow(self.settings, inner, address.local),)
        return replace(
            inner,
            verdict=Verdict.EXPAND,
            reason=f"same address in {target}: {inner.reason}",
            domain=domain.name,
            destination="",
            local_transport=domain.local_transport,
            targets=(external(address.local, target),),
            copies=copies,
            copy="",
            through=True,
        )

    def _in_domain(self, question: Question, address: Address, domain: Domain, *, match: bool) -> Decision:
        shapes = forms(address.local, self.delimiters)
        order = self._order_of((*domain.local, *domain.remote))
        until = self._next_change(domain, question.now)
        for number, (base, extension) in enumerate(shapes):
            rows = [row for row in question.knowledge.rows(address.domain, base) if row.directory in order]
            if len(rows) > 1:
                rows.sort(key=lambda row: order[row.directory])
            wave = self._wave(question, domain, (base, address.domain), rows)
            if not rows and (wave is None or wave.to == "local"):
                continue
            whole = not number or self.read(question, order, domain.name)
            if not whole:  # a longer form may be somebody else's
                why = f"it may list {external(*address[:2])} by itself"
                longer = shapes[:number]
                waiting = self.unread(question, domain, address, order, why, shapes=longer, needed=domain.local)
                if waiting is not None:
                    return waiting
            decision = self._listed(question, address, domain, (base, extension), rows, wave)
            if not whole or any(row.live for row in rows):
                decision = replace(decision, keep=False)
            if decision.verdict is Verdict.EXPAND and question.expand:
                decision = Expansion(self, question, domain).of(decision, address.domain)
            elif decision.verdict is Verdict.LOCAL and not match:
                decision = self.with_copy(domain, decision, question.now)
            return _until(decision, until)
        return _until(unlisted(self, question, address, domain, shapes, match=match), until)

    def _next_change(self, domain: Domain, now: float) -> float | None:
        """The next moment at which the clock alone changes answers of this domain."""
        times = [wave.at for wave in self._waves.get(domain.name, ()) if wave.at > now]
        if domain.delivery_until is not None and domain.delivery_until > now:
            times.append(domain.delivery_until)
        return min(times, default=None)

    def _wave(self, question: Question, domain: Domain, pair: tuple[str, str], rows: Sequence[Row]) -> Wave | None:
        """The latest passed wave that covers this address or another one of the same directory entry."""
        passed = [wave for wave in self._waves.get(domain.name, ()) if wave.at <= question.now]
        if not passed:
            return None
        covered = {external(*pair)}
        for row in rows:
            covered.update(external(*other) for other in row.beside)
            if row.entry is not None:
                person = question.knowledge.same_entry(row.directory, row.entry)
                covered.update(external(*other) for other in person)
        return next((wave for wave in passed if not covered.isdisjoint(wave.addresses)), None)

    def _listed(
        self,
        question: Question,
        address: Address,
        domain: Domain,
        form: tuple[str, str],
        rows: Sequence[Row],
        wave: Wave | None,
    ) -> Decision:
        """Somebody lists it (or a wave does): which side, by wave, location word, existence."""
        here = [row for row in rows if row.directory in domain.local]
        first = rows[0] if rows else None
        source = first.directory if first is not None else ""
        keep = True
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
            waiting = self.unread(question, domain, address, domain.local, "only a remote directory lists it")
            if waiting is not None:
                return waiting
            keep = self.read(question, domain.local, domain.name)  # else it rests on what was said of this very address
            if not domain.destination:
                return no_destination(domain)
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
            extension=form[1],
            base=form[0],
            local_transport=location.local_transport or domain.local_transport,
            keep=keep,
        )
        if location.destination:
            return replace(common, verdict=Verdict.RELAY, destination=location.destination)
        common = replace(common, here=True)
        if row is None:
            return common
        if row.targets and row.active:
            return replace(common, verdict=Verdict.EXPAND, directory=row.directory, group=row.kind is Kind.GROUP)
        if row.kind is Kind.GROUP and not row.targets:
            finding = f"group {external(form[0], address.domain)} in directory {row.directory} has no members"
            return replace(common, findings=(finding,))
        return common

    def with_copy(self, domain: Domain, decision: Decision, now: float) -> Decision:
        """A mailbox that is here, with `dual` or `all` on top while it lasts."""
        copy = "" if decision.suspended or not decision.listed else self.copy_of(domain, now)
        if copy != "all":
            return replace(decision, copy=copy) if copy else decision
        reason = decision.reason + '; delivery = "all": the destination is the delivery, the copy is here'
        return replace(decision, verdict=Verdict.RELAY, reason=reason, destination=domain.destination, copy="all")

    def kept(self, address: Address, decision: Decision, now: float) -> Decision:
        """How the mail goes that a forwarding mailbox keeps for itself. Below a domain there are no copies: they would
        be the namesake's."""
        domain = self.settings.domains[decision.domain]
        kept = replace(decision, verdict=Verdict.LOCAL)
        return self.with_copy(domain, kept, now) if address.domain == domain.name else kept

    @staticmethod
    def copy_of(domain: Domain, now: float) -> str:
        """ "dual" or "all" while that delivery is in force, else ""."""
        if domain.delivery == "split" or not domain.destination:
            return ""
        if domain.delivery_until is not None and now >= domain.delivery_until:
            return ""
        return domain.delivery

    @staticmethod
    def read(question: Question, directories: Iterable[str], domain: str) -> bool:
        """Whether all of these are loaded, as far as the domain goes."""
        return all(question.knowledge.loaded(directory, domain) for directory in directories)

    def unread(
        self,
        question: Question,
        domain: Domain,
        address: Address,
        directories: Iterable[str],
        why: str,
        *,
        shapes: Sequence[tuple[str, str]] = (),
        needed: Iterable[str] | None = None,
    ) -> Decision | None:
        """ASK or TEMP before each of these directories is known to lack the address: by a reading, however old, or by
        its own "no" now.

        why: what the address is taken for without them. shapes: the forms concerned, all when empty. needed: those
        without whose "no" nothing is decided, all when None; the others are asked, when they can be.
        """
        ask: list[tuple[str, str, str]] = []
        failed = ""
        for directory in directories:
            if question.knowledge.loaded(directory, domain.name):
                continue
            for base, _ in shapes or forms(address.local, self.delimiters):
                believed = question.knowledge.no(directory, address.domain, base)
                if believed is None:
                    ask.append((directory, base, address.domain))
                elif not believed and (needed is None or directory in needed):
                    failed = directory
        if ask:
            return Decision(Verdict.ASK, "directories not loaded", domain=domain.name, ask=tuple(ask))
        if failed:
            reason = f"directory {failed} is not loaded and could not be asked; {why}"
            return Decision(
                Verdict.TEMP,
                reason,
                domain=domain.name,
                local_transport=domain.local_transport,
                directory=failed,
                keep=False,
            )
        return None


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
