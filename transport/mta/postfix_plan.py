# SPDX-License-Identifier: Apache-2.0
"""What a given Postfix needs so that the split domains of a configuration work on it, and nothing else changes.

The site's own values are kept; ours come behind them, in the order of DESIGN 4: own maps, static file, guarded live
map. A domain never changes its address class (ADDRESS_CLASS_README). `postfix show` prints a plan, `postfix check`
compares a living Postfix with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from transport.config.settings import Destination, Domain, Settings
from transport.maps.build import ORDER, strangers
from transport.maps.guard import spellings
from transport.maps.nexthop import copy_service, hops, local_copy_route
from transport.maps.population import MAPS
from transport.maps.write import is_ours
from transport.mta import postfix_extras, postfix_policy
from transport.mta import postfix_ways as ways
from transport.mta.postfix import CLASSES, Postfix, Service, split_list
from transport.mta.postfix_guard import Guard
from transport.mta.postfix_parts import ALIAS, RECIPIENT_MAPS, RELAY, VIRTUAL, Master, Override, Plan, Setting
from transport.names import local_stores

DEPLOYMENTS = ("live", "static", "both")
_UNNAMEABLE = re.compile(r"[\s,{}$]")
_FILES = re.compile(r"(\w+):(/[^\s,{}]+)")


def maps_directory(settings: Settings) -> Path:
    """Where `build` writes: [static] directory, else `maps` in the daemon's state."""
    return settings.static.directory if settings.static else settings.daemon.state / "maps"


def default_deploy(settings: Settings) -> str:
    """What `postfix show` assumes: both with [static], else live."""
    return "both" if settings.static else "live"


def make(settings: Settings, postfix: Postfix, deploy: str = "", maps: Path | None = None) -> Plan:
    """The plan for this configuration and this Postfix. `maps`: the folder of the static files."""
    return Planner(settings, postfix, deploy or default_deploy(settings), maps or maps_directory(settings)).plan


class Planner:
    """Builds one plan; each method settles one matter."""

    def __init__(self, settings: Settings, postfix: Postfix, deploy: str, maps: Path) -> None:
        self.settings, self.postfix, self.maps = settings, postfix, maps
        self.plan = Plan(deploy, maps)
        self.live, self.static = deploy in ("live", "both"), deploy in ("static", "both")
        self.domains = [d for d in settings.domains.values() if d.enabled == "yes"]
        self.type = next(iter(settings.static.types), "") if settings.static else ""
        self.type = self.type or postfix.full("default_database_type") or "hash"
        self.guard = Guard(settings, postfix, maps)
        self.plan.problems += [
            f"{path} was not written by splitmx, and would be lost: the maps need a folder of their own"
            for path in strangers(maps)
        ]
        self.plan.problems += [
            f"Postfix cannot name {path}: choose one without blanks, commas, braces and $"
            for path in (str(maps), self.guard.socket, self.guard.policy)
            if _UNNAMEABLE.search(path)
        ]
        self._classes()
        if self.live:
            self._endpoints()
        if self.domains:
            self._relay_domains()
            self._maps()
            self._recipients()
        self._copies()
        postfix_policy.policy(self)
        postfix_extras.add(self)
        self.plan.files += self.guard.files
        self._blanks()

    # entries

    def own(self, name: str) -> list[str]:
        """The site's entries of a list: what stands there now, without ours; a default that is empty is nothing."""
        if name not in self.postfix.own and not self.postfix.full(name):
            return []
        return [e for e in split_list(self.postfix.value(name)) if not self.is_ours(e)]

    def is_ours(self, entry: str) -> bool:
        """Whether an entry of a list was put there by us, now or when our maps were in another folder."""
        if f"{self.postfix.directory}/splitmx-" in entry or (self.guard.socket and f"{self.guard.socket}:" in entry):
            return True
        return any(True for _ in self._files(entry))

    def is_stale(self, entry: str) -> bool:
        """Whether an entry names a file of ours that no build writes any more, as this is deployed."""
        kept = MAPS if self.static else ()
        return any(
            path.parent != self.maps or (path.name in MAPS and (path.name not in kept or kind != self.type))
            for kind, path in self._files(entry)
        )

    def _files(self, entry: str) -> Iterator[tuple[str, Path]]:
        """Type and path of each file in an entry that `build` wrote, or will write."""
        for kind, path in ((kind, Path(text)) for kind, text in _FILES.findall(entry)):
            if path.name in ORDER and (path.parent == self.maps or is_ours(path)):
                yield kind, path

    def entries(self, name: str) -> list[str]:
        """Our entries for a map: the static file, then the guarded live map."""
        found = [f"{self.type}:{self.maps}/{name}"] if self.static else []
        return found + (self.guard.live(name) if self.live else [])

    def add(self, name: str, ours: list[str], why: str, own: list[str] | None = None) -> None:
        """Plan a list: the site's entries, then ours."""
        kept = self.own(name) if own is None else own
        self.plan.settings.append(Setting(name, ", ".join([*kept, *ours]), why, tuple(ours)))

    def set(self, name: str, value: str, why: str) -> None:
        """Plan a plain value."""
        if self.postfix.knows(name):
            self.plan.settings.append(Setting(name, value, why))

    # matters

    def _classes(self) -> None:
        self.found = self._by_spelling()
        self._unsure()
        for domain in self.domains:
            classes = self.found[domain.name]
            if len(classes) > 1:
                self.plan.problems.append(
                    f"{domain.name} stands in {' and '.join(classes)}: take it out of all but one"
                )
            chosen = classes[0] if classes else RELAY
            self.plan.classes[domain.name] = chosen
            if chosen == ALIAS:
                self.plan.problems.append(
                    f"{domain.name} is in virtual_alias_domains, for which Postfix never asks transport_maps: "
                    "move it to relay_domains or virtual_mailbox_domains first"
                )
            if chosen == RELAY and not domain.local_transport:
                self.plan.problems.append(
                    f'{domain.name} is in relay_domains and [domains."{domain.name}"] has no local_transport: '
                    "mail for people here would go to the domain's MX; set local_transport"
                )
        self._envelopes()

    def _by_spelling(self) -> dict[str, tuple[str, ...]]:
        """The classes of each domain; Postfix takes its U-label and its A-label for two names."""
        names = {d.name: spellings(d.name) for d in self.domains}
        found = self.postfix.classes([n for every in names.values() for n in every], leave_out=self.is_ours)
        for name, every in names.items():
            for parameter in (p for p in CLASSES if any(p in found[n] for n in every)):
                for lacking in (n for n in every if parameter not in found[n]):
                    self.plan.notes.append(f"{parameter} lacks {lacking}: Postfix refuses that spelling of {name}")
        return {name: tuple(p for p in CLASSES if any(p in found[n] for n in every)) for name, every in names.items()}

    def _unsure(self) -> None:
        """A class table that cannot be asked may hold a domain: then it must not get another class from us."""
        unsure = [name for name, classes in self.found.items() if not classes]
        for parameter in CLASSES:
            for table in split_list(self.postfix.full(parameter)):
                if unsure and self.postfix.is_broken(table) and not self.is_ours(table):
                    self.plan.problems.append(
                        f"{parameter}: {table} could not be asked, so the address class of {unsure[0]} is not sure"
                    )

    def _envelopes(self) -> None:
        names = [d.envelope for d in self.settings.destinations.values() if d.envelope]
        for name, classes in self.postfix.classes(names, leave_out=self.is_ours).items():
            if classes:
                self.plan.problems.append(f"{name}, an envelope domain, must not be ours, but stands in {classes[0]}")

    def _endpoints(self) -> None:
        if not self.guard.socket:
            self.plan.problems.append("[daemon] names no socketmap listener")
        for path in self.guard.unreachable():
            self.plan.problems.append(
                f"{path} is outside {self.postfix.queue_directory}, where chrooted services cannot reach it: "
                f"use unix:{self.postfix.queue_directory}/splitmx/… in [daemon]"
            )
        self.plan.problems += self.guard.problems(self.own("transport_maps"))

    def _relay_domains(self) -> None:
        new = [d for d in self.domains if not self.found[d.name]]
        below = [d for d in self.domains if d.subdomains != "exact" and d not in new]
        if not new and not below:
            return
        why = "the split domains, exactly: no subdomain becomes ours by accident"
        if len(new) == len(self.domains):
            if len(new) <= 500:
                self.add(RELAY, [f"regexp:{self.maps}/relay_domains"], why)
            else:
                self.add(RELAY, [f"{self.type}:{self.maps}/relay_domains"], why)
                if RELAY in split_list(self.postfix.full("parent_domain_matches_subdomains")):
                    self.plan.problems.append(
                        "more than 500 relay domains need an indexed file, which would take all their subdomains too: "
                        "remove relay_domains from parent_domain_matches_subdomains"
                    )
            return
        self.add(RELAY, [self.guard.relay_domains(new, below)], why)

    def _maps(self) -> None:
        self.add(
            "transport_maps",
            [*self._shadow_routes(), *self.entries("transport")],
            "who is here goes to the local transport, who is there to the destination",
        )
        self.add(
            "virtual_alias_maps", self.entries("virtual_alias"), "aliases and groups; listed addresses stay themselves"
        )

    def _recipients(self) -> None:
        entries = self.entries("relay_recipients")
        for parameter in dict.fromkeys(self.plan.classes[d.name] for d in self.domains):
            name = RECIPIENT_MAPS.get(parameter)
            if name is None:
                continue
            ours = list(entries)
            own = self.own(name)
            others = self.others(parameter)
            if not own and (others or self.live):
                ours.append(self.guard.others())  # there may be others later
                if others:
                    self.plan.notes.append(f"{name} was empty, so every address of the other domains stays accepted")
            why = "who may get mail: here, there, aliases and groups alike"
            if parameter == VIRTUAL and self._virtual_delivers():
                full = split_list(self.postfix.full(name))
                kept = [e for e in full if not self.is_ours(e)]
                for service in self.postfix.receivers:
                    self.plan.overrides.append(
                        Override(service.key, name, compact([*kept, *ours]), why + "; virtual(8) refuses such maps")
                    )
            else:
                self.add(name, ours, why)

    def others(self, parameter: str) -> bool:
        """Whether the class holds more than the split domains."""
        names = set(self.settings.domains)
        return any(e.lower() not in names for e in self.postfix.members(parameter) if not self.is_ours(e))

    def _virtual_delivers(self) -> bool:
        """Whether virtual(8) is the store of a domain in virtual_mailbox_domains."""
        default = self.postfix.full("virtual_transport")
        used = {
            (d.local_transport or default).partition(":")[0]
            for d in self.domains
            if self.plan.classes[d.name] == VIRTUAL
        }
        return any((s := self.postfix.service(name)) is not None and s.command == "virtual" for name in used)

    def copying(self) -> list[Domain]:
        """Domains with dual delivery or all, enabled or not: copies may still be queued."""
        return [d for d in self.settings.domains.values() if d.delivery != "split"]

    def _copy_services(self) -> list[Destination]:
        """Destinations whose copies need a route: those of such domains, and those that once had one."""
        used = {d.destination for d in self.copying()}
        return [
            d for name, d in self.settings.destinations.items()
            if name in used or self.postfix.service(copy_service(d)) is not None
        ]  # fmt: skip

    def _shadow_routes(self) -> list[str]:
        # files alone: nobody else knows the routes of envelope domains
        envelopes = self.static and any(d.envelope for d in self.settings.destinations.values())
        return [f"regexp:{self.maps}/shadow_transport"] if envelopes or self._copy_services() else []

    def _copies(self) -> None:
        smtp = self.postfix.service("smtp")
        root = "y" if smtp is not None and smtp.chroot else "n"
        for destination in self._copy_services():
            name = copy_service(destination)
            carrier = self.postfix.service(destination.service)
            entry = (
                f"{name} unix - - {root} - - smtp -o syslog_name=postfix/{name} "
                f"-o smtp_generic_maps={self._generic('smtp', carrier)} -o smtp_discard_ehlo_keywords=dsn"
                f"{ways.as_carried(carrier)}{ways.off(self, hops(destination), carrier)}"
            )
            self.plan.masters.append(Master(f"{name}/unix", entry, "copies: the real address back, no trace of ours"))
        stores = [store for d in self.copying() if d.delivery == "all" for store in local_stores(d).values()]
        routes = {local_copy_route(store).partition(":")[0] for store in stores}
        for name in sorted(routes - {""}):
            program = name.removeprefix("splitmx-")
            word = "lhlo" if program == "lmtp" else "ehlo"
            entry = (
                f"{name} unix - - {root} - - {program} -o syslog_name=postfix/{name} "
                f"-o {program}_generic_maps={self._generic(program)} -o {program}_discard_{word}_keywords=dsn"
                f"{ways.off(self) if program == 'smtp' else ''}"
            )
            self.plan.masters.append(Master(f"{name}/unix", entry, 'the copy here of delivery = "all"'))
        if any(d.delivery != "split" and d.enabled == "yes" for d in self.copying()):
            self.add("recipient_bcc_maps", self.entries("recipient_bcc"), "the copy of dual delivery; it never bounces")

    def _blanks(self) -> None:
        """`postconf -P` takes no value with blanks, and in a `postconf -Me` entry they end it (master(5))."""
        values = [(o.service, o.name, o.value) for o in self.plan.overrides]
        for master in self.plan.masters:
            for word in master.entry.split(" -o ")[1:]:
                name, _, value = word.partition("=")
                values.append((master.key, name, value))
        self.plan.problems += [
            f"{service} would need -o {name}={value}: master.cf takes no blanks there; write that table without "
            "blanks, or into a file"
            for service, name, value in values
            if value.split() not in ([], [value])
        ]

    def _generic(self, program: str, carrier: Service | None = None) -> str:
        """The real name of a copy, then what the site writes on its way out: generic(5) is asked once, not again."""
        name = f"{program}_generic_maps"
        own = carrier.overrides.get(name) if carrier is not None else None
        entries = split_list(self.postfix.full(name) if own is None else own)
        return compact([f"regexp:{self.maps}/shadow_generic", *(e for e in entries if not self.is_ours(e))])


def compact(entries: list[str]) -> str:
    """A list without blanks, as `postconf -P` wants it."""
    return ",".join(entry.replace(", ", ",") for entry in entries)
