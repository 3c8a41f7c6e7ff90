# SPDX-License-Identifier: Apache-2.0
"""Constant databases (D. J. Bernstein's cdb format), as Exim's cdb look-up reads them: 32-bit, little-endian."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from pathlib import Path
from struct import Struct

from transport.maps.write import create

_PAIR = Struct("<II")
_HEAD = 256 * _PAIR.size
_MOST = 0xFFFF_FFFF


class CdbFullError(OSError):
    """The data do not fit into the 4 GiB that the format has."""


def hashed(key: bytes) -> int:
    """The format's hash of a key."""
    value = 5381
    for byte in key:
        value = ((value << 5) + value ^ byte) & _MOST
    return value


def write(path: Path, rows: Iterable[tuple[bytes, bytes]]) -> int:
    """Write a new database and return the number of rows. Raises CdbFullError, OSError; the caller renames."""
    hashes = [array("L") for _ in range(256)]
    places = [array("Q") for _ in range(256)]
    number = 0
    with os.fdopen(create(path), "w+b") as file:
        file.seek(_HEAD)
        position = _HEAD
        for key, value in rows:
            file.write(_PAIR.pack(len(key), len(value)) + key + value)
            code = hashed(key)
            hashes[code & 255].append(code)
            places[code & 255].append(position)
            position += _PAIR.size + len(key) + len(value)
            number += 1
            if position > _MOST:
                raise CdbFullError(f"{path}: more than 4 GiB")
        head = bytearray()
        for codes, where in zip(hashes, places, strict=True):
            slots = 2 * len(codes)
            head += _PAIR.pack(position, slots)
            table = array("L", [0]) * (2 * slots)
            for code, place in zip(codes, where, strict=True):
                slot = (code >> 8) % slots
                while table[2 * slot + 1]:
                    slot = (slot + 1) % slots
                table[2 * slot], table[2 * slot + 1] = code, place
            file.write(b"".join(_PAIR.pack(table[n], table[n + 1]) for n in range(0, len(table), 2)))
            position += slots * _PAIR.size
            if position > _MOST:
                raise CdbFullError(f"{path}: more than 4 GiB")
        file.seek(0)
        file.write(head)
    return number
