# SPDX-License-Identifier: Apache-2.0
"""Random worlds of odd directories: what Postfix does with the maps' answers ends where Exim's routers end, for each
recipient: aliases in aliases, copies, subdomains, domain aliases, local parts that mean something to somebody."""

from __future__ import annotations

import random
from base64 import b64decode
from collections.abc import Mapping

import pytest

from tests.transport.world import NOW, World, address, answerer, decide, domain, value
from transport.address import external
from transport.answerer import Answerer
from transport.config.settings import Destination, Domain, Location, Unknown
from transport.decision import Verdict
from transport.maps.virtual_alias import members
from transport.names import SHADOW_SUFFIX
from transport.record import Kind

LOCALS = [
    "a", "b", "c", "a+x", "all", "a=1", "#h", "|p", "/f", "-m", "*", "@", ".", "a.", "a@b", "a,b", "x y", 'q"q', "é",
    "strasse", "owner-a", "a-request", "postmaster", "abuse",
]  # fmt: skip
DOMAINS = [
    "example.com", "alias.test", "strip.test", "sub.strip.test", "match.test", "deep.match.test", "dual.test",
    "all.test",
]  # fmt: skip
STORE, SECOND = "lmtp:[192.0.2.8]:24", "lmtp:[192.0.2.9]:24"
End = tuple[str, str, str]  # route, local part, domain
Ends = frozenset[End] | str


def _people(chosen: random.Random) -> World:
    world = World()
    kinds = [Kind.MAILBOX, Kind.MAILBOX, Kind.MAILBOX, Kind.ALIAS, Kind.GROUP]
    for _ in range(chosen.randrange(3, 40)):
        name = chosen.choice(LOCALS), chosen.choice(DOMAINS)
        if name[::-1] in world.listed:
            continue
        kind = chosen.choice(kinds)
        goals: list[str] = []
        if kind is not Kind.MAILBOX or chosen.random() < 0.2:
            several = range(chosen.randrange(5))
            goals = [external(chosen.choice(LOCALS), chosen.choice([*DOMAINS, "foreign.test"])) for _ in several]
        world.add(
            external(*name),
            chosen.choice(["here", "here", "there"]),
            kind=kind,
            location=chosen.choice([None] * 5 + ["gone", "store2"]),
            targets=dict.fromkeys(goals),
        )
    return world


def _faces(chosen: random.Random, world: World) -> Answerer:
    unknown = chosen.choice([Unknown.REJECT, Unknown.RELAY])
    places = {"gone": Location(destination="s"), "store2": Location(local_transport=SECOND)}

    def one(name: str, delivery: str = "", subdomains: str = "exact") -> Domain:
        return domain(
            name=name,
            unknown=unknown,
            locations=places,
            local_transport=STORE,
            delivery=delivery or chosen.choice(["split", "dual", "all"]),
            subdomains=subdomains,
        )

    return answerer(
        world,
        one("example.com", "split"),
        Domain("alias.test", alias_of=chosen.choice(["example.com", "dual.test", "all.test"])),
        one("strip.test", subdomains="strip"),
        one("match.test", subdomains="match"),
        one("dual.test", "dual"),
        one("all.test", "all"),
        destinations=[Destination("s", hosts=("s.example.net",), plus_strip=chosen.random() < 0.3)],
        delimiter=chosen.choice(["+", "+-", ""]),
    )


def _arrived(route: str, text: str) -> End:
    """Where a recipient ends; a shadow is its real address again (the generic map of its service)."""
    local, name, _ = address(text)
    if name.endswith(SHADOW_SUFFIX):
        name = name.removesuffix(SHADOW_SUFFIX).rpartition(".")[0]
        route = route.replace("dual-s:", "relay:").replace("splitmx-lmtp:", "lmtp:")
    return route, local, name


def _postfix(faces: Answerer, recipient: str) -> Ends:
    """smtpd asks relay_recipients; cleanup adds the copy and expands all; qmgr asks for the route."""
    if value(faces, "relay_recipients", recipient)[0] != "OK":
        return "refused"
    waiting, seen, ends = [recipient], {recipient}, set()
    status, copy = value(faces, "recipient_bcc", recipient)
    if status == "OK":
        waiting.append(external(*copy.rsplit("@", 1)))
    while waiting:
        current = waiting.pop()
        status, text = value(faces, "virtual_alias", current)
        for member in members(text) if status == "OK" else [current]:
            if address(member)[:2] != address(current)[:2]:
                if member not in seen:
                    seen.add(member)
                    waiting.append(member)
                continue
            if decide(faces, member).verdict is not Verdict.UNKNOWN:  # that one bounces by itself
                ends.add(_arrived(value(faces, "transport", member)[1], member))
    return frozenset(ends)


def _exim_ends(faces: Answerer, text: str, above: frozenset[tuple[str, str]], ends: set[End]) -> str:
    """One run through the routers; an address that is its own ancestor is not expanded again."""
    local, name, _ = address(text)
    reply = faces.exim({"recipient": text}, NOW).pairs
    way = reply["decision"]
    if way == "expand":
        if (local, name) not in above:
            targets = reply.get("targets") or b64decode(reply["targets64"]).decode()
            for target in members(targets):
                _exim_ends(faces, target, above | {(local, name)}, ends)
            return way
        way = reply["self"]
    if way == "pass":
        ends.add(("", local, name))
    elif way in ("local", "relay"):
        ends.update(_delivered(reply, way, text))
    return way


def _delivered(reply: Mapping[str, str], way: str, text: str) -> set[End]:
    local, name, _ = address(text)
    there = f"relay:[{reply['hosts']}]" if "hosts" in reply else ""
    ends = set()
    if way == "relay":
        coded = reply.get("address64")
        ends.add(_arrived(there, b64decode(coded).decode() if coded else reply.get("address", text)))
    if way == "local" or reply.get("copy") == "local":
        ends.add((reply["store"], local, name))
    if way == "local" and reply.get("copy") == "relay":
        stripped = int(reply.get("strip", 0)) if reply.get("plus") == "strip" else 0
        ends.add((there, local[: len(local) - stripped], name))
    return ends


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_postfix_and_exim_end_alike(first: int) -> None:
    """Each recipient's mail, copies included, arrives at the same places, or is refused by both."""
    for seed in range(first, first + 20):
        chosen = random.Random(seed)
        world = _people(chosen)
        faces = _faces(chosen, world)
        others = [(name, local) for name in DOMAINS for local in ("a+x", "zed", "all", "postmaster")]
        for name, local in {**dict.fromkeys(world.listed), **dict.fromkeys(others)}:
            recipient = external(local, name)
            ends: set[End] = set()
            way = _exim_ends(faces, recipient, frozenset(), ends)
            assert _postfix(faces, recipient) == ("refused" if way == "unknown" else ends), (seed, recipient)
