# SPDX-License-Identifier: Apache-2.0
"""Reads a living Exim through its own tools: `exim -bP config` and `-bP macros` for the settings in force, `-be` for
whether a list matches. Changes nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 20.0
"""How long one call of Exim may take."""

OLDEST = (4, 94)
"""Before it `${readsocket` was no look-up: its failure inside a condition did not defer (Exim's ChangeLog)."""


class EximError(Exception):
    """Exim is missing, or does not take its configuration. The text says which and why."""


@dataclass(frozen=True, slots=True)
class Driver:
    """One router or transport: its options as Exim prints them, macros replaced."""

    name: str
    options: tuple[str, ...]

    def option(self, name: str) -> str | None:
        """An option's value; "yes" for a bare one; None when it is not set."""
        for line in self.options:
            key, sign, value = line.partition("=")
            if key.strip() == name:
                return value.strip() if sign else "yes"
            if not sign and line.strip() in (name, f"no_{name}"):
                return "yes" if line.strip() == name else "no"
        return None


@dataclass(slots=True)
class Exim:
    """One Exim as it is configured now."""

    command: tuple[str, ...]
    version: tuple[int, ...]
    settings: dict[str, str] = field(default_factory=dict)
    lists: dict[str, str] = field(default_factory=dict)  # "domainlist splitmx_domains" -> value
    macros: dict[str, str] = field(default_factory=dict)
    acls: dict[str, tuple[str, ...]] = field(default_factory=dict)
    routers: list[Driver] = field(default_factory=list)
    transports: list[Driver] = field(default_factory=list)

    def router(self, name: str) -> Driver | None:
        """A router by name."""
        return next((driver for driver in self.routers if driver.name == name), None)

    def transport(self, name: str) -> Driver | None:
        """A transport by name."""
        return next((driver for driver in self.transports if driver.name == name), None)

    def matching(self, domains: Sequence[str], wanted: str) -> list[str]:
        """Those of the domains that a domain list matches; the list is expanded first, as Exim does."""
        if not wanted.strip():
            return []
        # an expanded list that begins with a quote or holds a brace cannot be handed to match_domain
        if re.search(r"[{}$]", wanted):
            return []
        # by standard input: an argument may have 256 characters only
        text = "".join(f"${{if match_domain{{{domain}}}{{{wanted}}}{{<yes>}}{{<no>}}}}\n" for domain in domains)
        answers = re.findall("<(yes|no)>", run([*self.command, "-be"], text))
        if len(answers) != len(domains):
            return []
        return [domain for domain, answer in zip(domains, answers, strict=True) if answer == "yes"]


def read(binary: str = "", config: Path | None = None) -> Exim:
    """Read an Exim. binary: "" for exim4 or exim of the PATH. config: its `-C`. Raises EximError."""
    program = binary or shutil.which("exim4") or shutil.which("exim") or ""
    if not program:
        raise EximError("exim is not installed here, or not in PATH")
    command = (program, *(("-C", str(config)) if config else ()))
    banner = run([*command, "-bV"])
    found = re.search(r"Exim version (\d+)\.(\d+)", banner)
    if not found:
        raise EximError(f"{program} -bV did not say its version")
    exim = parse(run([*command, "-bP", "config"]), command, (int(found[1]), int(found[2])))
    for line in run([*command, "-bP", "macros"]).splitlines():
        name, sign, value = line.partition("=")
        if sign and name.strip().isidentifier():
            exim.macros[name.strip()] = value.strip()
    return exim


def parse(text: str, command: tuple[str, ...], version: tuple[int, ...]) -> Exim:
    """Take the output of `exim -bP config` apart."""
    exim = Exim(command, version)
    section, name = "", ""
    blocks: dict[str, dict[str, list[str]]] = {"acl": {}, "routers": {}, "transports": {}}
    for line in _logical(text):
        begin = re.fullmatch(r"begin\s+(\w+)", line)
        label = re.fullmatch(r"(\w+):", line)
        if begin:
            section, name = begin[1], ""
        elif not section:
            key, sign, value = line.partition("=")
            words = key.split()
            if len(words) > 1 and words[0] in ("domainlist", "hostlist", "addresslist", "localpartlist"):
                exim.lists[f"{words[0]} {words[-1]}"] = " ".join(value.split())
            elif len(words) > 1 and words[0] == "domainlist_cache":
                continue
            elif words:
                exim.settings[words[-1]] = value.strip() if sign else "yes"
        elif section in blocks and label:
            name = label[1]
            blocks[section][name] = []
        elif section in blocks and name:
            blocks[section][name].append(" ".join(line.split()))
    exim.acls = {key: tuple(lines) for key, lines in blocks["acl"].items()}
    exim.routers = [Driver(key, tuple(lines)) for key, lines in blocks["routers"].items()]
    exim.transports = [Driver(key, tuple(lines)) for key, lines in blocks["transports"].items()]
    return exim


def _logical(text: str) -> list[str]:
    """Lines without comments, blanks and line numbers, continued ones joined."""
    lines: list[str] = []
    open_ = False
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if open_:
            lines[-1] = lines[-1][:-1] + line
        else:
            lines.append(line)
        open_ = line.endswith("\\")
    return lines


def run(command: Sequence[str], text: str = "") -> str:
    """What a call of Exim prints. text: its standard input. Raises EximError when it fails."""
    try:
        done = subprocess.run(
            list(command),
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=SECONDS,
            check=False,
            input=text,
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise EximError(f"{' '.join(command)}: {fault}") from fault
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or str(done.returncode)).splitlines()
        said = " ".join(line.strip() for line in lines[:2])  # where, and what
        raise EximError(f"{' '.join(command[:4])}: {said}")
    return done.stdout
