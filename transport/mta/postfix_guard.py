# SPDX-License-Identifier: Apache-2.0
"""The guard before every live map, and the tables beside it (DESIGN 5.4): for a Postfix with `sqlite:` and without.

With `sqlite:` a table of our domains gives the key back or says "not found" without the daemon. Without it `regexp:`
does the same for alias, BCC and recipient maps; transport_maps refuses `$1`, there only `!/@(ours)$/ :` is left,
which would hide a site's own domain, parent and `*` entries and is refused where there are such.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transport.config.settings import Domain, Listener, Settings
from transport.maps.guard import NAME as TABLE
from transport.maps.guard import domain_rows, policy_rows, spellings
from transport.mta.postfix import Postfix

REGEXP_LIMIT = 500
"""More domains than this in one expression cost trivial-rewrite hundreds of megabytes."""


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A file for the configuration folder, with its whole content."""

    path: Path
    content: str
    why: str


@dataclass(slots=True)
class Guard:
    """Names and makes what stands before the live maps. `files` fills as its methods are used."""

    settings: Settings
    postfix: Postfix
    maps: Path
    _files: dict[str, PlanFile] = field(default_factory=dict)

    @property
    def files(self) -> list[PlanFile]:
        """The files that what was named so far needs."""
        return list(self._files.values())

    @property
    def sqlite(self) -> bool:
        """Whether this Postfix can open the guard's table."""
        return self.postfix.has("sqlite")

    @property
    def socket(self) -> str:
        """The daemon's socketmap listener for this Postfix, without the map's name."""
        listener = self.listener(self.settings.daemon.socketmap)
        return f"socketmap:{self.endpoint(listener)}" if listener else ""

    @property
    def policy(self) -> str:
        """The daemon's policy listener for this Postfix."""
        listener = self.listener(self.settings.daemon.policy)
        return self.endpoint(listener) if listener else ""

    def listener(self, listeners: Sequence[Listener]) -> Listener | None:
        """The first one that this Postfix can reach: each of several instances has a queue folder of its own."""
        return next((one for one in listeners if self._reaches(one)), listeners[0] if listeners else None)

    def _reaches(self, listener: Listener) -> bool:
        inside = listener.kind != "unix" or Path(listener.path).is_relative_to(self.postfix.queue_directory)
        return inside or not self.postfix.chrooted

    def endpoint(self, listener: Listener) -> str:
        """A listener as Postfix writes it: below the queue folder relative to it, which works chrooted and not."""
        if listener.kind != "unix":
            host = f"[{listener.host}]" if ":" in listener.host else listener.host
            return f"inet:{host}:{listener.port}"
        path, queue = Path(listener.path), self.postfix.queue_directory
        return f"unix:{path.relative_to(queue) if path.is_relative_to(queue) else path}"

    def unreachable(self) -> list[str]:
        """Sockets that a chrooted service cannot connect to."""
        chosen = self.listener(self.settings.daemon.socketmap), self.listener(self.settings.daemon.policy)
        return [one.path for one in chosen if one is not None and not self._reaches(one)]

    def live(self, name: str) -> list[str]:
        """The guarded live map, as entries of a parameter."""
        socket = f"{self.socket}:{name}"
        if self.sqlite:
            return [f"pipemap:{{{self._sqlite('domains', _GUARD)}, {socket}}}"]
        if name == "transport":
            pattern = f"!/@({self._ours(domain_rows(self.settings))})$/ :\n"
            why = "without sqlite: what is not ours never reaches the daemon"
            return [f"regexp:{self._file('not-ours.regexp', pattern, why)}", socket]
        pattern = f"/^(.+@({self._ours(domain_rows(self.settings))}))$/ $1\n"
        return [f"pipemap:{{regexp:{self._file('domains.regexp', pattern, 'the key back, if it is ours')}, {socket}}}"]

    def live_through(self, name: str, file: str, patterns: str, why: str) -> str:
        """The guarded live map whose answers then pass a regexp table; what matches nothing there is not found."""
        inner = f"{self._sqlite('domains', _GUARD)}, {self.socket}:{name}, regexp:{self._file(file, patterns, why)}"
        return f"pipemap:{{{inner}}}"

    def problems(self, own_routes: Sequence[str]) -> list[str]:
        """Why no guard can be made here. own_routes: the site's own transport_maps."""
        if not self.postfix.has("socketmap"):
            return ["this Postfix has no socketmap tables: deploy static"]
        if not self.postfix.has("pipemap"):
            return ["this Postfix has no pipemap tables, which the guard needs: deploy static"]
        if self.sqlite:
            return []
        if len(domain_rows(self.settings)) > REGEXP_LIMIT:
            return [f"more than {REGEXP_LIMIT} domains need sqlite tables: install postfix-sqlite"]
        hidden = []
        for table in own_routes:
            keys = self.postfix.keys(table)
            if keys is None:
                hidden.append(f"the unreadable {table}")
            else:
                hidden += [f"{key} in {table}" for key in keys if "@" not in key][:3]
        if hidden:
            return [
                "without sqlite tables the guard of transport_maps would hide the site's own domain, parent and * "
                f"entries ({', '.join(hidden)}): install postfix-sqlite"
            ]
        return []

    def policy_table(self, answer: str) -> str:
        """The table that selects a restriction class for recipients of ours: `splitmx` or `splitmx_outsider`."""
        if self.sqlite:
            if answer == "splitmx":
                return self._sqlite("policy", _POLICY)
            return self._sqlite("outsider", f"SELECT '{answer}' {_FROM_DOMAIN} LIMIT 1")
        enabled = domain_rows(self.settings)
        watched = policy_rows(self.settings) - enabled
        lines = f"/@({self._ours(enabled)})$/ {answer}\n"
        if watched and answer == "splitmx":
            lines += f"/@({self._ours(watched)})$/ splitmx_observe\n"
        name = answer.replace("splitmx", "policy")
        return f"regexp:{self._file(f'{name}.regexp', lines, 'whose recipients meet the policy service')}"

    def others(self) -> str:
        """A table that knows every address that is not ours: for a recipient parameter that was empty."""
        if self.sqlite:
            query = f"SELECT 'OK' WHERE NOT EXISTS (SELECT 1 {_FROM_DOMAIN})"
            return self._sqlite("others", query)
        pattern = f"!/@({self._ours(domain_rows(self.settings))})$/ OK\n"
        return f"regexp:{self._file('others.regexp', pattern, 'addresses of other domains stay accepted')}"

    def relay_domains(self, whole: Iterable[Domain], below: Iterable[Domain]) -> str:
        """Exact patterns for some domains, and for what is below others."""
        lines = []
        for domain in whole:
            start = "^" if domain.subdomains == "exact" else r"(^|\.)"
            lines += [f"/{start}{re.escape(name)}$/ ours" for name in spellings(domain.name)]
        for domain in below:
            lines += [rf"/\.{re.escape(name)}$/ ours" for name in spellings(domain.name)]
        path = self._file("relay-domains.regexp", "".join(f"{line}\n" for line in lines), "exact names")
        return f"regexp:{path}"

    def _ours(self, rows: Iterable[tuple[str, int]]) -> str:
        return "|".join((r"(.*\.)?" if sub else "") + re.escape(name) for name, sub in sorted(rows))

    def _sqlite(self, name: str, query: str) -> str:
        content = f"dbpath = {self.maps}/{TABLE}\nquery = {query}\n"
        return f"sqlite:{self._file(f'{name}.cf', content, 'names of ours, asked without the daemon')}"

    def _file(self, name: str, content: str, why: str) -> Path:
        path = self.postfix.directory / f"splitmx-{name}"
        self._files[name] = PlanFile(path, content, why)
        return path


# sqlite_table(5): %d is the key's domain, quoted; a key without one is not asked at all; %% is a percent sign.
_MATCH = "name = '%d' OR (sub = 1 AND '%d' LIKE '%%.' || name)"
_FROM_DOMAIN = f"FROM domain WHERE {_MATCH}"
_GUARD = f"SELECT '%s' {_FROM_DOMAIN} LIMIT 1"
_POLICY = (
    f"SELECT CASE WHEN EXISTS (SELECT 1 {_FROM_DOMAIN}) THEN 'splitmx' ELSE 'splitmx_observe' END "  # noqa: S608  for sqlite_table(5), which quotes %d itself
    f"FROM policy WHERE {_MATCH} LIMIT 1"
)
