# SPDX-License-Identifier: Apache-2.0
"""What a cPanel host knows of its mail, read below a root folder and never written.

Files, all named from the root: `etc/userdomains` and `etc/trueuserdomains` (domain: account), `etc/passwd` (accounts'
homes), HOME/etc/DOMAIN/passwd (mailboxes), HOME/etc/.NAME@DOMAIN.suspended_incoming (a mailbox that takes no mail),
`var/cpanel/suspended/ACCOUNT` (a suspended account), `etc/valiases/DOMAIN` (forwarders and the default address),
`etc/localdomains`, `etc/remotedomains`, `etc/secondarymx` (who takes a domain's mail), `var/cpanel/users/ACCOUNT`
(MXCHECK-DOMAIN: the choice made), and mailman's lists.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from transport.address import external
from transport.directories.base import DirectoryError, Listing, PartsError, Skipped
from transport.directories.reading import QUOTED, address_in, name_and_rest, targets_of, trimmed, why_not
from transport.record import Kind, Record

MAILMAN = "usr/local/cpanel/3rdparty/mailman/lists"
_LIST_ADDRESSES = (
    "", "-admin", "-bounces", "-confirm", "-join", "-leave", "-owner", "-request", "-subscribe", "-unsubscribe",
)  # fmt: skip
_LARGEST = 16 << 20  # octets of one file; the largest host's have a few
_WRITING = 3.0  # seconds for which an empty file, or none, may be one that is being written
_MOST = 500_000  # lines of it: of three octets each they would fill a gigabyte of memory
_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # what str.splitlines takes for the end of one
_RIGHTS = (
    "let the daemon's user read it and enter its folders: systemd/splitmx-cpanel.conf does, or an ACL on HOME and "
    "HOME/etc with ProtectHome=read-only in the unit"
)
# between the targets of one line; not inside quotes
_TARGET = re.compile(rf"(?:{QUOTED}|[^,])+")


@dataclass(slots=True)
class Aliases:
    """One file of `etc/valiases`. entries: address as written -> its targets; default: the `*` line, "" for none."""

    entries: dict[str, list[str]] = field(default_factory=dict)
    default: str = ""


class Tree:
    """The files of one host, for one reading: what names all accounts is read once. Every method raises DirectoryError
    for what is there and cannot be read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.newest = 0.0  # mtime of the newest file that was read

    def text(self, name: str) -> str | None:
        """A file below the root; None when there is none."""
        return self._read(self.root / name)

    def _read(self, path: Path) -> str | None:
        try:
            # accounts' owners may put anything there: a pipe would be waited for, a device read without end
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                before = os.fstat(file.fileno())
                if not stat.S_ISREG(before.st_mode) or before.st_size > _LARGEST:
                    raise DirectoryError(f"{path} is no file of cPanel's", "who put a pipe, a folder or a giant there?")
                data = file.read(before.st_size + 1)
                after = os.fstat(file.fileno())
        except FileNotFoundError:
            _need_targets(path, path.parent, path.parent.parent)
            return None
        except NotADirectoryError:  # nobody's mailboxes end with that: there are none without the folder
            raise DirectoryError(
                f"{path}: something else stands where a folder should be", "who put it there?"
            ) from None
        except OSError as fault:
            raise DirectoryError(f"{path}: {fault.strerror}", _RIGHTS) from None
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size) or len(data) != after.st_size:
            raise DirectoryError(f"{path} is being written", "it is read again")
        text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff").replace("\r\n", "\n")
        if "\0\0" in text:  # what a crash leaves of a file
            raise DirectoryError(f"{path} holds zeros where text should be: it is damaged", "let cPanel write it anew")
        if sum(map(text.count, _ENDS)) > _MOST:
            raise DirectoryError(f"{path} has more than {_MOST} lines", "who filled it?")
        self.newest = max(self.newest, after.st_mtime)
        return text

    def _exists(self, path: Path) -> bool:
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as fault:
            if fault.errno == errno.ENAMETOOLONG:  # no file can have this name
                return False
            raise DirectoryError(f"{path}: {fault.strerror}", _RIGHTS) from None
        return True

    def owners(self, name: str = "etc/userdomains") -> dict[str, str]:
        """Domain -> account."""
        text = self.text(name)
        if text is None:
            raise DirectoryError(f"{self.root / name} does not exist", "is this the root folder of a cPanel host?")
        if text and not text.endswith("\n") and not text.rpartition("\n")[2].partition(":")[2].strip():
            raise DirectoryError(
                f"{self.root / name} looks half written: its last line ends in a name", "is cPanel just writing it?"
            )
        return {key: value for key, value in _pairs(text) if key != "*" and value and value != "nobody"}

    def main_domain(self, account: str) -> str:
        """The account's first domain, "" when it is not known: its user name is a mailbox there."""
        return self._main_domains.get(account, "")

    @cached_property
    def _main_domains(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for domain, owner in _pairs(self.text("etc/trueuserdomains") or ""):
            found.setdefault(owner, domain)
        return found

    def names(self, name: str) -> frozenset[str]:
        """A file of domains, a line each: localdomains, remotedomains, secondarymx."""
        lines = (line.strip().lower() for line in (self.text(name) or "").splitlines())
        return frozenset(line for line in lines if line and not line.startswith("#"))

    def home(self, account: str) -> Path:
        """An account's home below the root."""
        return self._homes.get(account) or self.root / "home" / account

    @cached_property
    def _homes(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for line in (self.text("etc/passwd") or "").splitlines():
            fields = line.split(":")
            if len(fields) >= 6 and fields[5].startswith("/"):
                found.setdefault(fields[0], self.root / fields[5].lstrip("/"))
        return found

    def mailboxes(self, account: str, domain: str) -> list[str]:
        """Local parts of a domain's mailboxes."""
        home = self.home(account)
        if not self._exists(home):
            raise DirectoryError(f"{home}: no such folder", "is the disk with the accounts mounted?")
        path = home / "etc" / domain / "passwd"
        text = self._read(path) or ""
        if not text and _just_written(path):
            raise DirectoryError(f"{path} was emptied or removed a moment ago", "it is read again")
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        if lines and ":" not in lines[-1] and not text.endswith(("\n", "\r")):
            raise DirectoryError(
                f"{path} looks half written: its last line ends in a name", "is cPanel just writing it?"
            )
        return [line.split(":", 1)[0] for line in lines if ":" in line]

    def suspended(self, account: str) -> bool:
        """Whether the whole account is."""
        return self._exists(self.root / "var/cpanel/suspended" / account)

    def takes_no_mail(self, account: str, local: str, domain: str) -> bool:
        """Whether one mailbox's incoming mail is suspended. local: as `mailboxes` gives it, printable."""
        return "/" not in local and self._exists(self.home(account) / f"etc/.{local}@{domain}.suspended_incoming")

    def aliases(self, domain: str) -> Aliases:
        """The forwarders and the default address of a domain."""
        found = Aliases()
        for line in (self.text(f"etc/valiases/{domain}") or "").splitlines():
            pair = name_and_rest(line)
            if pair is None or line.lstrip().startswith("#"):
                continue
            name, text = pair[0], pair[1].strip()
            if name == "*":
                found.default = text.strip('"') if text.startswith('":') else text
            else:
                found.entries.setdefault(name, []).extend(split_targets(text))
        return found

    def domain_forwarder(self, domain: str) -> str:
        """Where the whole domain goes, "" for nowhere (etc/vdomainaliases)."""
        text = self.text(f"etc/vdomainaliases/{domain}") or ""
        return next((value for key, value in _pairs(text) if key == domain), "")

    def lists(self, domain: str) -> list[str]:
        """Names of mailman's lists of a domain."""
        return sorted(name[: -len(domain) - 1] for name in self._lists.get(domain, ()))

    @cached_property
    def _lists(self) -> dict[str, list[str]]:
        """Folders of lists, which are called LIST_DOMAIN, by domain."""
        folder = self.root / MAILMAN
        try:
            found = [path.name for path in folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            _need_targets(folder)
            return {}
        except OSError as fault:
            raise DirectoryError(f"{folder}: {fault.strerror}", _RIGHTS) from None
        lists: dict[str, list[str]] = {}
        for name in found:
            lists.setdefault(name.rpartition("_")[2], []).append(name)
        return lists

    def choice(self, account: str, domain: str) -> str:
        """The mail exchanger that was chosen: auto, local, remote or secondary."""
        for line in (self.text(f"var/cpanel/users/{account}") or "").splitlines():
            key, sign, value = line.partition("=")
            if sign and key.strip().lower() == f"mxcheck-{domain}":
                return {"0": "local", "": "auto"}.get(value.strip(), value.strip().lower())
        return "auto"

    def state(self, domain: str) -> str:
        """What Exim does with the domain now: local, remote, secondary (backup), or "" when it knows it not."""
        if domain in self.names("etc/secondarymx"):
            return "secondary"
        if domain in self.names("etc/remotedomains"):
            return "remote"
        return "local" if domain in self.names("etc/localdomains") else ""


def _just_written(path: Path) -> bool:
    """Whether somebody may be writing the file in place, which begins with an empty one or none: nobody has left."""
    for one in (path, path.parent):  # the folder's time is that of a name's coming or going
        try:
            return 0 <= time.time() - one.stat().st_mtime < _WRITING
        except OSError:
            continue
    return False


def _need_targets(*paths: Path) -> None:
    """Of what does not exist: a link that leads nowhere (a disk that is not mounted) is a fault, not nobody."""
    for path in paths:
        if path.is_symlink() and not path.exists():
            raise DirectoryError(f"{path} is a link that leads nowhere", "is the disk behind it mounted?")


def split_targets(text: str) -> list[str]:
    """The targets of one line. What begins with `:` or `|` is one target to its end."""
    text = text.strip()
    if text.startswith((":", "|", '":', '"|')):
        return [text]
    return [found.strip() for found in _TARGET.findall(text) if found.strip()]


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        key, sign, value = line.partition(":")
        if sign and not line.lstrip().startswith("#"):
            yield key.strip().lower(), value.strip()


def listing(path: Path, domains: Sequence[str]) -> Listing:
    """Everyone of these domains on the host below `path`: mailboxes, forwarders, lists, the account's own mailbox.

    A domain whose own files cannot be read is named in `parts`: its account's owner may put anything there, and the
    others' people do not depend on it. Raises PartsError when that is all of them, DirectoryError for the host's files.
    A suspended account's people, and mailboxes that take no mail, are listed as inactive. Forwarders to commands,
    files and special words are listed without targets: the host's own routers deliver to them.
    """
    tree, skipped = Tree(path), Skipped()
    owners = tree.owners()
    if domains and not any(domain in owners for domain in domains):
        raise DirectoryError(
            f"{path / 'etc/userdomains'} names none of {', '.join(list(domains)[:5])}", "are they on this host?"
        )
    records: list[Record] = []
    parts: dict[str, DirectoryError | None] = {}
    for domain in domains:
        parts[domain] = None
        if domain not in owners:
            skipped.add(domain, "not a domain of this cPanel host")
            continue
        try:
            records += _domain(tree, owners[domain], domain, skipped)
        except DirectoryError as fault:
            # a folder's name may be no text, which neither the index nor the log takes
            what = fault.what.encode("utf-8", "backslashreplace").decode()
            parts[domain] = DirectoryError(what, fault.hint)
    owned = [parts[domain] for domain in domains if domain in owners]
    if owned and None not in owned:
        raise PartsError(parts)
    return Listing(iter(records), skipped, content_time=tree.newest or None, parts=parts)


def watched(path: Path, domains: Sequence[str]) -> Iterator[Path]:
    """Every file and folder whose change may change the listing of these domains. Raises DirectoryError."""
    tree = Tree(path)
    for name in ("etc/userdomains", "etc/trueuserdomains", "etc/passwd", "var/cpanel/suspended", MAILMAN):
        yield path / name
    owners = tree.owners()
    for domain in domains:
        if domain in owners:
            home = tree.home(owners[domain]) / "etc"
            yield from (home, home / domain, home / domain / "passwd", path / "etc/valiases" / domain)


def _domain(tree: Tree, account: str, domain: str, skipped: Skipped) -> Iterator[Record]:
    off = tree.suspended(account)
    found: dict[tuple[str, str], Record] = {}
    names = tree.mailboxes(account, domain)
    own_name = len(names)
    if tree.main_domain(account) == domain:
        names.append(account)
    for number, local in enumerate(names):
        address = address_in(f"{local}@{domain}")
        if address is None:
            skipped.add(f"{local}@{domain}", why_not(f"{local}@{domain}"))
            continue
        active = not off and (number == own_name or not tree.takes_no_mail(account, local, domain))
        found.setdefault(address[:2], Record(address.local, address.domain, Kind.MAILBOX, active))
    for name, words in tree.aliases(domain).entries.items():
        address = address_in(name if "@" in name else f"{name}@{domain}")
        if address is None:
            skipped.add(name, why_not(name))
            continue
        if address.domain != domain or address.local == "*":
            skipped.add(name, f"stands in the forwarders of {domain}, where nothing looks it up")
            continue
        targets = forwarded(words, skipped, name)
        first = found.get(address[:2])
        if first is None:
            record = Record(address.local, address.domain, Kind.ALIAS, not off, targets=targets)
            found[address[:2]] = trimmed(record)
        elif targets:
            # a forwarder beside a mailbox: cPanel delivers to both
            own = external(address.local, address.domain)
            found[address[:2]] = trimmed(first._replace(targets=tuple(dict.fromkeys((own, *targets)))))
    for name in tree.lists(domain):
        for suffix in _LIST_ADDRESSES:
            address = address_in(f"{name}{suffix}@{domain}")
            if address is not None:
                found.setdefault(
                    address[:2],
                    Record(address.local, address.domain, Kind.ALIAS if suffix else Kind.GROUP, not off),
                )
    yield from found.values()


def forwarded(words: Sequence[str], skipped: Skipped, owner: str) -> tuple[str, ...]:
    """The targets of a forwarder when all are addresses; else none: the host itself has to do all of it."""
    if any(word.startswith((":", "|", '":', '"|', "/")) or "@" not in word for word in words):
        return ()
    targets, here = targets_of(words, skipped, owner)
    return () if here or any(address_in(word) is None for word in words) else targets
