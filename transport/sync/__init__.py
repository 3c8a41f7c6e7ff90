# SPDX-License-Identifier: Apache-2.0
"""Brings the index to what the directories list, with guards that hold back what cannot be true."""

from __future__ import annotations

from transport.sync.compare import compare
from transport.sync.feeds import apply_changes, apply_named
from transport.sync.report import HeldChange, SyncReport

__all__ = ["HeldChange", "SyncReport", "apply_changes", "apply_named", "compare"]
