# SPDX-License-Identifier: Apache-2.0
"""What `postfix show` plans for a site, and what `postfix check` finds there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.site import Cleaned, Site
from transport.checks.postfix import findings
from transport.config.load import load
from transport.mta.postfix import Postfix, read
from transport.mta.postfix_parts import Plan
from transport.mta.postfix_plan import make
from transport.mta.postfix_text import script


def prepared(cleaned: Cleaned, **more: Any) -> Site:
    """A site whose Postfix has all lines; neither of them runs."""
    site = Site(cleaned, **more)
    found, plan = planned(site)
    apply(site, script(plan, found))
    return site


@contextmanager
def tables(lines: str) -> Iterator[None]:
    """The files that the lines of `postfix show` want to see, for a moment, as if `splitmx build` had been run."""
    wanted = re.search("^for table in (.*); do$", lines, re.MULTILINE)
    assert wanted is not None
    missing = [path for path in map(Path, shlex.split(wanted[1])) if not path.exists()]
    folders = {path.parent for path in missing if not path.parent.exists()}
    for path in missing:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    yield
    for path in missing:
        path.unlink()
    for folder in folders:
        folder.rmdir()


def apply(site: Site, lines: str) -> None:
    """Run the lines on this site's Postfix."""
    with tables(lines):
        site.mta.apply(lines)


def planned(site: Site) -> tuple[Postfix, Plan]:
    """What `postfix show` works with; the commands themselves are tested elsewhere."""
    site.mta.cool()
    found = read(site.mta.config)
    return found, make(load(site.splitmx.config), found, site.deploy, site.maps)


def has(site: Site, text: str) -> bool:
    """Whether `postfix check` says it, as an error or a warning."""
    found, plan = planned(site)
    return any(text in f.text for f in findings(load(site.splitmx.config), found, plan) if f.level != "note")
