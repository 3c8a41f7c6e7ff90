# SPDX-License-Identifier: Apache-2.0
"""Connections to LDAP servers: several in order, TLS verified, every call with a hard end.

ldap3, synchronous, one connection a thread. Its time-outs are whole seconds and count each read anew, so that a
watchdog ends every call at its own deadline.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator, Sequence
from math import ceil, inf
from time import monotonic
from typing import Any

import ldap3
from ldap3.core.exceptions import (
    LDAPAttributeError,
    LDAPExceptionError,
    LDAPInvalidDnError,
    LDAPInvalidFilterError,
    LDAPObjectClassError,
)
from ldap3.utils.asn1 import decode_message_fast

from transport.config.settings import LdapOptions
from transport.directories import ldap_request
from transport.directories.base import DirectoryError, DirectoryTimeout
from transport.directories.ldap_account import account_of
from transport.directories.ldap_server import password_of, server_of
from transport.directories.watchdog import Guard, shut

BULK = 120.0
"""Seconds for one page of a listing."""

PAGE = 500
"""Entries a page: below every server's limit (Active Directory gives at most 1000)."""

_RETRY_AFTER = 30.0  # seconds before a server that failed is tried again while others answer
_PAGED = "1.2.840.113556.1.4.319"

# RFC 4511 section 4.1.9 resultCode -> what to do about it
_HINTS = {
    1: "the server wants a bind before a search: set bind_dn and bind_password_file",
    3: "the server's time limit was reached: are address_attributes indexed?",
    4: "raise the server's size limit for this bind_dn, paged searches too (OpenLDAP: limits … size.prtotal=unlimited)",
    8: "the server refuses a plain bind: use ldaps:// or starttls = true",
    10: "the base belongs to another server: name that one in url",
    11: "raise the server's administrative limit (look-through limit) for this bind_dn, or index the attributes",
    12: "the server knows no paged searches (RFC 2696), which a complete listing needs",
    13: "the server wants TLS: use ldaps:// or starttls = true",
    18: "the filter compares an attribute in a way the server does not know",
    32: "check `base`: there is no such entry, or bind_dn may not see it",
    34: "check `base`: it is no distinguished name",
    48: "the server does not let this bind_dn in: check bind_dn, or set a password",
    49: "check bind_dn and bind_password_file",
    50: "let bind_dn read base, and its address attributes",
    53: "the server is unwilling: a bind_dn without a password, or anonymous access that is switched off",
}
_COOKIE_REFUSED = frozenset((2, 53))  # protocolError, unwillingToPerform: what slapd says of a cookie it does not know
_NO_PAGES = (
    "a proxy before the server mixes up connections, and pages with them: the next listing is one without pages; "
    "better name the server itself in url"
)
_no_pages: set[str] = set()  # servers where pages do not hold together
_ELSEWHERE = frozenset((51, 52, 80))  # busy, unavailable, other: another server may do better


_ADMIN_LIMIT = 11
_PAGES = f"let bind_dn read in pages of {PAGE} (OpenLDAP: limits … size.pr={PAGE} or more, size.prtotal=unlimited)"

# ldap3 meets an answer that is no LDAP, or ends in the midst of a message, with whatever its decoder raises
_NONSENSE = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, struct.error)
_FAULTS = (LDAPExceptionError, OSError, ValueError, *_NONSENSE)


class Broken(Exception):  # noqa: N818  ends a connection, is nobody's error
    """This connection is of no more use; `fault` says why."""

    def __init__(self, fault: DirectoryError) -> None:
        super().__init__(fault.what)
        self.fault = fault


class Ring:
    """The servers of one directory, shared by the sources of all threads: they agree on one of them.

    A name that has several addresses (a domain of Active Directory, a pool) is several servers, of which each may be
    behind the others: all connections go to the same one while it answers.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls = tuple(urls)
        self.current = self.urls[0]
        self._bad: dict[str | tuple[str, str], float] = {}
        self._address: dict[str, str] = {}  # of the server that a URL's name stands for at present

    def order(self) -> list[str]:
        """Which to try, best first: the current one, then the others in order, failed ones last."""
        now = monotonic()
        return sorted(self.urls, key=lambda url: (self._bad.get(url, 0.0) > now, url != self.current))

    def sorted(self, url: str, addresses: Sequence[str]) -> list[str]:
        """The addresses of a URL's name, in the same way."""
        now = monotonic()
        held = self._address.get(url)
        return sorted(addresses, key=lambda one: (self._bad.get((url, one), 0.0) > now, one != held))

    def leads_to(self, link: Link) -> bool:
        """Whether a new connection would come out at the same server as this one."""
        return link.url == self.current and self._address.get(link.url) == link.address

    def rewind(self) -> None:
        """Go back to the first server that did not fail lately; called when a new listing begins."""
        now = monotonic()
        self.current = next((url for url in self.urls if self._bad.get(url, 0.0) <= now), self.current)

    def failed(self, url: str, address: str) -> None:
        """Leave a server alone for a while."""
        self._bad[url] = self._bad[url, address] = monotonic() + _RETRY_AFTER
        if url == self.current:
            self.current = self.order()[0]

    def good(self, link: Link) -> None:
        """This one answers."""
        self._bad.pop(link.url, None)
        self._bad.pop((link.url, link.address), None)
        self.current = link.url
        self._address[link.url] = link.address


_rings: dict[tuple[str, ...], Ring] = {}


def ring_of(urls: Sequence[str]) -> Ring:
    """The one ring of these servers in this process."""
    return _rings.setdefault(tuple(urls), Ring(urls))


class Link:
    """One bound connection to one server.

    server: which one it is: its URL, and its address where the URL has a name, which may stand for several servers.
    address: its address, "" of a socket. read_at: when (monotonic) it was last seen to show every attribute.
    """

    def __init__(self, options: LdapOptions, url: str, timeout: float) -> None:
        """Connect, start TLS and bind within `timeout` seconds. Raises DirectoryError, Broken for the network."""
        self.url = self.server = url
        self.address = ""
        self.read_at = -inf
        self._options = options
        self._connection: Any = None
        expired = Guard(timeout, self._end)
        try:
            with expired:
                self._open(timeout)
        except _FAULTS as error:
            self.close()
            ring_of(options.url).failed(url, self.address)
            raise Broken(_fault_of(error, url, expired=expired.expired)) from None
        except Broken:
            self.close()
            ring_of(options.url).failed(url, self.address)
            raise
        except BaseException:
            self.close()
            raise

    def _open(self, timeout: float) -> None:
        options, seconds, end = self._options, max(1, ceil(timeout)), monotonic() + timeout
        password = password_of(options) if options.bind_dn else ""
        ring = ring_of(options.url)
        server = server_of(options, self.url, timeout, lambda found: ring.sorted(self.url, found))
        self._connection = connection = ldap3.Connection(
            server,
            user=options.bind_dn or None,
            password=password or None,
            authentication=ldap3.SIMPLE if options.bind_dn else ldap3.ANONYMOUS,
            client_strategy=ldap3.SYNC,
            auto_bind=ldap3.AUTO_BIND_NONE,
            auto_referrals=False,
            auto_range=False,
            check_names=False,
            read_only=True,
            receive_timeout=seconds,  # an int: anything else is a struct.error on Unix
            raise_exceptions=False,
        )
        try:
            connection.open(read_server_info=False)
        finally:
            self.address = server.tried
        if server.named:
            self.server = f"{self.url} ({self.address})"
        if options.starttls and not self.url.startswith(("ldaps:", "ldapi:")):
            connection.start_tls(read_server_info=False)
        account = account_of(self.url, options)
        try:
            account.bind(password, end - monotonic(), connection, lambda: self._judge(connection.result, "bind"))
        except DirectoryError as fault:
            raise Broken(fault) from None  # another server may let us in

    def _end(self) -> bool:
        """End whatever the connection waits for."""
        held = self._connection
        sock = getattr(held, "socket", None)
        try:
            return sock is not None and shut(sock.fileno())
        except (OSError, ValueError):
            return False

    def _judge(self, result: Any, doing: str) -> None:
        """Raise what a result code means, unless it is success."""
        code = int(result["result"])
        if code == 0:
            return
        message = re.sub(r"\s+", " ", str(result.get("message") or "")).strip(" \0")
        words = f"{self.url}: {doing}: {result.get('description')} ({code}){': ' + message if message else ''}"[:300]
        pages = code == _ADMIN_LIMIT and "pagedresults" in words.lower()
        fault = DirectoryError(words, _PAGES if pages else _HINTS.get(code, ""))
        raise Broken(fault) if code in _ELSEWHERE else fault

    def search(
        self,
        base: str,
        wanted: str,
        attributes: Sequence[str],
        timeout: float,
        *,
        scope: str = ldap3.SUBTREE,
        controls: Sequence[Any] | None = None,
        size_limit: int = 0,
        tolerated: Sequence[int] = (),
        **paged: Any,
    ) -> list[dict[str, Any]]:
        """One search; the messages that came (entries, references, intermediate responses).

        tolerated: result codes besides success that are the caller's to judge, in `result`. Raises Broken when the
        connection is over (its fault a DirectoryTimeout when time was), DirectoryError for any other result: a
        partial one is never returned.
        """
        connection = self._connection
        guard = Guard(max(0.001, timeout), self._end)
        try:
            with guard:
                connection.socket.settimeout(timeout + 5)
                connection.search(
                    base,
                    wanted,
                    search_scope=scope,
                    dereference_aliases=ldap3.DEREF_NEVER,
                    attributes=list(attributes),
                    size_limit=size_limit,
                    controls=None if controls is None else list(controls),
                    **paged,
                )
        except (LDAPInvalidFilterError, LDAPAttributeError, LDAPInvalidDnError, LDAPObjectClassError) as error:
            raise DirectoryError(f"filter, base or attributes: {error}", f"check them: {wanted[:150]}") from None
        except _FAULTS as error:
            self.close()
            raise Broken(_fault_of(error, self.url, expired=guard.expired)) from None
        if guard.expired:
            self.close()
            raise Broken(_fault_of(TimeoutError(), self.url, expired=True))
        if connection.result["result"] not in tolerated:
            self._judge(connection.result, "search")
        return list(connection.response or ())

    def compared(self, dn: str, attribute: str, timeout: float) -> int:
        """The result code of comparing an attribute with a value that nobody has. Raises Broken as `search` does."""
        connection = self._connection
        guard = Guard(max(0.001, timeout), self._end)
        try:
            with guard:
                connection.socket.settimeout(timeout + 5)
                connection.compare(dn, attribute, "splitmx-probe")
        except _FAULTS as error:
            self.close()
            raise Broken(_fault_of(error, self.url, expired=guard.expired)) from None
        return int(connection.result["result"])

    def quick(self, base: bytes, wanted: bytes, attributes: bytes, timeout: float) -> list[dict[str, Any]]:
        """A search made by `ldap_request`; its entries, all of them. Raises as `search` does."""
        connection = self._connection
        number = connection.server.next_message_id()
        guard = Guard(max(0.001, timeout), self._end)
        found: list[dict[str, Any]] = []
        try:
            with guard:
                connection.socket.settimeout(timeout + 5)
                connection.socket.sendall(ldap_request.search(number, base, wanted, attributes))
                for message in self._messages(connection):
                    decoded = decode_message_fast(message)
                    reply = connection.strategy.decode_response_fast(decoded)
                    if int(decoded["messageID"]) != number:
                        raise ConnectionError("the server ends the session")  # a notice of disconnection
                    if reply["type"] == "searchResEntry":
                        found.append(reply)
                    elif reply["type"] == "searchResDone":
                        connection.result = reply
                        break
        except _FAULTS as error:
            self.close()
            raise Broken(_fault_of(error, self.url, expired=guard.expired)) from None
        self._judge(connection.result, "search")
        return found

    @staticmethod
    def _messages(connection: Any) -> Iterator[bytes]:
        """Whole messages, as they arrive."""
        buffer = bytearray()
        while True:
            data = connection.socket.recv(65536)
            if not data:
                raise ConnectionError("the server closed the connection")
            buffer += data
            start = 0
            while (size := ldap_request.message_size(buffer, start)) and len(buffer) >= start + size:
                yield bytes(buffer[start : start + size])
                start += size
            del buffer[:start]

    def entries(self, base: str, wanted: str, attributes: Sequence[str]) -> Iterator[dict[str, Any]]:
        """All entries below `base`, page by page."""
        cookie: bytes | None = None
        while True:
            found, cookie = self.page(base, wanted, attributes, BULK, cookie)
            for message in found:
                if message["type"] == "searchResEntry":
                    yield message
            if not cookie:
                return

    def page(
        self,
        base: str,
        wanted: str,
        attributes: Sequence[str],
        timeout: float,
        cookie: bytes | None,
        controls: Sequence[Any] | None = None,
    ) -> tuple[list[dict[str, Any]], bytes | None]:
        """The messages of one page, and the cookie of the next one, None behind the last.

        RFC 2696 wants a control in every answer that says whether there are more. Of a proxy that drops it a full page
        may be a part or by chance all: a search without pages tells, or is refused. One that asks for each page on
        another connection of its own has the cookie refused: from then on nothing is read in pages there.
        """
        if self.server in _no_pages and not cookie:
            return self._whole(base, wanted, attributes, timeout, controls), None
        try:
            found = self.search(
                base,
                wanted,
                attributes,
                timeout,
                controls=controls,
                paged_size=PAGE,
                paged_criticality=True,
                paged_cookie=cookie,
            )
        except DirectoryError as fault:
            if not cookie or self.result["result"] not in _COOKIE_REFUSED:
                raise
            _no_pages.add(self.server)
            raise DirectoryError(fault.what, _NO_PAGES) from None
        control = (self._connection.result.get("controls") or {}).get(_PAGED)
        if control:
            return found, control["value"]["cookie"] or None
        if cookie:
            raise DirectoryError(
                f"{self.url}: a page came without the control that says whether there are more",
                "a proxy before the server drops it (RFC 2696): name the server itself in url",
            )
        if sum(message["type"] == "searchResEntry" for message in found) == PAGE:
            found = self.search(base, wanted, attributes, timeout, controls=controls)
        return found, None

    def _whole(
        self, base: str, wanted: str, attributes: Sequence[str], timeout: float, controls: Sequence[Any] | None
    ) -> list[dict[str, Any]]:
        """A search without pages; where it is refused or breaks off they are tried again next time."""
        try:
            return self.search(base, wanted, attributes, timeout, controls=controls)
        except Broken:
            _no_pages.discard(self.server)  # too many at once, perhaps: it would never end
            raise
        except DirectoryError as fault:
            _no_pages.discard(self.server)
            hint = f"{fault.hint}; or name the server itself in url: a proxy before it mixes up pages"
            raise DirectoryError(fault.what, hint) from None

    @property
    def result(self) -> Any:
        """The last search's result, controls included."""
        return self._connection.result

    @property
    def open(self) -> bool:
        """Whether it may still be used."""
        return self._connection is not None and not self._connection.closed

    def close(self) -> None:
        """Let go of the connection; never raises, never waits for an answer."""
        held, self._connection = self._connection, None
        if held is not None:
            with contextlib.suppress(Exception):  # whatever ldap3 raises: it is given up
                held.strategy.close()  # without the unbind request, which a hung server would not read


def _fault_of(error: BaseException, url: str, *, expired: bool) -> DirectoryError:
    low = str(error).lower()
    words = re.sub(r"\s+", " ", str(error))[:250]
    if expired or isinstance(error, TimeoutError) or "timed out" in low or "timeout" in low:
        return DirectoryTimeout(f"{url} did not answer in time", "is the server hung, or a firewall dropping packets?")
    if isinstance(error, _NONSENSE):
        what = f"{url}: its answer is no LDAP ({type(error).__name__}: {words})"
        return DirectoryError(what, "is it an LDAP server, on this port, and what stands between?")
    if "mismatch" in low:
        return DirectoryError(f"{url}: its certificate is not for this host", "write the certificate's name in url")
    if "expired" in low or "not yet valid" in low:
        return DirectoryError(f"{url}: its certificate, or its CA's, is out of date", "renew it; is this clock right?")
    if "certificate" in low or "[x509" in low:
        return DirectoryError(f"{url}: its certificate is not trusted: {words}", "set ca_file to the server's CA")
    if "starttls" in low or "start_tls" in low or "startTLS" in words:
        return DirectoryError(f"{url}: {words}", "the server offers no StartTLS: use ldaps://, or starttls = false")
    if "ssl" in low:
        return DirectoryError(f"{url}: {words}", "does the server speak TLS on this port?")
    if "name or service" in low or "getaddrinfo" in low or "invalid server address" in low:
        return DirectoryError(f"{url}: {words}", "check the host in url and this machine's resolver")
    return DirectoryError(f"{url}: {words}", "is the server running, and reachable from here?")
