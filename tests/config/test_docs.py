# SPDX-License-Identifier: Apache-2.0
"""docs/configuration.md says what the model says."""

from __future__ import annotations

import grp
import os
import re
import runpy
from pathlib import Path

from transport.config.load import load_text

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_the_document_is_up_to_date() -> None:
    """The committed document is what docs/make_configuration.py makes of the model."""
    made = runpy.run_path(str(DOCS / "make_configuration.py"))["document"]()
    assert (DOCS / "configuration.md").read_text() == made


def test_the_smallest_configuration_loads() -> None:
    """The first example of the document is a good configuration, given a group that exists here."""
    text = re.findall(r"```toml\n(.*?)```", (DOCS / "configuration.md").read_text(), re.DOTALL)[0]
    group = grp.getgrgid(os.getgid()).gr_name
    assert load_text(text.replace("group=postfix", f"group={group}"), "x.toml").domains["example.com"].local == (
        "here",
    )


def test_each_example_of_a_key_is_allowed() -> None:
    """No key documents an example that its own model refuses."""
    from pydantic import TypeAdapter

    from transport.config import model

    for table in [*model.SINGLE.values(), *model.NAMED.values(), *model.DIRECTORY_TYPES.values()]:
        for info in table.model_fields.values():
            for example in info.examples or []:
                field: TypeAdapter[object] = TypeAdapter(info.rebuild_annotation())
                field.validate_python(example)
