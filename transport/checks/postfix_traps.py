# SPDX-License-Identifier: Apache-2.0
"""What will hurt on a Postfix that otherwise has all lines: each trap was seen to lose or misroute mail."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from transport.address import fold_domain
from transport.checks.finding import Finding, error, note, warning
from transport.checks.postfix_services import Services
from transport.config.settings import Domain, Settings, Unknown
from transport.maps import tls_policy
from transport.maps.guard import spellings
from transport.mta.postfix import Postfix, split_list
from transport.mta.postfix_parts import RECIPIENT_MAPS, RELAY, VIRTUAL, Plan
from transport.mta.postfix_plan import Planner, maps_directory
from transport.mta.postfix_policy import FINAL, PERMITS, appended, pairs

STATIC_ONLY = ("relay_domains", "smtp_tls_policy_maps", "smtp_generic_maps", "lmtp_generic_maps")
_NOBODY = "splitmx-lists-nobody-of-this-name"


def traps(settings: Settings, postfix: Postfix, plan: Plan) -> Iterator[Finding]:
    """Every trap that this Postfix stands in."""
    watch = _Traps(settings, postfix, plan)
    yield from watch.live_maps()
    yield from watch.recipient_maps()
    yield from watch.catch_all()
    yield from watch.classes()
    yield from watch.dependents()
    yield from watch.delimiter()
    yield from watch.only_theirs()
    yield from watch.restrictions()
    yield from watch.services()
    yield from watch.copies()
    yield from watch.peers()
    yield from watch.sockets()
    yield from watch.queued()
    yield from watch.tls_policies()
    yield from watch.leftovers()


class _Traps:
    def __init__(self, settings: Settings, postfix: Postfix, plan: Plan) -> None:
        self.settings, self.postfix, self.plan = settings, postfix, plan
        self.domains = [d for d in settings.domains.values() if d.enabled == "yes"]
        planner = Planner(settings, postfix, plan.deploy, plan.maps or maps_directory(settings))
        self.is_ours, self.guard, self.socket = planner.is_ours, planner.guard, planner.guard.socket

    def live_maps(self) -> Iterator[Finding]:
        """No live map without the guard, none where an error kills or stops more than our own mail."""
        if not self.socket:
            return
        hint = "behind pipemap:{sqlite:…} only; `splitmx postfix show` prints the line"
        values = {f"{name}": value for name, value in self.postfix.values.items()}
        for service in self.postfix.services:
            values |= {f"{service.key} -o {name}": value for name, value in service.overrides.items()}
        for name, value in values.items():
            if self.socket not in value:
                continue
            bare = name.rpartition(" ")[2]
            if bare in STATIC_ONLY:
                yield error(f"{name} asks the daemon: an error there stops more than our mail", "use the static file")
            guarded_route = bare == "transport_maps" and "not-ours.regexp" in value
            for entry in split_list(value):
                if entry.startswith(self.socket) and not guarded_route:
                    yield error(f"{name} asks the daemon for every address of this host: {entry}", hint)
            if self.postfix.chrooted and "socketmap:unix:/" in value:
                yield error(f"{name} names an absolute socket, but services are chrooted", "use a path below the queue")
        if VIRTUAL in self.plan.classes.values() and self.socket in self.postfix.value("virtual_mailbox_maps"):
            used = [s for s in self.postfix.services if s.command == "virtual"]
            if used and any(o.name == "virtual_mailbox_maps" for o in self.plan.overrides):
                yield error("virtual_mailbox_maps in main.cf asks the daemon: virtual(8) refuses that",
                            "only on smtpd, by -o in master.cf")  # fmt: skip

    def recipient_maps(self) -> Iterator[Finding]:
        """`here` in a recipient parameter refuses everybody at the other side."""
        for name in RECIPIENT_MAPS.values():
            for value in (self.postfix.value(name), *(s.overrides.get(name, "") for s in self.postfix.receivers)):
                if any(self.is_ours(e) and e.rstrip("}").endswith((":here", "/here")) for e in split_list(value)):
                    yield error(f"{name} uses the map here: everybody at the other side is refused",
                                "the right map in every class is relay_recipients")  # fmt: skip
        if self.postfix.full("smtpd_reject_unlisted_recipient") == "no":
            yield warning(
                "smtpd_reject_unlisted_recipient = no: addresses that nobody lists are accepted, then bounced"
            )

    def _sites(self, parameter: str, keys: list[str]) -> dict[str, str]:
        """What the site's own maps of a parameter say to some keys: key -> table."""
        found: dict[str, str] = {}
        for table in split_list(self.postfix.full(parameter)):
            if not self.is_ours(table) and "socketmap:" not in table:
                found |= dict.fromkeys(self.postfix.lookup(table, keys), table)
        return found

    def catch_all(self) -> Iterator[Finding]:
        """A site's `@domain` alias takes those whom no directory lists, and without identity everybody."""
        keys = {f"@{name}": d for d in self.domains for name in spellings(d.name)}
        for key, table in self._sites("virtual_alias_maps", list(keys)).items():
            domain = keys[key]
            if not domain.identity:
                yield error(
                    f"{key} in {table} takes all mail of {domain.name}: identity = false", "set identity = true"
                )
            elif domain.unknown in (Unknown.RELAY, Unknown.VERIFY):
                yield error(
                    f"{key} in {table} takes everybody at the other side whom no directory lists "
                    f'(unknown = "{domain.unknown}")',
                    f'remove it, or list the other side and set unknown = "reject" or "catchall:…" for {domain.name}',
                )
            else:
                yield note(f"{key} in {table} gets what no directory lists of {domain.name}")
        yield from self._patterns()

    def _patterns(self) -> Iterator[Finding]:
        """Own tables that answer for every address, or for the whole domain where that decides who exists."""
        nobody = {f"{_NOBODY}@{name}": d for d in self.domains for name in spellings(d.name)}
        for parameter, what in (
            ("virtual_alias_maps", "takes all mail of"),
            ("transport_maps", "routes every address of"),
            ("relocated_maps", "refuses every address of"),
            ("recipient_canonical_maps", "rewrites every address of"),
            ("canonical_maps", "rewrites every address of"),
        ):
            known = nobody
            if parameter not in ("virtual_alias_maps", "transport_maps"):  # asked before our maps, for @domain too
                known = nobody | {f"@{name}": d for d in self.domains for name in spellings(d.name)}
            for key, table in self._sites(parameter, list(known)).items():
                domain = known[key]
                hint = "Postfix asks it for the full address, before our maps: leave this domain out of it"
                yield error(f"{parameter}: {table} {what} {domain.name}, listed or not", hint)
        yield from self._generic()
        for domain in self.domains:
            parameter = RECIPIENT_MAPS.get(self.plan.classes.get(domain.name, ""), "")
            if parameter and domain.unknown in (Unknown.REJECT, Unknown.CATCHALL):
                keys = [key for name in spellings(domain.name) for key in (f"{_NOBODY}@{name}", f"@{name}")]
                for key, table in list(self._sites(parameter, keys).items())[:1]:
                    yield warning(
                        f"{parameter}: {table} knows {key}: addresses that nobody lists are accepted, then bounced",
                        "leave this domain out of it: who exists is said by relay_recipients",
                    )

    def _generic(self) -> Iterator[Finding]:
        """smtp(8) writes generic names into the recipients of relayed mail as well."""
        names = [name for d in self.domains for name in spellings(d.name)]
        keys = [*(f"@{name}" for name in names), *(f"{_NOBODY}@{name}" for name in names)]
        for service in {d.service for d in self.settings.destinations.values()}:
            found = self.postfix.service(service)
            own = found.overrides.get("smtp_generic_maps") if found else None
            for table in split_list(self.postfix.full("smtp_generic_maps") if own is None else own):
                for key in list(self.postfix.lookup(table, keys))[:1]:
                    yield error(f"smtp_generic_maps: {table} writes {key} into something else in relayed mail, "
                                "recipients too", f"postconf -P {service}/unix/smtp_generic_maps=")  # fmt: skip

    def classes(self) -> Iterator[Finding]:
        """One class each, and no subdomains by accident."""
        for name, found in self.postfix.classes([d.name for d in self.domains]).items():
            if len(found) > 1 and name in self.plan.classes:
                yield error(f"{name} stands in {' and '.join(found)}", f"keep it in {self.plan.classes[name]} only")
        below = {f"splitmx-test.{d.name}": d for d in self.domains if d.subdomains == "exact"}
        for name, found in self.postfix.classes(list(below)).items():
            if RELAY in found:
                yield warning(
                    f"relay_domains takes every subdomain of {below[name].name} too: mail for those hosted elsewhere "
                    "is refused as unknown",
                    "list the domain in a regexp: table, or take relay_domains out of parent_domain_matches_subdomains",
                )

    def dependents(self) -> Iterator[Finding]:
        """Mail of other domains that would wait for us too."""
        if self.plan.deploy != "live" or not self.domains:
            return  # files answer for listed addresses
        hint = "deploy both, or name an address of another domain"
        address = self.postfix.full("always_bcc")
        if address and self._of_ours(address):
            yield warning(f"always_bcc = {address}: with the daemon stopped mail of every domain is put off", hint)
        for parameter in ("sender_bcc_maps", "recipient_bcc_maps"):
            for table in split_list(self.postfix.full(parameter)):
                rows = None if self.is_ours(table) else self.postfix.rows(table)
                hits = [(key, value) for key, value in rows or () if self._of_ours(value) and not self._is_for_us(key)]
                for key, value in hits[:1]:
                    yield warning(f"{parameter}: {table} copies mail ({key}) to {value}: with the daemon stopped that "
                                  "mail is put off, whatever its domain", hint)  # fmt: skip
        for place in ("main.cf", *(service.key for service in self.postfix.receivers)):
            if self._rejects_unlisted_senders(place):
                yield note(f"{place} has reject_unlisted_sender: with the daemon stopped who sends by an address of "
                           f"{self.domains[0].name} is put off, to whatever domain; not so deployed both")  # fmt: skip

    def _of_ours(self, address: str) -> bool:
        name = fold_domain(address.rpartition("@")[2] if "@" in address else appended(self.postfix)[1]) or ""
        return any(name == domain.name for domain in self.domains)

    def _is_for_us(self, key: str) -> bool:
        return "@" in key and self._of_ours(key)

    def _rejects_unlisted_senders(self, place: str) -> bool:
        """smtpd_reject_unlisted_sender, or the restriction of that name (postconf(5)), in main.cf or by `-o`."""
        name = "smtpd_reject_unlisted_sender"
        service = next((s for s in self.postfix.receivers if s.key == place), None)
        values = self.postfix.expanded if service is None else service.expanded
        lists = (value for parameter, value in values.items() if re.match(r"smtpd_\w+_restrictions$", parameter))
        return values.get(name) == "yes" or any("reject_unlisted_sender" in split_list(value) for value in lists)

    def delimiter(self) -> Iterator[Finding]:
        """Both must cut addresses at the same place."""
        ours, theirs = self.settings.daemon.recipient_delimiter, self.postfix.full("recipient_delimiter")
        if set(ours) != set(theirs):
            yield error(
                f'recipient_delimiter = "{theirs}" in main.cf, "{ours}" in [daemon]: answers would differ',
                "make them the same",
            )
        if "-" in theirs and self.postfix.full("owner_request_special") == "no":
            yield warning(
                "owner_request_special = no: owner-NAME and NAME-request are extensions to Postfix, whole names to us",
                "leave it at yes, as such lists' addresses are meant",
            )
        propagated = split_list(self.postfix.full("propagate_unmatched_extensions"))
        if theirs and self.plan.deploy != "live" and "virtual" not in propagated:
            yield warning(
                "propagate_unmatched_extensions lacks virtual: an alias found in a file loses the extension, "
                "and keeps it live",
                "add virtual, as by default",
            )

    def only_theirs(self) -> Iterator[Finding]:
        """The policy service refuses some mail for addresses that no directory lists before other tables are asked."""
        for parameter in ("recipient_canonical_maps", "canonical_maps", "virtual_alias_maps"):
            own = [table for table in split_list(self.postfix.full(parameter)) if not self.is_ours(table)]
            for domain in self.domains if own else ():
                outsiders = domain.role == "secondary" and domain.outsiders is Unknown.REJECT
                what = "outsiders' mail for" if outsiders else "bounces (from <>) to"
                if outsiders or domain.unknown is Unknown.CATCHALL:
                    yield note(f"{parameter}: {what} addresses of {domain.name} that {own[0]} alone knows (SRS, say) "
                               "are refused: list those in a directory, or choose another rule")  # fmt: skip
                    break

    def restrictions(self) -> Iterator[Finding]:
        """The policy service stands before whatever permits."""
        setting = self.plan.setting("smtpd_recipient_restrictions")
        if setting is None:
            return
        live = pairs(split_list(self.postfix.full("smtpd_recipient_restrictions")))
        first = setting.ours[0]
        before = live[: live.index(first)] if first in live else []
        for word in before:
            if word in (*PERMITS, "permit"):
                yield error(f"the policy service stands behind {word}: whoever is permitted never meets it",
                            "put its check_recipient_access first in smtpd_recipient_restrictions")  # fmt: skip
        for entry in (entry for entry in setting.ours[1:] if entry in live):
            for word in (word for word in live[: live.index(entry)] if word in FINAL):
                yield error(f"smtpd_recipient_restrictions: {word} stands before {entry}, which is never reached",
                            "run `splitmx postfix show` again, or put it before that")  # fmt: skip

    def services(self) -> Iterator[Finding]:
        """Services whose own -o leave something out."""
        return Services(self.postfix, self.plan, self.is_ours).findings()

    def copies(self) -> Iterator[Finding]:
        """Dual delivery: no other BCC lost."""
        copying = [d for d in self.domains if d.delivery != "split"]
        if not copying:
            return
        for domain in copying:
            yield from self._bcc(domain)
        for table in [t for t in split_list(self.postfix.full("virtual_alias_maps")) if not self.is_ours(t)][:1]:
            yield note(f"virtual_alias_maps: an address that {table} brings to people of {copying[0].name}, and no "
                       "directory lists, makes no copies: recipient_bcc_maps is asked for it alone")  # fmt: skip

    def _bcc(self, domain: Domain) -> Iterator[Finding]:
        hint = "one value per address: move the archive to always_bcc or sender_bcc_maps, or end dual delivery"
        for name in spellings(domain.name):
            for table in split_list(self.postfix.full("recipient_bcc_maps")):
                if self.is_ours(table):
                    continue
                keys = self.postfix.keys(table)
                if table.partition(":")[0] in ("regexp", "pcre", "static"):
                    hits = list(self.postfix.lookup(table, [f"splitmx-test@{name}"]))
                elif keys is None:
                    hits = list(self.postfix.lookup(table, [f"@{name}"]))
                else:
                    hits = [key for key in keys if key.lower().endswith(f"@{name}")]
                if hits:
                    yield error(
                        f"recipient_bcc_maps: {hits[0]} in {table} and delivery = \"{domain.delivery}\" "
                        f"of {domain.name} exclude each other: one of the two copies would be lost",
                        hint,
                    )  # fmt: skip

    def peers(self) -> Iterator[Finding]:
        """A peer's listener is one of ours, and clients can show a certificate at all."""
        served = {domain.destination for domain in self.domains}
        known = [(d.name, p) for d in self.settings.destinations.values() if d.name in served for p in d.peers]
        shields = [service for service in self.postfix.services if service.command == "postscreen"]
        doors = [_door(service.name) for service in (*self.postfix.receivers, *shields)]
        for name, peer in known:
            host, port = _door(peer.value)
            if peer.kind == "listener" and not any(port == p and h in ("", host) for h, p in doors):
                yield warning(f"destination {name}: no smtpd of master.cf listens at {peer.value}, its peer's listener",
                              f"add one: {peer.value} inet n - y - - smtpd")  # fmt: skip
        levels = (s.overrides.get("smtpd_tls_security_level", "") for s in self.postfix.receivers)
        secured = self.postfix.full("smtpd_tls_security_level") or self.postfix.full("smtpd_use_tls") == "yes"
        if any(peer.kind == "cert" for _, peer in known) and not secured and not any(levels):
            yield warning("a peer is known by its certificate, but smtpd offers no TLS",
                          "set smtpd_tls_security_level = may and a certificate")  # fmt: skip

    def sockets(self) -> Iterator[Finding]:
        """The daemon's sockets are there, and Postfix may use them."""
        if self.plan.deploy == "static":
            return
        daemon = self.settings.daemon
        for listener in (self.guard.listener(daemon.socketmap), self.guard.listener(daemon.policy)):
            if listener is None or listener.kind != "unix":
                continue
            path = Path(listener.path)
            try:
                mode = path.stat()
            except OSError:
                yield warning(f"{path} is not there: the daemon does not run", "start it: splitmx serve")
                continue
            if not stat.S_ISSOCK(mode.st_mode):
                yield error(f"{path} is not a socket")
            elif not self._may_use(mode):
                yield error(f"{path} is closed to the user {self.postfix.full('mail_owner')}",
                            f"[daemon]: unix:{path}?mode=0660&group=postfix")  # fmt: skip

    def _may_use(self, found: os.stat_result) -> bool:
        import pwd

        try:
            owner = pwd.getpwnam(self.postfix.full("mail_owner") or "postfix")
        except KeyError:
            return True
        return bool(
            (found.st_uid == owner.pw_uid and found.st_mode & 0o200)
            or (found.st_gid == owner.pw_gid and found.st_mode & 0o020)
            or found.st_mode & 0o002
        )

    def tls_policies(self) -> Iterator[Finding]:
        """A site's own TLS policy for the same next hop is asked before ours."""
        wanted = tls_policy.rows(self.settings)
        if self.plan.setting("smtp_tls_policy_maps") is None:
            return
        for hop, table in self._sites("smtp_tls_policy_maps", list(wanted)).items():
            own = self.postfix.lookup(table, [hop])[hop]
            if own.split() != wanted[hop].split():
                yield warning(f"smtp_tls_policy_maps: {table} has {hop} {own}: ours ({wanted[hop]}) does not count",
                              "take that entry out, or set tls of the destination to the same")  # fmt: skip

    def leftovers(self) -> Iterator[Finding]:
        """Ways of mydestination to hand strangers on, which a split domain does not use any more."""
        local = [name for name, parameter in self.plan.classes.items() if parameter == "mydestination"]
        for parameter in ("luser_relay", "fallback_transport", "fallback_transport_maps"):
            if local and self.postfix.full(parameter):
                yield note(f"{parameter} gets nobody of {local[0]} any more whom no directory lists: unknown decides")

    def queued(self) -> Iterator[Finding]:
        """Mail that still waits for a domain which is switched off would bounce."""
        off = {name for d in self.settings.domains.values() if d.enabled == "no" for name in spellings(d.name)}
        if not off:
            return
        try:
            done = subprocess.run(
                ["postqueue", "-c", str(self.postfix.directory), "-j"],
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                timeout=10,
                check=False,
            )
            mails = [json.loads(line) for line in done.stdout.splitlines()]
        except (OSError, subprocess.TimeoutExpired, ValueError):
            return
        waiting = sum(r["address"].rpartition("@")[2].lower() in off for m in mails for r in m.get("recipients", []))
        if waiting:
            yield warning(f"{waiting} queued recipients belong to domains that are not enabled: they may bounce",
                          "flush the queue before a domain is switched off")  # fmt: skip


def _door(name: str) -> tuple[str, str]:
    """Host and port of an inet service of master(5); "" where it listens at every address of inet_interfaces."""
    host, _, port = name.rpartition(":")
    return host.strip("[]"), {"smtp": "25", "submission": "587", "smtps": "465", "submissions": "465"}.get(port, port)
