# SPDX-License-Identifier: Apache-2.0
"""A plan as the shell lines that an administrator reads, pastes, or pipes into `sh`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from transport.mta.postfix import Postfix
from transport.mta.postfix_parts import SUFFIX, Plan

_CAREFUL = "case $- in *i*) ;; *) set -e ;; esac  # as a script it ends at the first error"
_STOP = "case $- in *i*) ;; *) echo 'splitmx: see PROBLEM above, nothing is done' >&2; exit 1 ;; esac"


def script(plan: Plan, postfix: Postfix) -> str:
    """Comments say why; every other line is a command. `postconf` and `postfix` read the folder in MAIL_CONFIG."""
    return "\n".join(_lines(plan, postfix)) + "\n"


def _tables(plan: Plan) -> list[str]:
    """The files that `build` has to write before any of these lines counts."""
    texts = [entry for setting in plan.settings for entry in setting.ours]
    texts += [master.entry for master in plan.masters] + [override.value for override in plan.overrides]
    found = re.findall(rf"(\w+):({re.escape(str(plan.maps))}/\w+)", "\n".join(texts))
    tables = {path + SUFFIX.get(kind, "") for kind, path in found}
    for file in plan.files:
        tables.update(re.findall(r"^dbpath = (.+)$", file.content, re.MULTILINE))
    return sorted(tables)


def _lines(plan: Plan, postfix: Postfix) -> Iterator[str]:
    version = ".".join(str(n) for n in postfix.version)
    yield f"# splitmx on Postfix {version} in {postfix.directory}, deployed {plan.deploy}."
    yield "# Keep a copy of main.cf and master.cf. First write the tables: splitmx build"
    for problem in plan.problems:
        yield f"# PROBLEM: {problem}"
    for note in plan.notes:
        yield f"# note: {note}"
    if plan.classes:
        yield "#"
        yield "# Address classes, which stay as they are:"
        for domain, parameter in list(plan.classes.items())[:20]:
            yield f"#   {domain}: {parameter}"
        if len(plan.classes) > 20:
            yield f"#   and {len(plan.classes) - 20} more"
    yield _STOP if plan.problems else _CAREFUL
    yield f"export MAIL_CONFIG={shlex.quote(str(postfix.directory))}"
    tables = _tables(plan)
    if tables:
        yield ""
        yield "# while one of these is missing Postfix takes no mail for anybody: where it runs, nothing is done"
        yield f"for table in {' '.join(shlex.quote(table) for table in tables)}; do"
        yield '  [ -e "$table" ] || { missing=$table; echo "splitmx: $table is missing: run splitmx build" >&2; }'
        yield "done"
        yield '[ -z "${missing-}" ] || ! postfix status 2>/dev/null || case $- in *i*) ;; *) exit 1 ;; esac'
    for file in plan.files:
        yield ""
        yield f"# {file.why}"
        yield f"cat > {shlex.quote(str(file.path))} <<'END'"
        yield file.content.rstrip("\n")
        yield "END"
    for setting in plan.settings:
        yield ""
        yield f"# {setting.why}"
        yield f"postconf -e {shlex.quote(f'{setting.name} = {setting.value}')}"
    for master in plan.masters:
        yield ""
        yield f"# {master.why}"
        yield f"postconf -Me {shlex.quote(f'{master.key}={master.entry}')}"
    why = ""
    for override in plan.overrides:
        if override.why != why:
            yield ""
            yield f"# {override.why}"
            why = override.why
        yield f"postconf -P {shlex.quote(f'{override.service}/{override.name}={override.value}')}"
    yield ""
    yield "postfix check"
    yield "# Then, with the daemon running: postfix reload"
