# SPDX-License-Identifier: Apache-2.0
"""One directory is asked about some addresses: what its "no" is worth, and whom an error harms."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.sync.conftest import ListSource, people
from transport.config.settings import Directory, SqlOptions
from transport.directories.base import DirectoryError, DirectoryTimeout, Found
from transport.index.states import Canary
from transport.lookup import NO, Answers, Failed, ask, canaries_for, one
from transport.record import Kind, Record

HERE = Directory("here", "sql", SqlOptions("sqlite://", "SELECT 1"), b"")
KNOWN = tuple(Canary(f"user{n:05d}", "example.com", str(n).encode()) for n in range(5))
NEW, STRANGER = ("new", "example.com"), ("stranger", "example.com")


@pytest.fixture
def source() -> ListSource:
    return ListSource([*people(20), Record("new", "example.com")])


def failed(answers: Answers) -> set[tuple[str, str]]:
    return {key for key, answer in answers.found.items() if isinstance(answer, Failed)}


def test_yes_and_no_in_one_query(source: ListSource) -> None:
    """A listed address is found, an unlisted one believed, with two canaries in the same query."""
    answers = ask(source, HERE, [NEW, STRANGER], KNOWN, 1.0)
    assert answers.found[NEW] == Record("new", "example.com")
    assert answers.found[STRANGER] is NO
    assert (answers.queries, len(source.asked[0])) == (1, 4)


def test_a_hundred_addresses(source: ListSource) -> None:
    """No query names more than fifty addresses; each is asked once."""
    keys = [(f"nobody{n}", "example.com") for n in range(100)]
    answers = ask(source, HERE, keys + keys, KNOWN, 1.0)
    assert list(answers.found.values()) == [NO] * 100
    assert [len(asked) for asked in source.asked] == [50, 50, 6]


def test_one_deleted_canary_is_a_deletion(source: ListSource) -> None:
    """One of two canaries missing changes nothing."""
    del source.records[0]
    answers = ask(source, HERE, [STRANGER], KNOWN, 1.0)
    assert (answers.found[STRANGER], answers.lying) == (NO, "")


def test_a_tenant_that_closes_is_no_lying_directory(source: ListSource) -> None:
    """All of one domain missing while others are there: its own strangers wait, and nobody else's."""
    source.records = people(20, "other.example")
    others = tuple(Canary(f"user{n:05d}", "other.example", b"%d" % n) for n in range(2))
    foreign = ("stranger", "other.example")
    answers = ask(source, HERE, [STRANGER, foreign], KNOWN + others, 1.0)
    assert (answers.found[foreign], answers.lying) == (NO, "")
    assert failed(answers) == {STRANGER}
    source.records = []
    answers = ask(source, HERE, [STRANGER, foreign], KNOWN + others, 1.0)
    assert failed(answers) == {STRANGER, foreign}
    assert answers.lying


def test_two_deleted_canaries_and_a_third(source: ListSource) -> None:
    """Both missing: a third is asked and believed."""
    del source.records[:2]
    answers = ask(source, HERE, [STRANGER], KNOWN, 1.0)
    assert (answers.found[STRANGER], answers.lying, answers.queries) == (NO, "", 2)


def test_all_canaries_missing_is_a_lie(source: ListSource) -> None:
    """A directory that finds none of them is lying: a yes still counts, a no does not."""
    del source.records[:20]
    answers = ask(source, HERE, [NEW, STRANGER], KNOWN, 1.0)
    assert isinstance(answers.found[STRANGER], Failed)
    assert answers.found[NEW] == Record("new", "example.com")
    assert "access rights" in answers.lying


def test_canaries_of_one_entry_are_one(source: ListSource) -> None:
    """Two addresses of one person are no two canaries."""
    same = [Canary("user00000", "example.com", b"1"), Canary("user00001", "example.com", b"1"), KNOWN[2]]
    ask(source, HERE, [STRANGER], same, 1.0)
    assert source.asked[0][1:] == [("user00000", "example.com"), ("user00002", "example.com")]


def test_no_canary(source: ListSource) -> None:
    """Without any canary a no is believed only of a directory that may be empty."""
    assert failed(ask(source, HERE, [STRANGER], (), 1.0)) == {STRANGER}
    assert ask(source, replace(HERE, may_be_empty=True), [STRANGER], (), 1.0).found[STRANGER] is NO
    assert ask(source, HERE, [STRANGER], (), 1.0, emptied_on_purpose=True).found[STRANGER] is NO


def test_another_server(source: ListSource) -> None:
    """The no of a server that the index was not read from is not believed, its yes is."""
    source.server = "replica"
    answers = ask(source, HERE, [NEW, STRANGER], KNOWN, 1.0, server="main")
    assert failed(answers) == {STRANGER}
    assert answers.lying == ""
    assert ask(source, HERE, [STRANGER], KNOWN, 1.0, server="replica").found[STRANGER] is NO


@pytest.mark.parametrize("at", [0, 1, 17, 40])
def test_a_poisoned_address_fails_alone(source: ListSource, at: int) -> None:
    """An address that makes any query with it fail harms no other, opens no circuit, and costs few queries."""
    keys = [(f"nobody{n}", "example.com") for n in range(41)]
    poison = keys[at] = ("poi\udcffson", "example.com")

    def refuse(asked: Sequence[tuple[str, str]]) -> None:
        if poison in asked:
            raise DirectoryError("invalid byte sequence for encoding")

    source.on_ask = refuse
    answers = ask(source, HERE, keys, KNOWN, 1.0)
    assert failed(answers) == {poison}
    assert (answers.timeout, answers.down) == (False, "")
    assert answers.queries < 20


@pytest.mark.parametrize("known", [KNOWN, ()])
def test_a_directory_that_is_down_is_asked_twice(source: ListSource, known: tuple[Canary, ...]) -> None:
    """When the canaries alone, or a harmless address, fail too, everybody fails at once."""

    def refuse(asked: Sequence[tuple[str, str]]) -> None:
        raise DirectoryError("connection refused", "start it")

    source.on_ask = refuse
    keys = [(f"nobody{n}", "example.com") for n in range(200)]
    answers = ask(source, HERE, keys, known, 1.0)
    assert failed(answers) == set(keys)
    assert (answers.queries, answers.down, answers.hint) == (2, "connection refused", "start it")


def test_a_timeout_fails_the_batch(source: ListSource) -> None:
    """A batch that timed out is not asked again, in halves or otherwise, and says so for the circuit."""

    def late(asked: Sequence[tuple[str, str]]) -> None:
        raise DirectoryTimeout("late")

    source.on_ask = late
    answers = ask(source, HERE, [NEW, STRANGER], KNOWN, 1.0)
    assert failed(answers) == {NEW, STRANGER}
    assert (answers.timeout, answers.queries) == (True, 1)
    assert failed(ask(source, HERE, [NEW], KNOWN, 0.0)) == {NEW}


def test_the_probe_asks_canaries_alone(source: ListSource) -> None:
    """No address: the canaries say whether the directory is back."""
    assert ask(source, HERE, [], KNOWN, 1.0).lying == ""
    assert source.asked == [[("user00000", "example.com"), ("user00001", "example.com")]]
    source.records = []
    assert ask(source, HERE, [], KNOWN, 1.0).lying
    assert ask(source, HERE, [], (), 1.0).down == ""
    assert len(source.asked[-1]) == 1


class Canaries:
    """What an index knows of two domains."""

    def canaries(self, directory: str, domain: str = "") -> tuple[Canary, ...]:
        others = tuple(Canary(f"o{n}", "two.example") for n in range(5))
        return {"example.com": KNOWN, "empty.example": (), "": (*KNOWN, *others)}.get(domain, others)


def test_canaries_of_the_domain_come_first() -> None:
    """A domain's own canaries are asked before the directory's others; one that has none uses those."""
    found = canaries_for(Canaries(), HERE, ["example.com"])
    assert {canary.domain for canary in found[:5]} == {"example.com"}
    assert len(found) == 10
    assert len(canaries_for(Canaries(), HERE, ["empty.example"])) == 10
    own = Canary("boss", "example.com")
    assert own in canaries_for(Canaries(), HERE, ["example.com"], configured=[own])[:6]


def test_several_rows_of_an_address_are_one_as_in_the_index() -> None:
    """The order in which a database answers does not decide: aliases count before groups, as in a listing."""
    group = Record("all", "example.com", Kind.GROUP, location="cloud", targets=("b@example.com",))
    alias = Record("all", "example.com", Kind.ALIAS, location="onprem", targets=("a@example.com",))
    assert one([group, alias]) == one([alias, group])
    assert one([group, alias]).location == "onprem"
    assert one([group, alias]).targets == ("a@example.com", "b@example.com")


def test_all_queries_of_a_question_share_one_deadline(source: ListSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each query gets what the ones before left; when nothing is left nobody is asked about any more."""
    clock, left = [100.0], list[float]()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    class Slow(ListSource):
        def ask(self, addresses: Sequence[tuple[str, str]], timeout: float) -> Found:
            left.append(round(timeout, 3))
            clock[0] += 0.5
            return super().ask(addresses, timeout)

    keys = [(f"nobody{n}", "example.com") for n in range(150)]
    answers = ask(Slow(source.records), HERE, keys, KNOWN, 1.0)
    assert left == [1.0, 0.5]
    assert (answers.timeout, answers.took) == (True, 1.0)
    assert failed(answers) == set(keys[96:])


def test_nobody_waits_twice_for_a_directory_that_is_late(source: ListSource) -> None:
    """After one query without an answer no other is made, though there would be time."""

    def late(asked: Sequence[tuple[str, str]]) -> None:
        raise DirectoryTimeout("late", "wake it")

    source.on_ask = late
    keys = [(f"nobody{n}", "example.com") for n in range(100)]
    answers = ask(source, HERE, keys, KNOWN, 60.0)
    assert failed(answers) == set(keys)
    assert (answers.queries, answers.timeout, answers.hint) == (1, True, "wake it")


@pytest.mark.parametrize("known", [KNOWN, ()])
def test_after_an_error_the_canaries_alone_are_asked(source: ListSource, known: tuple[Canary, ...]) -> None:
    """They, or an address that nobody has, tell a broken directory from a poisoned address; late counts as late."""
    errors = [DirectoryError("first", "one"), DirectoryError("second", "two")]

    def refuse(asked: Sequence[tuple[str, str]]) -> None:
        raise errors[len(source.asked) - 1]

    source.on_ask = refuse
    answers = ask(source, HERE, [NEW, STRANGER], known, 1.0)
    assert failed(answers) == {NEW, STRANGER}
    assert (answers.down, answers.hint, answers.timeout, answers.queries) == ("second", "two", False, 2)
    alone = [("user00000", "example.com"), ("user00001", "example.com")]
    assert source.asked[1] == (alone if known else [("postmaster", "splitmx.invalid")])
    source.asked.clear()
    errors[1] = DirectoryTimeout("late", "wake it")
    answers = ask(source, HERE, [NEW, STRANGER], known, 1.0)
    assert failed(answers) == {NEW, STRANGER}
    assert (answers.down, answers.hint, answers.timeout, answers.queries) == ("", "wake it", True, 2)


def test_a_probe_of_a_broken_directory_says_so(source: ListSource) -> None:
    """An error is no answer, also where nobody was asked about."""

    def refuse(asked: Sequence[tuple[str, str]]) -> None:
        raise DirectoryError("connection refused", "start it")

    source.on_ask = refuse
    answers = ask(source, HERE, [], KNOWN, 1.0)
    assert (answers.down, answers.hint, answers.queries) == ("connection refused", "start it", 1)


@pytest.mark.parametrize("error", [DirectoryTimeout("late"), DirectoryError("refused")])
def test_the_third_canary_cannot_be_asked(source: ListSource, error: DirectoryError) -> None:
    """Whether the directory lies is then not known: its "no" is not believed, and nobody says that it lies."""
    del source.records[:2]

    def refuse(asked: Sequence[tuple[str, str]]) -> None:
        if len(source.asked) > 1:
            raise error

    source.on_ask = refuse
    answers = ask(source, HERE, [NEW, STRANGER], KNOWN, 1.0)
    assert failed(answers) == {STRANGER}
    assert (answers.lying, answers.timeout) == ("", isinstance(error, DirectoryTimeout))


def test_which_domains_are_doubted(source: ListSource) -> None:
    """All whose canaries are missing, the third one's too; one that is there proves its own domain alone."""
    domains = ("one.example", "one.example", "two.example", "three.example")
    known = [Canary(f"c{n}", domain) for n, domain in enumerate(domains)]
    source.records = [Record("c3", "three.example")]
    strangers = [("stranger", domain) for domain in ("one.example", "two.example", "three.example", "four.example")]
    answers = ask(source, HERE, strangers, known, 1.0)
    assert failed(answers) == set(strangers[:2])
    assert (answers.lying, answers.queries) == ("", 3)


def test_one_canary_that_is_there_is_enough(source: ListSource) -> None:
    """No further query is made; a directory of which none is known lies to nobody."""
    del source.records[0]
    assert ask(source, HERE, [STRANGER], KNOWN, 1.0).queries == 1
    answers = ask(source, HERE, [STRANGER], (), 1.0)
    assert (answers.lying, answers.queries) == ("", 1)
    source.server = "replica"
    assert ask(source, HERE, [STRANGER], KNOWN, 1.0, server="").found[STRANGER] is NO


def test_people_without_keys_are_different_people(source: ListSource) -> None:
    """Where a directory has no entry keys two canaries are asked all the same."""
    ask(source, HERE, [STRANGER], [Canary(f"user{n:05d}", "example.com") for n in range(3)], 1.0)
    assert source.asked[0][1:] == [("user00000", "example.com"), ("user00001", "example.com")]


def test_the_third_canary_is_somebody_else(source: ListSource) -> None:
    """Another address of a person who left proves as little as the first."""
    entries = (b"1", b"1", b"2", b"1", b"3")
    known = [Canary(f"user{n:05d}", "example.com", entry) for n, entry in enumerate(entries)]
    source.records = people(5)[4:]
    answers = ask(source, HERE, [STRANGER], known, 1.0)
    assert (answers.found[STRANGER], answers.queries) == (NO, 2)


def test_all_addresses_of_a_person_come_along() -> None:
    """Of whom the directory names several: a wave may be of another one than was asked."""
    known = (
        Record("ann", "example.com", entry=b"1"),
        Record("bob", "example.com", entry=b"2"),
        Record("eve", "example.com"),
    )
    person = (("ann", "example.com"), ("ann2", "example.com"))

    class Named(ListSource):
        def ask(self, addresses: Sequence[tuple[str, str]], timeout: float) -> Found:
            return Found(known, people={b"1": person})

    wanted = [(one.local, one.domain) for one in known]
    answers = ask(Named(), replace(HERE, may_be_empty=True), wanted, (), 1.0)
    assert answers.beside == {wanted[0]: person}


def test_canaries_change_and_others_stand_behind() -> None:
    """The two that are asked are not always the same; one that is configured in another domain is not the first."""
    other = Canary("boss", "two.example")
    orders = [canaries_for(Canaries(), HERE, ["example.com"], configured=[other]) for _ in range(60)]
    assert len({order[0] for order in orders}) > 1
    assert len({order[5] for order in orders}) > 1
    assert all({one.domain for one in order[:5]} == {"example.com"} and other in order[5:] for order in orders)


def test_a_mailbox_outranks_an_alias_of_the_same_address() -> None:
    """Of several rows: the mailboxes alone, active when one is, at the first place that is named."""
    alias = Record("all", "example.com", Kind.ALIAS, location="cloud", targets=("a@example.com",))
    off = Record("all", "example.com", active=False)
    on = Record("all", "example.com", location="onprem", targets=("b@example.com",))
    for rows in ([alias, off, on], [off, on, alias], [on, alias, off]):
        assert one(rows) == Record("all", "example.com", location="onprem", targets=("b@example.com",))
    assert one([alias, off]) == off
    group = alias._replace(kind=Kind.GROUP, location=None)
    assert one([alias, group])[2:5] == (Kind.GROUP, True, "cloud")
    assert not one([off, off]).active
