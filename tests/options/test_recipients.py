# SPDX-License-Identifier: Apache-2.0
"""Who a recipient is: aliases, groups, suspension, location words, spellings of names. One site for all."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.e2e.site import PEOPLE, Cleaned, Site
from tests.mta.recording import Mail, RecordingLmtp, RecordingSmtp
from tests.mta.waiting import wait_for

Person = tuple[str, str, str, str | None, int]

MORE: tuple[Person, ...] = (
    ("dave@example.com", "mailbox", "", None, 1),
    ("Erin.Mixed@Example.COM", "mailbox", "", None, 1),
    ("moved@example.com", "mailbox", "", "cloud", 1),
    ("kept@example.com", "mailbox", "", "onprem", 1),
    ("second@example.com", "mailbox", "", "store2", 1),
    ("lost@example.com", "mailbox", "", "atlantis", 1),
    ("asleep@example.com", "mailbox", "", None, 0),
    ("asleep.alias@example.com", "alias", "asleep@example.com", None, 1),
    ("chain@example.com", "alias", "a.smith@example.com", None, 1),
    ("x.loop@example.com", "alias", "y.loop@example.com", None, 1),
    ("y.loop@example.com", "alias", "x.loop@example.com", None, 1),
    ("out@example.com", "alias", "friend@world.test", None, 1),
    ("twice@example.com", "group", "ann@example.com, a.smith@example.com, sales@example.com", None, 1),
    ("onlythere@example.com", "group", "bob@example.com, bea@example.com", None, 1),
    ("dangling@example.com", "group", "ann@example.com, nobody@example.com", None, 1),
    ("abuse@abuse.test", "mailbox", "", None, 1),
    ("anna-maria@example.com", "mailbox", "", None, 1),
    ("ann@sub.strip.test", "mailbox", "", None, 1),
    *((f"{name}@{domain}", "mailbox", "", None, 1)
      for domain in ("few.test", "strip.test", "match.test", "xn--bcher-kva.example", "plain.test", "abuse.test")
      for name in ("ann", "carl")),
    ("sales@few.test", "group", "ann@few.test, bob@few.test, friend@world.test", None, 1),
    ("ümit@example.com", "mailbox", "", None, 1),
    ("sales@cross.test", "group", "ann@example.com, sales@few.test, bob@example.com", None, 1),
    ("boss@cross.test", "alias", "carl@example.com", None, 1),
)  # fmt: skip
THERE = (
    "bob@example.com", "jürgen@example.com", "bea@example.com", "kept@example.com", "dave@example.com",
    "b.owned@example.com",
    "bob@few.test", "bob@strip.test", "bob@match.test", "bob@bücher.example", "bob@plain.test",
)  # fmt: skip

TABLES = """
[destinations.plain]
hosts = ["{plain.host}"]
plus = "strip"

[domains."few.test"]
group_members = false
{common}
[domains."cross.test"]
{common}
[domains."strip.test"]
subdomains = "strip"
{common}
[domains."match.test"]
subdomains = "match"
{common}
[domains."bücher.example"]
{common}
[domains."other.test"]
alias_of = "example.com"
unknown = "reject"
local_transport = "{site.store.transport}"
[domains."plain.test"]
{plainly}
[domains."abuse.test"]
abuse = "carl@abuse.test"
{common}
"""
COMMON = """local = ["here"]
remote = ["there"]
destination = "there"
unknown = "reject"
local_transport = "{site.store.transport}"
"""


class Many(Site):
    """Nine domains on one host."""

    plain: RecordingSmtp
    store2: RecordingLmtp

    def build(self) -> None:
        """Some recipients are left out of the files on purpose: the exit code is 1."""
        words = ["build", "--output", str(self.maps), "--type", "lmdb"]
        wait_for(lambda: self.splitmx.run(*words).returncode in (0, 1), 20, self.splitmx.tail)


@pytest.fixture(scope="module")
def site(kept: Cleaned) -> Many:
    """Installed, live."""
    store2, plain = RecordingLmtp(), RecordingSmtp()
    kept(store2.stop)
    kept(plain.stop)
    words = f'cloud = "there", onprem = "local", store2 = "local:{store2.transport}"'
    site = Many(kept, people=[*PEOPLE, *MORE], remote=THERE, domain={"locations": f"{{ {words} }}"})
    site.store2, site.plain = store2, plain
    common = COMMON.format(site=site)
    plainly = common.replace('destination = "there"', 'destination = "plain"')
    site.text += TABLES.format(site=site, plain=plain, common=common, plainly=plainly)
    site.splitmx.write(site.text)
    site.install()
    return site


# spellings of an address


@pytest.mark.parametrize(
    "address",
    ["ERIN.mixed@EXAMPLE.com", "erin.mixed@example.com", '"erin.mixed"@example.com'],
)
def test_case_13_21_spelling(site: Many, address: str) -> None:
    """Cases 13, 21: case and needless quotes mean nothing, in the directory and in the mail."""
    sent = site.send(address)

    site.arrives(sent, here=["erin.mixed@example.com"])


@pytest.mark.parametrize(
    "address",
    ['"loc user"@example.com', "a%b@example.com", "a!b@example.com", "zed+x@example.com", "ann-x@example.com"],
)
def test_case_18_20_22_26_strangers(site: Many, address: str) -> None:
    """Cases 18, 20, 22, 26: odd addresses that nobody lists are strangers like any other."""
    # Postfix itself refuses % and ! with 554 (allow_percent_hack, swap_bangpath).
    assert site.send(address).codes[address] in (550, 554)


def test_case_24_empty_local_part(site: Many) -> None:
    """Case 24: an empty local part is refused, whatever the quotes."""
    assert set(site.send('""@example.com', "@example.com").codes.values()) <= {501, 550, 553}


def test_case_15_16_extension(site: Many) -> None:
    """Cases 15, 16: ann+news is ann's, bob+news goes to the other side as it is; a dash is no delimiter here."""
    sent = site.send("ann+news@example.com", "bob+news@example.com", "anna-maria@example.com")

    site.arrives(
        sent, here=["ann+news@example.com", "anna-maria@example.com"], there=["bob+news@example.com"]
    )  # fmt: skip


def test_case_17_plus_strip(site: Many) -> None:
    """Case 17: plus = "strip" takes the extension off what goes to that destination, and only that."""
    sent = site.send("bob+news@plain.test", "ann+news@plain.test")

    site.plain.wait(sent.subject, "bob@plain.test")
    site.arrives(sent, here=["ann+news@plain.test"])


@pytest.mark.parametrize("address", ["bob@xn--bcher-kva.example", "bob@bücher.example", "bob@BÜCHER.example"])
def test_case_27_28_idn(site: Many, address: str) -> None:
    """Cases 27, 28: a domain is the same in A-labels and U-labels, in the configuration, the lists and the mail."""
    sent = site.send(address)

    assert list(sent.codes.values()) == [250]
    (mail,) = _one(site.secondary.of, sent.subject)
    assert mail.recipients[0].lower() in ("bob@xn--bcher-kva.example", "bob@bücher.example")
    assert site.send("zed@bücher.example").codes == {"zed@bücher.example": 550}


def test_case_29_local_part_beyond_ascii(site: Many) -> None:
    """Case 29: a local part in UTF-8 is found on either side, in upper case too; strangers are refused."""
    sent = site.send("JÜRGEN@example.com", "ümit+x@example.com", "zoë@example.com")

    assert list(sent.codes.values()) == [250, 250, 550]
    site.arrives(sent, here=["ümit+x@example.com"], there=["jürgen@example.com"])


# whose name is it


def test_row_3_other_domains_are_left_alone(site: Many) -> None:
    """Rows 3, 41, 62: mail for any other domain flows as without splitmx, for our users only."""
    from tests.e2e.site import US

    sent = site.send("someone@elsewhere.test", client=US)
    site.arrives(sent, out=["someone@elsewhere.test"])
    assert site.send("someone@elsewhere.test").codes == {"someone@elsewhere.test": 554}


def test_case_30_subdomains_exact(site: Many) -> None:
    """Case 30: a subdomain of an exact domain is not ours."""
    assert site.send("ann@sub.example.com").codes == {"ann@sub.example.com": 554}
    assert site.explain("ann@sub.example.com").splitlines()[1].split() == ["decision", "PASS"]


def test_case_31_subdomains_strip(site: Many) -> None:
    """Case 31: subdomains = "strip": the same person without the subdomain, on either side; strangers stay so."""
    names = ["carl@sub.strip.test", "bob+x@a.b.strip.test", "zed@sub.strip.test"]
    sent = site.send(*names)

    assert list(sent.codes.values()) == [250, 250, 550]
    site.arrives(sent, here=["carl@strip.test"], there=["bob+x@strip.test"])


def test_case_32_subdomains_match(site: Many) -> None:
    """Case 32: subdomains = "match": everyone below the domain goes to the destination under the given name."""
    sent = site.send("any@sub.match.test", "ann@match.test", "zed@match.test")

    assert list(sent.codes.values()) == [250, 250, 550]
    site.arrives(sent, here=["ann@match.test"], there=["any@sub.match.test"])


def test_case_81_domain_alias(site: Many) -> None:
    """Case 81: a domain alias takes every address, alias and group of the real domain."""
    sent = site.send("carl+x@other.test", "bob@other.test", "a.smith@other.test", "zed@other.test")

    assert list(sent.codes.values()) == [250, 250, 250, 550]
    site.arrives(sent, here=["ann@example.com", "carl+x@example.com"], there=["bob@example.com"])


def test_case_60_61_postmaster_and_abuse(site: Many) -> None:
    """Cases 60, 61: postmaster is never unknown, and stays here; abuse goes where the configuration says."""
    sent = site.send("postmaster@example.com", "abuse@abuse.test", "abuse@example.com")

    assert list(sent.codes.values()) == [250, 250, 550]
    site.arrives(sent, here=["abuse@abuse.test", "ann@example.com"])
    assert site.query("here", "postmaster@few.test")
    assert "names no postmaster" in site.explain("postmaster@few.test")


def test_case_62_63_names_of_the_mta(site: Many) -> None:
    """Cases 62, 63: bare postmaster and double-bounce are the MTA's own."""
    assert site.query("transport", "double-bounce@primary.test") == ""
    assert site.send("postmaster", probe=True).codes == {"postmaster": 250}


# active, suspended, location


def test_row_57_suspended(site: Many) -> None:
    """Row 57, case 91: who is suspended exists: 550 5.2.1, by an alias too, and never relayed."""
    sent = site.send("asleep@example.com", "asleep.alias@example.com", "asleep+x@example.com")

    assert {text[:5] for text in sent.texts.values()} == {"5.2.1"}
    assert site.query("relay_recipients", "asleep@example.com") == "LOCAL"


def test_row_71_location_over_existence(site: Many) -> None:
    """Row 71: location decides, whichever side has a mailbox of that name."""
    sent = site.send("moved@example.com", "kept@example.com", "carl@example.com")

    site.arrives(sent, here=["carl@example.com", "kept@example.com"], there=["moved@example.com"])


def test_row_37_location_names_a_store(site: Many) -> None:
    """Row 37: several places for one domain; the more specific one wins, and explain says which."""
    sent = site.send("second@example.com")

    site.store2.wait(sent.subject, "second@example.com")
    shown = site.explain("second@example.com")
    assert site.store2.transport in shown
    assert "location store2" in shown


def test_location_word_that_nobody_knows(site: Many) -> None:
    """An unknown location word is no existence: the mail waits, and explain and check say why."""
    sent = site.send("lost@example.com", probe=True)

    assert sent.codes["lost@example.com"] == 451
    assert 'gives location "atlantis"' in site.explain("lost@example.com")
    assert '"atlantis"' in site.splitmx.run("check").stdout


def test_case_102_conflict(site: Many) -> None:
    """Row 70, case 102: listed on both sides without a location: here wins, and check reports it."""
    sent = site.send("dave@example.com")

    site.arrives(sent, here=["dave@example.com"])
    found = site.splitmx.run("check")
    assert re.search(r"1 of \d+ addresses of example\.com are listed on both sides.*dave@example\.com", found.stdout)
    assert found.returncode == 1


# aliases


def test_case_33_34_35_aliases(site: Many) -> None:
    """Cases 33, 34, 35: aliases owned here for people here and there; one that the other side owns is relayed."""
    sent = site.send(
        "a.smith@example.com", "b.jones@example.com", "b.owned@example.com", "out@example.com", "boss@cross.test"
    )

    assert set(sent.codes.values()) == {250}
    site.arrives(
        sent,
        here=["ann@example.com", "carl@example.com"],
        there=["b.owned@example.com", "bob@example.com"],
        out=["friend@world.test"],
    )


def test_alias_chain(site: Many) -> None:
    """An alias of an alias arrives, with its extension."""
    sent = site.send("chain+x@example.com")

    site.arrives(sent, here=["ann+x@example.com"])


def test_case_36_alias_loop(site: Many) -> None:
    """Case 36: aliases that lead in a circle are nobody, and check finds them."""
    assert site.send("x.loop@example.com").codes == {"x.loop@example.com": 550}
    assert "x.loop@example.com" in site.splitmx.run("check").stdout


# groups


@pytest.mark.parametrize("name", ["sales", "twice"])
def test_row_7_case_37_group(site: Many, name: str) -> None:
    """Rows 7, 30, case 37: everybody once, on both sides and outside, also when listed twice or nested."""
    sent = site.send(f"{name}@example.com", "ann@example.com")

    site.arrives(sent, here=["ann@example.com"], there=["bob@example.com"], out=["outside@world.test"])


def test_row_30_case_38_group_members_false(site: Many) -> None:
    """Row 30, case 38: group_members = false leaves members at the other side out; explain and the log name them."""
    sent = site.send("sales@few.test")

    site.arrives(sent, here=["ann@few.test"], out=["friend@world.test"])
    assert re.search(r"left out +bob@few\.test", site.explain("sales@few.test"))
    assert "bob@few.test" in site.splitmx.tail(200)
    assert "leaves out 1 members at the other side (bob@few.test)" in site.splitmx.run("check").stdout


def test_group_across_domains(site: Many) -> None:
    """A group may hold another domain's groups; that domain's rule counts for its own group only."""
    sent = site.send("sales@cross.test")

    site.arrives(sent, here=["ann@example.com", "ann@few.test"], there=["bob@example.com", "bob@few.test"],
                 out=["friend@world.test"])  # fmt: skip


def test_group_that_lies_wholly_there(site: Many) -> None:
    """A group here whose members all live there is taken apart here."""
    sent = site.send("onlythere@example.com")

    site.arrives(sent, there=["bea@example.com", "bob@example.com"])


def test_member_that_exists_nowhere(site: Many) -> None:
    """A member of ours that is nobody bounces by itself; the others get their mail; check names it."""
    site.store.replies["nobody@example.com"] = "550 5.1.1 no such mailbox"

    sent = site.send("dangling@example.com")

    assert list(sent.codes.values()) == [250]
    site.store.wait(sent.subject, "ann@example.com")
    assert "nobody@example.com" in site.splitmx.run("check").stdout


def _one(found: Callable[[str], list[Mail]], subject: str) -> list[Mail]:
    return wait_for(lambda: found(subject), 20)
