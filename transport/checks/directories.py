# SPDX-License-Identifier: Apache-2.0
"""Tries every directory: reads it whole into an index of its own, asks it live, lets a database explain its plan."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from transport.checks.finding import Finding, error, note, warning
from transport.config.secrets import without_password
from transport.config.settings import Directory, FileOptions, LdapOptions, Settings, SqlOptions
from transport.directories import open_source
from transport.directories.base import DirectoryError, DirectoryTimeout, Source
from transport.index.reader import Reader
from transport.index.writer import Writer
from transport.sync.compare import compare

ROUNDS = 5
"""Live look-ups that are timed; the median counts."""

STRANGER = "no-such-recipient-{0}"
Progress = Callable[[str, int], None]


@dataclass(slots=True)
class DirectoryResult:
    """What became of one directory. Durations are seconds; live None: it is not asked live, or could not be.

    skipped_first: up to 20 (what, why) of what is not used. plan: the database's own words, a line each.
    """

    name: str
    type: str
    where: str
    reached: bool = False
    recipients: int = 0
    took: float = 0.0
    skipped: int = 0
    skipped_first: tuple[tuple[str, str], ...] = ()
    live: float | None = None
    deadline: float = 0.0
    server: str = ""
    content_age: float | None = None
    plan: tuple[str, ...] = ()
    findings: list[Finding] = field(default_factory=list)


@contextmanager
def read_all(settings: Settings, progress: Progress | None = None) -> Iterator[tuple[list[DirectoryResult], Reader]]:
    """Read every directory into a temporary index, which stands as long as the context.

    progress: called with the directory's name and the number of records read so far. Never raises for a directory.
    """
    with TemporaryDirectory(prefix="splitmx-check-") as folder:
        state = Path(folder)
        writer = Writer(state)
        reader = Reader(state)
        try:
            results = [_directory(settings, directory, writer, progress) for directory in settings.directories.values()]
            reader.use({name: directory.fingerprint for name, directory in settings.directories.items()})
            reader.renew()
            for result in results:
                _finish(settings, settings.directories[result.name], result, reader)
            yield results, reader
        finally:
            reader.close()
            writer.close()


def where(directory: Directory) -> str:
    """What a directory is connected to, without any password."""
    match directory.options:
        case SqlOptions(url=url):
            return without_password(url).partition("?")[0]
        case LdapOptions(url=urls, base=base):
            return f"{', '.join(urls)} {base}"
        case FileOptions(path=path, format=form):
            return f"{path} ({form})"


def _directory(settings: Settings, directory: Directory, writer: Writer, progress: Progress | None) -> DirectoryResult:
    result = DirectoryResult(directory.name, directory.type, where(directory), deadline=directory.deadline)
    try:
        source = open_source(directory)
    except DirectoryError as fault:
        result.findings.append(error(f"directory {directory.name}: {fault.what}", fault.hint))
        return result
    try:
        tell = (lambda count: progress(directory.name, count)) if progress else None
        report = compare(writer, directory, source, settings, progress=tell)
    finally:
        source.close()
    result.took = report.listing or report.duration
    if report.error:
        result.findings.append(error(f"directory {directory.name}: {report.error}", report.hint))
        return result
    for part in report.unread:
        result.findings.append(
            error(f"directory {directory.name}: {part.domain} could not be read: {part.why}", part.hint)
        )
    result.reached, result.recipients = True, report.rows
    result.skipped, result.server = report.skipped, report.server
    if report.content_time is not None:
        result.content_age = max(0.0, time.time() - report.content_time)
    return result


def _finish(settings: Settings, directory: Directory, result: DirectoryResult, reader: Reader) -> None:
    """What can be judged once everything is read."""
    name, add = directory.name, result.findings.append
    if not directory.domains:
        add(note(f"directory {name} is used by no domain"))
    if not result.reached:
        return
    result.skipped_first = reader.skipped(name)[:20]
    if result.skipped:
        what, why = result.skipped_first[0] if result.skipped_first else ("", "")
        example = f", for example {what!r}: {why}" if what else ""
        add(note(f"directory {name}: {result.skipped} entries are not used{example}", "`--json` lists the first 20"))
    if not result.recipients and not directory.may_be_empty:
        add(
            warning(
                f"directory {name} is empty, which is not believed",
                f"set may_be_empty = true in [directories.{name}] if that is right; else look at its query, "
                "filter or rights",
            )
        )
    if result.content_age is not None and directory.max_age and result.content_age > directory.max_age:
        add(
            warning(
                f"directory {name}: its content is {_days(result.content_age)} old, more than max_age: "
                'its "no" does not count',
                "export it again",
            )
        )
    if directory.live:
        _live(directory, result, _listed(directory, reader))


def _listed(directory: Directory, reader: Reader) -> list[tuple[str, str]]:
    """Two addresses that it lists; chosen as canaries are."""
    return [(canary.local, canary.domain) for canary in reader.canaries(directory.name)[:2]]


def _live(directory: Directory, result: DirectoryResult, listed: Sequence[tuple[str, str]]) -> None:
    """Ask for who is listed and for strangers, as the keeper does, and time it."""
    name, add = directory.name, result.findings.append
    domain = listed[0][1] if listed else (directory.domains or ("example.com",))[0]
    source: Source | None = None
    durations = []
    try:
        source = open_source(directory)
        for number in range(ROUNDS + 1):
            asked = [*listed, (STRANGER.format(number), domain)]
            start = time.monotonic()
            found = source.ask(asked, directory.deadline)
            durations.append(time.monotonic() - start)
        missing = {*listed} - {(record.local, record.domain) for record in found.records}
        if missing:
            local, of = sorted(missing)[0]
            add(
                error(
                    f"directory {name} lists {local}@{of}, but does not find it when asked for it",
                    "look at `lookup`, at exact_case, or at the rights of a live look-up",
                )
            )
        result.live = statistics.median(durations[1:])  # the first one connects
        if result.live > directory.deadline / 4:
            add(
                error(
                    f"directory {name}: a live look-up takes {_ms(result.live)}, more than a quarter of its "
                    f"deadline {_ms(directory.deadline)}",
                    "see the plan below; it needs an index, or a `lookup` of its own",
                )
            )
    except DirectoryTimeout:
        add(
            error(
                f"directory {name}: a live look-up does not end within its deadline {_ms(directory.deadline)}",
                "new recipients would wait with a temporary failure; it needs an index, or a `lookup` of its own",
            )
        )
    except DirectoryError as fault:
        add(error(f"directory {name} cannot be asked live: {fault.what}", fault.hint))
    if source is not None:
        _explain(directory, source, result)
        source.close()


def _explain(directory: Directory, source: Source, result: DirectoryResult) -> None:
    """The database's plan of the live query, and the index that cures a full scan."""
    if not isinstance(directory.options, SqlOptions):
        return
    from transport.directories.sql import SqlSource

    if not isinstance(source, SqlSource):
        return
    try:
        explained = source.explain_live()
    except DirectoryError as fault:
        result.findings.append(note(f"directory {directory.name}: the database explains no plan: {fault.what}"))
        return
    result.plan = explained.plan
    if not explained.ok:
        read = ", ".join(f"{table} ({_rows(rows)})" for table, rows in explained.scans.items())
        result.findings.append(
            warning(f"directory {directory.name}: a live look-up reads whole tables: {read}", explained.cure)
        )
    elif explained.small:
        read = ", ".join(f"{table} ({_rows(rows)})" for table, rows in explained.small.items())
        result.findings.append(
            note(
                f"directory {directory.name}: a live look-up reads whole tables, no matter while they are small: "
                f"{read}",
                explained.cure,
            )
        )


def _rows(count: int) -> str:
    """A number of rows; beyond MANY a database without estimates is not counted to its end."""
    from transport.directories.sql_explain import MANY

    return f"more than {MANY:,} rows" if count == MANY + 1 else f"{count:,} rows"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.0f} s"


def _days(seconds: float) -> str:
    return f"{seconds / 86400:.1f} days" if seconds > 86400 else f"{seconds / 3600:.1f} hours"
