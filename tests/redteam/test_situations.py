# SPDX-License-Identifier: Apache-2.0
"""The memo of situations must never lend one address the answer of another."""

from __future__ import annotations

from tests.transport.world import World, answerer, value
from transport.config.settings import Domain, Unknown

D = Domain(
    "example.com",
    local=("here",),
    destination="s",
    unknown=Unknown.VERIFY,
    local_transport="lmtp:[store.example.com]:24",
)
OTHER = Domain("example.net", local=("other",), destination="s", unknown=Unknown.VERIFY)


def test_rows_of_a_directory_that_the_domain_does_not_name_count_for_nothing() -> None:
    """A directory of another domain may list anything of ours: it never changes an answer, whatever came before."""
    world = World()
    world.add("ann@example.com")
    world.add("ann+news@example.com", "other")
    world.add("zed+news@example.com", "other")
    world.add("stranger@example.com", "other")
    faces = answerer(world, D, OTHER)
    for _ in range(2):
        assert value(faces, "transport", "ann+news@example.com") == ("OK", "lmtp:[store.example.com]:24")
        assert value(faces, "transport", "zed+news@example.com") == ("OK", "relay:[s.example.net]")
        assert value(faces, "transport", "stranger@example.com") == ("OK", "relay:[s.example.net]")
