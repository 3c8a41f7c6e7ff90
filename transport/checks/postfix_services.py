# SPDX-License-Identifier: Apache-2.0
"""What the services of master.cf have of their own: an smtpd(8) without the policy service, a pass without aliases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from transport.checks.finding import Finding, error, note, warning
from transport.mta.postfix import Postfix, Service, split_list
from transport.mta.postfix_parts import RECIPIENT_MAPS, Plan
from transport.mta.postfix_policy import pairs

SUBMISSION = ("submission", "submissions", "smtps", "465", "587")
ALIASES, COPIES = "virtual_alias_maps", "recipient_bcc_maps"
ROUTES = "transport_maps", ALIASES, COPIES, *RECIPIENT_MAPS.values()


@dataclass(frozen=True, slots=True)
class Services:
    """Looks at every service that takes mail, rewrites it or routes it. is_ours: whether an entry is there for us."""

    postfix: Postfix
    plan: Plan
    is_ours: Callable[[str], bool]

    def findings(self) -> Iterator[Finding]:
        """All of it."""
        for service in self.postfix.receivers:
            yield from self._receiver(service)
        for service in self.postfix.services:
            if service.command == "trivial-rewrite":
                yield from self._own_maps(service, ("transport_maps",))
        yield from self._asked(ALIASES, "aliases and groups go to the store as they are, and bounce")
        yield from self._asked(COPIES, "no copies are made")
        yield from self._copied()

    def _receiver(self, service: Service) -> Iterator[Finding]:
        name = service.name.rpartition(":")[2]
        # what a filter gives back, after the queue (FILTER_README) or before it (SMTPD_PROXY_README)
        if service.own("content_filter") == "" or service.own("smtpd_authorized_xforward_hosts") is not None:
            return
        own = service.own("smtpd_recipient_restrictions")
        if own is not None and self.plan.setting("splitmx") and not any(map(self.is_ours, pairs(split_list(own)))):
            text = f"{service.key} has its own smtpd_recipient_restrictions without the policy service"
            yield note(text) if name in SUBMISSION else warning(text, "put the same check_recipient_access there")
        yield from self._own_maps(service, ROUTES)
        if "no_unknown_recipient_checks" in self._options(service):
            yield warning(f"{service.key} has no_unknown_recipient_checks: unknown addresses are accepted there")
        if service.own("smtpd_reject_unlisted_recipient") == "no" and name not in SUBMISSION:
            yield warning(
                f"{service.key} has smtpd_reject_unlisted_recipient = no: unknown addresses are accepted there"
            )

    def _own_maps(self, service: Service, parameters: tuple[str, ...]) -> Iterator[Finding]:
        for parameter in parameters:
            value = service.own(parameter)
            planned = any(o.service == service.key and o.name == parameter for o in self.plan.overrides)
            if value is None or planned or not self.plan.setting(parameter):
                continue
            if not any(map(self.is_ours, split_list(value))):
                yield warning(f"{service.key} has its own {parameter}: {value or '(empty)'}",
                              f"take it out, or put ours there too: postconf -h {parameter}")  # fmt: skip

    # through cleanup(8), once or twice

    def _asked(self, parameter: str, harm: str) -> Iterator[Finding]:
        """Every message meets our entries of that map on the way in, or behind the filter."""
        if not self.plan.setting(parameter):
            return
        first, again = self._passes()
        if again:
            if not any(self._asks(service, parameter) for service in first + again):
                yield error(f"neither on the way in nor behind the after-queue filter are our {parameter} asked: "
                            f"{harm}",
                            "leave address mappings, and our maps, to cleanup(8) on one side")  # fmt: skip
        elif not any(map(self._filter, first)):
            for service in first:
                if not self._asks(service, parameter):
                    why = "no_address_mappings" if self._unmapped(service) else f"a cleanup(8) without our {parameter}"
                    yield error(f"{service.key} has {why}: {harm}", "take it out, unless a filter gives that mail back")

    def _copied(self) -> Iterator[Finding]:
        """Exactly one copy through an after-queue filter."""
        first, again = self._passes()
        first = [service for service in first if self._filter(service)]
        if not (first and again and self.plan.setting(COPIES)):
            return
        before = [service for service in first if self._asks(service, COPIES)]
        behind = all(self._asks(service, COPIES) for service in again)
        if before == first and behind:
            yield error("mail passes cleanup twice through the after-queue filter: each copy would be made twice",
                        "set receive_override_options=no_address_mappings on one side")  # fmt: skip
        elif before and behind:
            yield warning(f"mail by {before[0].key} passes cleanup twice through the after-queue filter: a refused "
                          "copy is reported to the sender, and each may be made twice",
                          "set receive_override_options=no_address_mappings there, too, or in main.cf")  # fmt: skip
        elif before == first:
            yield warning("copies are made before the after-queue filter: where that passes no DSN words on, a "
                          "refused copy is reported to the sender",
                          "set receive_override_options=no_address_mappings on the way in instead")  # fmt: skip

    def _passes(self) -> tuple[list[Service], list[Service]]:
        """Services that give mail to cleanup(8): as it comes in, and as an after-queue filter gives it back."""
        entries = [s for s in self.postfix.services if s.command == "pickup"]
        # before the queue (SMTPD_PROXY_README) an smtpd(8) gives it to the filter alone
        entries += [s for s in self.postfix.receivers if not self.postfix.of(s, "smtpd_proxy_filter")]
        again = [s for s in entries if s.own("content_filter") == "" and s.command == "smtpd"]
        return [s for s in entries if s not in again and s.own("content_filter") != ""], again

    def _asks(self, service: Service, parameter: str) -> bool:
        """Whether mail that comes in there meets our entries of a map of cleanup(8), once main.cf has them.

        Where main.cf lacks them that is said elsewhere, with its cure: it is no fault of each service.
        """
        name = self.postfix.of(service, "cleanup_service_name") or "cleanup"
        cleanup = self.postfix.service(name)
        value = None if cleanup is None else cleanup.own(parameter)
        return not self._unmapped(service) and (value is None or any(map(self.is_ours, split_list(value))))

    def _unmapped(self, service: Service) -> bool:
        return "no_address_mappings" in self._options(service)

    def _filter(self, service: Service) -> str:
        return self.postfix.of(service, "content_filter")

    def _options(self, service: Service) -> list[str]:
        return split_list(self.postfix.of(service, "receive_override_options"))
