# SPDX-License-Identifier: Apache-2.0
"""What must hold for every protocol's framing: used by the tests of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

NextFrame = Callable[[bytes | bytearray, int], int | None]


def frames(next_frame: NextFrame, data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The frames that a connection yields when `data` arrives cut at these offsets, read as a worker
    reads."""
    out = []
    buf = bytearray()
    start = 0
    for cut in (*sorted(cuts), len(data)):
        buf += data[start:cut]
        start = cut
        pos = 0
        while (end := next_frame(buf, pos)) is not None:
            assert end > pos
            out.append(bytes(buf[pos:end]))
            pos = end
        del buf[:pos]
    assert not buf
    return out


def check_splits(next_frame: NextFrame, messages: Sequence[bytes]) -> None:
    """Each message alone is a frame, no shorter part of it is, and every split of all of them gives the
    same."""
    for message in messages:
        assert next_frame(message, 0) == len(message)
        for size in range(len(message)):
            assert next_frame(message[:size], 0) is None
            assert next_frame(b"xx" + message[:size], 2) is None
        assert next_frame(b"xx" + message + b"1", 2) == len(message) + 2
    data = b"".join(messages)
    assert frames(next_frame, data, ()) == list(messages)
    for first in range(len(data)):
        assert frames(next_frame, data, (first,)) == list(messages)
    assert frames(next_frame, data, range(len(data))) == list(messages)
