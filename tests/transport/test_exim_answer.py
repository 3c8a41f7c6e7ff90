# SPDX-License-Identifier: Apache-2.0
"""The pairs of an Exim reply, and the static files that hold the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd.protocols import exim as protocol
from tests.transport.world import NOW, World, answerer
from transport import exim_answer
from transport.answerer import Answerer
from transport.config.settings import Destination, Domain, Peer, Unknown
from transport.maps import cdb
from transport.maps.exim import reply_line
from transport.record import Kind

D = "@example.com"


def faces(world: World, **domain: Any) -> Answerer:
    """A split domain over this world."""
    options: dict[str, Any] = {
        "local": ("here",),
        "remote": ("there",),
        "destination": "s",
        "unknown": Unknown.REJECT,
    } | domain
    goals = [
        Destination("s", hosts=("s.example.net", "2001:db8::1"), port=2525, tls="ca+name", bounce="postmaster",
                    peers=(Peer("network", "192.0.2.0/24"),)),
        Destination("tenant", domain="t.example", envelope="tenant.example"),
    ]  # fmt: skip
    return answerer(world, Domain("example.com", **options), destinations=goals)


def pairs(made: Answerer, recipient: str, **more: str) -> dict[str, str]:
    """The pairs, checked to be a reply that says the same."""
    outcome = made.exim({"recipient": recipient, **more}, NOW)
    found = dict(outcome.pairs)
    reply = protocol.reply(found)
    assert reply != protocol.TEMP or found["decision"] == "temp"
    return found


def test_relay() -> None:
    """All that a route needs stands in one reply, the proof of its wholeness last."""
    world = World()
    world.add("bob" + D, "there")
    found = pairs(faces(world), "bob" + D)
    assert found == {
        "decision": "relay", "destination": "s", "bounce": "postmaster", "errors": "postmaster" + D,
        "hosts": "s.example.net;2001:db8::1", "port": "2525", "tls": "ca+name", "address": "bob" + D, "verify": "no",
    }  # fmt: skip
    assert list(found)[-1] == "verify"


def test_what_cannot_stand_in_a_reply() -> None:
    """Local parts with quotes, blanks or dollar signs are not repeated, or come in base64."""
    world = World()
    for name in ('"b b"', "a$b", "o'b"):
        world.add(name + D, "there")
    made = faces(world)
    assert "address" not in pairs(made, '"b b"' + D)
    assert "address" not in pairs(made, "a$b" + D)
    assert pairs(made, "o'b" + D)["address"] == "o'b" + D
    changed = faces(world, destination="tenant")
    assert set(pairs(changed, '"b b"' + D)) >= {"address64", "hosts"}
    world.add("all" + D, kind=Kind.GROUP, targets=('"b b"' + D, "x@foreign.example"))
    assert "targets64" in pairs(made, "all" + D)


def test_copies_and_self() -> None:
    """dual names the copy's route, all the store; a mailbox that forwards says how its own mail goes."""
    world = World()
    world.add("ann" + D)
    world.add("keeps" + D, targets=("keeps" + D, "x@foreign.example"))
    dual = faces(world, delivery="dual")
    assert pairs(dual, "ann" + D)["copy"] == "relay"
    assert pairs(dual, "ann" + D)["hosts"].startswith("s.example.net")
    assert {"self": "local", "copy": "relay"}.items() <= pairs(dual, "keeps" + D).items()
    whole = faces(world, delivery="all", local_transport="lmtp:[store.example]:2424")
    found = pairs(whole, "ann" + D)
    assert found["decision"] == "relay"
    assert {"copy": "local", "store_via": "lmtp", "store_hosts": "store.example", "store_port": "2424"}.items() <= (
        found.items()
    )
    assert pairs(whole, "keeps" + D)["self"] == "relay"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("lmtp:[s.example]:24", {"store_via": "lmtp", "store_hosts": "s.example", "store_port": "24"}),
        ("lmtp:s.example", {"store_via": "lmtp", "store_hosts": "s.example", "store_port": "24"}),
        ("lmtp:inet:s.example:2003", {"store_via": "lmtp", "store_hosts": "s.example", "store_port": "2003"}),
        ("lmtp:[2001:db8::1]:24", {"store_via": "lmtp", "store_hosts": "2001:db8::1", "store_port": "24"}),
        ("smtp:[s.example]", {"store_via": "smtp", "store_hosts": "s.example", "store_port": "25"}),
        ("smtp:s.example", {"store_via": "smtp", "store_hosts": "s.example/MX", "store_port": "25"}),
        ("lmtp:unix:/run/lmtp", {"store_via": "socket", "store_path": "/run/lmtp"}),
        ("lmtp:unix:private/dovecot-lmtp", {}),
        ("virtual:", {}),
        (":", {}),
        ("", {}),
    ],
)
def test_stores(text: str, wanted: dict[str, str]) -> None:
    """A local_transport as transport(5) has it, in Exim's terms, or nothing."""
    found = exim_answer.store(text)
    found.pop("store", None)
    assert found == wanted


def test_hopeless_addresses() -> None:
    """What is no address is unknown in a domain of ours, and passes elsewhere."""
    made = faces(World(), unknown=Unknown.RELAY)
    for text in ("@example.com", '""@example.com', "a\x01b@example.com", "x" * 600 + D):
        assert pairs(made, text)["decision"] == "unknown"
    for text in ("", "@", "nobody", "@foreign.example", "*"):
        assert pairs(made, text) == {"decision": "pass"}


def test_a_refusal_has_its_code_and_text() -> None:
    """Who is unknown is told so in words, whoever asks."""
    unknown = {"decision": "unknown", "code": "550", "text": "5.1.1 No such recipient here"}
    assert pairs(faces(World(), unknown=Unknown.REJECT), "zed" + D) == unknown


def test_large_group() -> None:
    """A group comes in parts that are asked one by one, and no part is lost."""
    world = World()
    members = [f"member-with-a-long-name-{n}@foreign.example" for n in range(3000)]
    world.add("all" + D, kind=Kind.GROUP, targets=members)
    made = faces(world)
    first = pairs(made, "all" + D)
    parts = first["targets"].split(",")
    assert all(part.endswith("@example.com.group.splitmx.invalid") for part in parts)
    told = [name for part in parts for name in pairs(made, part)["targets"].split(",")]
    assert told == members
    long = [f"{n}-{'x' * 60}@{'y' * 60}.{'z' * 60}.example" for n in range(800)]
    world.add("long" + D, kind=Kind.GROUP, targets=long)
    made.new_generation()
    parts = pairs(made, "long" + D)["targets"].split(",")
    runs = [pairs(made, part)["targets"] for part in parts]
    assert ",".join(runs).split(",") == long
    assert max(map(len, runs)) <= exim_answer.MAX_BYTES, "Exim reads no more of a reply"
    assert pairs(made, "all=99@example.com.group.splitmx.invalid")["decision"] == "unknown"


def test_large_group_that_changes() -> None:
    """Parts of a group as it was, asked for when it has changed or is gone, put the message off: with the parts of the
    new one somebody would be left out."""
    world = World()
    members = [f"member{n}@foreign.example" for n in range(2000)]
    world.add("all" + D, kind=Kind.GROUP, targets=members)
    made = faces(world)
    parts = pairs(made, "all" + D)["targets"].split(",")
    assert pairs(made, parts[0])["decision"] == "expand"
    changed = World()
    changed.add("all" + D, kind=Kind.GROUP, targets=members[1:])
    assert pairs(faces(changed), parts[1]) == {"decision": "temp"}
    small = World()
    small.add("all" + D, kind=Kind.GROUP, targets=members[:3])
    assert pairs(faces(small), parts[2]) == {"decision": "temp"}
    assert pairs(faces(World()), parts[2]) == {"decision": "temp"}


def test_refusals_only_with_a_client() -> None:
    """A loop is judged where the client is named; the routers' question never is one."""
    world = World()
    made = faces(world, role="secondary", unknown=Unknown.RELAY)
    assert pairs(made, "zed" + D)["decision"] == "relay"
    found = pairs(made, "zed" + D, client="192.0.2.7", listener="[192.0.2.99]:25", outsider="yes", bounce="no")
    assert (found["decision"], found["code"]) == ("loop", "550")


def test_off_and_observed() -> None:
    """A domain that is off or only observed passes; the observed one is decided for the log."""
    world = World()
    world.add("bob" + D, "there")
    assert pairs(faces(world, enabled="no"), "bob" + D) == {"decision": "pass"}
    outcome = faces(world, enabled="observe").exim({"recipient": "bob" + D}, NOW)
    assert outcome.pairs == {"decision": "pass"}
    assert outcome.observe
    assert outcome.decision is not None
    assert outcome.decision.verdict.value == "RELAY"


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["decision", "targets", "hosts", "text"]), st.text()))
def test_files_and_daemon_write_alike(found: dict[str, str]) -> None:
    """A reply in a file is the daemon's, or none."""
    found = {"decision": "relay"} | found | {"decision": "relay"}
    line = reply_line(found)
    live = protocol.reply(found)
    assert not line or live == protocol.TEMP or line.encode() == live


@settings(deadline=None)
@given(st.dictionaries(st.binary(min_size=1, max_size=40), st.binary(max_size=60), max_size=300))
def test_cdb(rows: dict[bytes, bytes]) -> None:
    """Every key is found by the format's own way of looking up."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.cdb"
        assert cdb.write(path, rows.items()) == len(rows)
        data = path.read_bytes()
    for key, value in rows.items():
        code = cdb.hashed(key)
        at = (code & 255) * 8
        table, slots = int.from_bytes(data[at : at + 4], "little"), int.from_bytes(data[at + 4 : at + 8], "little")
        slot = (code >> 8) % slots
        while True:
            place = table + slot * 8
            found, position = (int.from_bytes(data[place + n : place + n + 4], "little") for n in (0, 4))
            assert position, key
            size, length = (int.from_bytes(data[position + n : position + n + 4], "little") for n in (0, 4))
            if found == code and data[position + 8 : position + 8 + size] == key:
                assert data[position + 8 + size : position + 8 + size + length] == value
                break
            slot = (slot + 1) % slots
