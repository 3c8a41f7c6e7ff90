# SPDX-License-Identifier: Apache-2.0
"""The `relay_domains` map: our enabled domains. In Postfix a static file only; the live one is for `query`."""

from __future__ import annotations

from transport.maps.answer import NOT_FOUND, OK, Answer
from transport.names import Of, Place


def answer(place: Place) -> Answer:
    """Found for an enabled split domain and, with subdomains strip or match, for what is below it."""
    if place.of in (Of.SPLIT, Of.STRIP, Of.MATCH) and place.domain is not None and place.domain.enabled == "yes":
        return Answer(OK, "OK")
    return NOT_FOUND
