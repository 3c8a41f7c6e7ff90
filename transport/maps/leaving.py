# SPDX-License-Identifier: Apache-2.0
"""Takes out of `relay_domains` what is no split domain any more, before the guard's table loses it.

The other way round Postfix would still have the domain as its own and know nothing of it: it takes mail for every
address there, relays it to the domain's MX, which may be this host, and bounces it. What was taken out stays as a
comment, and comes back when the domain does (a rollback). What is new enters by `build` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from transport.config.settings import Domain, Settings
from transport.maps import postmap, stamps, static_only
from transport.maps.write import HEADER, Text, installing, is_ours

NAME = "relay_domains"

_OFF = "# off "


def leave(settings: Settings, output: Path, types: Sequence[str] = ()) -> bool:
    """Take out who is gone, in a file of an earlier build; whether there was anybody.

    types: of the indexed files there; else what Postfix's `default_database_type` names. Raises BuildError or OSError,
    and the old file stays.
    """
    active, off = _read(output / NAME)
    return _write(settings, output, types, active, off, active)


def come_back(settings: Settings, output: Path, types: Sequence[str] = (), *, indexed: bool = False) -> bool:
    """Put in who had been taken out and is ours again, once the guard's table has it; whether there was anybody.

    indexed: an indexed file, too, which running processes of Postfix open at once, so that they must have been
    reloaded before. Raises as `leave` does.
    """
    active, off = _read(output / NAME)
    if not off or (_kind(active | off) != static_only.REGEXP and not indexed):
        return False
    return _write(settings, output, types, active, off, active | off)


def absent(settings: Settings, output: Path) -> list[str]:
    """Enabled domains that were taken out and are not back yet."""
    active, off = _read(output / NAME)
    kind = _kind(active | off)
    return [name for name in settings.domains if off and _is_yes(settings, name) and off & _keys(settings, name, kind)]


def strange(settings: Settings, output: Path) -> list[str]:
    """Keys of the file that are none of an enabled domain. Raises OSError."""
    active, off = _read(output / NAME)
    return sorted(active - {key for name in settings.domains if _is_yes(settings, name)
                            for key in _keys(settings, name, _kind(active | off))})  # fmt: skip


def _is_yes(settings: Settings, name: str) -> bool:
    return settings.domains[name].enabled == "yes"


def _read(path: Path) -> tuple[set[str], set[str]]:
    """The keys of a file that a build wrote, and those that were taken out; none when it is not there or not ours."""
    if not is_ours(path):
        return set(), set()
    lines = path.read_text("utf-8", errors="replace").splitlines()
    active = {words[0] for line in lines if not line.startswith("#") and (words := line.split())}
    return active, {line.removeprefix(_OFF) for line in lines if line.startswith(_OFF)}


def _kind(keys: set[str]) -> str:
    return static_only.REGEXP if any(key.startswith("/") for key in keys) else "indexed"


def _write(
    settings: Settings, output: Path, types: Sequence[str], active: set[str], off: set[str], known: set[str]
) -> bool:
    """known: the keys whose domains may stand there."""
    path, kind = output / NAME, _kind(active | off)
    keys = {name: _keys(settings, name, kind) for name in settings.domains if _is_yes(settings, name)}
    narrow = replace(settings, domains={name: _as_known(one, kind, known) for name, one in settings.domains.items()})
    lines = list(
        static_only.relay_domains(narrow, kind, {n for n in settings.domains if not known & keys.get(n, set())})
    )
    new = {line.split()[0] for line in lines}
    if new == active:
        return False
    there = {key for name in keys if keys[name] & new for key in keys[name]}
    text, jobs = Text(path), []
    try:
        text.write(HEADER)
        text.write("".join(f"{line}\n" for line in lines))
        text.write("".join(f"{_OFF}{key}\n" for key in sorted((active | off) - there)))
        text.finish()
        jobs = [postmap.start(one, path, text.new) for one in _types(path, types)] if kind == "indexed" else []
        for job in jobs:
            job.wait()
        with installing(output, "postfix", complete=False):
            for job in jobs:
                job.install()
            text.install()
            stamps.note(output, [path, *(job.index for job in jobs)])
    finally:
        for job in jobs:
            job.drop()
        text.drop()
    return True


def _as_known(domain: Domain, kind: str, known: set[str]) -> Domain:
    """Without what is below it, where that was not there: it is new, and the guard's table may not have it yet."""
    if domain.subdomains == "exact" or known & _forms(domain, kind, "match") - _forms(domain, kind, "exact"):
        return domain
    return replace(domain, subdomains="exact")


def _types(path: Path, types: Sequence[str]) -> list[str]:
    """Of the indexed files that stand there; `.db` is that of two types."""
    there = [one for one in ("lmdb", "cdb", "hash", "btree") if postmap.index_path(path, one).exists()]
    if "hash" in there:
        there.remove("hash" if "btree" in (types or postmap.default_types()) else "btree")
    return there


def _keys(settings: Settings, name: str, kind: str) -> set[str]:
    """Every key that the domain may have had, with and without what is below it."""
    domain = settings.domains[name]
    return _forms(domain, kind, "exact") | _forms(domain, kind, "match")


def _forms(domain: Domain, kind: str, subdomains: str) -> set[str]:
    one = replace(domain, enabled="yes", subdomains=subdomains)
    return {line.split()[0] for line in static_only.relay_domains_of(one, kind)}
