# SPDX-License-Identifier: Apache-2.0
"""The languages that MTAs speak to us: bytes to messages and back, without any input or output.

Each module has the same three functions. `next_frame(buf, pos)` says where the first complete message in a
buffer ends, or None when more bytes are needed; it raises ProtocolError as soon as the bytes can be no
message, so that a connection never holds more than one message's worth of nonsense. `parse(frame)` takes one
complete message apart. `reply(…)` builds an answer and never one that would harm the MTA: what an MTA would
misread becomes "try again later".
"""

from __future__ import annotations


class ProtocolError(Exception):
    """These bytes are no request. The connection is to be closed: what follows on it cannot be understood.

    `str()` is for a log: it says what was wrong and holds nothing that the other side sent.
    """
