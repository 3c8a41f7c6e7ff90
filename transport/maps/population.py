# SPDX-License-Identifier: Apache-2.0
"""The per-recipient maps as text: one line for each listed address, decided by the router like every live answer.

A million mailboxes share a handful of *situations* (what the directories say, not who it is). Each is decided once,
for a stand-in local part, and the answer is written for all of them; aliases, groups, waves and unusual local parts
are decided one by one. Unlisted addresses, domains and parents have no line: Postfix asks an indexed file for those
keys too, and a live map behind would never be reached.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from transport.address import Address, external, forms, parse
from transport.answerer import Answerer
from transport.config.settings import Domain, Settings
from transport.decision import Decision, Verdict
from transport.maps import recipient_bcc, relay_recipients, virtual_alias
from transport.maps import transport as transport_map
from transport.maps.answer import OK, Answer
from transport.maps.guard import spellings
from transport.maps.snapshot import Situation, Snapshot
from transport.maps.stand_in import STAND_IN, StandIn
from transport.names import SHADOW_SUFFIX
from transport.record import Kind

MAPS = ("transport", "relay_recipients", "virtual_alias", "recipient_bcc")

MAX_KEY = 500
"""Octets of a key: LMDB takes 511, its closing NUL included."""

# smtpd(8) answers 450 for a route to retry(8) (smtpd_check.c, check_rcpt_maps), the queue manager defers
_PUT_OFF = "retry:4.3.0 Temporary internal error: the directories do not say where this mailbox is"

_FIRST = 20  # examples kept of what was left out


class Sink(Protocol):
    """Takes the lines of one map."""

    def write(self, text: str) -> None:
        """Whole lines, `key TAB value LF`."""


@dataclass(slots=True)
class Survey:
    """What the pass over everybody found.

    listed: recipients by domain, as `relay_recipients` has them. left_out: addresses without a line because no
    answer could be decided, by reason; `first` holds the first of them as (address, reason). findings: things an
    administrator should mend. until: unix time at which a wave or a delivery's end changes answers, or None.
    """

    listed: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    first: list[tuple[str, str]] = field(default_factory=list)
    findings: dict[str, None] = field(default_factory=dict)
    until: float | None = None

    def leave_out(self, address: str, reason: str) -> None:
        """Count an address that gets no line, and say why."""
        self.left_out[reason] += 1
        if len(self.first) < _FIRST:
            self.first.append((address, reason))

    def note(self, decision: Decision) -> None:
        """Keep findings and the time at which the decision changes."""
        if decision.until is not None:
            self.until = decision.until if self.until is None else min(self.until, decision.until)
        for finding in decision.findings:
            if len(self.findings) < 1000:
                self.findings[finding] = None


@dataclass(frozen=True, slots=True)
class _Shape:
    """The lines of one situation: map -> (what stands before the local part in the value, and behind), or a
    constant value; why there are none; or that each address has to be decided by itself."""

    constant: Mapping[str, str]
    around: Mapping[str, tuple[str, str]]
    trouble: str = ""
    singly: bool = False


class Population:
    """One pass over everybody."""

    def __init__(
        self,
        settings: Settings,
        snapshot: Snapshot,
        now: float,
        *,
        alone: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._settings = settings
        self._snapshot = snapshot
        self._now = now
        self._alone = alone
        self._progress = progress
        self._answerer = Answerer(settings, snapshot)
        self._stand_in = StandIn(snapshot)
        self._stand_in_router = Answerer(settings, self._stand_in).router
        delimiters = re.escape(settings.daemon.recipient_delimiter)
        # what needs no quotes, no second look and no care: the local parts of nearly everybody
        atom = f"(?:(?![{delimiters}])[a-z0-9_=-])+" if delimiters else "[a-z0-9_=-]+"
        self._usual = re.compile(f"(?:{atom}(?:\\.{atom})*\n)*")
        self._usual_one = re.compile(f"{atom}(?:\\.{atom})*")
        self._followed: set[str] = set()
        self.survey = Survey()

    def write(self, sinks: Mapping[str, Sink]) -> Survey:
        """Write every map's lines, in no order. Raises OSError when a sink does."""
        for name in sorted(self._settings.domains):
            domain = self._settings.domains[name]
            if domain.enabled == "yes":
                self._domain(domain, sinks)
        return self.survey

    def _domain(self, domain: Domain, sinks: Mapping[str, Sink]) -> None:
        source = self._source(domain)
        keys = spellings(domain.name)
        special = self._covered_by_waves(source)
        shapes: dict[Situation, _Shape] = {}
        unseen = special | {"postmaster", "abuse"}
        for run in self._snapshot.everyone(source.name):
            for situation, locals_ in run.items():
                if not unseen.isdisjoint(locals_):
                    unseen = unseen.difference(locals_)
                plain, others = self._divide(situation, locals_, special)
                if plain:
                    shape = shapes.get(situation)
                    if shape is None:
                        shape = shapes[situation] = self._shape(domain, situation)
                    if shape.singly:
                        others = plain + others
                    else:
                        self._emit(domain, keys, plain, shape, sinks)
                for local in others:
                    self._one(domain, keys, local, sinks)
            if self._progress is not None:
                self._progress(sum(map(len, run.values())))
        for local in sorted(unseen):
            self._one(domain, keys, local, sinks)
        if self._alone and domain.local_transport:
            for key in keys:
                self._line(sinks, "transport", key, domain.local_transport)

    def _source(self, domain: Domain) -> Domain:
        """The domain whose rows decide: the end of a chain of `alias_of`."""
        seen = {domain.name}
        while domain.alias_of and domain.alias_of not in seen and domain.alias_of in self._settings.domains:
            seen.add(domain.alias_of)
            domain = self._settings.domains[domain.alias_of]
        return domain

    def _covered_by_waves(self, domain: Domain) -> frozenset[str]:
        """Local parts that a wave of this domain may cover: those it names, and the same persons' others."""
        found: set[str] = set()
        for wave in self._settings.waves:
            if wave.domain != domain.name:
                continue
            for text in wave.addresses:
                address = parse(text)
                if address is None:
                    continue
                found.add(address.local)
                for row in self._snapshot.rows(address.domain, address.local):
                    if row.entry is not None:
                        others = self._snapshot.same_entry(row.directory, row.entry)
                        found.update(local for local, name in others if name == domain.name)
        return frozenset(found)

    def _divide(self, situation: Situation, locals_: list[str], special: frozenset[str]) -> tuple[list[str], list[str]]:
        """Those who can share a decision, and those who cannot."""
        if any(row.targets or row.kind is not Kind.MAILBOX for row in situation):
            return [], locals_
        if self._usual.fullmatch("\n".join(locals_) + "\n") and special.isdisjoint(locals_):
            return locals_, []
        usual = self._usual_one.fullmatch
        plain = [local for local in locals_ if local not in special and usual(local)]
        return plain, [local for local in locals_ if local in special or not usual(local)]

    # one situation

    def _shape(self, domain: Domain, situation: Situation) -> _Shape:
        self._stand_in.situation = situation
        address = Address(STAND_IN, domain.name, STAND_IN)
        decision = self._stand_in_router.decide(self._stand_in, address, self._now)
        self.survey.note(decision)
        if decision.verdict in (Verdict.TEMP, Verdict.ASK):
            return _Shape({}, {}, trouble=decision.reason)
        constant: dict[str, str] = {}
        around: dict[str, tuple[str, str]] = {}
        if decision.verdict is Verdict.PASS or not (decision.listed or decision.here):
            return _Shape(constant, around)
        for name, answer in self._answers(address, decision):
            before, found, behind = answer.value.partition(STAND_IN)
            if STAND_IN in behind:
                return _Shape({}, {}, singly=True)
            if found:
                around[name] = (before, behind)
            else:
                constant[name] = answer.value
        return _Shape(constant, around)

    def _answers(self, address: Address, decision: Decision) -> Iterator[tuple[str, Answer]]:
        """The OK answers of the per-recipient maps."""
        settings = self._settings
        answers = {
            "transport": transport_map.answer(settings, decision),
            "relay_recipients": relay_recipients.answer(decision),
            "virtual_alias": virtual_alias.answer(settings, address, decision),
            "recipient_bcc": recipient_bcc.answer(settings, address, decision),
        }
        if self._strips(decision):
            if self._alone:
                self.survey.findings[
                    f'destination {decision.destination}: plus = "strip" needs the live map, a file keeps extensions'
                ] = None
            else:  # a file would put the extension back; the live map behind it does not
                del answers["virtual_alias"]
        for name, answer in answers.items():
            if answer.status == OK:
                yield name, answer

    def _strips(self, decision: Decision) -> bool:
        return (
            decision.verdict is Verdict.RELAY
            and (decision.copy == "all" or not decision.here)
            and self._settings.destinations[decision.destination].plus_strip
        )

    def _emit(
        self, domain: Domain, keys: Sequence[str], locals_: list[str], shape: _Shape, sinks: Mapping[str, Sink]
    ) -> None:
        if shape.trouble:
            self.survey.leave_out(f"{locals_[0]}@{domain.name}", shape.trouble)
            self.survey.left_out[shape.trouble] += len(locals_) - 1
            for local in locals_:
                self._put_off(sinks, local, keys)
            return
        number = len(locals_)
        for key in keys:
            for name, value in shape.constant.items():
                rest = f"@{key}\t{value}\n"
                sinks[name].write(rest.join(locals_) + rest)
                self.survey.lines[name] += number
            for name, (before, behind) in shape.around.items():
                middle = f"@{key}\t{before}"
                sinks[name].write("".join([f"{local}{middle}{local}{behind}\n" for local in locals_]))
                self.survey.lines[name] += number
        if "relay_recipients" in shape.constant:
            self.survey.listed[domain.name] += number

    # one by one

    def _one(self, domain: Domain, keys: Sequence[str], local: str, sinks: Mapping[str, Sink]) -> None:
        address = Address(local, domain.name, local)
        text = external(local, domain.name)
        decision = self._answerer.router.decide(self._snapshot, address, self._now)
        if decision.verdict in (Verdict.TEMP, Verdict.ASK):
            if decision.listed or self._has_rows(domain, local):
                self.survey.note(decision)
                self.survey.leave_out(text, decision.reason)
                self._put_off(sinks, local, keys)
            return
        if decision.verdict is Verdict.PASS or not (decision.listed or decision.here):
            return
        self.survey.note(decision)
        written = [external(local, key) for key in keys]
        if text.startswith("#") or max(len(key.encode()) for key in written) > MAX_KEY:
            self.survey.leave_out(text, "postmap(1) cannot take it as a key; only a live map can answer for it")
            return
        for name, answer in self._answers(address, decision):
            for key in written:
                self._line(sinks, name, key, answer.value)
            if name == "relay_recipients":
                self.survey.listed[domain.name] += 1
            if name == "virtual_alias":
                self._follow(virtual_alias.members(answer.value), sinks)
            elif name == "recipient_bcc":  # in internal form
                self._follow((external(*answer.value.rsplit("@", 1)),), sinks)

    def _put_off(self, sinks: Mapping[str, Sink], local: str, domains: Sequence[str]) -> None:
        """Somebody is listed, and nothing could be decided: without a live map behind the files a missing line would
        be "user unknown", or the alias and the copies of who bears the name before a delimiter."""
        longer = len(forms(local, self._settings.daemon.recipient_delimiter)) > 1
        for domain in domains if self._alone else ():
            key = external(local, domain)
            if key.startswith("#") or len(key.encode()) > MAX_KEY:
                continue
            self._line(sinks, "transport", key, _PUT_OFF)
            if longer:
                self._line(sinks, "virtual_alias", key, key)
                self._line(sinks, "recipient_bcc", key, f"{local}@{domain}")

    def _has_rows(self, domain: Domain, local: str) -> bool:
        source = self._source(domain).name
        shapes = forms(local, self._settings.daemon.recipient_delimiter)
        return any(self._snapshot.rows(source, base) for base, _ in shapes)

    def _follow(self, addresses: Iterable[str], sinks: Mapping[str, Sink]) -> None:
        """Shadows of groups and chunks in a value are expanded by `virtual_alias` too: give each its line.

        addresses: in external form, as postmap(1) wants a key.
        """
        waiting = list(addresses)
        while waiting:
            text = waiting.pop()
            if not text.endswith(SHADOW_SUFFIX) or text in self._followed:
                continue
            self._followed.add(text)
            outcome = self._answerer.map("virtual_alias", text, self._now)
            if outcome.status == OK and outcome.value != text:
                self._line(sinks, "virtual_alias", text, outcome.value)
                waiting += virtual_alias.members(outcome.value)

    def _line(self, sinks: Mapping[str, Sink], name: str, key: str, value: str) -> None:
        sinks[name].write(f"{key}\t{value}\n")
        self.survey.lines[name] += 1
