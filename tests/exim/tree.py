# SPDX-License-Identifier: Apache-2.0
"""Files of a host with cPanel, below a folder of ours."""

from __future__ import annotations

from pathlib import Path


def put(root: Path, name: str, content: str | bytes) -> None:
    """One file of the tree, with the folders above it."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
