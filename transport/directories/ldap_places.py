# SPDX-License-Identifier: Apache-2.0
"""Whether all of a tree answers, which the server does not always say.

OpenLDAP may put a tree together out of several databases (slapd.conf(5), `subordinate`). When one of them is a proxy
whose server is down, a search from above succeeds, and leaves out whoever is below; only a search there fails. So it is
with what bind_dn may no longer see, and with what a referral to another server has taken the place of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence

import ldap3

from transport.config.settings import LdapOptions
from transport.directories.base import DirectoryError
from transport.directories.ldap_connect import BULK, Broken, Link
from transport.directories.ldap_request import tlv

SYNC_REQUEST = "1.3.6.1.4.1.4203.1.9.1.1"
"""Content sync's control (RFC 4533 section 2.2)."""

_SYNC_DONE = "1.3.6.1.4.1.4203.1.9.1.3"
_CSN = re.compile(rb"csn=([0-9A-Za-z.#;]+)")
_TIMES = 3  # that a stamp is looked at again because something was written in between
_CRITICAL = 12  # unavailableCriticalExtension
_UNSEEN = re.compile(r"\((10|50)\)")  # referral, insufficientAccessRights: there is something, and not for us
_SIZE_LIMIT = 4
_MANY = 100  # places that are remembered, and asked about; the uppermost


class Places:
    """The DNs above those who were listed last, shared by the sources of all threads; silent: one that failed."""

    def __init__(self) -> None:
        self._known: Sequence[bytes] = ()
        self._silent = b""
        self._mark: tuple[object, object] | None = None
        self._count = 0
        self._hidden = ""

    def listed(self, link: Link, places: Collection[bytes]) -> None:
        """Behind a listing of people in these places. Raises Broken when one of the last time is there and fails."""
        self.need(link, places)
        self._known = tuple(sorted(places, key=len)[:_MANY])
        self._silent = b""

    def need(self, link: Link, seen: Collection[bytes] = ()) -> None:
        """Raises Broken when a place of the last listing fails; those `seen` now do not."""
        for place in self._known:
            if place not in seen and (why := _fails(link, place, BULK)):
                self._silent = place
                hint = (
                    "who is below it is left out: is a server behind it down, may bind_dn see them? If that is meant:"
                )
                hint += " restart splitmx"
                raise Broken(DirectoryError(f"{_text(place)} does not answer: {why}", hint))

    def fewer(self, cookie: bytes, count: int) -> bool:
        """Whether a listing with this cookie has less to say than the last one although nothing has changed."""
        return count < self._count and self._mark is not None and _stamps(cookie) == self._mark

    def whole(self, cookie: bytes, count: int) -> None:
        """A listing is taken: with this cookie, and so much to say (an address, a location)."""
        self._mark, self._count, self._hidden = _stamps(cookie), count, ""

    def hidden(self, link: Link, count: int) -> Broken:
        """The fault of a listing that has only so much to say."""
        self._hidden = f"{link.url}: {self._count - count} addresses or locations fewer, and nothing was written to it"
        hint = "may bind_dn still see everybody? If that is meant: restart splitmx"
        return Broken(DirectoryError(self._hidden, hint))

    def doubt(self, link: Link, seconds: float) -> str:
        """Why who is not found may be there all the same, or "": the place that failed still does."""
        place = self._silent
        if self._hidden or not place:
            return self._hidden
        why = _fails(link, place, seconds)
        if not why and place == self._silent:
            self._silent = b""
        return why and f"{_text(place)} does not answer: {why}"


_places: dict[LdapOptions, Places] = {}


def places_of(options: LdapOptions) -> Places:
    """Those of a directory, in this process."""
    return _places.setdefault(options, Places())


def _fails(link: Link, place: bytes, seconds: float) -> str:
    """Why who is below this entry cannot be asked for now; "" when it answers, or is gone."""
    try:
        found = link.search(_text(place), "(objectClass=*)", ["hasSubordinates"], seconds, scope=ldap3.BASE)
        if not any(b"TRUE" in message.get("raw_attributes", {}).get("hasSubordinates", ()) for message in found):
            return ""
        shown = link.search(
            _text(place), "(objectClass=*)", ["1.1"], seconds, scope=ldap3.LEVEL, size_limit=1, tolerated=(_SIZE_LIMIT,)
        )
        return "" if shown else "it has entries below, and shows none of them"
    except Broken as broken:
        return broken.fault.what
    except DirectoryError as fault:
        return fault.what if _UNSEEN.search(fault.what) else ""


def _stamps(cookie: bytes) -> tuple[object, object] | None:
    """Server and contextCSN of a cookie; None where changes of some entries are not in it."""
    mark = json.loads(cookie) if cookie else {}
    return (mark["server"], mark["sync"]) if "sync" in mark and not mark.get("part") else None


def _text(place: bytes) -> str:
    return place.decode("utf-8", "replace")


def marked(link: Link, cookie: bytes, base: str, places: Iterable[bytes]) -> bytes:
    """The cookie behind a listing of people in these `places` (DNs), marked when changes of some are not told.

    A tree may be glued together of several databases of the server, and the content sync of the upper one may know
    nothing of what changes in those below (slapd.conf(5), `subordinate`): it says "nothing" then, which means nothing.
    Those below are known by another contextCSN, or by having none.
    """
    mark = json.loads(cookie) if cookie else {}
    if "sync" not in mark:
        return cookie
    known = stamps_at(link, base)
    for place in sorted(places, key=len)[:_MANY]:
        for _ in range(_TIMES):
            found = stamps_at(link, _text(place))
            if found in ("", known):
                break
            known = stamps_at(link, base)
            if found == known:
                break
        else:
            return json.dumps({**mark, "part": True}).encode()
    return cookie


def stamps_at(link: Link, place: str, seconds: float = BULK) -> str | None:
    """The contextCSN of the database that holds this entry, as its content sync has it.

    None where it has none, "" where it cannot be asked."""
    control = (SYNC_REQUEST, True, tlv(0x30, b"\x0a\x01\x01"))
    try:
        link.search(
            place, "(objectClass=*)", ["1.1"], seconds, scope=ldap3.BASE, controls=[control], tolerated=(_CRITICAL,)
        )
    except DirectoryError:
        return ""
    if int(link.result["result"]) == _CRITICAL:
        return None
    done = (link.result.get("controls") or {}).get(_SYNC_DONE)
    found = _CSN.search(bytes(done["value"])) if done else None
    return found[1].decode() if found else ""
