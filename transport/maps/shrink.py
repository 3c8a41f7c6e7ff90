# SPDX-License-Identifier: Apache-2.0
"""The guard of `build`: a result that lost too much is held back, and the old files stay.

The same idea as the guards of a sync (DESIGN 4 "Guards hold back"), against what the last build wrote: an ordinary
leaver, a removed domain or a tenant that closes never needs a human.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from transport.config.settings import Directory, Domain, Settings
from transport.maps.write import create, give_to_owner

NOTES = ".splitmx-build.json"
"""What the last build wrote, beside the maps: recipients by domain."""


def last(output: Path) -> dict[str, int]:
    """Recipients by domain in the present files; counted in `relay_recipients` where no note tells."""
    try:
        notes = json.loads((output / NOTES).read_text())
        return {str(name): int(number) for name, number in notes["listed"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return dict(_counted(output / "relay_recipients"))


def _counted(path: Path) -> Counter[str]:
    found: Counter[bytes] = Counter()
    try:
        with path.open("rb") as file:
            found.update(line.partition(b"\t")[0].rpartition(b"@")[2] for line in file if line[:1] != b"#")
    except OSError:
        pass
    return Counter({name.decode(errors="replace"): number for name, number in found.items()})


def note(output: Path, listed: Mapping[str, int]) -> None:
    """Remember what was written. Raises OSError."""
    path = output / NOTES
    new = path.with_name(path.name + ".new")
    with os.fdopen(create(new), "w") as file:
        file.write(json.dumps({"listed": dict(sorted(listed.items()))}, indent=0) + "\n")
    give_to_owner(new)
    new.replace(path)


def held(settings: Settings, before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Why the result is held back, a line a domain; empty when it may be written."""
    reasons = []
    alive = {
        directory.name
        for name, domain in settings.domains.items()
        if after.get(name)
        for directory in _directories(settings, domain)
    }
    for name, had in sorted(before.items()):
        domain = settings.domains.get(name)
        has = after.get(name, 0)
        if domain is None or domain.enabled != "yes" or has >= had:
            continue
        directories = _directories(settings, domain)
        if not has:
            # a domain that empties is believed while its directories list others
            closed = all(d.name in alive or d.may_be_empty for d in directories)
            if not closed:
                reasons.append(f"{name}: all {had} recipients would go")
            continue
        share = max((d.max_shrink for d in directories), default=0.2)
        floor = max((d.shrink_floor for d in directories), default=10)
        if had - has > floor and had - has > share * had:
            reasons.append(f"{name}: {had - has} of {had} recipients would go")
    return reasons


def _directories(settings: Settings, domain: Domain) -> list[Directory]:
    seen = {domain.name}
    while domain.alias_of and domain.alias_of not in seen and domain.alias_of in settings.domains:
        seen.add(domain.alias_of)
        domain = settings.domains[domain.alias_of]
    return [settings.directories[name] for name in (*domain.local, *domain.remote)]
