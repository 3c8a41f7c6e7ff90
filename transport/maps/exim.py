# SPDX-License-Identifier: Apache-2.0
"""Static files for Exim: one map from each listed address to the very reply the daemon would give for it.

The routers are the same for both: only where their answer comes from differs (`transport.mta.exim_plan`). A reply in
a file is read for extended addresses too, so it names the recipient on the wire only where the extension is to go.
A last line for each domain says that the domain is there as a whole: without it nobody counts as unlisted. A domain
that is switched off or observed has one line, for everybody: it passes.

Files in the output folder: `exim_recipients` (lsearch text, sorted) and `exim_recipients.cdb`, and
`exim_splitmx_*.cdb` for lists of domains that are too long for the configuration.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from transport import exim_answer
from transport.address import Address, external, parse
from transport.answerer import Answerer
from transport.client import Client, Rule
from transport.config.settings import Domain, Settings, Unknown
from transport.decision import Verdict
from transport.directories.reading import spellings
from transport.index.reader import Reader
from transport.maps import cdb, shrink, stamps
from transport.maps.exim_lookups import LAST, RECIPIENTS
from transport.maps.population import Survey
from transport.maps.report import BuildReport, MapReport
from transport.maps.snapshot import Situation, Snapshot, never_read
from transport.maps.stand_in import STAND_IN, StandIn
from transport.maps.write import BuildError, BuildRefusedError, Text, alone_in, cut_short, installing
from transport.mta import exim_plan
from transport.names import CHUNK_SUFFIX
from transport.record import Kind

_USUAL = re.compile(r"[a-z0-9_=-]+(?:\.[a-z0-9_=-]+)*")
_PLAIN_KEY = re.compile(r"[^\s:\"\\#][^\s:\"\\]*")
_ONE_WORD = re.compile(r"[!-~]+")


def refusals(settings: Settings) -> list[str]:
    """Why files alone cannot serve this configuration; empty when they can."""
    reasons = []
    for domain in settings.domains.values():
        if domain.enabled != "yes":
            continue
        source = _source(settings, domain)
        head = f'[domains."{domain.name}"]'
        if source.unknown is not Unknown.REJECT:
            reasons.append(f'{head} unknown = "{source.unknown.value}": static files can only reject')
        if domain.subdomains != "exact":
            reasons.append(f'{head} subdomains = "{domain.subdomains}" needs the daemon')
        if domain.role == "secondary":
            reasons.append(f'{head} role = "secondary": files know no clients, so that loops would not end')
    return reasons


def reply_line(pairs: dict[str, str]) -> str:
    """The reply as the daemon sends it; "" for what must not stand in one."""
    words = []
    for key, value in pairs.items():
        if re.search('[$\\\\"\x00-\x1f\x7f]', value):
            return ""
        words.append(f"{key}={value}" if _ONE_WORD.fullmatch(value) else f'{key}="{value}"')
    return " ".join(words)


class Replies:
    """Every listed address with its reply, as lines of an lsearch file."""

    def __init__(self, settings: Settings, snapshot: Snapshot, now: float, *, alone: bool = False) -> None:
        """alone: no daemon can be asked about who is listed and cannot be decided; the file puts them off."""
        self._alone = alone
        self._settings = settings
        self._snapshot = snapshot
        self._now = now
        self._faces = Answerer(settings, snapshot)
        self._stand_in = StandIn(snapshot)
        self._for_all = Answerer(settings, self._stand_in)
        self._chunks: dict[str, None] = {}
        self.survey = Survey()

    def lines(self) -> Iterator[str]:
        """In no order; the chunks of large groups last."""
        for name in sorted(self._settings.domains):
            domain = self._settings.domains[name]
            if domain.enabled == "yes":
                yield from self._domain(domain)
            else:  # Exim may not know yet that it was switched off: as without us, which the daemon says too
                yield from (_line(f"*@{label}", "decision=pass") for label in exim_plan.names_of(name))
        for destination in self._settings.destinations.values():
            if destination.envelope:
                pairs = {"decision": "relay", "destination": destination.name}
                if destination.bounce == "postmaster":
                    pairs["bounce"] = "postmaster"  # the sender stays on the wire
                pairs |= {**exim_answer.route(destination), "verify": "no"}
                for name in exim_plan.names_of(destination.envelope):
                    yield _line(f"*@{name}", reply_line(pairs))
        for text in self._chunks:
            address = parse(text)
            if address is not None:
                outcome = self._faces.exim({"recipient": text}, self._now)
                yield _line(text, reply_line(dict(outcome.pairs)))
        for domain in self._settings.domains.values():
            if domain.enabled == "yes":
                yield from (f"{LAST}{name}: whole\n" for name in exim_plan.names_of(domain.name))

    def _domain(self, domain: Domain) -> Iterator[str]:
        source = _source(self._settings, domain)
        names = exim_plan.names_of(domain.name)
        special = self._special(source)
        unseen = special | {"postmaster", "abuse"}
        known: dict[Situation, str | None] = {}
        for run in self._snapshot.everyone(source.name):
            for situation, locals_ in run.items():
                unseen = unseen.difference(locals_)
                shared = not any(row.targets or row.kind is not Kind.MAILBOX for row in situation)
                if shared and situation not in known:
                    known[situation] = self._shared(domain, situation)
                template = known.get(situation) if shared else None
                for local in locals_:
                    if template is None or local in special or not _USUAL.fullmatch(local):
                        yield from self._one(domain, names, local)
                        continue
                    self.survey.listed[domain.name] += 1
                    for name in names:
                        yield f"{local}@{name}: {template.replace(STAND_IN, local)}\n"
                        if "ss" in local:
                            yield f"{local.replace('ss', 'ß')}@{name}: {template.replace(STAND_IN, local)}\n"
        for local in sorted(unseen):
            yield from self._one(domain, names, local)

    def _special(self, domain: Domain) -> frozenset[str]:
        """Local parts that a wave of this domain may cover."""
        found: set[str] = set()
        for wave in self._settings.waves:
            for text in wave.addresses if wave.domain == domain.name else ():
                address = parse(text)
                if address is None:
                    continue
                found.add(address.local)
                for row in self._snapshot.rows(address.domain, address.local):
                    if row.entry is not None:
                        others = self._snapshot.same_entry(row.directory, row.entry)
                        found.update(local for local, name in others if name == domain.name)
        return frozenset(found)

    def _shared(self, domain: Domain, situation: Situation) -> str | None:
        """The reply for everybody in one situation, with the stand-in where a local part belongs; None when each has
        to be asked by itself."""
        self._stand_in.situation = situation
        return self._reply(self._for_all, Address(STAND_IN, domain.name, STAND_IN)) or None

    def _reply(self, faces: Answerer, address: Address) -> str:
        outcome = faces.judged(address, Client(), self._now)
        decision, judgement = outcome.decision, outcome.judgement
        if decision is None or judgement is None or outcome.ask:
            return ""
        if decision.verdict in (Verdict.TEMP, Verdict.ASK, Verdict.PASS):
            return ""
        if decision.verdict is not Verdict.UNKNOWN and not (decision.listed or decision.here):
            return ""
        if decision.verdict is Verdict.UNKNOWN and not decision.listed:
            return ""
        self.survey.note(decision)
        pairs = exim_answer.refusal(judgement) or exim_answer.pairs_of(faces, address, decision, self._now)
        if judgement.rule is Rule.VERIFY:
            pairs["verify"] = "yes"
        if "relay" in (pairs["decision"], pairs.get("self")):
            destination = self._settings.destinations[pairs["destination"]]
            if destination.plus_strip and not pairs.keys() & {"address", "address64"}:
                verify = pairs.pop("verify")
                pairs |= {"address64": exim_answer.base64(external(address.local, address.domain)), "verify": verify}
            elif not destination.plus_strip:
                for key in ("address", "address64"):
                    pairs.pop(key, None)
                if destination.envelope:
                    pairs = {"decision": pairs.pop("decision"), "envelope": destination.envelope, **pairs}
        if decision.verdict is Verdict.EXPAND:
            self._chunks.update(
                dict.fromkeys(t for t in pairs.get("targets", "").split(",") if t.endswith(CHUNK_SUFFIX))
            )
        return reply_line(pairs)

    def _one(self, domain: Domain, names: Sequence[str], local: str) -> Iterator[str]:
        address = Address(local, domain.name, local)
        outcome = self._faces.judged(address, Client(), self._now)
        text = external(local, domain.name)
        decision = outcome.decision
        if decision is None or decision.verdict in (Verdict.TEMP, Verdict.ASK):
            if decision is not None and (decision.listed or self._listed(domain, local)):
                self.survey.note(decision)
                self.survey.leave_out(text, decision.reason)
                if self._alone and local != "*":
                    yield from self._lines_of(local, names, "decision=temp")
            return
        reply = self._reply(self._faces, address)
        if not reply:
            return
        if local == "*":
            self.survey.leave_out(text, "Exim would find it for everybody in the domain; only the daemon can answer")
            return
        self.survey.listed[domain.name] += 1
        yield from self._lines_of(local, names, reply)

    def _lines_of(self, local: str, names: Sequence[str], reply: str) -> Iterator[str]:
        return (_line(f"{spelling}@{name}", reply) for name in names for spelling in _spellings(local))

    def _listed(self, domain: Domain, local: str) -> bool:
        return bool(self._snapshot.rows(_source(self._settings, domain).name, local))


def _source(settings: Settings, domain: Domain) -> Domain:
    """The domain whose rows decide: the end of a chain of `alias_of`."""
    seen = {domain.name}
    while domain.alias_of and domain.alias_of not in seen and domain.alias_of in settings.domains:
        seen.add(domain.alias_of)
        domain = settings.domains[domain.alias_of]
    return domain


def _spellings(local: str) -> Sequence[str]:
    """A folded local part as Exim may look it up: it folds ASCII only."""
    if local.isascii() and "ss" not in local:
        return (local,)
    found = {local: None}
    for text in spellings(local, "", upper=True):
        word = text[:-1]
        if not word.startswith('"'):
            found["".join(c.lower() if c.isascii() else c for c in word)] = None
    return tuple(found)


def _line(key: str, reply: str) -> str:
    """`key: value`; a key with blanks, colons or quotes stands in quotes (Exim's specification, lsearch)."""
    if not reply:
        return ""
    if not _PLAIN_KEY.fullmatch(key):
        key = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{key}: {reply}\n"


def _rows(text: Path) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of an lsearch file that `Replies` wrote."""
    with text.open("rb") as file:
        for line in file:
            if line.startswith(b"#"):
                continue
            if line.startswith(b'"'):
                end = re.match(rb'"((?:[^"\\]|\\.)*)": ', line)
                if end is None:
                    continue
                yield re.sub(rb"\\(.)", rb"\1", end[1]), line[end.end() : -1]
            else:
                key, _, value = line[:-1].partition(b": ")
                yield key, value


def build_exim(
    settings: Settings,
    reader: Reader,
    output: Path,
    types: Sequence[str] = (),
    *,
    check: bool = False,
    accept: bool = False,
    alone: bool | None = None,
    now: float | None = None,
) -> BuildReport:
    """Write the files for Exim into `output`.

    types: "cdb" or "lsearch"; cdb when empty. check: change nothing, tell the differences. accept: write a shrunken
    result too. alone: no daemon stands behind the files (None: as the settings say).

    Raises BuildError (the old files stay), and BuildRefusedError, a BuildError, where files cannot serve the
    configuration.
    """
    begun = time.monotonic()
    alone = not settings.daemon.exim if alone is None else alone
    reasons = refusals(settings) if alone else []
    if reasons:
        raise BuildRefusedError("; ".join(reasons), "let the daemon answer behind the files (daemon.exim)")
    unknown = [kind for kind in types if kind not in ("cdb", "lsearch")]
    if unknown:
        raise BuildError(f"type {', '.join(unknown)}: Exim's files are cdb or lsearch")
    report = BuildReport(output)
    report.unread, all_of_them = never_read(settings, reader)
    if report.unread and (alone or all_of_them):
        raise BuildError(
            f"directory {', '.join(report.unread)} was never read ({reader.reason or 'not listed yet'})",
            "the old files stay; see splitmx status and check",
        )
    try:
        moment = time.time() if now is None else now
        if check:
            _build(settings, reader, report, check, accept, moment, alone)
        else:
            output.mkdir(parents=True, exist_ok=True)
            with alone_in(output):
                _build(settings, reader, report, check, accept, moment, alone)
    except OSError as fault:
        place = fault.filename or output
        raise BuildError(f"{place}: {fault.strerror or fault}", "the old files stay") from fault
    report.seconds = time.monotonic() - begun
    return report


def _build(
    settings: Settings, reader: Reader, report: BuildReport, check: bool, accept: bool, now: float, alone: bool
) -> None:
    output = report.output
    replies = Replies(settings, Snapshot(settings, reader, now), now, alone=alone)
    import tempfile

    with tempfile.TemporaryDirectory(prefix=".splitmx-exim-", dir=output if not check else None) as aside:
        text = Text(output / RECIPIENTS, aside=Path(aside))
        try:
            text.write("# written by splitmx; changes made here are lost at the next build\n")
            lines = 0
            for line in replies.lines():
                text.write(line)
                lines += 1
            text.finish()
            report.survey = replies.survey
            entry = MapReport(RECIPIENTS, output / RECIPIENTS, ("lsearch", "cdb"), lines=lines)
            report.maps.append(entry)
            index = output / f"{RECIPIENTS}.cdb"
            entry.changed = (
                text.changed()
                or stamps.stamp(index) != stamps.noted(output).get(index.name)
                or cut_short(output, "exim")
            )
            if check:
                entry.removed, entry.added, entry.differences = text.differences(20)
            if entry.changed and not accept:
                report.held = shrink.held(settings, shrink.last(output), report.survey.listed)
            _domain_lists(settings, report, Path(aside), check)
            if check or report.held or not entry.changed:
                return
            new = Path(aside) / index.name
            cdb.write(new, _rows(text.new))
            with installing(output, "exim"):
                _install(new, index)
                _flush(text.new)
                text.install()
                stamps.note(output, (index, entry.path))
            entry.written = True
            shrink.note(output, report.survey.listed)
        finally:
            text.drop()


def _domain_lists(settings: Settings, report: BuildReport, aside: Path, check: bool) -> None:
    """Lists of domains that do not fit into the configuration."""
    for name, items in exim_plan.domain_lists(settings).items():
        path = report.output / f"exim_{name}.cdb"
        if not exim_plan.in_a_file(items) and not path.exists():
            continue
        new = aside / path.name
        cdb.write(new, ((item.encode(), b"yes") for item in sorted(set(items))))
        changed = not path.exists() or path.read_bytes() != new.read_bytes()
        report.maps.append(
            MapReport(path.name, path, ("cdb",), lines=len(items), changed=changed, written=changed and not check)
        )
        if changed and not check:
            _install(new, path)
        if not check:
            stamps.note(report.output, [path])


def _flush(new: Path) -> None:
    """To the disk, before the rename: a crash then leaves the old file or the new one."""
    handle = os.open(new, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _install(new: Path, path: Path) -> None:
    """Flush to the disk and replace by one rename, readable for Exim's user, with the old file's mode."""
    handle = os.open(new, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(handle, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.fsync(handle)
    finally:
        os.close(handle)
    new.replace(path)
