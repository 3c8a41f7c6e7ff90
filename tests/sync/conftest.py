# SPDX-License-Identifier: Apache-2.0
"""A directory in memory, a configuration around it, an index on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from transport.config.settings import Directory, Domain, FileOptions, Location, Settings, SqlOptions, Unknown
from transport.directories.base import Changes, DirectoryError, Found, Listing, Skipped
from transport.index.reader import Reader
from transport.index.writer import Writer
from transport.record import Kind, Record
from transport.sync import SyncReport, compare


class ListSource:
    """A Source over a list: what a directory is to the rest, without a server."""

    def __init__(self, records: Sequence[Record] = (), *, server: str = "") -> None:
        self.records = list(records)
        self.server = server
        self.cookie = b""
        self.fail: Callable[[int], None] = lambda _n: None
        self.asked: list[list[tuple[str, str]]] = []
        self.on_ask: Callable[[Sequence[tuple[str, str]]], None] = lambda _a: None
        self.next: Changes = Changes()

    def list(self) -> Listing:
        def walk() -> Iterator[Record]:
            for n, record in enumerate(self.records):
                self.fail(n)
                yield record

        return Listing(walk(), Skipped(), server=self.server, cookie=self.cookie)

    def ask(self, addresses: Sequence[tuple[str, str]], timeout: float) -> Found:
        self.asked.append(list(addresses))
        self.on_ask(addresses)
        wanted = set(addresses)
        return Found([r for r in self.records if (r.local, r.domain) in wanted], self.server)

    def changes(self, cookie: bytes, limit: int) -> Changes:
        return self.next

    def close(self) -> None:
        pass


def people(
    count: int, domain: str = "example.com", *, prefix: str = "user", location: str | None = None, entries: bool = False
) -> list[Record]:
    """So many mailboxes user000@domain and on."""
    return [
        Record(
            f"{prefix}{n:05d}", domain, location=location, entry=f"{prefix}{n}@{domain}".encode() if entries else None
        )
        for n in range(count)
    ]


class World:
    """An index with directories `here` and `there` of example.com, and whatever a test adds."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.writer = Writer(state)
        self.sources = {"here": ListSource(), "there": ListSource()}
        self.settings = Settings(
            directories={
                "here": Directory("here", "sql", SqlOptions("sqlite://", "SELECT 1"), b"here............"),
                "there": Directory("there", "file", FileOptions("x", "csv"), b"there..........."),
            },
            domains={
                "example.com": Domain(
                    "example.com",
                    local=("here",),
                    remote=("there",),
                    destination="cloud",
                    unknown=Unknown.VERIFY,
                    locations={"cloud": Location("cloud"), "onprem": Location(), "store2": Location("", "lmtp:x")},
                )
            },
        )
        self.reader = Reader(state)
        self.use()

    def use(self) -> None:
        self.reader.use({name: found.fingerprint for name, found in self.settings.directories.items()})

    def change(self, name: str, **changes: Any) -> None:
        """Change keys of a directory."""
        directories = dict(self.settings.directories)
        directories[name] = replace(directories[name], **changes)
        self.settings = replace(self.settings, directories=directories)
        self.use()

    def sync(self, name: str = "here", *, good: bool = True, **options: Any) -> SyncReport:
        report = compare(
            self.writer,
            self.settings.directories[name],
            self.sources[name],
            self.settings,
            **options,
        )
        if good:
            assert report.good, report.line()
        self.reader.renew()
        return report

    def listed(self, name: str = "here", domain: str = "example.com") -> set[str]:
        """Local parts that the index has of a directory and domain."""
        with self.writer.change() as connection:
            return {
                local
                for (local,) in connection.execute(
                    "SELECT r.local FROM recipient r JOIN directory n ON n.id = r.directory JOIN domain d"
                    " ON d.id = r.domain WHERE n.name = ? AND d.name = ?",
                    (name, domain),
                )
            }

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def refuse(at: int, error: Exception | None = None) -> Callable[[int], None]:
    """Fail at the n-th record."""

    def fail(n: int) -> None:
        if n == at:
            raise error or DirectoryError("the connection was lost", "start it")

    return fail


__all__ = ["Kind", "ListSource", "World", "people", "refuse"]
