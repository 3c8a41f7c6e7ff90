# SPDX-License-Identifier: Apache-2.0
"""The look at a file's inode, size and mtime: the thread that takes it must outlive every path."""

from __future__ import annotations

from pathlib import Path

import pytest

from transport.config.settings import FileOptions
from transport.directories.files.stamp import stamp

FORMATS = ("list", "cpanel", "cpanel-uapi")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["absent", "x" * 300, "file/below", "nul\0inside", "loop"])
def test_a_path_that_cannot_be_looked_at_is_a_stamp_too(folder: Path, kind: str, name: str) -> None:
    """Absent, too long, below a file, impossible, a link to itself: nothing is raised."""
    (folder / "file").write_text("ann@example.com\n")
    (folder / "loop").symlink_to(folder / "loop")
    assert stamp(FileOptions(str(folder / name), kind), ("example.com",)) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["list", "cpanel-uapi"])
def test_another_file_in_its_place_is_another_stamp(folder: Path, kind: str) -> None:
    """Written anew, replaced, removed: each is seen."""
    path = folder / "people"
    options = FileOptions(str(path), kind)
    seen = [stamp(options, ())]
    path.write_text("ann@example.com\n")
    seen.append(stamp(options, ()))
    path.write_text("ann@example.com\nbob@example.com\n")
    seen.append(stamp(options, ()))
    other = folder / "other"
    other.write_text("ann@example.com\nbob@example.com\n")
    other.rename(path)
    seen.append(stamp(options, ()))
    assert len(set(seen)) == len(seen)
