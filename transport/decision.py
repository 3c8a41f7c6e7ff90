# SPDX-License-Identifier: Apache-2.0
"""What was decided for one recipient, and why. Every face (map, policy, Exim, explain) prints this same object."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """The words of the product. ASK never leaves the process: the router needs a live look-up first."""

    LOCAL = "LOCAL"
    RELAY = "RELAY"
    EXPAND = "EXPAND"
    UNKNOWN = "UNKNOWN"
    LOOP = "LOOP"
    TEMP = "TEMP"
    PASS = "PASS"  # noqa: S105  the decision word, not a secret
    ASK = "ASK"


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision.

    verdict: the word. reason: one line for people, without the address (so that it can be shared by all
        recipients in the same situation).
    domain: the split domain's name ("" for PASS of a foreign domain).
    destination: name in `[destinations]` for RELAY, "" else.
    local_transport: what `transport` answers for LOCAL, UNKNOWN, EXPAND ("" means `:`).
    targets: for EXPAND, the leaves in external form, folded, extension applied, in order, each once.
    dropped: members left out by `group_members = false`.
    verify: RELAY of an unlisted address under `unknown = "verify"`: policy adds the probe.
    suspended: listed, but inactive: policy answers 550 5.2.1.
    listed: some directory or wave lists it (or configuration does: postmaster).
    identity: `virtual_alias` answers the address itself.
    catchall: EXPAND made by `unknown = "catchall:…"`.
    directory: name of the directory whose row decided, "" else.
    here: a mailbox, alias or group is here (under `delivery = "all"` also where the verdict is RELAY).
    copy: "dual" or "all" while that delivery applies to this recipient, "" else. "all" on an EXPAND: a mailbox that
        forwards and keeps, whose own mail goes to `destination`.
    extension: what stood behind the listed form, delimiter included.
    base: the form of the local part that was looked up.
    through: EXPAND only by another spelling of the domain (`alias_of`, `subdomains = "strip"`).
    dangling: targets of ours that are UNKNOWN; they stay in and bounce by themselves.
    group: the deciding row is a group (RFC 5321 3.9.2 list), not an alias.
    copies: EXPAND: the shadows of those leaves that get a copy (dual, all).
    findings: things an administrator should mend, one line each.
    keep: the answer stays true for the whole generation (no "no", no live answer, no time behind it).
    ask: with ASK, the (directory, local, domain) look-ups that would settle it.
    until: unix time at which this decision may change by itself (a wave, delivery_until), or None.
    believed: of an unlisted address that is treated like all others of its domain: whose "no" counted, in the order of
        the domain's directories, `local` first. () else.
    """

    verdict: Verdict
    reason: str
    domain: str = ""
    destination: str = ""
    local_transport: str = ""
    targets: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    verify: bool = False
    suspended: bool = False
    listed: bool = False
    identity: bool = False
    catchall: bool = False
    directory: str = ""
    here: bool = False
    copy: str = ""
    extension: str = ""
    base: str = ""
    through: bool = False
    dangling: tuple[str, ...] = ()
    group: bool = False
    copies: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    keep: bool = True
    ask: tuple[tuple[str, str, str], ...] = ()
    until: float | None = None
    believed: tuple[bool, ...] = ()
