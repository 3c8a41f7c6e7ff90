# SPDX-License-Identifier: Apache-2.0
"""`splitmx build`: all static maps, from the index, in one pass; also called by the daemon for `[static]`.

A file changes only when its text did, and is replaced by one rename; whatever fails (a full disk, a missing
postmap) leaves the old files as they are. The guard `domains.sqlite` is written first, `relay_domains` last, so
that mail for a new domain is never taken before everything else knows it.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from transport.config.settings import Settings, Unknown
from transport.index.reader import Reader
from transport.maps import guard, postmap, shrink, stamps, static_only
from transport.maps.leaving import leave
from transport.maps.population import MAPS, Population
from transport.maps.report import BuildReport, MapReport
from transport.maps.snapshot import Snapshot, never_read
from transport.maps.write import (
    HEADER,
    BuildError,
    BuildRefusedError,
    Text,
    alone_in,
    cut_short,
    first_words,
    give_to_owner,
    installing,
    is_old,
    is_ours,
)

ORDER = (
    "shadow_transport",
    "shadow_generic",
    "tls_policy",
    "peers_access",
    "transport",
    "virtual_alias",
    "recipient_bcc",
    "relay_recipients",
    "relay_domains",
)
"""Maps in the order in which they are put in place: a recipient is routed before it is accepted."""

_SHOWN = 20  # lines of differences that --check prints a map

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much of it is done, how much there is)."""


def is_alone(settings: Settings) -> bool:
    """Whether no live map stands behind the files: none is served."""
    return not settings.daemon.socketmap


def refusals(settings: Settings, *, alone: bool) -> list[str]:
    """Why static files cannot serve this configuration; empty when they can.

    Files hold listed addresses only, so whatever is decided for unlisted ones needs a live map behind them.
    """
    if not alone:
        return []
    reasons = []
    for domain in settings.domains.values():
        if domain.enabled != "yes":
            continue
        source = domain
        while source.alias_of and source.alias_of in settings.domains:
            source = settings.domains[source.alias_of]
        if source.unknown is not Unknown.REJECT:
            reasons.append(
                f'[domains."{domain.name}"] unknown = "{source.unknown.value}": static files can only reject'
            )
        if domain.subdomains != "exact":
            reasons.append(f'[domains."{domain.name}"] subdomains = "{domain.subdomains}" needs a live map')
    return reasons


def build(
    settings: Settings,
    reader: Reader,
    output: Path,
    types: Sequence[str] = (),
    *,
    check: bool = False,
    accept: bool = False,
    alone: bool | None = None,
    now: float | None = None,
    spf: Mapping[str, Sequence[str]] | None = None,
    reload: Callable[[], bool] | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Write every static map for Postfix into `output`.

    reader: the index, with the settings' fingerprints and entries in use. types: of indexed files; empty: what
    `postconf default_database_type` names. check: change nothing, tell the differences. accept: write a shrunken
    result too. alone: no live map stands behind the files (None: as the settings say). spf: networks of the peers'
    `spf:` names. reload: is called after `domains.sqlite` was replaced; True when Postfix was reloaded.

    Raises BuildError (old files stay), and BuildRefusedError, a BuildError, where files cannot serve the configuration.
    """
    begun = time.monotonic()
    alone = is_alone(settings) if alone is None else alone
    reasons = refusals(settings, alone=alone)
    if reasons:
        raise BuildRefusedError(
            "; ".join(reasons),
            "serve the maps live behind the files (daemon.socketmap, or build --behind-live), or choose reject",
        )
    for path in strangers(output):
        raise BuildRefusedError(
            f"{path} was not written by splitmx, and would be lost",
            "[static] directory, or --output, needs a folder of its own",
        )
    types = tuple(types) or postmap.default_types()
    postmap.check_types(types)
    report = BuildReport(output)
    report.unread = _unread(settings, reader, alone=alone)
    run = _Run(settings, reader, output, types, report, alone=alone, check=check, accept=accept)
    try:
        if check:
            with tempfile.TemporaryDirectory(prefix="splitmx-build-") as aside:
                run.go(Path(aside), time.time() if now is None else now, spf or {}, None, progress)
        else:
            if not output.exists():
                output.mkdir(parents=True)
                give_to_owner(output)
            with alone_in(output):
                run.go(output, time.time() if now is None else now, spf or {}, reload, progress)
    except sqlite3.Error as fault:
        raise BuildError(f"{output / guard.NAME}: {fault}", "the old files stay") from fault
    except OSError as fault:
        place = fault.filename or output
        raise BuildError(f"{place}: {fault.strerror or fault}", "the old files stay") from fault
    report.seconds = time.monotonic() - begun
    return report


def strangers(output: Path) -> list[Path]:
    """Files of somebody else under the names of ours: /etc/postfix may well have a `transport`, for one."""
    if (output / shrink.NOTES).exists() or cut_short(output, "postfix"):
        return []  # a build of ours was here
    paths = [output / name for name in ORDER]
    return [path for path in paths if path.exists() and path.stat().st_size and not is_ours(path)]


def _unread(settings: Settings, reader: Reader, *, alone: bool) -> list[str]:
    """Directories of enabled domains without a listing. Raises BuildError when nothing useful can be written."""
    unread, all_of_them = never_read(settings, reader)
    if unread and (alone or all_of_them):
        why = reader.reason or "not listed yet"
        raise BuildError(
            f"directory {', '.join(unread)} was never read ({why})", "the old files stay; see splitmx status and check"
        )
    return unread


class _Run:
    """One build."""

    def __init__(
        self,
        settings: Settings,
        reader: Reader,
        output: Path,
        types: Sequence[str],
        report: BuildReport,
        *,
        alone: bool,
        check: bool,
        accept: bool,
    ) -> None:
        self.settings = settings
        self.reader = reader
        self.output = output
        self.types = tuple(types)
        self.report = report
        self.alone = alone
        self.check = check
        self.accept = accept
        self.cut_short = cut_short(output, "postfix")
        self.left = stamps.noted(output)  # files as the last build left them
        self.texts: dict[str, Text] = {}
        self.jobs: list[postmap.Job] = []

    def go(
        self,
        aside: Path,
        now: float,
        spf: Mapping[str, Sequence[str]],
        reload: Callable[[], bool] | None,
        progress: Progress | None,
    ) -> None:
        """Everything in order; what is unfinished at an error is removed."""
        tell = progress or (lambda what, done, total: None)
        try:
            # first: mail for a domain that only relay_domains knows is taken, and bounced
            left = not self.check and leave(self.settings, self.output, self.types)
            held_domains = self._guard(reload)
            self.report.reload |= left and not self.report.guard_changed
            self._write_texts(aside, now, spf, held_domains, tell)
            if not self.accept:
                before = shrink.last(self.output)
                self.report.held = shrink.held(self.settings, before, self.report.survey.listed)
            self._finish(tell)
            if not self.check:
                self._install()
                if self.report.reload and reload is not None and reload():
                    self.report.reload = False
        finally:
            for job in self.jobs:
                job.drop()
            for text in self.texts.values():
                text.drop()

    def _guard(self, reload: Callable[[], bool] | None) -> Collection[str]:
        """Write `domains.sqlite`; returns domains that may not enter `relay_domains` yet."""
        path = self.output / guard.NAME
        existed = path.exists()
        changed, new = guard.write(self.settings, path, check=self.check)
        self.report.guard_changed = changed
        if not changed or self.check:
            return ()
        self.report.reload = existed
        if existed and reload is not None and reload():
            self.report.reload = False
            return ()
        if not existed or static_only.relay_domains_type(self.settings, self.types) == static_only.REGEXP:
            # a process that reads the new regexp has just been started, and opened the new guard too
            return ()
        # where the old table was damaged everything is new to it, and yet Postfix takes mail for it already
        known = first_words(self.output / "relay_domains")
        waiting = {name for name, _ in new if name in self.settings.domains and name not in known}
        self.report.waiting = sorted(waiting)
        return waiting

    # texts

    def _write_texts(
        self,
        aside: Path,
        now: float,
        spf: Mapping[str, Sequence[str]],
        without: Collection[str],
        tell: Progress,
    ) -> None:
        for name in ORDER:
            self.texts[name] = Text(self.output / name, aside=aside)
            self.texts[name].write(HEADER)
        settings = self.settings
        kind = static_only.relay_domains_type(settings, self.types)
        few: dict[str, Iterable[str]] = {
            "relay_domains": static_only.relay_domains(settings, kind, without),
            "tls_policy": static_only.tls_policy(settings),
            "shadow_transport": static_only.shadow_transport(settings),
            "shadow_generic": static_only.shadow_generic(settings),
            "peers_access": static_only.peers_access(settings, spf),
        }
        lines: dict[str, int] = {}
        for name, found in few.items():
            rows = list(dict.fromkeys(found))
            lines[name] = len(rows)
            self.texts[name].write("".join(f"{row}\n" for row in rows))
        total = sum(self.reader.counts().values())
        done = 0

        def step(number: int) -> None:
            nonlocal done
            done += number
            tell("deciding", done, max(total, done))

        snapshot = Snapshot(settings, self.reader, now)
        population = Population(settings, snapshot, now, alone=self.alone, progress=step)
        try:
            self.report.survey = population.write({name: self.texts[name] for name in MAPS})
        finally:
            snapshot.close()
        lines.update(self.report.survey.lines)
        for name in ORDER:
            types = {"relay_domains": (kind,), "peers_access": (static_only.CIDR,)}.get(name, self.types)
            if name.startswith("shadow_"):
                types = (static_only.REGEXP,)
            self.report.maps.append(MapReport(name, self.output / name, tuple(types), lines=lines.get(name, 0)))

    # indexed files

    def _held(self, entry: MapReport) -> bool:
        return bool(self.report.held) and entry.name in MAPS

    def _finish(self, tell: Progress) -> None:
        """Complete each text, see whether it changed, and run postmap on it while the next one is completed.

        As many at once as there are cores; the longest first, so that they end together.
        """
        cores = os.cpu_count() or 1
        ended = 0
        for number, entry in enumerate(sorted(self.report.maps, key=lambda entry: -entry.lines)):
            self.texts[entry.name].finish()
            self._compare(entry)
            if not entry.changed or self.check or self._held(entry):
                continue
            for kind in entry.types:
                if postmap.ENDINGS.get(kind):
                    if len(self.jobs) - ended >= cores:
                        self._ended(self.jobs[ended])
                        ended += 1
                    self.jobs.append(postmap.start(kind, entry.path, self.texts[entry.name].new))
            tell("indexing", number, len(self.report.maps))
        for job in self.jobs[ended:]:
            self._ended(job)
        tell("indexing", len(self.report.maps), len(self.report.maps))

    def _compare(self, entry: MapReport) -> None:
        text = self.texts[entry.name]
        entry.changed = text.changed() or self.cut_short
        if entry.changed and self.check:
            entry.removed, entry.added, entry.differences = text.differences(_SHOWN)
        for kind in entry.types:
            index = postmap.index_path(entry.path, kind)
            if not postmap.ENDINGS.get(kind) or entry.changed:
                continue
            fault = "is missing" if not index.exists() else "is older than its text" if is_old(index) else ""
            if not fault and stamps.stamp(index) != self.left.get(index.name):
                fault = "is not what was built"
            if fault:
                entry.changed = True
                entry.differences.append(f"{index} {fault}")

    def _ended(self, job: postmap.Job) -> None:
        self.report.warnings.extend(job.wait()[:5])

    def _install(self) -> None:
        due = [entry for entry in self.report.maps if not self._held(entry)]
        if any(entry.changed for entry in due):
            with installing(self.output, "postfix", complete=len(due) == len(self.report.maps)):
                for entry in due:
                    self._put_in_place(entry)
                stamps.note(self.output, (path for entry in due for path in entry.files))
        for entry in due:
            for path in postmap.other_indexes(entry.path, entry.types):
                self.report.warnings.append(f"{path} is of a type that is not built any more, and stays as it is")
        if not self.report.held:
            shrink.note(self.output, self.report.survey.listed)

    def _put_in_place(self, entry: MapReport) -> None:
        existed = entry.path.exists()
        for job in self.jobs:
            if job.name == entry.name:
                job.install()
                entry.written = True
        if entry.changed:
            # last: a build that was cut short finds the old text, and does it all again
            self.texts[entry.name].install()
            entry.written = True
            if existed and any(not postmap.ENDINGS.get(kind) for kind in entry.types):
                self.report.reload = True
