# SPDX-License-Identifier: Apache-2.0
"""LDAP directories on a real slapd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.directories.databases import listed, names
from tests.servers import Authority, Slapd
from tests.servers.process import free_port, scratch
from transport.config.settings import LdapOptions
from transport.directories import ldap_connect
from transport.directories.base import DirectoryError, DirectoryTimeout, Skipped
from transport.directories.ldap import LdapSource
from transport.record import Kind, Record

pytestmark = pytest.mark.directory

Make = Callable[..., LdapSource]
ANN = ("ann", "example.com")
BOB = ("bob", "example.com")


@pytest.fixture
def make(slapd: Slapd, ldap_secret: Path) -> Iterator[Make]:
    """Sources on the run's slapd, whatever options; closed with the test, every server as good as new."""
    ldap_connect._rings.clear()
    made: list[LdapSource] = []

    def source(*urls: str, **options: Any) -> LdapSource:
        known: dict[str, Any] = {
            "bind_dn": slapd.admin,
            "bind_password_file": str(ldap_secret),
            "base": slapd.suffix,
            "filter": "(mail=*)",
            "address_attributes": ("mail", "mailAlternateAddress"),
        }
        made.append(LdapSource("corp", LdapOptions(urls or (slapd.url,), **(known | options))))
        return made[-1]

    yield source
    for one in made:
        one.close()


def plain(records: dict[str, Record]) -> dict[str, Record]:
    """Without the entries' keys, which the server makes."""
    assert all(r.entry is not None and len(r.entry) == 16 for r in records.values())
    return {address: record._replace(entry=None) for address, record in records.items()}


def test_each_address_of_an_entry_is_a_record_with_its_key(slapd: Slapd, make: Make) -> None:
    """Several attributes and values, one entry key, folded."""
    slapd.person("ann", "Ann@Example.com", "a.smith@example.com", mailAlternateAddress="x@example.net")
    found = listed(make().list())
    assert plain(found) == {
        "ann@example.com": Record("ann", "example.com"),
        "a.smith@example.com": Record("a.smith", "example.com"),
        "x@example.net": Record("x", "example.net"),
    }
    assert len({record.entry for record in found.values()}) == 1


def test_live_and_listing_agree(slapd: Slapd, make: Make) -> None:
    """Case in the directory or not, every address is found, with the same record and the server's name."""
    slapd.person("ann", "Ann@Example.com", mailAlternateAddress="A.Smith@example.com")
    source = make()
    listing = source.list()
    everyone = listed(listing)
    found = source.ask([ANN, ("a.smith", "example.com"), BOB], 1)
    assert {f"{r.local}@{r.domain}": r for r in found.records} == everyone
    assert found.server == listing.server == slapd.url


def test_a_hostile_address_is_only_a_value(slapd: Slapd, make: Make) -> None:
    """Filter syntax, wildcards, NUL and raw bytes find nobody and break nothing."""
    slapd.person("ann", "ann@example.com")
    slapd.person("odd", "od(d)*@example.com")
    source = make()
    hostile = [
        "*",
        "a*",
        "ann)(uid=*",
        "*)(|(mail=*",
        "\\2a",
        "a\x00b",
        "x\udce9",
        "ann)(",
        "(",
        ")",
        "&",
        "|",
        "!",
        "jörg",
    ]
    assert names(source.ask([(word, "example.com") for word in hostile] + [("x", "*")], 1)) == set()
    assert names(source.ask([("od(d)*", "example.com"), ANN], 1)) == {"ann@example.com", '"od(d)*"@example.com'}


def test_beyond_ascii(slapd: Slapd, make: Make) -> None:
    """U-labels and UTF-8 local parts in an attribute that may hold them, in any case."""
    slapd.person("joerg", "j@example.com", intlMail=["JÖRG@example.com", "ann@bücher.example"])
    source = make(address_attributes=("mail", "intlMail"))
    assert {"jörg@example.com", "ann@xn--bcher-kva.example"} <= set(listed(source.list()))
    asked = [("jörg", "example.com"), ("ann", "xn--bcher-kva.example")]
    assert {record[:2] for record in source.ask(asked, 1).records} == set(asked)


def test_prefixes(slapd: Slapd, make: Make) -> None:
    """smtp: and SMTP: are addresses, X500:, SIP: and the like are silently not."""
    values = ["SMTP:Ann@example.com", "smtp:a@example.com", "X500:/o=x/cn=ann", "sip:ann@example.net", "b@example.com"]
    slapd.person("ann", "ann@example.com", proxyAddresses=values)
    source = make(address_attributes=("proxyAddresses",))
    listing = source.list()
    assert set(listed(listing)) == {"ann@example.com", "a@example.com", "b@example.com"}
    assert listing.skipped.count == 0
    assert names(source.ask([ANN, ("a", "example.com"), ("b", "example.com"), ("ann", "example.net")], 1)) == {
        "ann@example.com",
        "a@example.com",
        "b@example.com",
    }


@pytest.mark.parametrize(
    ("mail", "place"),
    [("rfc822Mailbox", "localityName"), ("RFC822MAILBOX", "organizationName"), ("mail", "organizationalUnitName")],
)
def test_the_other_name_of_an_attribute_is_that_attribute(slapd: Slapd, make: Make, mail: str, place: str) -> None:
    """RFC 4519 and 4524 give several attributes two names, and a server answers by one of them only: the other one
    read nothing, so that nobody was listed, or everybody without a location."""
    slapd.person("ann", "ann@example.com", l="cloud", o="cloud", organizationalUnitName="cloud")
    source = make(address_attributes=(mail,), location_attribute=place, filter=f"({mail}=*)")
    everyone = list(source.list().records)
    assert [(record.local, record.location) for record in everyone] == [("ann", "cloud")]
    assert list(source.ask([ANN], 1).records) == everyone


def test_a_value_with_a_language_is_a_value(slapd: Slapd, make: Make) -> None:
    """`mail;lang-de` is found by a filter for `mail`, and came back under a name that nobody read."""
    for uid, lines in (
        ("ann", "mail;lang-de: ann@example.com"),
        ("bob", "mail: b@example.com\nmail;lang-de: bob@example.com"),
    ):
        slapd.ldif(f"dn: uid={uid},{slapd.base}\nobjectClass: inetOrgPerson\ncn: {uid}\nsn: {uid}\n{lines}\n")
    everyone = {"ann@example.com", "b@example.com", "bob@example.com"}
    assert set(listed(make().list())) == everyone
    assert {record.local for record in make().ask([ANN, ("bob", "example.com")], 1).records} == {"ann", "bob"}


def test_nonsense_is_skipped_and_counted(slapd: Slapd, make: Make) -> None:
    """Values that are no address, two at once, and entries with nothing usable."""
    slapd.person("ann", "ann@example.com", mailAlternateAddress=["nobody", "a@example.com b@example.com"])
    slapd.person("none", "nothing")
    listing = make().list()
    assert set(listed(listing)) == {"ann@example.com"}
    assert listing.skipped.count == 3
    assert any("uid=none" in what for what, _ in listing.skipped.first)


def test_targets_location_kind_and_suspension(slapd: Slapd, make: Make) -> None:
    """Every option says what it is for."""
    slapd.person("ann", "ann@example.com", mailHost="cloud")
    slapd.person("info", "info@example.com", mailForwardingAddress=["ann@example.com", "Bob@example.com"])
    slapd.person("bob", "bob@example.com", accountStatus="disabled", mailKind="mailbox")
    slapd.person("list", "list@example.com", mailKind="Group", mailForwardingAddress="ann@example.com")
    slapd.person("robot", "robot@example.com", mailKind="robot")
    options = {
        "target_attributes": ("mailForwardingAddress",),
        "location_attribute": "mailHost",
        "suspended_filter": "accountStatus=disabled",
    }
    both = ("ann@example.com", "bob@example.com")
    found = plain(listed(make(**options).list()))
    assert found["ann@example.com"] == Record("ann", "example.com", location="cloud")
    assert found["info@example.com"].kind is Kind.ALIAS
    assert sorted(found["info@example.com"].targets) == list(both)
    assert found["bob@example.com"] == Record("bob", "example.com", active=False)
    kinds = make(kind_attribute="mailKind", **options)
    listing = kinds.list()
    assert listed(listing)["list@example.com"].kind is Kind.GROUP
    assert [what for what, _ in listing.skipped.first] == [f"uid=robot,ou=people,{slapd.suffix}"]
    assert [r.active for r in kinds.ask([BOB], 1).records] == [False]
    assert [r.kind for r in kinds.ask([("robot", "example.com")], 1).records] == [Kind.MAILBOX]  # noted, and there


def test_members_by_dn_and_by_address(slapd: Slapd, make: Make) -> None:
    """DNs become the members' primary addresses, inside and outside base; the gone are noted; groups nest."""
    ann = slapd.person("ann", "ann@example.com", "also@example.com")
    outside = slapd.person("zoe", "zoe@example.net", ou="groups")
    inner = slapd.group("inner", "inner@example.com", [ann])
    gone = f"uid=gone,ou=people,{slapd.suffix}"
    slapd.group("sales", "sales@example.com", [ann.replace(",", ", ").upper(), outside, inner, gone])
    source = make(member_attribute="member", filter="(&(mail=*)(!(uid=zoe)))")
    listing = source.list()
    found = listed(listing)
    members = ("ann@example.com", "inner@example.com", "zoe@example.net")
    assert found["sales@example.com"].kind is Kind.GROUP
    assert tuple(sorted(found["sales@example.com"].targets)) == members
    assert found["inner@example.com"].targets == ("ann@example.com",)
    assert [(what.partition(":")[0], why) for what, why in listing.skipped.first] == [
        ("sales@example.com", "member without an address")
    ]
    live = source.ask([("sales", "example.com")], 1).records
    assert [tuple(sorted(record.targets)) for record in live] == [members]
    plain_ = make(member_attribute="mailAlternateAddress", address_attributes=("mail",))
    slapd.person("l", "l@example.com", mailAlternateAddress=["bob@example.com", "SRS0=x=y@example.net"])
    assert set(listed(plain_.list())["l@example.com"].targets) == {"bob@example.com", "srs0=x=y@example.net"}


def test_a_listing_pages_below_the_servers_limit(authority: Authority, ldap_secret: Path) -> None:
    """1,300 people behind a limit of 600 an operation are listed all."""
    slapd = Slapd(size_limit="size.soft=600 size.hard=600 size.prtotal=unlimited")
    try:
        people = "".join(
            f"dn: uid=u{i},ou=people,{slapd.suffix}\nobjectClass: inetOrgPerson\ncn: u\nsn: u\n"
            f"mail: u{i}@example.com\n\n"
            for i in range(1300)
        )
        slapd.load(people)
        source = LdapSource("corp", LdapOptions((slapd.url,), base=slapd.suffix, filter="(mail=*)"))
        assert len(listed(source.list())) == 1300
    finally:
        slapd.close()


@pytest.mark.parametrize(
    ("limit", "cure"),
    [
        ("size.soft=600 size.hard=600 size.prtotal=600", "size.prtotal=unlimited"),
        ("size.pr=100 size.prtotal=unlimited", "size.pr=500"),
        ("size.prtotal=disabled", "size.prtotal=unlimited"),
    ],
)
def test_a_result_cut_by_the_server_is_a_fault(limit: str, cure: str) -> None:
    """A limit that paging cannot pass is an error with its cure, never a short listing."""
    slapd = Slapd(size_limit=limit)
    try:
        people = "".join(
            f"dn: uid=u{i},ou=people,{slapd.suffix}\nobjectClass: inetOrgPerson\ncn: u\nsn: u\n"
            f"mail: u{i}@example.com\n\n"
            for i in range(1300)
        )
        slapd.load(people)
        source = LdapSource("corp", LdapOptions((slapd.url,), base=slapd.suffix, filter="(mail=*)"))
        with pytest.raises(DirectoryError) as caught:
            list(source.list().records)
        assert cure in caught.value.hint
    finally:
        slapd.close()


def test_fifty_addresses_are_one_answer(slapd: Slapd, make: Make) -> None:
    """A full batch is answered wholly, in as many filters as it needs."""
    slapd.ldif(
        "".join(
            f"dn: uid=u{i},ou=people,{slapd.suffix}\nobjectClass: inetOrgPerson\ncn: u\nsn: u\n"
            f"mail: u{i}@example.com\n\n"
            for i in range(50)
        )
    )
    source = make(address_attributes=("mail", "mailAlternateAddress", "proxyAddresses"))
    assert len(source.ask([(f"u{i}", "example.com") for i in range(50)], 2).records) == 50


@pytest.mark.parametrize("secure", ["ldaps", "starttls"])
def test_tls_is_verified(slapd: Slapd, make: Make, authority: Authority, secure: str) -> None:
    """Our CA lets us in; another CA, none, or a name that is not the certificate's do not."""
    slapd.person("ann", "ann@example.com")
    options: dict[str, object] = {"ca_file": str(authority.ca), "starttls": secure == "starttls"}
    url = slapd.ldaps if secure == "ldaps" else slapd.url
    assert names(make(url, **options).ask([ANN], 2)) == {"ann@example.com"}
    assert names(make(url.replace("127.0.0.1", "localhost"), **options).ask([ANN], 2)) == {"ann@example.com"}
    other = Authority(scratch("ca"), "other")
    for wrong in ({"ca_file": str(other.ca)}, {"ca_file": ""}):
        with pytest.raises(DirectoryError) as caught:
            make(url, **(options | wrong)).ask([ANN], 2)
        assert "ca_file" in caught.value.hint
        assert not isinstance(caught.value, DirectoryTimeout)
    elsewhere = Slapd(authority=authority, names=("DNS:ldap.example.com",))
    try:
        with pytest.raises(DirectoryError, match="not for this host"):
            make(elsewhere.ldaps if secure == "ldaps" else elsewhere.url, **options).ask([ANN], 2)
    finally:
        elsewhere.close()


def test_a_certificate_that_expires_while_we_run(make: Make, authority: Authority) -> None:
    """The fault says so, and a new one is good without a restart of ours."""
    server = Slapd(authority=authority)
    try:
        server.person("ann", "ann@example.com")
        source = make(server.ldaps, ca_file=str(authority.ca))
        assert names(source.ask([ANN], 5)) == {"ann@example.com"}
        authority.issue(f"slapd{server.port}", days=-1)
        server.restart()
        with pytest.raises(DirectoryError, match="out of date") as caught:
            source.ask([ANN], 5)
        assert "renew" in caught.value.hint
        authority.issue(f"slapd{server.port}")
        server.restart()
        assert names(source.ask([ANN], 5)) == {"ann@example.com"}
    finally:
        server.close()


def test_starttls_that_is_not_offered_is_a_fault(make: Make) -> None:
    """Never plain text instead."""
    bare = Slapd()
    try:
        with pytest.raises(DirectoryError) as caught:
            make(bare.url, starttls=True).ask([ANN], 2)
        assert "StartTLS" in caught.value.hint
    finally:
        bare.close()


def test_wrong_password_base_and_filter_are_explained(slapd: Slapd, make: Make, tmp_path: Path) -> None:
    """Each fault says which key to look at, and no secret."""
    wrong = tmp_path / "wrong"
    wrong.write_text("not-the-password\n")
    (tmp_path / "empty").write_text("\n")
    cases: list[tuple[dict[str, object], str]] = [
        ({"bind_password_file": str(wrong)}, "bind_password_file"),
        ({"bind_password_file": str(tmp_path / "empty")}, "password of bind_dn"),
        ({"bind_password_file": str(tmp_path / "absent")}, "read the password file"),
        ({"base": "ou=absent,dc=example,dc=com"}, "`base`"),
        ({"base": "nonsense"}, "`base`"),
        ({"filter": "(mail=*"}, "check them"),
    ]
    for options, hint in cases:
        for call in (lambda s: s.ask([ANN], 1), lambda s: list(s.list().records)):
            with pytest.raises(DirectoryError) as caught:
                call(make(**options))
            assert hint in caught.value.hint, caught.value.what
            assert "not-the-password" not in caught.value.what + caught.value.hint
            assert not isinstance(caught.value, DirectoryTimeout)


@pytest.mark.parametrize("secure", ["plain", "ldaps"])
def test_a_hung_server_is_a_timeout_and_comes_back(slapd: Slapd, make: Make, authority: Authority, secure: str) -> None:
    """SIGSTOP: a look-up ends in time on an open connection and on a new one, and the first after it works."""
    slapd.person("ann", "ann@example.com")
    source = make(slapd.ldaps if secure == "ldaps" else slapd.url, ca_file=str(authority.ca))
    assert names(source.ask([ANN], 1)) == {"ann@example.com"}
    slapd.hang()
    try:
        for _ in range(2):
            with pytest.raises(DirectoryTimeout):
                source.ask([ANN], 0.3)
    finally:
        slapd.cont()
    assert names(source.ask([ANN], 2)) == {"ann@example.com"}


def test_a_restarted_server_is_asked_again_without_a_fault(slapd: Slapd, make: Make) -> None:
    """A connection that died while idle is replaced; a server that is down says so, as no time-out."""
    slapd.person("ann", "ann@example.com")
    source = make()
    assert names(source.ask([ANN], 1)) == {"ann@example.com"}
    slapd.restart()
    assert names(source.ask([ANN], 1)) == {"ann@example.com"}
    slapd.stop()
    with pytest.raises(DirectoryError) as caught:
        source.ask([ANN], 1)
    assert "running" in caught.value.hint
    assert not isinstance(caught.value, DirectoryTimeout)
    slapd.start()
    assert names(source.ask([ANN], 1)) == {"ann@example.com"}


def test_the_next_server_takes_over(slapd: Slapd, make: Make) -> None:
    """One that refuses costs nothing, one that hangs one look-up; all sources then agree on the other."""
    slapd.person("ann", "ann@example.com")
    refused = f"ldap://127.0.0.1:{free_port()}"
    source = make(refused, slapd.url)
    assert source.ask([ANN], 1).server == slapd.url
    listing = source.list()
    assert set(listed(listing)) == {"ann@example.com"}
    assert listing.server == slapd.url
    first = Slapd()
    try:
        first.person("bob", "bob@example.com")
        both = make(first.url, slapd.url)
        assert both.ask([ANN, BOB], 1).server == first.url
        first.hang()
        with pytest.raises(DirectoryTimeout):
            both.ask([ANN], 0.3)
        assert both.ask([ANN], 1).server == slapd.url
        assert make(first.url, slapd.url).ask([ANN], 1).server == slapd.url
        first.cont()
        first.stop()
        assert both.ask([ANN], 1).server == slapd.url
    finally:
        first.close()


def test_a_listing_that_breaks_off_is_a_fault(make: Make) -> None:
    """A server that dies in the midst of a listing never makes a short one."""
    server = Slapd()
    try:
        server.load(
            "".join(
                f"dn: uid=u{i},ou=people,{server.suffix}\nobjectClass: inetOrgPerson\ncn: u\nsn: u\n"
                f"mail: u{i}@example.com\n\n"
                for i in range(1200)
            )
        )
        records = make(server.url).list().records
        next(records)
        server.process.kill()
        with pytest.raises(DirectoryError):
            list(records)
    finally:
        server.close()


def test_no_answer_without_rights_is_an_error_or_empty(slapd: Slapd, make: Make) -> None:
    """An anonymous reader of a directory that shows nothing gets nothing: the caller's canaries judge that."""
    private = Slapd(extra="access to * by * none")
    try:
        source = make(private.url, bind_dn="", bind_password_file="")
        with pytest.raises(DirectoryError):
            source.ask([ANN], 1)
    finally:
        private.close()


def test_openldap_preset(slapd: Slapd, make: Make) -> None:
    """People, groups of names with members, alternate addresses; posix entries without mail stay out silently."""
    ann = slapd.person("ann", "ann@example.com", mailAlternateAddress="a@example.com")
    slapd.group("sales", "sales@example.com", [ann])
    slapd.ldif(f"dn: cn=x,{slapd.suffix}\nobjectClass: organizationalRole\ncn: x\n")
    known = LdapOptions((slapd.url,), base=slapd.suffix, schema="openldap")
    source = LdapSource("corp", known)
    listing = source.list()
    found = plain(listed(listing))
    assert found == {
        "ann@example.com": Record("ann", "example.com"),
        "a@example.com": Record("a", "example.com"),
        "sales@example.com": Record("sales", "example.com", Kind.GROUP, targets=("ann@example.com",)),
    }
    assert listing.skipped == Skipped()
    assert names(source.ask([("sales", "example.com"), ("a", "example.com")], 1)) == {
        "sales@example.com",
        "a@example.com",
    }
    source.close()
