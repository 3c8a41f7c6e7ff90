# SPDX-License-Identifier: Apache-2.0
"""Recipients in an LDAP directory: OpenLDAP, Active Directory and their kin.

A listing is paged and streams; groups come last, when the addresses of their members are known. A live look-up is an OR
of equality terms, and what comes back counts only when our own parser finds it equal to what was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableSequence, Sequence
from time import monotonic
from typing import TypeVar

from ldap3.core.exceptions import LDAPExceptionError

from transport.address import external
from transport.config.settings import LdapOptions
from transport.directories import ldap_request
from transport.directories.base import (
    LIVE_MEMBERS,
    Changes,
    DirectoryError,
    DirectoryTimeout,
    Found,
    Listing,
    Skipped,
)
from transport.directories.ldap_connect import BULK, Broken, Link, ring_of
from transport.directories.ldap_entries import KEYS, Entries, Entry, above, dn_key, same
from transport.directories.ldap_loading import loading_of
from transport.directories.ldap_places import marked, places_of
from transport.directories.ldap_rights import rights_of
from transport.directories.ldap_unseen import by_membership
from transport.directories.reading import matching, people, spellings
from transport.directories.schemas import ldap_options
from transport.record import Record

_TERMS = 100  # of one OR filter: servers are slower beyond
# attributes whose values never carry a prefix such as smtp:
_BARE = frozenset(
    ("mail", "rfc822mailbox", "mailalternateaddress", "maillocaladdress", "othermailbox", "userprincipalname", "uid")
)
_MANY_PLACES = 1000
_FEW = 20
# slapo-dynlist(5): their members are made when they are read, and no filter finds them by these
_DYNAMIC = "(objectClass=groupOfURLs)(objectClass=labeledURIObject)"
_Result = TypeVar("_Result")


class LdapSource:
    """One LDAP directory, for one thread. Keeps one connection for live look-ups, opens another to list."""

    def __init__(self, name: str, options: LdapOptions) -> None:
        self.name = name
        self.options = ldap_options(options)
        if not self.options.url:
            raise DirectoryError("no url", 'write url = ["ldaps://HOST"]')
        self.filter = _parenthesised(self.options.filter or "(objectClass=*)")
        self.ring = ring_of(self.options.url)
        self._entries = Entries(self.options)
        self._wanted = ldap_request.attribute_list(self._entries.attributes)
        self._filters: dict[str, bytes] = {}
        self._link: Link | None = None
        self._places = places_of(self.options)
        self._rights = rights_of(self.options)
        self._loading = loading_of(self.options)

    def list(self) -> Listing:
        """Everyone, as a stream; the same address may come twice, when two entries hold it."""
        listing = Listing(iter(()), Skipped())
        listing.records = self._records(listing)
        return listing

    def _records(self, listing: Listing) -> Iterator[Record]:
        self.ring.rewind()
        link = self._first_that_answers(monotonic() + BULK)
        listing.server = link.server
        try:
            from transport.directories.ldap_changes import first_cookie

            listing.cookie = first_cookie(link, self.options)  # before the first record: nothing falls between
            places: dict[bytes, str] = {}
            count = 0
            for record in self._stream(link, listing, places):
                count += 1 if record.location is None else 2
                yield record
            self._places.listed(link, places)
            self._rights.listed(link, places)
            listing.cookie = cookie = marked(link, listing.cookie, self.options.base, places)
            if not by_membership(self.filter):
                if self._places.fewer(cookie, count) and first_cookie(link, self.options) == cookie:
                    raise self._places.hidden(link, count)
                self._places.whole(cookie, count)
        except Broken as broken:
            self.ring.failed(link.url, link.address)
            raise broken.fault from None
        finally:
            link.close()

    def _stream(self, link: Link, listing: Listing, places: dict[bytes, str]) -> Iterator[Record]:
        """places: is given the DNs above those listed, the first thousand, and of each an entry below."""
        options, entries, skipped = self.options, self._entries, listing.skipped
        suspended: set[bytes] = set()
        if options.suspended_filter:
            both = f"(&{self.filter}{_parenthesised(options.suspended_filter)})"
            suspended = {same(found) for found in link.entries(options.base, both, KEYS)}
        needed: dict[bytes, str] = {}  # member DN, as it is compared -> its address, "" while unknown
        members: dict[bytes, list[bytes]] = {}
        groups = f"(&{self.filter}(|({options.member_attribute}=*){_DYNAMIC}))"
        if options.member_attribute:
            for found in link.entries(options.base, groups, [options.member_attribute, *KEYS]):
                values = entries.members(link, found, BULK)
                members[same(found)] = values
                needed.update((dn_key(value), "") for value in values if entries.is_dn(value))
        later: list[Entry] = []
        bare: list[tuple[bytes, Entry]] = []  # groups of nobody
        wanted = [name for name in entries.attributes if name != options.member_attribute]
        for found in link.entries(options.base, self.filter, wanted):
            key = dn_key(found["raw_dn"])
            it = same(found)
            entry = entries.read(found, skipped, suspended=it in suspended, members=members.get(it, ()))
            if entry is None:
                continue
            if len(places) < _MANY_PLACES:
                places.setdefault(above(key), str(found["dn"]))
            if entry.key is None:
                listing.cookie = b""  # the server may tell whose key is gone: whose that was would not be known
            if key in needed:
                needed[key] = entry.primary
            if options.member_attribute and entry.bare and it not in members:
                bare.append((it, entry))
            elif entry.members:
                later.append(entry)
            else:
                yield from entry.records
        # made since the groups were read, perhaps; of many empty ones a search tells, not a question each
        filled = None if len(bare) <= _FEW else {same(found) for found in link.entries(options.base, groups, KEYS)}
        for it, entry in bare:
            if filled is None or it in filled:
                entry.members = entries.members_again(link, entry)
            later.append(entry)
        for entry in later:
            self._resolve(link, entry, needed)
            yield from entry.expanded(needed, skipped)

    def _resolve(self, link: Link, entry: Entry, needed: dict[bytes, str]) -> None:
        """Look up the members of a group that are not in `needed` yet; one that is not there may have been renamed, and
        the group with it, since the groups were read."""
        entries = self._entries
        for again in (False, True):
            gone = False
            for value in entry.members:
                name = dn_key(value)
                if not needed.get(name) and entries.is_dn(value):
                    found = entries.address_of(link, value, BULK)
                    needed[name] = found or "-"
                    gone = gone or found is None
            if again or not gone:
                return
            entry.members = entries.members_again(link, entry)

    def ask(self, addresses: Sequence[tuple[str, str]], timeout: float) -> Found:
        """Those of the addresses that are listed. timeout: seconds for everything, failover included."""
        if not addresses:
            return Found((), self.ring.current)
        end = monotonic() + timeout
        terms = self._terms(addresses)

        def work(link: Link) -> Found:
            records: list[Record] = []
            names: list[str] = []
            for start in range(0, len(terms), _TERMS):
                records += self._look_up(link, terms[start : start + _TERMS], names, end)
            self._rights.need(link, names, end)  # behind them: who was found is what the server shows of them
            found = matching(records, addresses)
            doubt = self._places.doubt(link, end - monotonic()) if len(found) < len(set(addresses)) else ""
            return Found(found, link.server, people(records), doubt)

        return self._somewhere(work, end)

    def _terms(self, addresses: Sequence[tuple[str, str]]) -> Sequence[bytes]:
        """Equality terms for every spelling in every attribute."""
        terms: dict[bytes, None] = {}
        for local, domain in addresses:
            for word in spellings(local, domain):
                try:
                    word.encode()
                except UnicodeEncodeError:
                    continue  # a lone surrogate: no server holds it
                for name in self.options.address_attributes:
                    terms[ldap_request.equality(name, word)] = None
                    if name.lower() not in _BARE:
                        terms[ldap_request.equality(name, f"smtp:{word}")] = None
        return tuple(terms)

    def _encoded(self, wanted: str) -> bytes:
        """The administrator's filter in BER, encoded once."""
        found = self._filters.get(wanted)
        if found is None:
            try:
                found = self._filters[wanted] = ldap_request.encoded_filter(wanted)
            except LDAPExceptionError as error:
                raise DirectoryError(f"filter: {error}", f"check them: {wanted[:150]}") from None
        return found

    def _look_up(self, link: Link, terms: Sequence[bytes], names: MutableSequence[str], end: float) -> Sequence[Record]:
        """names: is given the DNs of the entries found. end: monotonic."""
        options, entries, base = self.options, self._entries, self.options.base.encode()
        wanted = ldap_request.any_of(self._encoded(self.filter), terms)
        found = link.quick(base, wanted, self._wanted, end - monotonic())
        if not found:
            return ()
        names.extend(str(message["dn"]) for message in found)
        suspended: set[bytes] = set()
        if options.suspended_filter:
            both = f"(&{self.filter}{_parenthesised(options.suspended_filter)})"
            narrowed = ldap_request.any_of(self._encoded(both), terms)
            off = link.quick(base, narrowed, ldap_request.attribute_list(KEYS), end - monotonic())
            suspended = {same(message) for message in off}
        records: list[Record] = []
        skipped = Skipped()
        for message in found:
            members = entries.members(link, message, end - monotonic()) if options.member_attribute else ()
            off_ = same(message) in suspended
            entry = entries.read(message, skipped, suspended=off_, members=members)
            if entry is None:
                continue
            if entry.members:
                addresses = self._member_addresses(link, message, entry, end)
                records += entry.expanded(addresses, skipped)
            else:
                records += entry.records
        return records

    def _member_addresses(self, link: Link, message: dict[str, object], entry: Entry, end: float) -> dict[bytes, str]:
        """The addresses of a group's members, now."""
        entries = self._entries
        names = [value for value in entry.members if entries.is_dn(value)]
        known: dict[bytes, str] = {}
        if len(names) > 20 and entries.has_member_of(message):
            known = entries.addresses_by_group(link, str(message["dn"]), end)
            names = [value for value in names if dn_key(value) not in known]  # of elsewhere, or memberOf is hidden
        if len(names) > LIVE_MEMBERS:
            what = f"{external(*entry.records[0][:2])} is a new group of {len(names)} members"
            raise DirectoryError(what, "too many to look up while mail waits; the next sync brings it")
        return known | {dn_key(value): entries.address_of(link, value, end - monotonic()) or "-" for value in names}

    def changes(self, cookie: bytes, limit: int) -> Changes:
        """What changed since the cookie (`transport.directories.ldap_changes`)."""
        from transport.directories.ldap_changes import changes_since

        link = self._first_that_answers(monotonic() + BULK)
        try:
            changes = changes_since(link, self.options, self._entries, self.filter, cookie, limit)
            if changes.present is not None:
                self._places.need(link)  # who is not present may only be below a place that fails
            if changes.upserts:
                self._rights.need_all(link)
            return changes
        except Broken as broken:
            self.ring.failed(link.url, link.address)
            raise broken.fault from None
        finally:
            link.close()

    def _first_that_answers(self, end: float) -> Link:
        """A new connection to the first server that lets us in, and has everybody."""
        fault: DirectoryError | None = None
        order = self.ring.order()
        for at, url in enumerate(order):
            left = end - monotonic()
            if left <= 0 and fault is not None:
                break
            # a server that does not answer must leave time for the next one
            share = min(left, 10.0) if at == len(order) - 1 else min(left / 2, 5.0)
            try:
                until = monotonic() + max(0.05, share)
                link = Link(self.options, url, max(0.05, share))
                self._ready(link, until)
            except Broken as broken:
                before, fault = fault, broken.fault
                if before is not None:
                    fault.what = f"{before.what}; {fault.what}"
                continue
            self.ring.good(link)
            return link
        assert fault is not None
        raise fault

    def _ready(self, link: Link, end: float) -> None:
        """Let go of a server that does not have everybody."""
        try:
            self._loading.need(link, end)
        except Broken:
            link.close()
            self.ring.failed(link.url, link.address)
            raise

    def _somewhere(self, work: Callable[[Link], _Result], end: float) -> _Result:
        """Do it on the connection that is open, or on a new one; once more when the open one had died."""
        if self._link is not None and (not self._link.open or not self.ring.leads_to(self._link)):
            self._drop()
        reused = self._link is not None
        while True:
            if self._link is None:
                self._link = self._first_that_answers(end)
            link = self._link
            try:
                return work(link)
            except Broken as broken:
                self._drop()
                late = isinstance(broken.fault, DirectoryTimeout)
                if late or not reused:
                    self.ring.failed(link.url, link.address)
                others = len(self.ring.urls) > 1 and link.url != self.ring.current
                if late or monotonic() >= end or not (reused or others):
                    raise broken.fault from None
                reused = False

    def _drop(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def close(self) -> None:
        """Let go of the connection."""
        self._drop()

    def __repr__(self) -> str:
        return f"LdapSource({self.name!r}, {self.options.url!r})"


def _parenthesised(wanted: str) -> str:
    wanted = wanted.strip()
    return wanted if wanted.startswith("(") else f"({wanted})"
