# SPDX-License-Identifier: Apache-2.0
"""One local part that stands for everybody in the same situation: what is answered for it is everybody's template."""

from __future__ import annotations

from collections.abc import Sequence

from transport.maps.snapshot import Snapshot
from transport.record import Row

STAND_IN = "x0stand0in0x"
"""The local part that stands for everyone in a situation; what a map answers for it is the template."""


class StandIn:
    """A `Knowledge` in which the stand-in is listed as one situation says; all else is the snapshot's."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.situation: Sequence[Row] = ()
        self.targets = snapshot.targets
        self.loaded = snapshot.loaded
        self.no = snapshot.no
        self.same_entry = snapshot.same_entry
        self.spf_networks = snapshot.spf_networks
        self.loop_first_seen = snapshot.loop_first_seen

    def rows(self, domain: str, local: str) -> Sequence[Row]:
        return self.situation if local == STAND_IN else self._snapshot.rows(domain, local)
