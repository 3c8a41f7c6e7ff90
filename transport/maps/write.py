# SPDX-License-Identifier: Apache-2.0
"""Texts of static maps: written sorted beside the old one, compared with it, put in its place by one rename."""

from __future__ import annotations

import fcntl
import filecmp
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

MODE = 0o644
"""Postfix's daemons open tables before they drop privileges, but `postmap -q` and proxymap(8) do not."""

HEADER = "# written by splitmx; changes made here are lost at the next build\n"
"""A line of every text; not always the first one, since the lines are sorted."""

_LOCK = ".splitmx-build.lock"
_SORT_MEMORY = "64M"
_SMALL = 1 << 20  # characters up to which a text is sorted here


class BuildError(Exception):
    """The maps could not be written; the old files stay. `hint` says what to do."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


class BuildRefusedError(BuildError):
    """What was asked for cannot be built at all: the configuration, or an option, has to change."""


def give_to_owner(path: Path) -> None:
    """As root: what is written into another user's folder belongs to that user, who has to replace it later.

    postmap(1) takes over the identity of a text's owner, too. Raises OSError.
    """
    if os.geteuid() == 0:
        folder = path.parent.stat()
        if folder.st_uid != 0:
            os.chown(path, folder.st_uid, folder.st_gid, follow_symlinks=False)


def is_ours(path: Path) -> bool:
    """Whether a text was written by a build: HEADER stands in it. What cannot be read is not."""
    try:
        with path.open("rb") as file:
            return HEADER.encode() in file.read(_SMALL)  # only quoted local parts and the like come before it
    except OSError:
        return False


def is_old(index: Path) -> bool:
    """Whether what was made of a text is older than that: a build for another type has written the text anew."""
    try:
        return index.stat().st_mtime_ns < index.with_suffix("").stat().st_mtime_ns
    except OSError:
        return False


def create(path: Path) -> int:
    """A descriptor of a new file, readable by us alone. In another user's folder its name may be a link to any file of
    the host: what lies there is removed, never followed. Raises OSError."""
    path.unlink(missing_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


@contextmanager
def alone_in(output: Path) -> Iterator[None]:
    """Only one build at a time writes into a folder."""
    lock = output / _LOCK
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildError(f"another build is writing into {output}", "try again when it has ended") from None
        give_to_owner(lock)
        yield
    finally:
        os.close(handle)


def is_building(output: Path) -> bool:
    """Whether a build is writing into this folder now, or it cannot be told."""
    try:
        handle = os.open(output / _LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _mark(output: Path, whose: str) -> Path:
    return output / f".splitmx-{whose}-unfinished"


def cut_short(output: Path, whose: str) -> bool:
    """Whether the last replacing of files did not come to its end: texts and what was made of them may not fit.

    whose: "postfix" or "exim", which may share the folder.
    """
    return _mark(output, whose).exists()


@contextmanager
def installing(output: Path, whose: str, *, complete: bool = True) -> Iterator[None]:
    """Replace files of this folder; when that ends half-way, `cut_short` says so to the next build.

    complete: every file is replaced that has to be, so that whatever was cut short before is made good. Raises OSError.
    """
    mark = _mark(output, whose)
    known = mark.exists()
    os.close(create(mark))
    give_to_owner(mark)
    yield
    if complete or not known:
        mark.unlink()


class Text:
    """The new text of one map, beside the present one as `NAME.in`; lines may come in any order.

    Sorted input halves the size of a B-tree (btree, lmdb) and makes equal contents equal files. sort(1) does it in
    a process of its own, with little memory for any number of lines.
    """

    def __init__(self, path: Path, *, aside: Path | None = None) -> None:
        self.path = path
        self.new = (aside or path.parent) / f"{path.name}.in"
        self._sort: subprocess.Popen[bytes] | None = None
        self._pipe: IO[bytes] | None = None
        self._lines: list[str] = []
        self._size = 0
        self._program = shutil.which("sort")
        self._handle = -1  # of the new text, once it is begun

    def write(self, text: str) -> None:
        """Take whole lines. Raises BuildError when they cannot be written."""
        if self._pipe is None:
            self._lines.append(text)
            self._size += len(text)
            if self._size <= _SMALL or self._program is None:
                return
            text = "".join(self._lines)
            self._lines.clear()
            self._pipe = self._start(self._program)
        try:
            self._pipe.write(text.encode())
        except BrokenPipeError:
            self.finish()

    def _start(self, program: str) -> IO[bytes]:
        command = [program, "-u", "-S", _SORT_MEMORY, "-T", str(self.new.parent)]
        self._handle = create(self.new)
        self._sort = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._handle,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
        )
        assert self._sort.stdin is not None
        return self._sort.stdin

    def finish(self) -> None:
        """All lines were given: the new text stands complete beside the old one. Raises BuildError, OSError."""
        try:
            self._complete()
        finally:
            self._close()

    def _complete(self) -> None:
        if self._sort is None:
            ordered = sorted({line for text in self._lines for line in text.encode().splitlines(keepends=True)})
            self._handle = create(self.new)
            with os.fdopen(self._handle, "wb", closefd=False) as file:
                file.write(b"".join(ordered))
        else:
            sort, self._sort = self._sort, None
            self._pipe = None
            _, said = sort.communicate()
            if sort.returncode:
                raise BuildError(f"sort: {said.decode(errors='replace').strip()}", "is the disk full?")
        give_to_owner(self.new)
        os.fchmod(self._handle, self.path.stat().st_mode & 0o777 if self.path.exists() else MODE)

    def changed(self) -> bool:
        """Whether the new text differs from the present one."""
        return not (self.path.exists() and filecmp.cmp(self.path, self.new, shallow=False))

    def differences(self, most: int) -> tuple[int, int, list[str]]:
        """(lines only in the old text, lines only in the new one, the first `most` as `-line` and `+line`).

        Both texts are in the order of their bytes; neither is held in memory.
        """
        removed = added = 0
        shown: list[str] = []
        for sign, line in _merge(_read(self.path), _read(self.new)):
            if sign == "-":
                removed += 1
            else:
                added += 1
            if len(shown) < most:
                shown.append(sign + line.decode(errors="replace").rstrip("\n"))
        return removed, added, shown

    def install(self) -> None:
        """Put the new text in the old one's place."""
        self.new.replace(self.path)

    def _close(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def drop(self) -> None:
        """Remove what is left of an unused new text. Never raises."""
        self._close()
        sort, self._sort = self._sort, None
        if sort is not None:
            sort.kill()
            sort.wait()
            for pipe in (sort.stdin, sort.stderr):
                try:
                    if pipe is not None:
                        pipe.close()
                except OSError:
                    pass
        try:
            self.new.unlink(missing_ok=True)
        except OSError:
            pass


def _read(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as file:
            yield from file


def _merge(old: Iterable[bytes], new: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """What only one of two sorted sequences of lines has."""
    left, right = iter(old), iter(new)
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        if one == other:
            one, other = next(left, None), next(right, None)
        elif other is None or (one is not None and one < other):
            assert one is not None
            yield "-", one
            one = next(left, None)
        else:
            yield "+", other
            other = next(right, None)


def first_words(path: Path) -> set[str]:
    """The keys of a map's text; none when it cannot be read."""
    try:
        return {words[0] for line in path.read_text(errors="replace").splitlines() if (words := line.split())}
    except OSError:
        return set()
