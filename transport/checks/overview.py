# SPDX-License-Identifier: Apache-2.0
"""Everything that `check` looks at, in one report: settings, directories, what they say together, destinations."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from transport.checks import configured, cpanel, destinations, directories, population
from transport.checks.destinations import DestinationResult, Ourselves, ourselves
from transport.checks.directories import DirectoryResult
from transport.checks.dns import Dns
from transport.checks.finding import Finding, note
from transport.config.settings import Settings
from transport.mta.postfix import Postfix, PostfixError, read, split_list

_ORDER = {"error": 0, "warning": 1, "note": 2}


@dataclass(slots=True)
class Overview:
    """The report of one check. findings: the worst first, each once."""

    domains: int
    directories: Sequence[DirectoryResult] = ()
    destinations: Sequence[DestinationResult] = ()
    findings: list[Finding] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing but notes was found."""
        return all(finding.level == "note" for finding in self.findings)


def look(
    settings: Settings,
    *,
    dns: Dns | None = None,
    postfix: Postfix | None = None,
    connect: bool = True,
    progress: Callable[[str, int], None] | None = None,
) -> Overview:
    """Check good settings against the world.

    dns: the resolver, by default the host's. postfix: by default the host's, if it has one. connect: false leaves out
    SMTP.
    progress: as in `directories.read_all`.
    """
    overview = Overview(len(settings.domains))
    found = overview.findings
    found += configured.findings(settings)
    dns = dns or Dns()
    postfix = postfix or _postfix(found)
    us = _ourselves(postfix)
    with directories.read_all(settings, progress) as (results, reader):
        overview.directories = results
        found += population.findings(settings, reader)
        found += cpanel.findings(settings, reader, dns)
    overview.destinations = destinations.check(settings, dns, us, connect=connect, ca_file=_ca_file(postfix))
    found += destinations.tlsa(settings, dns)
    if postfix is not None:
        found += destinations.mta_settings(settings, postfix.expanded)
    found += [finding for result in overview.directories for finding in result.findings]
    found += [finding for result in overview.destinations for finding in result.findings]
    overview.findings = sorted(dict.fromkeys(found), key=lambda finding: _ORDER[finding.level])
    return overview


def daily(settings: Settings, dns: Dns | None = None) -> list[Finding]:
    """The look at names that the daemon takes at its start and each day: destinations that vanished from the DNS,
    take no mail (null MX), or have become this host. No SMTP; seconds, so never on an event loop."""
    ignored: list[Finding] = []
    dns = dns or Dns()
    results = destinations.check(settings, dns, _ourselves(_postfix(ignored)), connect=False)
    found = [finding for result in results for finding in result.findings]
    return [finding for finding in (*found, *destinations.tlsa(settings, dns)) if finding.level != "note"]


def _postfix(found: list[Finding]) -> Postfix | None:
    """The host's Postfix, if it has one; that it cannot be read is a note."""
    try:
        return read()
    except PostfixError as fault:
        if "not installed" not in str(fault) and "missing" not in str(fault):
            found.append(note(f"Postfix could not be looked at: {fault}"))
        return None


def _ca_file(postfix: Postfix | None) -> str:
    """The CAs that Postfix trusts, where they are one file that can be read."""
    name = postfix.full("smtp_tls_CAfile") if postfix is not None else ""
    return name if name and os.access(name, os.R_OK) else ""


def _ourselves(postfix: Postfix | None) -> Ourselves:
    if postfix is None:
        return ourselves()
    return ourselves([postfix.full("myhostname")], split_list(postfix.full("proxy_interfaces")))
