# SPDX-License-Identifier: Apache-2.0
"""The rules for an address of ours that no directory lists: postmaster and abuse, then `unknown`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from transport.address import Address, parse
from transport.config.settings import Domain, Unknown
from transport.copies import shadow
from transport.decision import Decision, Verdict
from transport.knowledge import Question

if TYPE_CHECKING:
    from transport.router import Router

_Shapes = Sequence[tuple[str, str]]
ROLES = frozenset(("postmaster", "abuse"))
"""Local parts with rules of their own (RFC 5321 4.5.1, RFC 2142)."""


def unlisted(
    router: Router, question: Question, address: Address, domain: Domain, shapes: _Shapes, *, match: bool
) -> Decision:
    """Decide for an address without a row in any of its forms. match: below a domain with subdomains "match"."""
    base, extension = shapes[-1]

    def common(verdict: Verdict = Verdict.UNKNOWN, reason: str = "no directory lists it", **more: Any) -> Decision:
        # made once, as late as possible: strangers are what an attack is made of
        return Decision(
            verdict,
            reason,
            domain=domain.name,
            local_transport=domain.local_transport,
            base=base,
            extension=extension,
            keep=False,
            **more,
        )

    if not question.configured and (base == "postmaster" or (base == "abuse" and domain.abuse)):
        directories = (*domain.local, *domain.remote)
        waiting = router.unread(question, domain, address, directories, f"it may list {base}@{address.domain}")
        if waiting is not None:
            return waiting
        role = _role_address(router, question, domain, common())
        return role if router.read(question, directories, domain.name) else replace(role, keep=False)
    believed, ask, failed = _unbelieved(question, address, domain, shapes, match=match)
    if ask:
        return Decision(Verdict.ASK, "not listed; asking live", domain=domain.name, ask=tuple(ask))
    if len(shapes) > 1 or match or question.configured or base in ROLES:
        believed = ()  # others of the domain are treated in other ways
    if failed:
        reason = f'directory {failed} could not be asked, and its "no" is needed'
        return common(Verdict.TEMP, reason, directory=failed, believed=believed)
    verify = domain.unknown is Unknown.VERIFY
    if not match and domain.unknown is Unknown.REJECT:
        return common(reason=f'no directory lists it, unknown = "{domain.unknown.value}"', believed=believed)
    if not match and domain.unknown is Unknown.CATCHALL:
        if question.configured:
            return common(reason="named in the configuration, but listed nowhere")
        return _catchall(router, question, domain, common())
    if not domain.destination:
        return no_destination(domain)
    if match:
        reason = f'below {domain.name} (subdomains = "match"), listed nowhere'
    else:
        reason = f'no directory lists it, unknown = "{domain.unknown.value}"'
    return common(Verdict.RELAY, reason, destination=domain.destination, verify=verify, believed=believed)


def _unbelieved(
    question: Question, address: Address, domain: Domain, shapes: _Shapes, *, match: bool
) -> tuple[tuple[bool, ...], list[tuple[str, str, str]], str]:
    """Whose "no" counts; what to ask because a "no" is stale; the directory whose "no" is needed and could not be had,
    or "".

    Needed are those of every `local` directory under relay and verify, of all directories under reject and
    catchall; a `remote` one is asked for its yes in any case.
    """
    strict = domain.unknown in (Unknown.REJECT, Unknown.CATCHALL) and not match
    all_believed: list[bool] = []
    ask: list[tuple[str, str, str]] = []
    failed = ""
    for directory in (*domain.local, *domain.remote):
        needed = strict or directory in domain.local
        for base, _ in shapes:
            believed = question.knowledge.no(directory, address.domain, base)
            all_believed.append(bool(believed))
            if believed is None:
                ask.append((directory, base, address.domain))
            elif not believed and needed:
                failed = failed or directory
    return tuple(all_believed), ask, failed


def _role_address(router: Router, question: Question, domain: Domain, common: Decision) -> Decision:
    """postmaster@ is never UNKNOWN (RFC 5321 4.5.1); abuse@ (RFC 2142) where the configuration names one."""
    base = common.base
    common = replace(
        common,
        verdict=Verdict.LOCAL,
        reason=f"{base} of {domain.name}, from the configuration",
        here=True,
        keep=True,
    )
    goes_to = domain.postmaster if base == "postmaster" else domain.abuse
    if goes_to:
        return _to_one(router, question, domain, common, goes_to, never_unknown=True)
    finding = f'[domains."{domain.name}"] names no postmaster, and no directory lists postmaster@{domain.name}'
    return replace(common, findings=(finding,))


def _catchall(router: Router, question: Question, domain: Domain, common: Decision) -> Decision:
    why = f'no directory lists it, unknown = "catchall:{domain.catchall}"'
    expand = replace(common, reason=why, catchall=True)
    return replace(_to_one(router, question, domain, expand, domain.catchall), keep=False)


def _to_one(
    router: Router,
    question: Question,
    domain: Domain,
    common: Decision,
    target: str,
    *,
    never_unknown: bool = False,
) -> Decision:
    """EXPAND to an address that the configuration names; TEMP and a finding while that one is unlisted."""
    address = parse(target)
    expand = replace(common, verdict=Verdict.EXPAND, targets=(target,))
    if address is None:
        return expand
    if (address.local, address.domain) == (common.base, domain.name):
        return common
    inner = router.answer(question._replace(expand=False, configured=True), address)
    if inner.verdict is Verdict.ASK:
        return inner
    if inner.verdict is Verdict.TEMP:
        return replace(common, verdict=Verdict.TEMP, reason=f"{target}: {inner.reason}", keep=False)
    if inner.verdict is Verdict.PASS or inner.listed or inner.here:
        copies: tuple[str, ...] = (shadow(router.settings, inner, address.local),) if inner.copy else ()
        if inner.verdict is Verdict.EXPAND and question.expand:
            whole = router.answer(question._replace(configured=True), address)
            if whole.verdict is Verdict.ASK:
                return whole
            copies = whole.copies
        return replace(expand, copies=copies, keep=common.keep and inner.keep, until=inner.until)
    finding = f'{target}, named in [domains."{domain.name}"], is itself listed nowhere'
    if never_unknown:
        return replace(expand, findings=(finding,), keep=False)
    return replace(common, verdict=Verdict.TEMP, reason=finding, findings=(finding,), keep=False)


def no_destination(domain: Domain) -> Decision:
    """TEMP: something has to be relayed, and the domain says nowhere."""
    finding = f'[domains."{domain.name}"] has no destination to relay to'
    return Decision(
        Verdict.TEMP,
        finding,
        domain=domain.name,
        local_transport=domain.local_transport,
        findings=(finding,),
        keep=False,
    )
