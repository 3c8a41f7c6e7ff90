# SPDX-License-Identifier: Apache-2.0
"""A changed LDAP entry has a say in what others come to: the groups it is in, and an address that two people share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.changes.directories import HERE, THERE, Tree, config, policy, readings, wait_steady
from tests.daemon.site import Site
from tests.mta.waiting import wait_for
from tests.servers import Slapd

Sites = Callable[..., Site]


@pytest.fixture
def tree(slapd: Slapd) -> Tree:
    """ann and bob are people and members of staff; both have the address team@example.org."""
    tree = Tree(slapd)
    tree.table = (
        f'type = "ldap"\nurl = ["{slapd.url}"]\nbase = "{slapd.suffix}"\nfilter = "(objectClass=mailPerson)"\n'
        'address_attributes = ["mail", "mailAlternateAddress"]\nmember_attribute = "member"\n'
        'target_attributes = ["mailForwardingAddress"]\nlocation_attribute = "mailHost"\n'
        'suspended_filter = "(accountStatus=disabled)"\n'
    )
    members = [
        slapd.person(name, f"{name}@example.org", mailAlternateAddress="team@example.org") for name in ("ann", "bob")
    ]
    slapd.group("staff", "staff@example.org", members)
    return tree


def test_a_members_new_address(sites: Sites, tree: Tree) -> None:
    """Mail to a group reaches a member under the new address as soon as that one is known, not the old one's heir."""
    site = sites("x@example.com", more=config(tree.table)).start()
    compares = wait_steady(site)
    assert site.ask("staff@example.org", "virtual_alias") == ("OK", "ann@example.org, bob@example.org")
    tree.server.ldif(
        f"dn: {tree.dn('ann')}\nchangetype: modify\nreplace: mail\nmail: ann.smith@example.org\n\n"
        f"dn: {tree.dn('bob')}\nchangetype: modify\nadd: mailAlternateAddress\nmailAlternateAddress: ann@example.org\n"
    )
    wait_for(lambda: site.status()["directories"]["corp"]["rows"] == 5, 30, site.splitmx.tail)
    wait_for(
        lambda: site.ask("staff@example.org", "virtual_alias") == ("OK", "ann.smith@example.org, bob@example.org"),
        30,
        site.splitmx.tail,
    )
    assert readings(site)["full"] == compares


@pytest.mark.parametrize("goes", ["ann", "bob"])
@pytest.mark.parametrize("how", ["deleted", "has another address"])
def test_one_of_two_goes_who_share_an_address(sites: Sites, tree: Tree, goes: str, how: str) -> None:
    """What an address came to by one of two people ends with that one, without a compare; the other's stays."""
    tree.move(goes)
    stays = "bob" if goes == "ann" else "ann"
    site = sites("x@example.com", more=config(tree.table)).start()
    compares = wait_steady(site)
    assert site.ask("team@example.org") == THERE
    if how == "deleted":
        tree.remove(goes)
    else:
        new = "replace: mailAlternateAddress\nmailAlternateAddress: n@example.org\n"
        tree.server.ldif(f"dn: {tree.dn(goes)}\nchangetype: modify\n{new}")
    site.answers("team@example.org", HERE[1], 30)
    assert (site.ask("team@example.org"), site.ask(f"{stays}@example.org")) == (HERE, HERE)
    tree.remove(stays)
    wait_for(lambda: site.status()["directories"]["corp"]["rows"] == 1 + 2 * (how != "deleted"), 30, site.splitmx.tail)
    assert readings(site)["full"] == compares


def test_one_of_two_who_share_an_address(sites: Sites, tree: Tree) -> None:
    """An address of two people is refused, moved or forwarded for one of them no sooner than a compare would do it."""
    site = sites("x@example.com", more=config(tree.table)).start()
    compares = wait_steady(site)
    assert site.ask("team@example.org") == HERE
    tree.suspend("ann")
    wait_for(lambda: policy(site, "ann@example.org").startswith("550"), 30, site.splitmx.tail)
    assert policy(site, "team@example.org") == "DUNNO"
    tree.server.ldif(
        f"dn: {tree.dn('ann')}\nchangetype: modify\nreplace: accountStatus\n-\nadd: mailForwardingAddress\n"
        "mailForwardingAddress: q@example.net\n"
    )
    wait_for(lambda: site.ask("ann@example.org", "virtual_alias") == ("OK", "q@example.net"), 30, site.splitmx.tail)
    assert site.ask("team@example.org", "virtual_alias") == ("OK", "team@example.org")
    tree.move("bob")
    site.answers("bob@example.org", THERE[1], 30)
    assert readings(site)["full"] == compares
