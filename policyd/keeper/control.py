# SPDX-License-Identifier: Apache-2.0
"""The control socket: one JSON object a line in, one or more out. `policyd.control_client` is the other side.

A request has a key `do`; the answer has `ok` (and `error` when false, with `later` when it can work at another time).
Long ones send lines `{"progress": …}` first.

    {"do": "ping"}                  pid, version
    {"do": "status"}                status: {…} (see Keeper.status)
    {"do": "flush", "what": "ADDRESS" or "DOMAIN"}
                                    what, workers, acknowledged (each worker said that it forgot), directories:
                                    [{directory, answer: "listed", "not listed" or "could not be asked"}] for an
                                    address, [sync report] for a domain
    {"do": "sync", "names": […], "dry_run": bool, "accept": null or […]}
                                    names: directories or domains, empty: all. accept: null takes nothing that is
                                    held, [] all that is held in what is synced, or the names of directories and
                                    domains. progress: {directory, records}; reports: [{…}] (transport.sync.report)
    {"do": "explain", "address": …, "client": {policy attributes}, "at": unix time or null}
                                    report (transport.explain), made with fresh live look-ups
    {"do": "query", "map": …, "key": …}
                                    status (OK, NOTFOUND, TEMP), value
    {"do": "reload"}                as SIGHUP; errors: [line, …] when refused
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from policyd import clock, log
from policyd.keeper.syncing import Order, Syncing
from policyd.link import Live
from policyd.sockets import Open
from policyd.version import running
from transport.address import forms, parse
from transport.names import Of
from transport.sync import SyncReport

if TYPE_CHECKING:
    from policyd.keeper.main import Keeper

_LINE = 1 << 20
_CLIENTS = 32
_PATIENCE = 30.0  # seconds for a request, and for an answer to be read: a client that hangs keeps no other one out
_OPENED = 3.0  # seconds that `status` waits for the index, after a start
_FLUSH_WAIT = 5.0
_FLUSHED = 600.0  # seconds that a flushed answer outranks the index, unless a reading that began later is there


class _BadRequestError(Exception):
    """The request cannot be understood; the text goes to the client."""


class _NotNowError(_BadRequestError):
    """The request is good, and cannot be answered now."""


class Control:
    """The control listener."""

    def __init__(self, keeper: Keeper, listener: Open) -> None:
        self.keeper = keeper
        self.listener = listener
        self.clients = 0

    async def serve(self) -> None:
        """Listen as long as the daemon lives: a loop need not hold a server that nobody refers to."""
        if self.listener.listener.kind == "unix":
            server = await asyncio.start_unix_server(self._client, sock=self.listener.sock, limit=_LINE)
        else:
            server = await asyncio.start_server(self._client, sock=self.listener.sock, limit=_LINE)
        await server.serve_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients += 1
        try:
            if self.clients > _CLIENTS:
                writer.write(b'{"ok": false, "error": "too many clients", "later": true}\n')
                return
            while line := await asyncio.wait_for(reader.readline(), _PATIENCE):
                answer = await self._answer(line, writer)
                writer.write(json.dumps(answer, default=_json).encode() + b"\n")
                await asyncio.wait_for(writer.drain(), _PATIENCE)
        except TimeoutError:
            writer.transport.abort()  # an answer that it does not read is not kept for it
        except (OSError, ValueError, asyncio.LimitOverrunError):
            pass  # it went away, or its line has no end
        finally:
            self.clients -= 1
            writer.close()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> dict[str, Any]:
        try:
            message = json.loads(line)
            if not isinstance(message, dict):
                raise _BadRequestError("a request is a JSON object")
            do = message.get("do")
            method = getattr(self, f"_do_{do}", None) if isinstance(do, str) else None
            if method is None:
                raise _BadRequestError(f"unknown request {do!r}")
            answer: dict[str, Any] = await method(message, writer)
            return {"ok": True, **answer}
        except _NotNowError as error:
            return {"ok": False, "error": str(error), "later": True}
        except (ValueError, _BadRequestError) as error:
            return {"ok": False, "error": str(error)}
        except Exception as error:
            log.limited(log.ERROR, "control", "fault in a control request", error)
            return {"ok": False, "error": f"fault in the daemon: {type(error).__name__}; see its log", "later": True}

    async def _do_ping(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> dict[str, Any]:
        return {"pid": os.getpid(), "version": running()}

    async def _do_status(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> dict[str, Any]:
        with suppress(TimeoutError):  # directly after a start there is nothing to be seen yet
            await asyncio.wait_for(self.keeper.index.tried.wait(), _OPENED)
        return {"status": self.keeper.status()}

    async def _do_reload(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> dict[str, Any]:
        errors = await self.keeper.reloading.ask()
        return {"ok": not errors, "errors": list(errors), **({"error": errors[0]} if errors else {})}

    async def _do_query(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> dict[str, Any]:
        status, value = await self.keeper.answers.query(_text(message, "map"), _text(message, "key"))
        return {"status": status, "value": value}

    async def _do_explain(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> dict[str, Any]:
        client = message.get("client") or {}
        if not isinstance(client, dict):
            raise _BadRequestError("client is an object of policy attributes")
        at = message.get("at")
        if at is not None and not isinstance(at, int | float):
            raise _BadRequestError("at is a unix time")
        report = await self.keeper.answers.explain(
            _text(message, "address"), {str(key): str(value) for key, value in client.items()}, at
        )
        return {"report": report}

    async def _do_flush(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> dict[str, Any]:
        what = _text(message, "what")
        keeper = self.keeper
        if "@" not in what:
            name = what.lower().rstrip(".")
            if name not in keeper.settings.domains:
                raise _BadRequestError(f"{what} is not a split domain of this configuration")
            keeper.forget(None, name)
            reports = await self._sync(keeper.directories_of([name]), writer, False, None)
            keeper.answers.flush(None, name, ())
            acknowledged = await keeper.crowd.flush(None, name, _FLUSH_WAIT)
            return {
                "what": name,
                "workers": len(keeper.crowd.workers),
                "acknowledged": acknowledged,
                "directories": [_report(one) for one in reports],
            }
        locals_, domain, owner = self._address(what)
        words: dict[str, str] = {}
        acknowledged = True
        for local in locals_:
            keeper.forget(local, domain)
            found = await keeper.answers.ask_all(local, domain, owner)
            until = clock.now() + _FLUSHED
            told = [
                (name, local, domain, live._replace(end=until))
                for name, live in found.items()
                if live.records is not None
            ]
            keeper.answers.flush(local, domain, told)
            acknowledged = await keeper.crowd.flush(local, domain, _FLUSH_WAIT, told) and acknowledged
            for name, live in found.items():
                if words.get(name) != "listed":
                    words[name] = _word(live)
        for name in words:
            if name in keeper.syncs:
                keeper.syncs[name].soon()
        return {
            "what": what,
            "workers": len(keeper.crowd.workers),
            "acknowledged": acknowledged,
            "directories": [{"directory": name, "answer": word} for name, word in words.items()],
        }

    def _address(self, text: str) -> tuple[list[str], str, str]:
        """The local parts and the domain under which directories may list an address, and the split domain it is of."""
        address = parse(text)
        if address is None:
            raise _BadRequestError(f"{text} is not an address")
        settings = self.keeper.settings
        place = self.keeper.answers.answerer.router.names.place(address.domain)
        if place.domain is None:
            raise _BadRequestError(f"{address.domain} is not a split domain of this configuration")
        owner = place.domain.alias_of or place.domain.name
        shapes = forms(address.local, settings.daemon.recipient_delimiter)
        return [base for base, _ in shapes], address.domain if place.of is Of.MATCH else owner, owner

    async def _do_sync(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> dict[str, Any]:
        names = _names(message.get("names") or [])
        accept = None if message.get("accept") is None else _names(message["accept"])
        chosen = self.keeper.directories_of([*names, *(accept or [])])
        reports = await self._sync(chosen, writer, bool(message.get("dry_run")), accept)
        if accept is not None and not message.get("dry_run"):
            # what was released in the index need not be released a second time for the files
            self.keeper.static.accepted = True
            self.keeper.static.changed()
        good = all(report.good for report in reports)
        return {"reports": [_report(one) for one in reports], "good": good}

    async def _sync(
        self, names: Sequence[str], writer: asyncio.StreamWriter, dry_run: bool, accept: list[str] | None
    ) -> list[SyncReport]:
        """Read these directories now, all at once, with progress for the client."""
        keeper = self.keeper
        if keeper.index.writer is None:
            raise _NotNowError(f"the index cannot be written: {keeper.index.error}")

        def told(sync: Syncing, records: int) -> None:
            if not writer.is_closing():
                line = {"progress": {"directory": sync.directory.name, "records": records}}
                writer.write(json.dumps(line).encode() + b"\n")

        orders = []
        for name in names:
            sync = keeper.syncs[name]
            order = Order(None if accept is None else tuple(accept), dry_run, partial(told, sync))
            sync.order(order)
            orders.append(order)
        beat = asyncio.get_running_loop().create_task(_keep_alive(writer))
        try:
            return [await order.done for order in orders]
        except asyncio.CancelledError:
            raise _NotNowError("the configuration changed meanwhile: ask again") from None
        finally:
            beat.cancel()


async def _keep_alive(writer: asyncio.StreamWriter) -> None:
    """A long listing without progress of its own must not look like a dead daemon."""
    while not writer.is_closing():
        await asyncio.sleep(5)
        writer.write(b'{"progress": {}}\n')


def _text(message: dict[str, Any], key: str) -> str:
    value = message.get(key)
    if not isinstance(value, str) or not value:
        raise _BadRequestError(f"{key} is missing")
    return value


def _names(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise _BadRequestError("names are a list of texts")
    return [one.lower() for one in value]


def _word(live: Live) -> str:
    if live.records is None:
        return "could not be asked"
    return "listed" if live.records else "not listed"


def _report(report: SyncReport) -> dict[str, Any]:
    return {**dataclasses.asdict(report), "good": report.good, "line": report.line()}


def _json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)
