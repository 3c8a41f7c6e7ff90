# SPDX-License-Identifier: Apache-2.0
"""Logs of the daemon: one line an event, `message key=value …`, on standard error.

Under systemd (JOURNAL_STREAM names our standard error) a line begins with its priority, `<4>`, and has no time:
the journal adds it. Faults that may come a thousand times a second go through `limited`, which says each kind
once and then at most once a minute, with the number it kept back. Nothing here ever sees a secret: callers name
directories and files, never URLs or passwords.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import time
from pathlib import Path

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_EVERY = 60.0  # seconds between two lines of one kind
_LONGEST = 3500  # octets of a line: with its neighbour less than PIPE_BUF, which a writable pipe takes at once
_KINDS = 1000  # kinds remembered; beyond, the oldest are forgotten
_NO_DIGITS = str.maketrans("", "", "0123456789")

logger = logging.getLogger("splitmx")
_process = "splitmx"
_seen: dict[str, tuple[float, int]] = {}


def quote(value: object) -> str:
    """`value` as the right side of key=value: bare when harmless, else in quotes with control characters escaped."""
    text = str(value)
    if text and all(c.isprintable() and c not in ' "=\\' for c in text):
        return text
    escaped = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text.replace("\\", "\\\\")
    )
    return '"' + escaped.replace('"', '\\"') + '"'


class _Stderr(logging.Handler):
    """Writes whole lines to standard error, and drops one rather than wait: a stuck journal must not stop answers."""

    dropped = 0

    def __init__(self) -> None:
        super().__init__()
        self.pipe = _own_end()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line now or never."""
        try:
            line = self.format(record).encode("utf-8", "replace")[:_LONGEST] + b"\n"
            if self.pipe < 0 and not select.select((), (2,), (), 0)[1]:
                self.dropped += 1
                return
            if self.dropped:
                line = b"(%d lines were lost before this one)\n" % self.dropped + line
            os.write(2 if self.pipe < 0 else self.pipe, line)
            self.dropped = 0
        except (OSError, ValueError):
            self.dropped += 1


def _own_end() -> int:
    """Where standard error is a pipe, an end of it that never waits; else -1.

    Our processes share the pipe: what was writable when one of them looked may be full when it writes, and it would
    wait for ever if nobody reads. O_NONBLOCK on standard error itself would be set for all who have it (fcntl(2)).
    """
    try:
        if stat.S_ISFIFO(os.fstat(2).st_mode):
            return os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        pass  # no /proc, or somebody else's pipe
    return -1


class _Line(logging.Formatter):
    """One line a record; a traceback is folded into one `trace=` value, so that a fault stays one line."""

    def __init__(self, journal: bool) -> None:
        super().__init__()
        self.journal = journal

    def format(self, record: logging.LogRecord) -> str:
        message = "".join(c if c.isprintable() else " " for c in record.getMessage())
        if record.exc_info and record.exc_info[1] is not None:
            where = record.exc_info[2]
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}" if where else "?"
            message += f" error={quote(repr(record.exc_info[1])[:300])} at={place}"
        if self.journal:
            return f"<{_PRIORITY.get(record.levelno, 6)}>{_process}[{os.getpid()}]: {message}"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        return f"{stamp}.{int(record.msecs):03d} {record.levelname.lower()} {_process}[{os.getpid()}]: {message}"


def _under_journal() -> bool:
    """Whether standard error is the stream that systemd named (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        device, inode = os.environ.get("JOURNAL_STREAM", "").split(":")
        status = os.fstat(2)
        return (status.st_dev, status.st_ino) == (int(device), int(inode))
    except (ValueError, OSError):
        return False


def setup(level: str = "info") -> None:
    """Send the log to standard error, from `level` (debug, info, warning, error) on."""
    handler = _Stderr()
    handler.setFormatter(_Line(_under_journal()))
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())
    logging.raiseExceptions = False  # a full or closed standard error must not stop an answer


def process(name: str) -> None:
    """Name this process in its lines: supervisor, keeper, worker-1."""
    global _process
    _process = f"splitmx-{name}"


def _text(message: str, fields: dict[str, object]) -> str:
    return " ".join([message, *(f"{key.rstrip('_')}={quote(value)}" for key, value in fields.items())])


def kind_of(text: str) -> str:
    """A message without its digits, which change from one time to the next: what tells it from another one."""
    return text.translate(_NO_DIGITS)


def say(level: int, message: str, **fields: object) -> None:
    """Write one line now. A field's name may end in `_` where it is a Python word."""
    if logger.isEnabledFor(level):
        logger.log(level, "%s", _text(message, fields))


def limited(level: int, kind: str, message: str, exc: BaseException | None = None, **fields: object) -> None:
    """Write one line unless the same `kind` was written less than a minute ago; then only count it."""
    now = time.monotonic()
    last, kept = _seen.get(kind, (-_EVERY, 0))
    if now - last < _EVERY:
        _seen[kind] = (last, kept + 1)
        return
    if len(_seen) >= _KINDS:
        _seen.pop(next(iter(_seen)))
    _seen[kind] = (now, 0)
    if kept:
        fields["repeated"] = kept
    logger.log(level, "%s", _text(message, fields), exc_info=exc)


def debugging() -> bool:
    """Whether each decision is to be logged."""
    return logger.isEnabledFor(DEBUG)
