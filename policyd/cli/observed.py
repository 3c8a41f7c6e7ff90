# SPDX-License-Identifier: Apache-2.0
"""Observed decisions beside a mail log of Postfix: what would have happened, what did, and where they differ."""

from __future__ import annotations

import errno
import gzip
import json
import re
import time
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from transport.address import external, fold_domain, parse

BEFORE_S = 5.0
"""How much earlier than the decision a line may stand: clocks of syslog count whole seconds."""

REFUSED_S = 60.0
"""How much later a refusal at RCPT is logged, at most."""

DELIVERED_S = 5 * 86400.0
"""How much later a delivery is logged, at most (maximal_queue_lifetime)."""

_LINE = re.compile(r"^(?P<time>\S+ +\S+ +[\d:]+|\d{4}-\S+) (?:\S+ )?[\w./-]+/(?P<program>\w+)\[\d+\]: (?P<rest>.*)$")
_REJECT = re.compile(r"^\w+: (?:milter-)?reject: RCPT from [^:]*?: (?P<code>\d{3} \S+) .*?\bto=<(?P<to>[^>]*)>")
_DELIVERY = re.compile(
    r"^\w+: to=<(?P<to>[^>]*)>, (?:orig_to=<(?P<orig>[^>]*)>, )?relay=(?P<relay>[^,]*), .*?\bstatus=(?P<status>\w+)"
)
_HERE = frozenset(("lmtp", "local", "virtual", "pipe"))


class Deed(NamedTuple):
    """What Postfix did with a recipient. kind: "refused", "here" or "relayed"; text: for people."""

    time: float
    kind: str
    text: str


@dataclass(slots=True)
class Report:
    """All that is to be told. Entries: recipient, would, reason, did (differences only), times, last (unix time)."""

    decisions: int = 0
    recipients: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    matched: int | None = None
    differences: list[dict[str, Any]] = field(default_factory=list)
    unknown: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    undecided: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "decisions": self.decisions,
            "recipients": self.recipients,
            "verdicts": dict(self.verdicts),
            "matched": self.matched,
            "differences": self.differences,
            "unknown": self.unknown,
            "refused": self.refused,
            "undecided": self.undecided,
        }


def read(folder: Path, *, days: int = 14, domain: str | None = None) -> list[dict[str, Any]]:
    """The decisions of the last days, oldest first; broken lines are passed over. Raises OSError."""
    wanted = fold_domain(domain) if domain else None
    since = time.time() - days * 86400
    found = []
    for path in _days(folder):
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                    if entry["time"] >= since and (wanted is None or entry["domain"] == wanted):
                        found.append(entry)
                except (ValueError, KeyError, TypeError):
                    continue
    return found


def _days(folder: Path) -> list[Path]:
    """The files of decisions, in their order. A folder that may not be read is no empty one, as glob() takes it."""
    try:
        return sorted(path for path in folder.iterdir() if path.match("????-??-??.jsonl"))
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_logs(paths: Iterable[Path]) -> dict[str, list[Deed]]:
    """What Postfix did, by folded recipient (as the client gave it), in the order of time. Raises OSError."""
    deeds: dict[str, list[Deed]] = {}
    for path in paths:
        for line in _log_lines(path):
            for recipient, deed in _deeds(line.rstrip("\n")):
                deeds.setdefault(recipient, []).append(deed)
    for found in deeds.values():
        found.sort()
    return deeds


def _log_lines(path: Path) -> Iterator[str]:
    if path.suffix == ".gz":
        try:
            with gzip.open(path, "rt", errors="replace") as packed:
                yield from packed
        except (gzip.BadGzipFile, EOFError, zlib.error):
            raise OSError(errno.EINVAL, "not a whole gzip file", str(path)) from None
    else:
        with path.open(errors="replace") as file:
            yield from file


def _deeds(line: str) -> Iterator[tuple[str, Deed]]:
    parts = _LINE.match(line)
    if parts is None:
        return
    program, rest = parts["program"], parts["rest"]
    if program == "smtpd":
        reject = _REJECT.match(rest)
        if reject is not None:
            # reject_unverified_recipient and greylisting answer 450: not a verdict on the recipient
            kind = "refused" if reject["code"].startswith("5") else "deferred"
            yield _folded(reject["to"]), Deed(_time(parts["time"]), kind, f"refused it: {reject['code']}")
        return
    delivery = _DELIVERY.match(rest)
    if delivery is None:
        return
    kind = "here" if program in _HERE else "relayed" if program == "smtp" else ""
    if delivery["status"] == "bounced":
        kind = "refused"
    elif delivery["status"] != "sent":
        kind = "deferred"
    if kind:
        text = f"{program}, {delivery['relay']}, {delivery['status']}"
        deed = Deed(_time(parts["time"]), kind, text)
        for recipient in {_folded(delivery["to"]), _folded(delivery["orig"] or delivery["to"])}:
            yield recipient, deed


def _folded(text: str) -> str:
    address = parse(text)
    return text.lower() if address is None else external(address.local, address.domain)


def _time(text: str) -> float:
    """Unix time of a log line: RFC 3339, or the traditional form in local time without a year."""
    try:
        if text[:1].isdigit():
            return datetime.fromisoformat(text).timestamp()
        today = datetime.now().astimezone()
        when = datetime.strptime(f"{today.year} {text}", "%Y %b %d %H:%M:%S").astimezone()
        if (when - today).days >= 1:
            when = when.replace(year=today.year - 1)
        return when.timestamp()
    except ValueError:
        return 0.0


def would(entry: dict[str, Any]) -> tuple[str, str]:
    """What would have happened: a kind ("refused", "here", "relayed", "expanded", "deferred", "verified"), in words."""
    rule, verdict = str(entry.get("rule") or "").upper(), str(entry.get("verdict", ""))
    if rule in ("LOOP", "SUSPENDED", "REFUSE"):
        return "refused", f"refused with {entry.get('code') or 550} ({rule.lower()})"
    if verdict == "TEMP" or rule == "TEMP":
        return "deferred", "deferred"
    if verdict == "UNKNOWN":
        return "refused", "refused as unknown"
    if verdict == "RELAY":
        where = f"relayed to {entry.get('destination')}"
        return ("verified", f"{where} after asking there") if rule == "VERIFY" else ("relayed", where)
    if verdict == "EXPAND":
        return "expanded", "expanded"
    return "here", "delivered here"


_AGREE = {
    "refused": {"refused"},
    "here": {"here"},
    "relayed": {"relayed"},
    "verified": {"relayed", "refused"},
    "expanded": {"here", "relayed"},
    "deferred": {"deferred"},
}


def compare(decisions: Sequence[dict[str, Any]], deeds: dict[str, list[Deed]] | None) -> Report:
    """Sort the decisions into what is to be told. deeds: None without a mail log."""
    report = Report(decisions=len(decisions), matched=None if deeds is None else 0)
    lists: dict[int, dict[tuple[str, str, str], dict[str, Any]]] = {}
    recipients = set()
    for entry in decisions:
        recipient = _folded(str(entry.get("recipient", "")))
        recipients.add(recipient)
        report.verdicts[str(entry.get("verdict", ""))] += 1
        kind, text = would(entry)
        if kind == "deferred":
            _add(lists, report.undecided, recipient, text, entry)
        elif kind == "refused" and entry.get("verdict") != "UNKNOWN":
            _add(lists, report.refused, recipient, text, entry)
        elif not entry.get("listed", True) and entry.get("verdict") in ("UNKNOWN", "RELAY", "EXPAND"):
            _add(lists, report.unknown, recipient, text, entry)
        if deeds is None:
            continue
        deed = _matching(deeds.get(recipient, []), float(entry.get("time", 0.0)))
        if deed is not None:
            assert report.matched is not None
            report.matched += 1
            if kind != "deferred" and deed.kind != "deferred" and deed.kind not in _AGREE[kind]:
                _add(lists, report.differences, recipient, text, entry, deed.text)
    report.recipients = len(recipients)
    return report


def _add(
    lists: dict[int, dict[tuple[str, str, str], dict[str, Any]]],
    entries: list[dict[str, Any]],
    recipient: str,
    text: str,
    entry: dict[str, Any],
    did: str = "",
) -> None:
    """One entry for each recipient and outcome, however often it was seen."""
    known = lists.setdefault(id(entries), {})
    key = (recipient, text, did)
    found = known.get(key)
    if found is None:
        reason = str(entry.get("reason", ""))
        found = {"recipient": recipient, "would": text, "reason": reason, "times": 0, "last": 0.0}
        if did:
            found["did"] = did
        known[key] = found
        entries.append(found)
    found["times"] += 1
    found["last"] = max(found["last"], float(entry.get("time", 0.0)))


def _matching(deeds: list[Deed], when: float) -> Deed | None:
    """The first that can be this decision's: a refusal within a minute, a delivery within the queue's lifetime."""
    at = bisect_left(deeds, when - BEFORE_S, key=lambda deed: deed.time)
    deferred = None
    for deed in deeds[at:]:
        if deed.time > when + DELIVERED_S:
            break
        if deed.kind == "deferred":
            deferred = deferred or deed
        elif deed.kind != "refused" or deed.time <= when + REFUSED_S or deed.text.endswith("bounced"):
            return deed
    return deferred
