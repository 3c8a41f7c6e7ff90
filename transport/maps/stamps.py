# SPDX-License-Identifier: Apache-2.0
"""What a build left in a folder: size and time of each file, by which one sees that somebody else was at it.

A file that was cut, overwritten or exchanged for an older copy is newer than its text, or looks as it should: neither
its time nor its text tells. Both change with it, unless somebody takes pains.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from transport.maps.write import create, give_to_owner

NOTES = ".splitmx-files.json"

Stamp = tuple[int, int]
"""Size in octets, and mtime in nanoseconds."""


def stamp(path: Path) -> Stamp | None:
    """Of the file as it is; None when there is none."""
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_size, info.st_mtime_ns


def noted(output: Path) -> dict[str, Stamp]:
    """By name, as the last build left them; nothing where no note tells. Never raises."""
    try:
        notes = json.loads((output / NOTES).read_text())
        return {str(name): (int(size), int(time)) for name, (size, time) in notes.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def altered(output: Path) -> dict[Path, Stamp | None]:
    """What is no longer as it was left, and its stamp now. Never raises."""
    found = {output / name: stamp(output / name) for name in noted(output)}
    left = noted(output)  # read last: a build may just have ended
    return {path: now for path, now in found.items() if now != left.get(path.name)}


def note(output: Path, paths: Iterable[Path]) -> None:
    """Remember these as they are, beside what is known of others. Raises OSError."""
    before = noted(output)
    after = before | {path.name: now for path in paths if (now := stamp(path)) is not None}
    if after == before:
        return
    new = output / f"{NOTES}.new"
    with os.fdopen(create(new), "w") as file:
        file.write(json.dumps(dict(sorted(after.items())), indent=0) + "\n")
    give_to_owner(new)
    new.replace(output / NOTES)
