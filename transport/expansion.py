# SPDX-License-Identifier: Apache-2.0
"""Aliases and groups taken apart: every target decided, nested ones flattened, each leaf once, cycles cut. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from transport.address import Address, external, parse, with_extension
from transport.config.settings import Domain
from transport.copies import shadow
from transport.decision import Decision, Verdict
from transport.knowledge import Question

if TYPE_CHECKING:
    from transport.router import Router

_Node = tuple[str, str]  # domain, base: one listed alias or group


class Expansion:
    """One walk from one alias or group to its leaves.

    A target that is its own owner is a mailbox that keeps its copy: a leaf, under the address by which it was reached,
    since one with an extension of its own (ann -> ann+kept) would get longer each time that the MTA asks again. Any
    other way back to an owner that is still open is a cycle: cut, and a finding.
    """

    def __init__(self, router: Router, question: Question, domain: Domain) -> None:
        self._router = router
        self._question = question._replace(expand=False)
        self._domain = domain
        self._same: dict[tuple[object, ...], Decision] = {}
        self._leaves: dict[str, Decision] = {}
        self._copies: dict[str, None] = {}
        self._dropped: dict[str, None] = {}
        self._dangling: dict[str, None] = {}
        self._findings: dict[str, None] = {}
        self._ask: dict[tuple[str, str, str], None] = {}
        self._owner: Decision | None = None
        self._temp = ""
        self._keep = True
        self._leave_out = False
        self._until: float | None = None

    def of(self, owner: Decision, name: str) -> Decision:
        """Expand `owner` (verdict EXPAND, targets not yet read), whose address stands in domain `name`."""
        self._leave_out = owner.group and not self._domain.group_members
        self._walk(owner, name)
        if self._ask:
            return Decision(Verdict.ASK, "targets not listed; asking live", domain=owner.domain, ask=tuple(self._ask))
        result = replace(
            owner,
            targets=tuple(self._leaves),
            copies=tuple(self._copies),
            dropped=tuple(self._dropped),
            dangling=tuple(self._dangling),
            findings=(*owner.findings, *self._findings),
            keep=owner.keep and self._keep,
            until=self._until,
        )
        if self._temp:
            return replace(result, verdict=Verdict.TEMP, reason=self._temp, targets=(), keep=False)
        if len(self._dangling) == len(self._leaves):
            return replace(result, verdict=Verdict.UNKNOWN, reason=self._nobody(owner), targets=())
        if self._owner is not None:
            result = replace(result, copy="all", destination=self._owner.destination)
        if len(self._leaves) == 1:
            leaf = next(iter(self._leaves.values()))
            result = replace(result, suspended=leaf.suspended, verify=leaf.verify)
        return result

    def _nobody(self, owner: Decision) -> str:
        if self._dangling:
            return f"{owner.reason}; none of its targets exists"
        if self._dropped:
            return f"{owner.reason}; group_members = false leaves out every member"
        return f"{owner.reason}; its targets lead back to itself"

    def _walk(self, owner: Decision, name: str) -> None:
        root: _Node = (name, owner.base)
        path: list[tuple[_Node, str, Iterator[str]]] = [(root, owner.extension, self._targets(owner, name))]
        opened = {root}  # on the path, or taken apart before
        on_path = {root}
        while path:
            node, extension, targets = path[-1]
            target = next(targets, None)
            if target is None:
                path.pop()
                on_path.discard(node)
                continue
            address = parse(target)
            if address is None:
                self._findings[f"{external(node[1], node[0])} has a target that is no address: {target!r}"] = None
                continue
            decision = self._decide(address)
            if decision.verdict is not Verdict.EXPAND:
                self._take(address, decision)
                continue
            if decision.targets:  # another spelling, catch-all, postmaster: no row of its own
                self._note(decision)
                step: _Node = (address.domain, address.local)
                further: Iterator[str] = iter(decision.targets)
            else:
                step = (address.domain, decision.base)
                if step == node:
                    own = node[1] + extension
                    address = Address(own, node[0], own)
                    kept = replace(decision, extension=extension)
                    kept = self._router.kept(address, kept, self._question.now)
                    if step == root and kept.copy == "all":
                        self._owner = kept
                    self._take(address, kept)
                    continue
                further = self._targets(decision, address.domain)
            if step in on_path:
                self._findings[f"alias loop: {external(*reversed(node))} leads back to {target}"] = None
            elif step not in opened:
                opened.add(step)
                on_path.add(step)
                path.append((step, decision.extension, further))

    def _decide(self, address: Address) -> Decision:
        """One target's decision. Plain mailboxes in the same situation share one: a group may have ten thousand."""
        rows = self._question.knowledge.rows(address.domain, address.local)
        domain = self._router.settings.domains.get(address.domain)
        if len(rows) != 1 or rows[0].targets or rows[0].live or domain is None or self._router.timed(domain.name):
            return self._router.answer(self._question, address)
        row = rows[0]
        situation = (address.domain, row.directory, row.kind, row.active, row.location)
        decision = self._same.get(situation)
        if decision is None:
            decision = self._router.answer(self._question, address)
            plain = decision.listed and decision.keep and not decision.findings
            if plain and decision.verdict in (Verdict.LOCAL, Verdict.RELAY):
                self._same[situation] = decision
        return decision

    def _targets(self, owner: Decision, name: str) -> Iterator[str]:
        """The owner's targets; what stood behind the owner's name goes on to each (Postfix:
        propagate_unmatched_extensions). None, of a row that has some, is a fault of the index: TEMP."""
        targets = self._question.knowledge.targets(name, owner.base, owner.directory)
        if not targets:
            self._temp = self._temp or f"targets of {external(owner.base, name)} cannot be read now"
        extension = owner.extension
        return iter([with_extension(target, extension) for target in targets] if extension else list(targets))

    def _note(self, decision: Decision) -> None:
        self._keep = self._keep and decision.keep
        if decision.until is not None:
            self._until = decision.until if self._until is None else min(self._until, decision.until)
        for finding in decision.findings:
            self._findings[finding] = None

    def _take(self, address: Address, decision: Decision) -> None:
        """One target that goes no further."""
        text = external(address.local, address.domain)
        self._note(decision)
        if decision.verdict is Verdict.ASK:
            self._ask.update(dict.fromkeys(decision.ask))
            return
        if decision.verdict is Verdict.TEMP:
            self._temp = self._temp or f"target {text}: {decision.reason}"
            return
        if decision.verdict is Verdict.UNKNOWN:
            self._dangling[text] = None
            self._findings[f"target {text} exists nowhere"] = None
        relayed = decision.verdict is Verdict.RELAY and not decision.here
        if relayed and self._leave_out:
            self._dropped[text] = None
            return
        self._leaves.setdefault(text, decision)
        if decision.copy:
            self._copies[shadow(self._router.settings, decision, address.local)] = None
