# SPDX-License-Identifier: Apache-2.0
"""Recipients in files. A file is listed whole and cannot be asked; its age is that of its content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from transport.config.settings import FileOptions
from transport.directories import cpanel, cpanel_uapi
from transport.directories.base import DirectoryError, Found, Listing, Skipped
from transport.directories.files.lines import from_aliases, from_list, from_passwd, from_postfix
from transport.directories.files.reading import Content, read
from transport.directories.files.tables import LAYOUTS, from_table
from transport.directories.reading import merge
from transport.record import Record

_MERGED = 50_000_000  # bytes of a file up to which the same address twice is made one here, else by who stores it
_Lines = Callable[[Content, Sequence[str], Skipped], Iterator[Record]]
_LINES: dict[str, _Lines] = {
    "list": from_list,
    "postfix": from_postfix,
    "passwd": from_passwd,
    "aliases": from_aliases,
}


class FileSource:
    """One file directory."""

    def __init__(self, name: str, options: FileOptions, domains: Sequence[str] = ()) -> None:
        """domains: what a bare name (passwd, aliases) stands for, each."""
        self.name = name
        self.options = options
        self.domains = tuple(domains)

    def list(self) -> Listing:
        """Everyone. The file is read now; nonsense is met while iterating."""
        options, skipped = self.options, Skipped()
        path = Path(options.path)
        if options.format == "cpanel":
            return cpanel.listing(path, self.domains)
        if options.format == "cpanel-uapi":
            return cpanel_uapi.listing(path)
        if options.format in _LINES:
            content = read(path)
            records = _LINES[options.format](content, self.domains, skipped)
        elif options.format in LAYOUTS:
            content = read(path)
            records = from_table(content, options.format, options.columns, skipped)
        else:
            raise DirectoryError(f"format = {options.format!r} is unknown", "use csv or list")
        if len(content.text) <= _MERGED:
            records = _merged(records, skipped)
        return Listing(records, skipped, content_time=content.time)

    def ask(self, addresses: Sequence[tuple[str, str]], timeout: float) -> Found:
        """A file cannot be asked: always raises DirectoryError."""
        raise DirectoryError(f"{self.options.path} is a file and cannot be asked live")

    def close(self) -> None:
        """Nothing is open."""

    def __repr__(self) -> str:
        return f"FileSource({self.name!r}, {self.options.path!r}, {self.options.format!r})"


def _merged(records: Iterable[Record], skipped: Skipped) -> Iterator[Record]:
    yield from merge(records, skipped)
