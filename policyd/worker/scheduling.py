# SPDX-License-Identifier: Apache-2.0
"""Short turns on the processor: a worker that wakes for a question need not wait for the end of a keeper's, or of
anybody's, long turn (sched(7), sched_setattr(2); Linux 6.12 and newer, others take no notice)."""

from __future__ import annotations

import ctypes
import os
import struct

SLICE = 100_000
"""Nanoseconds of a turn, the shortest that Linux gives; 1.4 to 3 ms by default. Its share of the processor stays."""

_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275), "riscv64": (274, 275)}  # sched_setattr, sched_getattr
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # struct sched_attr as of Linux 3.14: 48 octets, the sixth is sched_runtime
_RUNTIME = 5


def slice_now() -> int:
    """This process's slice in nanoseconds; 0 where it cannot be told."""
    found = _read()
    return found[_RUNTIME] if found is not None else 0


def short_slices() -> bool:
    """Ask for short slices for this process; False when they are not to be had. Priority and policy stay."""
    found = _read()
    numbers = _CALLS.get(os.uname().machine)
    if found is None or numbers is None or found[1] != os.SCHED_OTHER:
        return False
    found[0] = _ATTRIBUTES.size
    found[_RUNTIME] = SLICE
    buffer = ctypes.create_string_buffer(_ATTRIBUTES.pack(*found), _ATTRIBUTES.size)
    return int(ctypes.CDLL(None).syscall(numbers[0], 0, buffer, 0)) == 0


def _read() -> list[int] | None:
    numbers = _CALLS.get(os.uname().machine)
    if numbers is None:
        return None
    buffer = ctypes.create_string_buffer(_ATTRIBUTES.size)
    if int(ctypes.CDLL(None).syscall(numbers[1], 0, buffer, _ATTRIBUTES.size, 0)):
        return None
    return list(_ATTRIBUTES.unpack(buffer.raw))
