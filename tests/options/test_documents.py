# SPDX-License-Identifier: Apache-2.0
"""The page of options names every option, and its examples load."""

from __future__ import annotations

import re
from pathlib import Path

from transport.config import model

OPTIONS = Path(__file__).resolve().parents[2] / "docs" / "options.md"


def test_every_option_has_its_lines() -> None:
    """Each key of destinations, domains and waves stands on the page of options."""
    page = OPTIONS.read_text()
    keys = {
        field.alias or name
        for table in (model.DestinationTable, model.DomainTable, model.WaveTable)
        for name, field in table.model_fields.items()
    }

    assert sorted(key for key in keys if f"`{key}`" not in page and f"\n{key} " not in page) == []


def test_examples_on_the_page_load() -> None:
    """Every example of the page is part of a configuration that loads."""
    from transport.config.load import load_text

    base = """
[directories.here]
type = "sql"
url = "sqlite:////var/lib/splitmx/directory.db"
query = "SELECT address, kind, targets, location, active FROM recipients"
[directories.there]
type = "file"
path = "/etc/splitmx/there.txt"
format = "list"
"""
    examples = re.findall(r"```toml\n(.*?)```", OPTIONS.read_text(), re.DOTALL)
    assert len(examples) > 10
    for example in examples:
        load_text(base + example, "options.md")
