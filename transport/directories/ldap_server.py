# SPDX-License-Identifier: Apache-2.0
"""Where an LDAP connection goes: the addresses of a URL's name in our order, TLS verified, and the bind's password."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import unquote, urlsplit

import ldap3

from transport.config import reading
from transport.config.settings import LdapOptions
from transport.directories.base import DirectoryError


class _Tls(ldap3.Tls):  # type: ignore[misc]  # ldap3 has no types
    """TLS as the standard library does it: chain and name are checked by OpenSSL, IP addresses too.

    ldap3's own check of the name takes no addresses from Python 3.12 on.
    """

    def __init__(self, ca_file: str, host: str) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED, ca_certs_file=ca_file or None)
        self._context = ssl.create_default_context(cafile=ca_file or None)
        self._host = host

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
        """ldap3 calls this for ldaps:// and StartTLS alike."""
        connection.socket = self._context.wrap_socket(
            connection.socket, server_hostname=self._host, do_handshake_on_connect=False
        )
        connection.socket.do_handshake()  # apart, so that the watchdog finds the socket


class _Server(ldap3.Server):  # type: ignore[misc]  # as above
    """A server whose name may have several addresses: each is tried in turn, where ldap3 takes the first alone.

    tried: the address that was tried last. named: the URL has a name, no address.
    """

    def __init__(self, host: str, timeout: float, order: Callable[[Sequence[str]], Sequence[str]], **more: Any) -> None:
        super().__init__(host, connect_timeout=timeout, get_info=ldap3.NONE, **more)
        self.tried = ""
        self.named = not self.ipc and not _is_address(host)
        self._order = order
        self._timeout = timeout

    def candidate_addresses(self) -> Any:
        """ldap3 calls this for what to connect to, and goes on with the next one after a failure."""
        found = self.address_info
        if self.ipc or not self.named:
            yield from found
            return
        by_name = {str(one[4][0]): one for one in found}
        end = monotonic() + self._timeout
        names = self._order(list(by_name))
        for name in names:
            left = max(0.05, end - monotonic())
            # one that does not answer must leave time for the next one
            self.connect_timeout = left if name == names[-1] else left / 2
            self.tried = name
            yield by_name[name]


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def server_of(
    options: LdapOptions, url: str, timeout: float, order: Callable[[Sequence[str]], Sequence[str]]
) -> _Server:
    """The server of a URL. order: of several addresses of its name, which to try first. Raises DirectoryError."""
    if url.startswith("ldapi:"):
        return _Server(url, timeout, order)
    parts = urlsplit(url)
    secure = parts.scheme == "ldaps"
    if parts.scheme not in ("ldap", "ldaps") or not parts.hostname:
        raise DirectoryError(f"{url} is no LDAP URL", "write ldap://HOST, ldaps://HOST or ldapi://%2Fpath")
    tls = None
    if secure or options.starttls:
        if options.ca_file and not Path(options.ca_file).is_file():
            raise DirectoryError(f"ca_file {options.ca_file} does not exist", "name a PEM file with the CA")
        tls = _Tls(options.ca_file, unquote(parts.hostname))
    port = parts.port or (636 if secure else 389)
    return _Server(parts.hostname, max(0.05, timeout), order, port=port, use_ssl=secure, tls=tls)


def password_of(options: LdapOptions) -> str:
    """What bind_password_file holds. An empty one would be an anonymous bind that succeeds (RFC 4513 5.1.2)."""
    if not options.bind_password_file:
        raise DirectoryError("bind_dn without bind_password_file", "name the file that holds the password")
    try:
        password = reading.read(Path(options.bind_password_file), pipes=False).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise DirectoryError(f"{options.bind_password_file}: {why}", "let this user read the password file") from None
    if not password:
        raise DirectoryError(f"{options.bind_password_file} is empty", "write the password of bind_dn into it")
    return password
