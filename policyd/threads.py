# SPDX-License-Identifier: Apache-2.0
"""Work in a thread of the loop's own pool: done once, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

_Result = TypeVar("_Result")


async def to_thread(work: Callable[..., _Result], *arguments: Any) -> _Result:
    """Do this in a thread, and wait for it. Raises what it raises, and RuntimeError when no thread can be started.

    Then it is not done. `asyncio.to_thread` leaves it in the pool's queue (concurrent.futures.thread, `submit`), where
    the next thread finds it after everybody has gone on: an index that was opened so kept its lock from its successor.
    """
    future: Future[_Result] = Future()
    try:
        asyncio.get_running_loop().run_in_executor(None, _run, future, work, arguments)
    except RuntimeError:
        if future.cancel():  # else another thread has just become free, and does it
            raise
    return await asyncio.wrap_future(future)


def _run(future: Future[_Result], work: Callable[..., _Result], arguments: tuple[Any, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work(*arguments))
    except BaseException as error:
        future.set_exception(error)
