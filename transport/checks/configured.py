# SPDX-License-Identifier: Apache-2.0
"""What can be said of good settings without asking anybody: what works, and will hurt. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from transport.checks.finding import Finding, note, warning
from transport.config.secrets import user_and_password
from transport.config.settings import LdapOptions, Settings, SqlOptions
from transport.maps.nexthop import hops, strictest


def findings(settings: Settings) -> list[Finding]:
    """All of it, in the order of the file."""
    return [*_secrets(settings), *_next_hops(settings), *_domains(settings)]


def _secrets(settings: Settings) -> Iterator[Finding]:
    for name, directory in settings.directories.items():
        options = directory.options
        if isinstance(options, SqlOptions) and not options.password_file and user_and_password(options.url)[1]:
            yield warning(
                f"directory {name}: the password stands in url, where everybody sees it who may read the configuration",
                "put it into a file of its own and name that with password_file",
            )
        if isinstance(options, LdapOptions) and options.bind_dn and not options.starttls:
            open_ = [url for url in options.url if url.startswith("ldap://") and not _is_near(url)]
            if open_:
                yield warning(
                    f"directory {name}: the password goes over the network in plain text ({', '.join(open_)})",
                    "use ldaps://, or starttls = true",
                )


def _is_near(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _next_hops(settings: Settings) -> Iterator[Finding]:
    """Postfix has one TLS policy for each next hop."""
    users: dict[str, list[str]] = {}
    for destination in settings.destinations.values():
        for hop in hops(destination):
            users.setdefault(hop, []).append(destination.name)
    for hop, names in users.items():
        words = {settings.destinations[name].tls for name in names}
        if len(words) > 1:
            yield warning(
                f"destinations {', '.join(names)} share the next hop {hop}, but not their tls "
                f"({', '.join(sorted(words))}): Postfix takes {strictest(words)} for all",
                "give them the same tls",
            )
    for destination in settings.destinations.values():
        if destination.port == 465:
            yield warning(
                f"destination {destination.name}: port 465 speaks TLS from the first byte, which a relay does not",
                "use port 25 with tls",
            )


def _domains(settings: Settings) -> Iterator[Finding]:
    for domain in settings.domains.values():
        if domain.enabled == "no" or domain.alias_of:
            continue
        if not domain.local and domain.role == "secondary":
            yield warning(
                f"{domain.name}: role is secondary, and local names no directory: everything goes back to the primary",
                "name the directory that lists who is here",
            )
        if domain.unknown.value == "relay":
            yield note(
                f'{domain.name}: unknown = "relay" takes mail for addresses that exist nowhere',
                '"verify" asks the destination first',
            )
