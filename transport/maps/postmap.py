# SPDX-License-Identifier: Apache-2.0
"""Indexed files made by postmap(1): built aside, renamed into place.

Postfix notices a file that was renamed away by its link count or change time and opens the new one by itself, for
cdb, lmdb, hash and btree alike (DATABASE_README; dict_changed_name in its source); postmap would rewrite hash and
btree in place, and a failed build would leave nothing usable. A texthash has no index: it is read when a process
starts, so a change of it needs `postfix reload`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transport.maps.write import BuildError, BuildRefusedError

ENDINGS = {"hash": ".db", "btree": ".db", "cdb": ".cdb", "lmdb": ".lmdb", "texthash": ""}
"""What `postmap TYPE:file` puts behind the file's name."""


def default_types() -> tuple[str, ...]:
    """What this Postfix's `default_database_type` names. Raises BuildError where there is no Postfix."""
    try:
        run = subprocess.run(
            ["postconf", "-h", "default_database_type"], capture_output=True, text=True, check=False, timeout=30
        )
    except FileNotFoundError:
        raise BuildError(
            "postconf is not installed, so the type of the maps is not known",
            "name it with --type (texthash needs no postmap)",
        ) from None
    if run.returncode or not run.stdout.strip():
        raise BuildError(f"postconf: {_last(run.stderr)}", "name the type of the maps: types in [static], or --type")
    return (run.stdout.strip(),)


def check_types(types: Sequence[str]) -> None:
    """Refuse types that we cannot replace safely, and two that share a file. Raises BuildRefusedError."""
    for name in types:
        if name not in ENDINGS:
            raise BuildRefusedError(f"cannot build maps of type {name}", f"choose one of {', '.join(sorted(ENDINGS))}")
    if "hash" in types and "btree" in types:
        raise BuildRefusedError("hash and btree both write a .db file", "choose one of them")
    if any(ENDINGS[name] for name in types) and shutil.which("postmap") is None:
        raise BuildRefusedError("postmap is not installed", "install Postfix, or build with --type texthash")


def index_path(path: Path, kind: str) -> Path:
    """The indexed file of a text, or the text itself."""
    return path.with_name(path.name + ENDINGS.get(kind, ""))


def other_indexes(path: Path, types: Sequence[str]) -> list[Path]:
    """Indexed files of other types beside a text: they would grow stale without a word."""
    kept = {ENDINGS.get(name, "") for name in types}
    return [
        found
        for ending in sorted(set(ENDINGS.values()) - {""} - kept)
        if (found := path.with_name(path.name + ending)).exists()
    ]


@dataclass(slots=True)
class Job:
    """One postmap that is running for the text `new`, whose index will stand at `index`."""

    name: str
    kind: str
    made: Path
    index: Path
    process: subprocess.Popen[bytes]

    def wait(self) -> list[str]:
        """Wait for its end; returns warnings. Raises BuildError when it failed."""
        said = self.process.communicate()[1].decode(errors="replace").strip().splitlines()
        if self.process.returncode:
            self.made.unlink(missing_ok=True)
            raise BuildError(
                f"postmap {self.kind}:{self.name}: {_last(chr(10).join(said)) or 'failed'}",
                "the old files stay; is the disk full, is the type installed (postconf -m)?",
            )
        return [line for line in said if line]

    def install(self) -> None:
        """Flush the new index to the disk and rename it over the old one."""
        handle = os.open(self.made, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        self.made.replace(self.index)

    def drop(self) -> None:
        """End it and remove what it made. Never raises."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        for path in (self.made, self.made.with_name(self.made.name + ".tmp")):
            try:
                path.unlink(missing_ok=True)
            except OSError:
                pass


def start(kind: str, path: Path, new: Path) -> Job:
    """Begin to index the text `new`, which will stand at `path`. Raises BuildError."""
    made = new.with_name(new.name + ENDINGS[kind])
    made.unlink(missing_ok=True)  # lmdb would be rewritten in place, and keep its size
    try:
        process = subprocess.Popen(
            ["postmap", f"{kind}:{new}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise BuildError(f"postmap: {error.strerror}", "install Postfix, or build with --type texthash") from None
    return Job(path.name, kind, made, index_path(path, kind), process)


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else ""
