# SPDX-License-Identifier: Apache-2.0
"""The metrics of a host with thousands of domains."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from policyd.keeper.crowd import Crowd
from policyd.keeper.metrics import KeeperCollector, MetricsServer
from policyd.worker.listen import networks


class _Answers(KeeperCollector):
    """Those that grow with the number of domains."""

    def collect(self) -> Any:
        return self._answers()


def test_a_scrape_holds_up_nobody() -> None:
    """Whoever waits for a live look-up gets his turns while the text of 9,000 samples is made; each stands in it once,
    below one HELP and one TYPE."""
    nobody: Any = None  # no loop, no listener: nobody is connected
    crowd = Crowd(nobody, lambda *_: None)
    for number in range(3_000):
        for verdict in ("LOCAL", "RELAY", "TEMP"):
            crowd.decisions["transport", f"d{number}.example", verdict] = number
    keeper: Any = SimpleNamespace(crowd=crowd, networks=networks(()))
    server = MetricsServer(keeper, nobody)
    server.collector = _Answers(keeper)
    turns = 0

    async def life() -> bytes:
        nonlocal turns
        listening = await asyncio.start_server(server._client, "127.0.0.1")
        host, port = listening.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        reading = asyncio.ensure_future(reader.read())
        while not reading.done():
            turns += 1
            await asyncio.sleep(0)
        writer.close()
        listening.close()
        return reading.result()

    text = asyncio.run(life()).decode()
    samples = [line for line in text.splitlines() if line.startswith("splitmx_decisions_total{")]
    assert len(samples) == len(set(samples)) == 9_000
    assert text.count("# HELP splitmx_decisions_total") == text.count("# TYPE splitmx_decisions_total") == 1
    assert turns > 40
