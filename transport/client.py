# SPDX-License-Identifier: Apache-2.0
"""What a client may do with a recipient at RCPT: loops, suspension, who may bring mail from outside. Pure.

The order is DESIGN 5.5's; the first rule that applies is the answer. Routing is never decided here: a policy action
that routes (FILTER, REDIRECT) moves every recipient of the message (access(5)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from transport.address import Address
from transport.config.settings import Destination, Domain, Settings, Unknown
from transport.decision import Decision, Verdict
from transport.knowledge import Knowledge


class Rule(Enum):
    """Which rule answered."""

    NONE = auto()
    LOOP = auto()
    SUSPENDED = auto()
    REFUSE = auto()  # peer_only, outsiders, null sender at a catch-all
    VERIFY = auto()
    TEMP = auto()


@dataclass(frozen=True, slots=True)
class Client:
    """Who connects. listener: our own side as `IP:PORT`, IPv6 in brackets. certs: fingerprints as the MTA gives
    them. outsider: neither in mynetworks nor authenticated (told by the second policy call). bounce: null sender."""

    address: str = ""
    listener: str = ""
    certs: tuple[str, ...] = ()
    outsider: bool = False
    bounce: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """rule NONE lets the recipient pass. code, status, text: the SMTP reply (RFC 5321 4.2, RFC 3463).

    first_sight: a listed address came back from its peer; the answer depends on when that was seen first, which is
    not known yet: ask, then judge again.
    """

    rule: Rule = Rule.NONE
    code: int = 0
    status: str = ""
    text: str = ""
    keep: bool = True
    first_sight: bool = False


PASS = Judgement()


class Proof(Enum):
    """How a connection shows that it is a destination's."""

    UNKNOWN = -1  # an `spf:` name of its peers was never resolved
    NOTHING = 0
    ADDRESS = 1  # may be shared by every tenant of a cloud
    OWN = 2  # a listener or a certificate that nobody else has


@lru_cache(1024)
def listener_name(host: str, port: str | int) -> str:
    """`IP:PORT` in the one spelling used for comparison: IPv6 compressed and in brackets."""
    try:
        address = ip_address(host.strip("[]").removeprefix("IPv6:"))
    except ValueError:
        return f"{host}:{port}"
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def fingerprint(text: str) -> str:
    """A certificate fingerprint in the one spelling used for comparison."""
    return text.replace(":", "").upper()


class Peers:
    """Recognises destinations by their connections, for one configuration."""

    def __init__(self, settings: Settings) -> None:
        self._listeners: dict[str, frozenset[str]] = {}
        self._certs: dict[str, frozenset[str]] = {}
        self._networks: dict[str, tuple[IPv4Network | IPv6Network, ...]] = {}
        self._spf: dict[str, tuple[str, ...]] = {}
        for name, destination in settings.destinations.items():
            by_kind: dict[str, list[str]] = {"network": [], "spf": [], "listener": [], "cert": []}
            for peer in destination.peers:
                by_kind[peer.kind].append(peer.value)
            self._listeners[name] = frozenset(
                listener_name(*value.rpartition(":")[::2]) for value in by_kind["listener"]
            )
            self._certs[name] = frozenset(fingerprint(value) for value in by_kind["cert"])
            self._networks[name] = tuple(ip_network(value, strict=False) for value in by_kind["network"])
            self._spf[name] = tuple(by_kind["spf"])

    def any(self, name: str) -> bool:
        """Whether this destination has peers at all."""
        return bool(self._listeners[name] or self._certs[name] or self._networks[name] or self._spf[name])

    def proof(self, name: str, client: Client, knowledge: Knowledge) -> Proof:
        """How surely `client` is destination `name`."""
        if client.listener and client.listener in self._listeners[name]:
            return Proof.OWN
        if any(fingerprint(cert) in self._certs[name] for cert in client.certs if cert):
            return Proof.OWN
        if not client.address or not (self._networks[name] or self._spf[name]):
            return Proof.NOTHING
        try:
            address = ip_address(client.address)
        except ValueError:
            return Proof.NOTHING
        if address.version == 6 and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if any(address in network for network in self._networks[name]):
            return Proof.ADDRESS
        unknown = Proof.NOTHING
        for spf in self._spf[name]:
            networks = knowledge.spf_networks(spf)
            if any(address in ip_network(text, strict=False) for text in networks):
                return Proof.ADDRESS
            if not networks:
                unknown = Proof.UNKNOWN
        return unknown


def judge(
    settings: Settings,
    peers: Peers,
    knowledge: Knowledge,
    client: Client,
    address: Address,
    decision: Decision,
    target: tuple[Address, Decision],
    now: float,
) -> Judgement:
    """Judge one recipient.

    target: for an EXPAND with one target, that target and its decision; else the recipient's own. Loops are judged
    on the address as given, since an alias of ours that leads to the peer is ordinary mail; only another spelling
    of the domain is looked through.
    """
    if decision.verdict is Verdict.PASS:
        return PASS
    domain = settings.domains[decision.domain]
    seen = target if decision.through else (address, decision)
    loop = _loop(settings, peers, knowledge, client, seen[0], seen[1], now)
    if loop is not None:
        return loop
    if target[1].suspended:
        return Judgement(Rule.SUSPENDED, 550, "5.2.1", "Mailbox disabled, not accepting messages")
    asked = [domain]
    if decision.through and target[1].domain:
        asked.append(settings.domains[target[1].domain])  # another spelling opens no other door
    for one in asked:
        if one.role == "secondary" and client.outsider:
            judged = decision if decision.catchall else target[1]
            refused = _outsider(settings, peers, knowledge, client, one, judged)
            if refused is not None:
                return refused
    if client.bounce and decision.catchall:
        return Judgement(Rule.REFUSE, 550, "5.1.1", "No such recipient here; bounces are not caught", keep=False)
    if target[1].verify:
        return Judgement(Rule.VERIFY, keep=False)
    if target[1].verdict is Verdict.TEMP:
        return Judgement(Rule.TEMP, 451, "4.3.0", "Recipient cannot be looked up now, try again later", keep=False)
    return PASS


def _loop(
    settings: Settings,
    peers: Peers,
    knowledge: Knowledge,
    client: Client,
    address: Address,
    decision: Decision,
    now: float,
) -> Judgement | None:
    if decision.verdict not in (Verdict.RELAY, Verdict.UNKNOWN) or not decision.domain:
        return None
    domain = settings.domains[decision.domain]
    name = decision.destination or domain.destination
    if not name or not peers.any(name):
        return None
    proof = peers.proof(name, client, knowledge)
    if proof in (Proof.NOTHING, Proof.UNKNOWN) or not _counts(domain, settings.destinations[name], proof):
        return None
    if not (decision.verdict is Verdict.RELAY and decision.listed):
        return Judgement(
            Rule.LOOP, 550, "5.4.6", "Routing loop: this address came back from where it would go", keep=False
        )
    since = knowledge.loop_first_seen(address.local, address.domain)
    if since is None:
        return Judgement(Rule.LOOP, 451, "4.4.6", "Routing loop detected", keep=False, first_sight=True)
    if now - since < domain.loop_grace:
        text = "Routing loop: the other system does not know this listed recipient yet, try again later"
        return Judgement(Rule.LOOP, 451, "4.4.6", text, keep=False)
    text = "Routing loop: the other system does not know this listed recipient"
    return Judgement(Rule.LOOP, 550, "5.4.6", text, keep=False)


def _counts(domain: Domain, destination: Destination, proof: Proof) -> bool:
    """As primary a shared cloud's address proves nothing: its other tenants write to our people from there."""
    return domain.role == "secondary" or proof is Proof.OWN or destination.exclusive


def _outsider(
    settings: Settings, peers: Peers, knowledge: Knowledge, client: Client, domain: Domain, decision: Decision
) -> Judgement | None:
    """Role secondary, a client that is neither ours nor authenticated."""
    names: Sequence[str] = [name for name in (domain.destination, decision.destination) if name]
    proofs = {peers.proof(name, client, knowledge) for name in names}
    if proofs & {Proof.ADDRESS, Proof.OWN}:
        return None
    if Proof.UNKNOWN in proofs and (domain.peer_only or decision.verdict is Verdict.RELAY or decision.catchall):
        text = "The primary's addresses are not known yet, try again later"
        return Judgement(Rule.TEMP, 451, "4.3.0", text, keep=False)
    if domain.peer_only:
        return Judgement(Rule.REFUSE, 550, "5.7.1", "Mail for this domain is taken from its primary only")
    if not decision.catchall and (decision.verdict is not Verdict.RELAY or decision.listed):
        return None
    if domain.outsiders is Unknown.REJECT:
        return Judgement(Rule.REFUSE, 550, "5.1.1", "No such recipient here", keep=False)
    if domain.outsiders is Unknown.VERIFY:
        return Judgement(Rule.VERIFY, keep=False)
    return None
