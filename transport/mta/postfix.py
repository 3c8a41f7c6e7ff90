# SPDX-License-Identifier: Apache-2.0
"""Reads a Postfix by its own tools: postconf for settings and services, postmap for tables. Changes nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 10.0
"""How long one of Postfix's tools may take."""

CLASSES = ("mydestination", "virtual_alias_domains", "virtual_mailbox_domains", "relay_domains")
"""The parameters that make a domain ours, in the order in which trivial-rewrite(8) asks them."""


class PostfixError(Exception):
    """Postfix is missing, or one of its tools failed. The text says which and why."""


@dataclass(frozen=True, slots=True)
class Service:
    """One entry of master.cf. chroot is what it comes to, with the default filled in.

    overrides: its `-o` as written. expanded: the same with `$name` expanded.
    """

    name: str
    type: str
    chroot: bool
    command: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    expanded: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """As `postconf -P` and `-M` name it."""
        return f"{self.name}/{self.type}"

    def own(self, name: str) -> str | None:
        """What `-o` says of a parameter, with all `$name` expanded; None without one."""
        return self.expanded.get(name, self.overrides.get(name))


@dataclass(slots=True)
class Postfix:
    """One Postfix as it is configured now.

    values: every parameter as written or its default. expanded: the same with `$name` expanded. own: those that
    main.cf sets. tables: types that `postconf -m` names.
    """

    directory: Path
    version: tuple[int, ...]
    values: Mapping[str, str]
    expanded: Mapping[str, str]
    own: frozenset[str]
    services: tuple[Service, ...]
    tables: frozenset[str]
    notes: list[str] = field(default_factory=list)
    _found: dict[tuple[str, str], str | None] = field(default_factory=dict)
    _broken: set[str] = field(default_factory=set)

    def value(self, name: str) -> str:
        """A parameter as written; "" when this version does not know it."""
        return self.values.get(name, "")

    def full(self, name: str) -> str:
        """A parameter with all `$name` expanded."""
        return self.expanded.get(name, "")

    def knows(self, name: str) -> bool:
        """Whether this version has the parameter."""
        return name in self.values

    def service(self, name: str, type: str = "unix") -> Service | None:
        """An entry of master.cf."""
        return next((s for s in self.services if s.name == name and s.type == type), None)

    @property
    def receivers(self) -> tuple[Service, ...]:
        """Every smtpd(8) that takes mail."""
        return tuple(s for s in self.services if s.command == "smtpd" and s.type in ("inet", "pass", "unix"))

    def of(self, service: Service, name: str) -> str:
        """A parameter as it counts for one service, with all `$name` expanded."""
        own = service.own(name)
        return self.full(name) if own is None else own

    @property
    def queue_directory(self) -> Path:
        """Where chrooted services live."""
        return Path(self.full("queue_directory") or "/var/spool/postfix")

    @property
    def chrooted(self) -> bool:
        """Whether a service that asks maps is chrooted."""
        askers = {"smtpd", "cleanup", "trivial-rewrite"}
        return any(s.chroot for s in self.services if s.command in askers)

    def has(self, table_type: str) -> bool:
        """Whether this Postfix can open tables of that type."""
        return table_type in self.tables

    def lookup(self, table: str, keys: Iterable[str]) -> dict[str, str]:
        """The values of those keys that a table has, by postmap; what cannot be asked is noted and has none."""
        wanted = [key for key in dict.fromkeys(keys) if (table, key) not in self._found]
        if wanted and table not in self._broken:
            found = self._postmap(table, wanted)
            for key in wanted:
                self._found[table, key] = found.get(key)
        return {key: value for key in keys if (value := self._found.get((table, key))) is not None}

    def is_broken(self, table: str) -> bool:
        """Whether a look-up in that table failed."""
        return table in self._broken

    def _postmap(self, table: str, keys: Sequence[str]) -> dict[str, str]:
        plain = table.removeprefix("proxy:")
        kind, _, path = plain.partition(":")
        if kind in ("regexp", "pcre", "cidr", "texthash") and path.startswith("/") and not Path(path).exists():
            self._broken.add(table)  # postmap would say so too, after a second
            self.notes.append(f"{plain} could not be asked: there is no such file")
            return {}
        command = ["postmap", "-c", str(self.directory), "-q", "-", plain]
        try:
            done = subprocess.run(
                command,
                input="".join(f"{key}\n" for key in keys),
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                timeout=6 * SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as fault:
            self._broken.add(table)
            self.notes.append(f"{plain} could not be asked: {fault}")
            return {}
        if done.returncode and done.stderr.strip():
            self._broken.add(table)
            self.notes.append(f"{plain} could not be asked: {done.stderr.strip().splitlines()[-1]}")
        rows = (line.partition("\t") for line in done.stdout.splitlines())
        return {key: value for key, _, value in rows}

    def keys(self, table: str) -> list[str] | None:
        """Every key of a table that can be listed (indexed files, text files, patterns); None for all others."""
        rows = self.rows(table)
        return None if rows is None else [key for key, _ in rows]

    def rows(self, table: str) -> list[tuple[str, str]] | None:
        """The same with the values."""
        plain = table.removeprefix("proxy:")
        kind, _, rest = plain.partition(":")
        if kind in ("texthash", "regexp", "pcre", "cidr"):
            return text_rows(rest)
        if kind == "inline":
            items = (item.strip("{} ").partition("=") for item in split_list(rest.strip("{}")))
            return [(key.strip(), value.strip()) for key, _, value in items]
        if kind in ("static", "fail"):
            return [("*", rest)]
        if kind not in ("hash", "btree", "lmdb", "cdb", "dbm", "sdbm"):
            return None
        try:
            done = subprocess.run(
                ["postmap", "-c", str(self.directory), "-s", plain],
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                timeout=SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            return None
        lines = (line.partition("\t") for line in done.stdout.splitlines())
        return [(key, value) for key, _, value in lines]

    def classes(
        self, domains: Sequence[str], leave_out: Callable[[str], bool] = lambda entry: False
    ) -> dict[str, tuple[str, ...]]:
        """For each domain the class parameters that name it: more than one is a mistake, none means foreign.

        Entries for which `leave_out` is true do not count: what we wrote must not decide where we belong.
        """
        found: dict[str, list[str]] = {domain: [] for domain in domains}
        for parameter in CLASSES:
            entries = self.members(parameter)
            parents = parameter in re.split(r"[,\s]+", self.full("parent_domain_matches_subdomains"))
            entries = [e for e in entries if "socketmap:" not in e and not leave_out(e)]
            for domain in self._members(entries, domains, parents):
                found[domain].append(parameter)
        return {domain: tuple(names) for domain, names in found.items()}

    def members(self, parameter: str) -> list[str]:
        """The entries of a class parameter. `relay_domains = $mydestination`, the default before Postfix 3.0 and with
        compatibility_level below 2, says nothing new: mydestination is asked first."""
        entries = split_list(self.full(parameter))
        if parameter == "relay_domains" and "$mydestination" in self.value(parameter):
            known = split_list(self.full("mydestination"))
            entries = [entry for entry in entries if entry not in known]
        return entries

    def _members(self, entries: Sequence[str], domains: Sequence[str], parents: bool) -> list[str]:
        """Match like match_list(3): in order, `!` excludes, files and tables included."""
        open_ = list(domains)
        members: list[str] = []
        for entry in _with_files(entries):
            wanted = not entry.startswith("!")
            matches = set(self._match(entry.lstrip("!").strip(), open_, parents))
            if wanted:
                members += [d for d in open_ if d in matches]
            open_ = [d for d in open_ if d not in matches]
            if not open_:
                break
        return members

    def _match(self, entry: str, domains: Sequence[str], parents: bool) -> list[str]:
        if ":" in entry and not entry.startswith("["):
            names = {domain: [domain, *(_above(domain, "" if parents else "."))] for domain in domains}
            if entry.partition(":")[0] in ("regexp", "pcre", "cidr"):
                names = {domain: [domain] for domain in domains}
            hits = self.lookup(entry, [name for group in names.values() for name in group])
            return [domain for domain, group in names.items() if any(name in hits for name in group)]
        entry = entry.lower()
        if parents and not entry.startswith("."):
            return [d for d in domains if d == entry or d.endswith("." + entry)]
        return [d for d in domains if d == entry or (entry.startswith(".") and d.endswith(entry))]


def _above(domain: str, dot: str) -> list[str]:
    labels = domain.split(".")
    return [dot + ".".join(labels[n:]) for n in range(1, len(labels))]


def _with_files(entries: Iterable[str]) -> Iterable[str]:
    """`/file/name` stands for the file's own entries (postconf(5), mydestination)."""
    for entry in entries:
        if not entry.lstrip("!").startswith("/"):
            yield entry
            continue
        try:
            text = Path(entry.lstrip("!")).read_text("utf-8", "replace")
        except OSError:
            continue
        for line in text.splitlines():
            if not line.startswith("#"):
                yield from split_list(line)


def text_rows(path: str) -> list[tuple[str, str]]:
    """The first words of a map's source text, each with the rest of its line; no comments, no continued lines."""
    try:
        text = Path(path).read_text("utf-8", "replace")
    except OSError:
        return []
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    cut = [line.split(None, 1) for line in lines if not line[0].isspace()]
    return [(words[0], words[1].strip() if len(words) > 1 else "") for words in cut]


def split_list(text: str) -> list[str]:
    """Cut a Postfix list at commas and blanks, but not inside `{ }`."""
    items: list[str] = []
    word, depth = "", 0
    for char in text:
        if depth == 0 and (char == "," or char.isspace()):
            if word:
                items.append(word)
            word = ""
            continue
        depth += (char == "{") - (char == "}")
        word += char
    return [*items, word] if word else items


def read(directory: Path | None = None) -> Postfix:
    """Read the Postfix whose main.cf stands in `directory` (None: the system's). Raises PostfixError."""
    if shutil.which("postconf") is None:
        raise PostfixError("postconf is not installed here, or not in PATH")
    where = directory or Path(_run(["postconf", "-h", "config_directory"]).strip())
    base = ["postconf", "-c", str(where)]
    values = _settings(_run(base))
    expanded = _settings(_run([*base, "-x"]))
    version = tuple(int(n) for n in re.findall(r"\d+", values.get("mail_version", "0"))[:3])
    overrides, full = _overrides(_run([*base, "-P"])), _overrides(_run([*base, "-P", "-x"]))
    return Postfix(
        directory=where,
        version=version,
        values=values,
        expanded=expanded,
        own=frozenset(_settings(_run([*base, "-n"]))),
        services=tuple(_services(_run([*base, "-M"]), overrides, full, expanded)),
        tables=frozenset(_run([*base, "-m"]).split()),
    )


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="surrogateescape", timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise PostfixError(f"{' '.join(command)}: {fault}") from fault
    if done.returncode:
        raise PostfixError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _settings(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, sign, value in pairs if sign}


def _overrides(text: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        place, _, value = line.partition("=")
        service, _, parameter = place.strip().rpartition("/")
        found.setdefault(service, {})[parameter] = value.strip()
    return found


def _services(
    text: str,
    overrides: Mapping[str, Mapping[str, str]],
    expanded: Mapping[str, Mapping[str, str]],
    main: Mapping[str, str],
) -> Iterable[Service]:
    level = re.match(r"\d+", main.get("compatibility_level", "0"))
    default = level is not None and int(level[0]) < 1  # postconf(5), compatibility_level: chroot=y before 1
    for line in text.splitlines():
        words = line.split(None, 7)
        if len(words) < 8:
            continue
        name, type_, _private, _unprivileged, chroot, _wakeup, _limit, command = words
        rooted = default if chroot == "-" else chroot == "y"
        key = f"{name}/{type_}"
        yield Service(name, type_, rooted, command.split()[0], overrides.get(key, {}), expanded.get(key, {}))
