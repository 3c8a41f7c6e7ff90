# SPDX-License-Identifier: Apache-2.0
"""A bounded flow of mails into a site, from a sender that keeps what was put off, and the count of what went wrong."""

from __future__ import annotations

import itertools
import smtplib
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.e2e.site import US, Site
from tests.mta.sending import OUTSIDE, send
from tests.mta.waiting import wait_for

HERE, THERE, NOWHERE, FOREIGN = "here", "there", "nowhere", "foreign"

RETRY = 0.5  # seconds until the sending server tries again what was put off
PATIENCE = 60.0  # seconds until it gives up: then the mail is lost, by our count

_numbers = itertools.count(1)


@dataclass
class Letter:
    """One mail to one recipient, and what became of it."""

    recipient: str
    place: str
    subject: str
    sender: str
    accepted: bool = False
    refused: str = ""
    deferrals: int = 0
    first_answer: float = 0.0  # seconds until the first final or temporary answer at RCPT


@dataclass
class Report:
    """The count. `wrong` must be empty; the rest is for people."""

    letters: int = 0
    wrong: list[str] = field(default_factory=list)
    deferred: Counter[str] = field(default_factory=Counter)  # letters put off at least once, by place
    slowest: dict[str, float] = field(default_factory=dict)  # slowest first answer, by place

    def line(self) -> str:
        """One line for a table."""
        slow = " ".join(f"{place} {seconds:.2f}s" for place, seconds in sorted(self.slowest.items()))
        late = " ".join(f"{place} {count}" for place, count in sorted(self.deferred.items())) or "none"
        return f"{self.letters} mails, wrong {len(self.wrong)}; put off: {late}; slowest answer: {slow}"


class Flow:
    """Mails at `rate` a second until `end()`; each goes to the next of `people` in turn."""

    def __init__(self, site: Site, people: Sequence[tuple[str, str]], rate: float = 20.0) -> None:
        self.site = site
        self.letters: list[Letter] = []
        self._people = itertools.cycle(people)
        self._interval = 1.0 / rate
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(24)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            recipient, place = next(self._people)
            number = next(_numbers)
            recipient = recipient.replace("#", str(number))
            letter = Letter(recipient, place, f"chaos {number}", f"s{number}@away.test")
            self.letters.append(letter)
            self._pool.submit(self._deliver, letter)

    def _deliver(self, letter: Letter) -> None:
        """What a sending server does: try, keep, try again, give up (RFC 5321 4.5.4.1)."""
        end = time.monotonic() + PATIENCE
        client = US if letter.place == FOREIGN else OUTSIDE  # only our own may send elsewhere
        while time.monotonic() < end:
            begun = time.monotonic()
            try:
                sent = send(self.site.mta.ip, letter.sender, letter.recipient, subject=letter.subject, client=client)
            except (OSError, smtplib.SMTPException):
                sent = None
            if not letter.first_answer:
                letter.first_answer = time.monotonic() - begun
            code = sent.codes.get(letter.recipient, 0) if sent is not None else 0
            if sent is not None and sent.data == 250:
                letter.accepted = True
                return
            if sent is not None and (500 <= code < 600 or 500 <= sent.data < 600):
                letter.refused = sent.texts.get(letter.recipient, "") or sent.data_text
                return
            letter.deferrals += 1
            threading.Event().wait(RETRY)

    def count(self) -> int:
        """Letters begun so far."""
        return len(self.letters)

    def more(self, letters: int) -> None:
        """Let that many further letters begin; a fault may slow them down, but not to a standstill."""
        goal = self.count() + letters
        wait_for(lambda: self.count() >= goal, 60.0 + 0.2 * letters)

    def end(self) -> Report:
        """Stop sending, let everything arrive, and count."""
        self._stop.set()
        self._thread.join()
        self._pool.shutdown(wait=True)
        self.site.mta.flush()
        wait_for(self._queue_empty, 60, self.site.mta.tail)
        report = Report(len(self.letters))
        for letter in self.letters:
            self._judge(letter, report)
        return report

    def _queue_empty(self) -> bool:
        if self.site.mta.queued():
            self.site.mta.flush()
            return False
        return True

    def _judge(self, letter: Letter, report: Report) -> None:
        places = {HERE: self.site.store, THERE: self.site.secondary, FOREIGN: self.site.world}
        got = {place: len(server.of(letter.subject)) for place, server in places.items()}
        report.slowest[letter.place] = max(report.slowest.get(letter.place, 0.0), letter.first_answer)
        if letter.deferrals:
            report.deferred[letter.place] += 1
        wrong = self._fault(letter, got)
        if wrong:
            report.wrong.append(f"{letter.subject} to {letter.recipient} ({letter.place}): {wrong}")

    @staticmethod
    def _fault(letter: Letter, got: dict[str, int]) -> str:
        if letter.place == NOWHERE:
            if letter.accepted or any(got.values()):
                return f"a stranger was accepted, delivered {got}"
            return "" if letter.refused else "a stranger was never refused"
        if letter.refused:
            return f"wrongly rejected: {letter.refused}"
        if not letter.accepted:
            return "lost: never accepted"
        if got.pop(letter.place) != 1:
            return f"lost or duplicated: it is not in its place once, elsewhere {got}"
        return f"misrouted: {got}" if any(got.values()) else ""
