# SPDX-License-Identifier: Apache-2.0
"""From a question in an MTA's terms to the answer: parse, decide, put into the map's words. Pure.

The common question (a listed mailbox) is answered from a memo of *situations*: what the answer depends on is the
map, the domain and what the directories say, never the local part, so a million mailboxes share a handful of
entries. The memo lives as long as a generation of the index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from transport import exim_answer, policy_answer
from transport.address import MAX_LOCAL, Address, external, fold_domain, forms, parse
from transport.client import PASS, Client, Peers, judge
from transport.config.settings import Settings
from transport.decision import Decision, Verdict
from transport.knowledge import Knowledge
from transport.maps import here, recipient_bcc, relay_domains, relay_recipients, tls_policy, virtual_alias
from transport.maps import transport as transport_map
from transport.maps.answer import NOTFOUND, OK, TEMP, Answer
from transport.names import Of, Place
from transport.outcome import Outcome as Outcome
from transport.record import Row
from transport.router import PASS_FOREIGN, Router
from transport.unlisted import ROLES

ADDRESS_MAPS = ("transport", "relay_recipients", "here", "virtual_alias", "recipient_bcc")
MAPS = (*ADDRESS_MAPS, "relay_domains", "tls_policy")
_ADDRESS_MAPS = frozenset(ADDRESS_MAPS)
_WITHOUT_LOCAL = frozenset(("transport", "relay_recipients", "here"))  # no local part in what they say

MAX_KEY = 10_000
"""Octets of a key; Postfix 3.12 stops there by itself (socketmap_max_query_size)."""

_MEMO_LIMIT = 20_000
_EXPANSIONS_LIMIT = 200
_OURS = (Of.SPLIT, Of.STRIP, Of.MATCH)


_NOT_FOUND = Outcome(NOTFOUND)
_FOREIGN = Outcome(NOTFOUND, decision=PASS_FOREIGN)
_DUNNO = Outcome(OK, "DUNNO", decision=PASS_FOREIGN)


class Answerer:
    """All faces of one configuration over one `Knowledge`."""

    def __init__(self, settings: Settings, knowledge: Knowledge) -> None:
        self.settings = settings
        self.knowledge = knowledge
        self.router = Router(settings)
        self.peers = Peers(settings)
        self._delimiters = settings.daemon.recipient_delimiter
        self._memo: dict[object, Outcome] = {}
        self._quick: dict[tuple[str, str, int], tuple[Sequence[Row], Outcome]] = {}
        self._large: dict[tuple[str, str, bool], Decision] = {}
        self._strangers: dict[tuple[str, str, tuple[bool, ...]], Outcome] = {}
        self._observing = any(domain.enabled == "observe" for domain in settings.domains.values())
        self._plain = _Plain(settings, self.router)

    def new_generation(self) -> None:
        """The index changed: forget what rested on its contents, or (situations) on which directories it holds whole:
        only then is who stands in a remote one alone relayed without a question."""
        self._memo.clear()
        self._quick.clear()
        self._large.clear()

    # maps

    def map(self, name: str, key: str | bytes, now: float) -> Outcome:
        """Answer one map. An unknown map name is TEMP; a key that is no address of ours is NOTFOUND."""
        if name in _ADDRESS_MAPS:
            address = parse(key)
            return _NOT_FOUND if address is None else self.address_map(name, address, now)
        if name == "relay_domains":
            domain = fold_domain(_text(key))
            return _NOT_FOUND if domain is None else _outcome(relay_domains.answer(self.router.names.place(domain)))
        if name == "tls_policy":
            return _outcome(tls_policy.answer(self.settings, _text(key)))
        return Outcome(TEMP, f"no map is called {name[:40]!r}; there are {', '.join(MAPS)}", keep=False)

    def address_map(self, name: str, address: Address, now: float) -> Outcome:
        """Answer a map whose key is a parsed address."""
        memo_key: object = None
        rows: Sequence[Row] = ()
        directories = self._plain[address.domain]
        if directories is not None:
            rows = self.knowledge.rows(address.domain, address.local)
            quick = self._quick.get((name, address.domain, id(rows)))
            if quick is not None and quick[0] is rows:
                return quick[1]
            memo_key = self._situation(name, address, directories, rows)
            if memo_key is not None:
                known = self._memo.get(memo_key)
                if known is not None:
                    if not known.value:
                        return Outcome(OK, external(address.local, address.domain), decision=known.decision)
                    self._take_shortcut(name, address.domain, rows, known)
                    return known
            elif not rows:
                stranger = self._stranger(name, address.domain, address.local)
                if stranger is not None:
                    return stranger
        place = self.router.names.place(address.domain)
        if place.of is Of.FOREIGN:
            return _FOREIGN
        if place.of in (Of.COPY, Of.CHUNK):
            return self._shadow(name, address, place, now)
        decision = self._decide(address, now)
        if decision.verdict is Verdict.ASK:
            return Outcome(TEMP, "asking", decision=decision, ask=decision.ask, keep=False)
        answer = self._put(name, address, decision)
        keep = decision.keep and decision.until is None and answer.status != TEMP
        outcome = Outcome(answer.status, answer.value, decision=decision, keep=keep)
        if directories is not None and decision.believed and (decision.base, decision.domain) == address[:2]:
            return self._know_strangers(name, decision, outcome)
        if memo_key is not None and keep:
            self._remember(memo_key, name, address, outcome)
        return outcome

    def shared(self, name: str, key: bytes) -> Outcome | None:
        """The outcome that this address shares with all others in its situation, when it was given before.

        None says nothing: `map` finds the answer, and whether there is one. Raises UnicodeDecodeError.
        """
        local, _, domain = key.decode().rpartition("@")
        if self._plain[domain] is None or not local or len(local) > MAX_LOCAL:
            return None
        if not local.isascii() or not local.isprintable() or local[0] == '"':
            return None  # `parse` knows what these mean
        local = local.lower()
        rows = self.knowledge.rows(domain, local)
        if not rows:
            stranger = self._stranger(name, domain, local)
            return None if stranger is None or stranger.ask else stranger
        quick = self._quick.get((name, domain, id(rows)))
        return quick[1] if quick is not None and quick[0] is rows else None

    def _stranger(self, name: str, domain: str, local: str) -> Outcome | None:
        """The answer for an address without a row in a plain domain; None: it has to be decided.

        It depends on whose "no" counts now, and on nothing else in which strangers differ.
        """
        if local in ROLES or len(forms(local, self._delimiters)) > 1:
            return None
        directories = self._plain[domain] or ()
        beliefs = [self.knowledge.no(directory, domain, local) for directory in directories]
        if None in beliefs:
            ask = tuple(
                (directory, local, domain)
                for directory, believed in zip(directories, beliefs, strict=True)
                if believed is None
            )
            return Outcome(TEMP, "asking", ask=ask, keep=False)
        return self._strangers.get((name, domain, tuple(map(bool, beliefs))))

    def _know_strangers(self, name: str, decision: Decision, outcome: Outcome) -> Outcome:
        """Answer all strangers of the domain like this one, while the same "no"s count."""
        if decision.verdict is Verdict.RELAY and name not in _WITHOUT_LOCAL:
            return outcome
        outcome = replace(outcome, shared=True)
        self._strangers[name, decision.domain, decision.believed] = outcome
        return outcome

    def _take_shortcut(self, name: str, domain: str, rows: Sequence[Row], outcome: Outcome) -> None:
        """Know these very rows again: the index gives one object to all addresses in the same situation.

        The entry keeps the rows alive, so that their identity is never given to others.
        """
        if outcome.shared and len(rows) == 1 and rows[0].entry is None:
            if len(self._quick) >= _MEMO_LIMIT:
                self._quick.clear()
            self._quick[(name, domain, id(rows))] = (rows, outcome)

    def _situation(self, name: str, address: Address, directories: Sequence[str], rows: Sequence[Row]) -> object:
        """What the answer depends on, or None when it depends on more (or nobody lists the address)."""
        extended = False
        if not rows:
            shapes = forms(address.local, self._delimiters)
            if len(shapes) == 1:
                return None
            rows = self.knowledge.rows(address.domain, shapes[1][0])
            extended = True
        if len(rows) == 1:
            row = rows[0]
            if row.targets or row.live or row.directory not in directories:
                return None
            return (name, address.domain, extended, row.directory, row.kind, row.active, row.location)
        if not rows or any(row.targets or row.live or row.directory not in directories for row in rows):
            return None
        return (
            name,
            address.domain,
            extended,
            *((row.directory, row.kind, row.active, row.location) for row in rows),
        )

    def _remember(self, memo_key: object, name: str, address: Address, outcome: Outcome) -> None:
        decision = outcome.decision
        if decision is None or decision.verdict not in (Verdict.LOCAL, Verdict.RELAY) or decision.findings:
            return
        if name in ("virtual_alias", "recipient_bcc") and outcome.status == OK:
            if not decision.identity:
                return  # itself for some in this situation, not for all
            if name == "recipient_bcc" or outcome.value != external(address.local, address.domain):
                return  # holds the local part in another form
            outcome = Outcome(OK, "", decision=decision)
        elif outcome.value:
            outcome = replace(outcome, shared=True)
        else:
            return
        if len(self._memo) >= _MEMO_LIMIT:
            self._memo.clear()
        self._memo[memo_key] = outcome

    def _decide(self, address: Address, now: float, *, observing: bool = False) -> Decision:
        """The router's decision; large expansions are kept for the generation."""
        observing = observing and self._observing  # else both are one, and need only be found out once
        at = (address.local, address.domain, observing)
        known = self._large.get(at)
        if known is not None:
            return known
        decision = self.router.decide(self.knowledge, address, now, observing=observing)
        if len(decision.targets) > 50 and decision.keep and decision.until is None:
            if len(self._large) >= _EXPANSIONS_LIMIT:
                self._large.clear()
            self._large[at] = decision
        return decision

    def _put(self, name: str, address: Address, decision: Decision) -> Answer:
        if name == "transport":
            return transport_map.answer(self.settings, decision)
        if name == "relay_recipients":
            return relay_recipients.answer(decision)
        if name == "virtual_alias":
            return virtual_alias.answer(self.settings, address, decision)
        if name == "recipient_bcc":
            return recipient_bcc.answer(self.settings, address, decision)
        return here.answer(decision)

    def _shadow(self, name: str, address: Address, place: Place, now: float) -> Outcome:
        """Shadows of copies and chunks of large groups: only routes and expansions, never recipients."""
        if place.domain is None:
            return _NOT_FOUND
        if name == "transport":
            return _outcome(transport_map.shadow(place))
        if name != "virtual_alias":
            return _NOT_FOUND
        local, state, number = address.local, "", 0
        if place.of is Of.CHUNK:
            part = virtual_alias.chunk_of(address.local)
            if part is None:
                return _NOT_FOUND
            local, state, number = part
        owner = Address(local, place.owner, local)
        decision = self._decide(owner, now)
        if decision.verdict is Verdict.ASK:
            return Outcome(TEMP, "asking", decision=decision, ask=decision.ask, keep=False)
        if decision.verdict is Verdict.TEMP:
            return Outcome(TEMP, decision.reason, decision=decision, keep=False)
        leaves = decision.copies if place.store else decision.targets
        if decision.verdict is not Verdict.EXPAND or not leaves:
            leaves = ()
        if place.of is Of.CHUNK:
            answer = virtual_alias.chunk(leaves, state, number)
        elif leaves:
            answer = virtual_alias.listing(leaves, local, place.owner, place.store)
        else:
            answer = Answer(OK, external(address.local, address.domain))
        keep = decision.keep and decision.until is None and answer.status != TEMP
        return Outcome(answer.status, answer.value, decision=decision, keep=keep)

    # policy delegation and Exim

    def policy(self, attributes: Mapping[str, str], now: float) -> Outcome:
        """The action for one policy delegation request (DESIGN 5.5). attributes: as smtpd(8) sends them."""
        return policy_answer.answer(self, attributes, now)

    def judged(self, address: Address, client: Client, now: float) -> Outcome:
        """Decide and judge an address at RCPT, for both the policy service and Exim; `value` is not final."""
        place = self.router.names.place(address.domain)
        if place.of not in _OURS or place.domain is None:
            return _DUNNO
        observe = place.domain.enabled == "observe"
        decision = self._decide(address, now, observing=True)
        if decision.verdict is Verdict.ASK:
            return Outcome(TEMP, "asking", decision=decision, ask=decision.ask, keep=False, observe=observe)
        if decision.verdict is Verdict.PASS:
            return Outcome(OK, "DUNNO", decision=decision, judgement=PASS)
        target = self._target(address, decision, now)
        if target[1].verdict is Verdict.ASK:
            return Outcome(TEMP, "asking", decision=decision, ask=target[1].ask, keep=False, observe=observe)
        judgement = judge(self.settings, self.peers, self.knowledge, client, address, decision, target, now)
        seen = target[0] if decision.through else address
        return Outcome(
            OK,
            decision=decision,
            judgement=judgement,
            ask_loop=(seen.local, seen.domain) if judgement.first_sight else None,
            keep=judgement.keep and decision.keep and decision.until is None and not observe,
            observe=observe,
        )

    def _target(self, address: Address, decision: Decision, now: float) -> tuple[Address, Decision]:
        """An EXPAND with one target is judged by that target."""
        if decision.verdict is not Verdict.EXPAND or len(decision.targets) != 1:
            return address, decision
        target = parse(decision.targets[0])
        if target is None or target[:2] == address[:2]:
            return address, decision
        inner = self.router.decide(self.knowledge, target, now, observing=True)
        return (address, decision) if inner.verdict is Verdict.PASS else (target, inner)

    def exim(self, request: Mapping[str, str], now: float) -> Outcome:
        """The pairs of one Exim reply (DESIGN 5.6). request: recipient, and client, listener, cert, outsider,
        bounce where the RCPT ACL asks."""
        return exim_answer.answer(self, request, now)


class _Plain(dict[str, tuple[str, ...] | None]):
    """The directories of a domain whose answers depend on the rows alone, None for any other name.

    A row of any other directory counts for nothing: situations must not rest on one. Found out when a domain is first
    asked for: a reload of thousands must take no time.
    """

    def __init__(self, settings: Settings, router: Router) -> None:
        self._settings = settings
        self._router = router

    def __missing__(self, name: str) -> tuple[str, ...] | None:
        domain = self._settings.domains.get(name)
        if domain is None:
            return None
        plain = domain.enabled == "yes" and not domain.alias_of and not self._router.timed(name)
        self[name] = found = (*domain.local, *domain.remote) if plain else None
        return found


def _outcome(answer: Answer) -> Outcome:
    return Outcome(answer.status, answer.value)


def _text(key: str | bytes) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else key
