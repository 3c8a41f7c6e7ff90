# SPDX-License-Identifier: Apache-2.0
"""Where the policy service is asked: from restriction classes that a table of our domains selects (DESIGN 5.4, 5.5)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from transport.address import fold_domain
from transport.config.settings import Unknown
from transport.mta.postfix import Postfix, split_list
from transport.mta.postfix_parts import Setting

if TYPE_CHECKING:
    from transport.mta.postfix_plan import Planner

_TRY_LATER = "451 4.3.5 Server configuration problem"
"""Postfix's own default for a policy service that does not answer."""

FINAL = ("permit", "reject", "defer")
"""What ends a list of restrictions whoever asks (postconf(5))."""

PERMITS = ("permit_mynetworks", "permit_sasl_authenticated", "permit_tls_clientcerts", "permit_tls_all_clientcerts")


def policy(planner: Planner) -> None:
    """The restriction classes; nothing without a listener."""
    if not planner.live:
        if any(d.role == "secondary" for d in planner.domains):
            planner.plan.problems.append("role secondary needs the policy service against loops: deploy live or both")
        planner.plan.notes.append("without the daemon suspended recipients and loops are not refused at RCPT")
        return
    observed = any(d.enabled == "observe" for d in planner.settings.domains.values())
    if not planner.settings.daemon.policy:
        text = "[daemon] names no policy listener"
        if observed or any(
            d.role == "secondary" or d.unknown in (Unknown.VERIFY, Unknown.CATCHALL) for d in planner.domains
        ):
            planner.plan.problems.append(f"{text}: role secondary, verify, catchall and observing need it")
        else:
            planner.plan.notes.append(f"{text}: loops and suspended recipients are not refused at RCPT")
        return
    secondary = any(d.role == "secondary" for d in planner.domains)
    open_ = planner.plan.deploy == "both" and not secondary
    where = planner.guard.policy
    common = f"check_policy_service {{ {where}, timeout=5s, try_limit=1"
    origin = _origin(planner)
    bare = f", policy_context={origin}" if origin else ""
    if (secondary or origin) and planner.postfix.version < (3, 1):
        planner.plan.problems.append("policy_context, which tells the policy service what is asked, needs Postfix 3.1")
    closed = _closed(planner)
    classes = {
        "splitmx": common + bare + (", default_action=DUNNO }" if open_ else closed),
        "splitmx_observe": common + bare + ", default_action=DUNNO }",
    }
    if secondary:
        classes["splitmx_outsider"] = common + f", policy_context=outsider{origin}{closed}"
    own_classes = [
        c for c in split_list(planner.postfix.value("smtpd_restriction_classes")) if not c.startswith("splitmx")
    ]
    planner.add(
        "smtpd_restriction_classes", list(classes), "only recipients of ours meet the policy service", own_classes
    )
    for name, value in classes.items():
        planner.plan.settings.append(Setting(name, value, "a dead or hung daemon costs ours 5 s, others nothing"))
    restrictions(planner, secondary)


def _closed(planner: Planner) -> str:
    """The end of a class whose recipients wait while the policy service is silent. What the site has said for its own
    policy services, such as DUNNO for greylisting, would count here too (SMTPD_POLICY_README).
    """
    name = "smtpd_policy_service_default_action"
    own = [planner.postfix.of(service, name) for service in planner.postfix.receivers]
    if set(own) <= {_TRY_LATER}:
        return " }"
    return f", {{ default_action = {_TRY_LATER} }} }}"


def appended(postfix: Postfix) -> tuple[str, str]:
    """What Postfix puts behind one label (append_dot_mydomain; "" for nothing), and $myorigin, read from a file too."""
    above = ""
    if postfix.full("append_dot_mydomain") == "yes":
        above = fold_domain(postfix.full("mydomain")) or ""
    text = postfix.full("myorigin").strip()
    if text.startswith("/"):
        try:
            text = Path(text).read_text(errors="replace").strip()
        except OSError:
            text = ""
    if above and text and "." not in text:
        text += f".{above}"
    return above, text


def _origin(planner: Planner) -> str:
    """What turns a recipient without a domain, or with one label of it, into one of ours; smtpd(8) names them to the
    policy service as they are. `@DOMAIN` is $myorigin, `@.DOMAIN` what append_dot_mydomain puts behind a label.
    """
    above, text = appended(planner.postfix)
    domains = [d for d in planner.settings.domains.values() if d.enabled != "no"]
    name = fold_domain(text)
    found = ""
    if name and any(name == d.name or (d.subdomains != "exact" and name.endswith(f".{d.name}")) for d in domains):
        found = f"@{name}"
    if above and any(
        d.name.partition(".")[2] == above or (d.subdomains != "exact" and f".{above}".endswith(f".{d.name}"))
        for d in domains
    ):
        found += f"@.{above}"
    return found


def restrictions(planner: Planner, secondary: bool) -> None:
    """The call before the permits, and for role secondary another one behind them."""
    name = "smtpd_recipient_restrictions"
    own = pairs(split_list(planner.postfix.value(name)))
    if secondary and any(word.startswith("$") for word in own):  # a permit in there has to be seen
        own = pairs(split_list(planner.postfix.full(name)))
    own = [word for word in own if not planner.is_ours(word)]
    first = f"check_recipient_access {planner.guard.policy_table('splitmx')}"
    ours, value = [first], [first, *own]
    if secondary:
        second = f"check_recipient_access {planner.guard.policy_table('splitmx_outsider')}"
        places = [n for n, word in enumerate(value) if word in PERMITS]
        if places:
            value.insert(places[-1] + 1, second)
        else:
            final = [n for n, word in enumerate(value) if word in FINAL]
            at = final[0] if final else len(value)
            value[at:at] = ["permit_mynetworks", "permit_sasl_authenticated", second]
        ours.append(second)
    why = "before permit_mynetworks: a peer may stand in mynetworks"
    planner.plan.settings.append(Setting(name, ", ".join(value), why, tuple(ours)))


def pairs(words: list[str]) -> list[str]:
    """Restrictions with their arguments: `check_recipient_access type:table` is one thing (postconf(5))."""
    joined: list[str] = []
    open_ = False
    for word in words:
        if open_:
            joined[-1] += f" {word}"
        else:
            joined.append(word)
        open_ = word in ("warn_if_reject", "sleep") or bool(_WITH_ARGUMENT.match(word))
    return joined


_WITH_ARGUMENT = re.compile(r"check_\w+(access|service)$|(reject|permit)_(rbl|rhsbl|dnswl|rhswl)\w*$")
