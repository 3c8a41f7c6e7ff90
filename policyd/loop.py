# SPDX-License-Identifier: Apache-2.0
"""The event loop of a worker and of the keeper, and how workers run before the keeper and others."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import platform
import struct
from typing import Any

from policyd import log


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed, else asyncio's; what escapes a callback is one limited line of our log."""
    loop = _uvloop() or asyncio.new_event_loop()

    def handler(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        log.limited(log.ERROR, f"loop {type(error).__name__}", f"fault in a callback: {context.get('message')}", error)

    loop.set_exception_handler(handler)
    return loop


def _uvloop() -> asyncio.AbstractEventLoop | None:
    try:
        import uvloop
    except ImportError:
        return None
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


_M_ARENA_MAX, _ARENAS = -8, 2  # mallopt(3); the first one is the process's own heap


def share_heaps() -> None:
    """From now on threads allocate out of two heaps, not out of one each that keeps what it once needed.

    glibc makes up to eight a processor; most of our threads run one at a time anyway (the interpreter's lock).
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


BEFORE = -10
"""The priority of workers (nice(2)), `Nice=` of the unit: nine times the weight of others."""

_LONG, _SHORT = 10_000_000, 500_000  # ns; the kernel's default is 0.7 to 2.8 ms. Who asks for less goes before others
_SET_ATTR = {"x86_64": 314, "aarch64": 274}  # sched_setattr(2), which glibc has from 2.41 on


def rise() -> None:
    """From now on this process and its children come before those of the same priority, where that is allowed (root,
    CAP_SYS_NICE). A priority that somebody chose for us is left alone."""
    with contextlib.suppress(OSError):  # not allowed: only a little slower for listed recipients beside strangers
        if os.getpriority(os.PRIO_PROCESS, 0) == 0:
            os.setpriority(os.PRIO_PROCESS, 0, BEFORE)


def step_back() -> None:
    """Give back what `rise` gave: for a process whose work nobody waits for."""
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) == BEFORE:
            os.setpriority(os.PRIO_PROCESS, 0, 0)


def wait_for_others() -> None:
    """From now on this process and its threads preempt nobody when they wake up (SCHED_BATCH, sched(7)), and give way
    to others that do (a long slice, where the kernel is 6.12 or newer).

    Their share of the processors stays whole, unlike with nice(2). A policy that somebody chose for us is left alone.
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux, or not allowed: only a little slower for workers
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            _ask_for_slices(_LONG, os.SCHED_BATCH)


def go_first() -> None:
    """From now on this process need not wait until others have used up their slices (where the kernel is 6.12 or
    newer): it gets the processor sooner, for less at a time. Its share stays the same."""
    with contextlib.suppress(OSError, AttributeError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            _ask_for_slices(_SHORT, os.SCHED_OTHER)


def _ask_for_slices(length: int, policy: int) -> None:
    """Ask for slices of so many ns (sched_setattr(2), sched_runtime)."""
    number = _SET_ATTR.get(platform.machine())
    if number is not None:
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        attributes = struct.pack("=IIQiIQQQ", 48, policy, 0, nice, 0, length, 0, 0)
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)  # refused: the slice stays the default
