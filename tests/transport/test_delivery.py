# SPDX-License-Identifier: Apache-2.0
"""How mail leaves: copies, and another recipient on the wire; REQUIREMENTS (e) numbers stand behind the tests."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from tests.transport.world import NOW, D, World, answerer, decide, domain, value
from transport.answerer import Answerer
from transport.config.settings import Destination, Location, Unknown
from transport.decision import Verdict
from transport.maps import static_only
from transport.record import Kind


def test_dual(world: World) -> None:
    """Dual: who is here gets a copy by a shadow that names domain and destination (case 75)."""
    world.add("sales@example.com", kind=Kind.GROUP, targets=["ann@example.com", "bob@example.com", "carl@example.com"])
    world.add("carl@example.com")
    world.add("al@example.com", kind=Kind.ALIAS, targets=["ann@example.com"])
    faces = answerer(world, domain(delivery="dual"))
    shadow = "example.com.s.splitmx.invalid"
    assert value(faces, "transport", "ann@example.com") == ("OK", "lmtp:unix:private/dovecot-lmtp")
    assert value(faces, "recipient_bcc", "ann+x@example.com") == ("OK", f"ann+x@{shadow}")
    assert value(faces, "recipient_bcc", "al@example.com") == ("OK", f"ann@{shadow}")
    assert value(faces, "recipient_bcc", "bob@example.com") == ("NOTFOUND", "")
    assert value(faces, "recipient_bcc", "sales@example.com") == ("OK", f"sales@{shadow}")
    assert value(faces, "virtual_alias", f"sales@{shadow}") == ("OK", f"ann@{shadow}, carl@{shadow}")
    assert value(faces, "virtual_alias", f"ann@{shadow}") == ("OK", f"ann@{shadow}")
    assert value(faces, "transport", f"ann@{shadow}") == ("OK", "dual-s:[s.example.net]")
    assert decide(faces, "zed@example.com").verdict is Verdict.UNKNOWN


def test_dual_ends_by_itself(world: World) -> None:
    """delivery_until ends dual at its moment."""
    faces = answerer(world, domain(delivery="dual", delivery_until=NOW))
    assert value(faces, "recipient_bcc", "ann@example.com", NOW - 1)[0] == "OK"
    assert value(faces, "recipient_bcc", "ann@example.com", NOW) == ("NOTFOUND", "")


def test_all(world: World) -> None:
    """all: the destination is the delivery, the copy here is a local shadow (case 79)."""
    faces = answerer(world, domain(delivery="all"))
    shadow = "ann@example.com.local.splitmx.invalid"
    assert value(faces, "transport", "ann@example.com") == ("OK", "relay:[s.example.net]")
    assert value(faces, "recipient_bcc", "ann@example.com") == ("OK", shadow)
    assert value(faces, "here", "ann@example.com")[0] == "OK"
    assert value(faces, "transport", shadow) == ("OK", "splitmx-lmtp:unix:private/dovecot-lmtp")
    assert value(faces, "recipient_bcc", "bob@example.com") == ("NOTFOUND", "")


def test_all_with_several_stores(world: World) -> None:
    """all: the copy of somebody in another store goes there, not to the domain's first store."""
    world.add("second@example.com", location="store2")
    stores = {"store2": Location(local_transport="lmtp:[store2.example.com]:24")}
    faces = answerer(world, domain(delivery="all", locations=stores))
    status, shadow = value(faces, "recipient_bcc", "second@example.com")
    assert status == "OK"
    assert shadow.startswith("second@example.com.local-")
    assert value(faces, "transport", shadow) == ("OK", "splitmx-lmtp:[store2.example.com]:24")
    assert value(faces, "recipient_bcc", "ann@example.com") == ("OK", "ann@example.com.local.splitmx.invalid")
    lines = list(static_only.shadow_transport(faces.settings))
    assert sum("splitmx-lmtp:[store2.example.com]:24" in line for line in lines) == 1
    back = [line.split("\t") for line in static_only.shadow_generic(faces.settings)]
    found = [re.sub(p.strip("/"), r.replace("$", "\\"), shadow) for p, r in back if re.search(p.strip("/"), shadow)]
    assert found == ["second@example.com"]


@pytest.mark.parametrize("name", ["zed@example.com", "postmaster@example.com"])
def test_dual_reaches_who_is_caught_for(world: World, name: str) -> None:
    """Who gets others' mail by catch-all or as postmaster gets the copy of it too, also as a group."""
    world.add("info@example.com", kind=Kind.GROUP, targets=["ann@example.com", "carl@example.com"])
    world.add("carl@example.com")
    for goal, copies in (("ann", ["ann"]), ("info", ["ann", "carl"])):
        entry = domain(
            delivery="dual",
            unknown=Unknown.CATCHALL,
            catchall=f"{goal}@example.com",
            postmaster=f"{goal}@example.com",
        )
        faces = answerer(world, entry)
        status, shadow = value(faces, "recipient_bcc", name)
        assert status == "OK"
        wanted = [f"{copy}@example.com.s.splitmx.invalid" for copy in copies]
        if len(wanted) == 1:
            assert shadow == wanted[0]
        else:
            assert value(faces, "virtual_alias", shadow) == ("OK", ", ".join(wanted))


def test_a_delimiter_in_a_name_looks_at_no_other_domain(world: World) -> None:
    """Whether anybody has copies is found out once for a configuration: each of thousands of domains would be asked
    about for every such name."""
    walks = []

    class Domains(dict[str, Any]):
        def values(self) -> Any:
            walks.append(1)
            return super().values()

    names = [f"anna-{n}@example.com" for n in range(3)]
    for name in names:
        world.add(name)
    faces = answerer(world, D, delimiter="-")
    faces = Answerer(replace(faces.settings, domains=Domains(faces.settings.domains)), world)
    del walks[:]
    assert [value(faces, "recipient_bcc", name) for name in names] == [("NOTFOUND", "")] * 3
    assert len(walks) <= 1
    faces = answerer(world, D, domain(name="copies.example", delivery="dual"), delimiter="-")
    assert [value(faces, "recipient_bcc", name) for name in names] == [("OK", name) for name in names]


def test_envelope(world: World) -> None:
    """envelope rewrites RCPT only, and its domain is routed, never ours (case 80)."""
    goal = Destination("s", hosts=("s.example.net", "192.0.2.7"), port=2525, envelope="tenant.example")
    faces = answerer(world, D, destinations=[goal])
    assert value(faces, "virtual_alias", "bob+x@example.com") == ("OK", "bob+x@tenant.example")
    assert value(faces, "virtual_alias", "ann@example.com") == ("OK", "ann@example.com")
    assert value(faces, "virtual_alias", "bob@tenant.example") == ("OK", "bob@tenant.example")
    route = "relay:[s.example.net]:2525,[192.0.2.7]:2525"
    assert value(faces, "transport", "bob@tenant.example") == ("OK", route)
    assert value(faces, "relay_domains", "tenant.example") == ("NOTFOUND", "")


def test_plus_strip(world: World) -> None:
    """plus = "strip" takes the extension off for the other side only (case 17)."""
    faces = answerer(world, D, destinations=[Destination("s", hosts=("s.example.net",), plus_strip=True)])
    assert value(faces, "virtual_alias", "bob+x@example.com") == ("OK", "bob@example.com")
    assert value(faces, "virtual_alias", "ann+x@example.com") == ("OK", "ann+x@example.com")
