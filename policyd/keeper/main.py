# SPDX-License-Identifier: Apache-2.0
"""The keeper's life (skeleton)."""

from __future__ import annotations

import asyncio
import os
import socket

from policyd.link import LoopChannel, Message
from policyd.sockets import Open
from transport.config.settings import Settings


def run(settings: Settings, text: str, listeners: list[Open], up: socket.socket, workers: dict[int, socket.socket]) -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)

    def message(channel: LoopChannel, m: Message) -> None:
        if m[0] == "stop":
            os._exit(0)

    sup = LoopChannel(loop, up, message, lambda _: os._exit(0))

    def beat() -> None:
        loop.call_later(0.5, beat)
        sup.send(("beat",))

    beat()
    loop.run_forever()
