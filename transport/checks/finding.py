# SPDX-License-Identifier: Apache-2.0
"""One thing that a check found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """level: error (mail goes wrong), warning (it will hurt later) or note. hint: what to do, one line."""

    level: str
    text: str
    hint: str = ""


def error(text: str, hint: str = "") -> Finding:
    """Mail goes wrong, or will not flow."""
    return Finding("error", text, hint)


def warning(text: str, hint: str = "") -> Finding:
    """It works today and will hurt later."""
    return Finding("warning", text, hint)


def note(text: str, hint: str = "") -> Finding:
    """Good to know."""
    return Finding("note", text, hint)
