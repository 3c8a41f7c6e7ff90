# SPDX-License-Identifier: Apache-2.0
"""The routers that make an Exim ask splitmx; the rules behind them stand in `exim_fragments`."""

from __future__ import annotations

from transport.mta.exim_fragments import DEBIAN_ALIASES
from transport.mta.exim_macros import ROUTER_MACROS

_ROUTERS = r"""# Routers for our domains: behind the site's own alias and SRS routers, before all others that route.
# They never speak for another domain: each has `domains =`. What they make of an address for its way alone is not
# rewritten (`no_rewrite`): a rule of the site for the destination's domain would send it back.

# Reports about failed copies end here. (An empty errors_to would silence the delivery itself too: `unseen` hands it
# on to the routers that follow.)
splitmx_nobody:
  driver = redirect
  domains = copy-errors.splitmx.invalid
  senders = :
  data = :blackhole:

# Copies on their way: what was said of the address holds for its copy, nothing is asked again.
splitmx_copy_there:
  driver = manualroute
  domains = +splitmx_routed
  local_part_suffix = SPLITMX_ENDING
  condition = ${if and{{SPLITMX_IS_CHILD} {SPLITMX_COPY_THERE}}}
  no_verify
  route_data = <;SPLITMX_HOSTS
  transport = SPLITMX_BY_LEVEL
  self = defer
  host_find_failed = defer

splitmx_copy_lmtp:
  driver = manualroute
  domains = +splitmx_routed
  local_part_suffix = SPLITMX_ENDING
  condition = ${if and{{SPLITMX_IS_CHILD} {SPLITMX_COPY_HERE} {eq{${extract{store_via}{$address_data}}}{lmtp}}}}
  no_verify
  route_data = <;SPLITMX_STORE_HOST
  transport = SPLITMX_BY_LMTP
  self = send
  host_find_failed = defer

splitmx_copy_smtp:
  driver = manualroute
  domains = +splitmx_routed
  local_part_suffix = SPLITMX_ENDING
  condition = ${if and{{SPLITMX_IS_CHILD} {SPLITMX_COPY_HERE} {eq{${extract{store_via}{$address_data}}}{smtp}}}}
  no_verify
  route_data = <;SPLITMX_STORE_HOST
  transport = SPLITMX_BY_SMTP
  self = send
  host_find_failed = defer

splitmx_copy_socket:
  driver = accept
  domains = +splitmx_routed
  local_part_suffix = SPLITMX_ENDING
  condition = ${if and{{SPLITMX_IS_CHILD} {SPLITMX_COPY_HERE} {eq{${extract{store_via}{$address_data}}}{socket}}}}
  no_verify
  transport = splitmx_socket

# Mail that is its own parent, on its way.
splitmx_kept_relay:
  driver = manualroute
  domains = +splitmx_routed
  local_part_suffix = SPLITMX_KEPT
  condition = ${if and{{SPLITMX_IS_CHILD} {eq{SPLITMX_WAY}{relay}}}}
  route_data = <;SPLITMX_HOSTS
  transport = SPLITMX_BY_LEVEL
  self = defer
  host_find_failed = defer

splitmx_kept_lmtp:
  driver = manualroute
  domains = +splitmx_routed
  local_part_suffix = SPLITMX_KEPT
  condition = ${if and{{SPLITMX_TO_STORE} {eq{${extract{store_via}{$address_data}}}{lmtp}}}}
  no_verify
  route_data = <;SPLITMX_STORE_HOST
  transport = SPLITMX_BY_LMTP
  self = send
  host_find_failed = defer

splitmx_kept_smtp:
  driver = manualroute
  domains = +splitmx_routed
  local_part_suffix = SPLITMX_KEPT
  condition = ${if and{{SPLITMX_TO_STORE} {eq{${extract{store_via}{$address_data}}}{smtp}}}}
  no_verify
  route_data = <;SPLITMX_STORE_HOST
  transport = SPLITMX_BY_SMTP
  self = send
  host_find_failed = defer

# The one question. It stands in address_data, and the router declines. An address that waits for an answer waits
# alone: without retry_use_local_part Exim would hold back all queued mail of the domain until its next attempt.
splitmx_ask:
  driver = redirect
  domains = +splitmx_routed
  retry_use_local_part
  address_data = ${if match{$local_part}{\N[\x00-\x1f\x7f]\N}\
    {decision=unknown }\
    {SPLITMX_ANSWER}}SPLITMX_WAS_MADE
  data =

# A bounce for what this host has forwarded under a sender of its own (SRS, by the site's or cPanel's SRS_SECRET): whom
# it is for only the site's SRS router knows, which may stand behind ours.
.ifdef SRS_SECRET
.ifdef _HAVE_NATIVE_SRS
splitmx_srs:
  driver = redirect
  domains = +splitmx_routed
  senders = :
  condition = ${if inbound_srs{$local_part}{SRS_SECRET}}
  address_data = decision=pass
  data =
.endif
.endif

# Neither a known word nor complete, an empty answer among them: later.
splitmx_trouble:
  driver = redirect
  domains = +splitmx_routed
  condition = ${if or{\
    {match{$address_data}{\N^decision=(pass|local)(\s+extended=yes)?\s*$\N}}\
    {match{$address_data}{\N^decision=(unknown|suspended)(\s|$)\N}}\
    {and{{match{$address_data}{\N^decision=relay\s.*\bverify=(yes|no)\b\N}} SPLITMX_GOOD_HOSTS \
      SPLITMX_GOOD_STORE}}\
    {and{{match{$address_data}{\N^decision=local\s.*\bverify=(yes|no)\b\N}}\
      {or{{!eq{${extract{copy}{$address_data}}}{relay}} {and{SPLITMX_GOOD_HOSTS}}}}}}\
    {and{{match{$address_data}{\N^decision=expand\s.*\btargets(64)?=\S\N}}\
      {or{{!match{$address_data}{\N\smembers=\N}} {match{$address_data}{\N\sverify=(yes|no)\b\N}}}}\
      {or{{eq{${extract{hosts}{$address_data}}}{}} {and{SPLITMX_GOOD_HOSTS}}}} \
      SPLITMX_GOOD_STORE}}\
    }{no}{yes}}
  allow_defer
  data = :defer: 451 4.3.0 Recipient cannot be looked up now, try again later

# Suspended people exist: as senders they are good.
splitmx_suspended:
  driver = redirect
  domains = +splitmx_routed
  condition = ${if eq{SPLITMX_WORD}{suspended}}
  verify_sender = false
  allow_fail
  data = :fail: 550 ${extract{text}{$address_data}{$value}{5.2.1 Mailbox disabled, not accepting messages}}

splitmx_unknown:
  driver = redirect
  domains = +splitmx_routed
  condition = ${if eq{SPLITMX_WORD}{unknown}}
  allow_fail
  data = :fail: 550 ${extract{text}{$address_data}{$value}{5.1.1 No such recipient here}}

# Sender verification: whoever is not unknown is good, on whichever side.
splitmx_sender:
  driver = accept
  domains = +splitmx_routed
  condition = ${if match{SPLITMX_WORD}{\N^(local|relay|expand|suspended)$\N}}
  verify_only
  verify_recipient = false

# Aliases, groups, catch-all, domain aliases. For a mailbox that forwards and keeps, the kept mail comes here again
# and Exim skips this router for it: `self` says then how it goes.
splitmx_expand:
  driver = redirect
  domains = +splitmx_routed
  condition = ${if eq{SPLITMX_WORD}{expand}}
  data = SPLITMX_TARGETS
  forbid_file
  forbid_pipe
  forbid_include
  forbid_filter_run
  forbid_filter_readsocket
  cannot_route_message = No such recipient here

# delivery = "dual", without `envelope`: a copy for the destination. delivery = "all": the destination is the delivery,
# the copy is for the store here. Both are silent. (Made by `unseen` manualroutes they would be the same address: Exim
# would put off the mail itself while a host of the copy has no known name, or while the copy is refused for now.)
splitmx_copy:
  driver = redirect
  domains = +splitmx_routed
  caseful_local_part
  condition = ${if or{{SPLITMX_COPY_HERE} \
    {and{{SPLITMX_COPY_THERE} {eq{${extract{envelope}{$address_data}}}{}}}}}}
  unseen
  no_verify
  errors_to = SPLITMX_NOBODY
  no_rewrite
  data = <SPLITMX_COPY_QUOTEDSPLITMX_ENDING@$domain>
  forbid_file
  forbid_pipe
  forbid_include

# delivery = "dual" with `envelope`: the silent copy goes to another address, which is asked for by itself.
splitmx_copy_envelope:
  driver = redirect
  domains = +splitmx_routed
  condition = ${if and{{SPLITMX_COPY_THERE} {!eq{${extract{envelope}{$address_data}}}{}}}}
  unseen
  no_verify
  errors_to = SPLITMX_NOBODY
  no_rewrite
  data = <SPLITMX_COPY_QUOTED@${extract{envelope}{$address_data}}>
  forbid_file
  forbid_pipe
  forbid_include

# Listed at the other side: a recipient is good without asking anybody, even while DNS is down. Two addresses, no
# `accept`: Exim stops at them, and gives up a cutthrough connection of an earlier recipient (the message would go there
# alone). With a copy, the same for a store by SMTP.
splitmx_listed:
  driver = redirect
  domains = +splitmx_routed
  condition = ${if or{{and{{eq{SPLITMX_WAY}{relay}} {!eq{${extract{verify}{$address_data}}}{yes}}}} \
    {and{{SPLITMX_COPY_THERE} {eq{${extract{store_via}{$address_data}}}{smtp}}}}}}
  verify_only
  verify_sender = false
  data = SPLITMX_NOBODY, no.SPLITMX_NOBODY

# tls = "dane": without a proven TLSA record for every host Exim would bounce; wait for it instead.
splitmx_dane:
  driver = redirect
  domains = +splitmx_routed
  condition = ${if and{{eq{SPLITMX_WAY}{relay}} {eq{${extract{tls}{$address_data}}}{dane}} {!SPLITMX_PROVEN}}}
  allow_defer
  data = :defer: 451 4.7.5 The next hop has no TLSA record that DNSSEC proves

# A destination domain that says it takes no mail (RFC 7505): told at once, not after days.
splitmx_null_mx:
  driver = redirect
  domains = +splitmx_routed
  condition = ${if and{{eq{SPLITMX_WAY}{relay}} \
    {match{${extract{hosts}{$address_data}}}{\N^([^;]+)/MX$\N}} \
    {match{${lookup dnsdb{>; defer_never,mx=$1}}}{\N^\d+ \.?$\N}}}}
  allow_fail
  data = :fail: 550 5.1.10 The destination takes no mail (null MX)

# envelope, plus = "strip": another recipient on the wire; headers stay. With a copy here, and in the same domain,
# nothing is asked about it again: the copy has been made.
splitmx_envelope:
  driver = redirect
  domains = +splitmx_routed
  condition = ${if and{{eq{SPLITMX_WAY}{relay}} \
    {!eq{SPLITMX_WIRE}{}} \
    {!eqi{SPLITMX_WIRE}{SPLITMX_QUOTED@$domain}}}}
  errors_to = SPLITMX_ERRORS
  no_rewrite
  data = <${if match{SPLITMX_WIRE}{\N^(.*)@([^@]*)$\N}\
    {$1${if and{{SPLITMX_COPY_HERE} {eqi{$2}{$domain}}}{SPLITMX_KEPT}}@$2}{SPLITMX_WIRE}}>
  forbid_file
  forbid_pipe
  forbid_include

# Mail that is its own parent gets a name of its own, which its transport leaves out of RCPT, and reports too.
splitmx_kept:
  driver = redirect
  domains = +splitmx_routed
  caseful_local_part
  condition = ${if and{{eqi{$parent_local_part@$parent_domain}{$local_part@$domain}} \
    {or{{eq{SPLITMX_WAY}{relay}} \
    {and{{eq{SPLITMX_WAY}{local}} {match{${extract{store_via}{$address_data}}}{\N^(lmtp|smtp)$\N}}}}}}}}
  no_verify
  hide_child_in_errmsg
  errors_to = SPLITMX_ERRORS
  no_rewrite
  data = <SPLITMX_QUOTEDSPLITMX_KEPT@$domain>
  forbid_file
  forbid_pipe
  forbid_include

# The other side.
splitmx_relay:
  driver = manualroute
  domains = +splitmx_routed
  condition = ${if eq{SPLITMX_WAY}{relay}}
  errors_to = SPLITMX_ERRORS
  route_data = <;SPLITMX_HOSTS
  transport = SPLITMX_BY_LEVEL
  self = defer
  host_find_failed = defer

# A store that the configuration names (locations, local_transport). Without one the site's own routers deliver.
splitmx_store_lmtp:
  driver = manualroute
  domains = +splitmx_routed
  condition = ${if and{{eq{SPLITMX_WAY}{local}} {eq{${extract{store_via}{$address_data}}}{lmtp}}}}
  route_data = <;SPLITMX_STORE_HOST
  transport = SPLITMX_BY_LMTP
  self = send
  host_find_failed = defer

splitmx_store_smtp:
  driver = manualroute
  domains = +splitmx_routed
  condition = ${if and{{eq{SPLITMX_WAY}{local}} {eq{${extract{store_via}{$address_data}}}{smtp}}}}
  route_data = <;SPLITMX_STORE_HOST
  transport = SPLITMX_BY_SMTP
  self = send
  host_find_failed = defer

splitmx_store_socket:
  driver = accept
  domains = +splitmx_routed
  condition = ${if and{{eq{SPLITMX_WAY}{local}} {eq{${extract{store_via}{$address_data}}}{socket}}}}
  transport = splitmx_socket

# For local routers without local_part_suffix: ann+news is delivered as ann. What was said of ann+news holds for ann,
# who is not asked for again: her copies and forwards have been made.
.ifdef SPLITMX_STRIP_EXTENSION
splitmx_strip:
  driver = redirect
  domains = +splitmx_routed
  condition = ${if and{{eq{SPLITMX_WAY}{local}} {or{{match{$address_data}{\N\sextended=yes(\s|$)\N}} \
    {match{${extract{strip}{$address_data}}}{\N^\d+$\N}}}}}}
  no_rewrite
  data = <${quote_local_part:${sg{$local_part}{SPLITMX_EXTENSION}{}}}@$domain>
  redirect_router = splitmx_rest
  forbid_file
  forbid_pipe
  forbid_include
.endif

# What is left is here, or not our business: the site's own routers follow. Anything else would be a mistake.
splitmx_rest:
  driver = redirect
  domains = +splitmx_routed
  condition = ${if match{SPLITMX_WAY}{\N^(local|pass)$\N}{no}{yes}}
  allow_defer
  data = :defer: 451 4.3.0 Recipient cannot be routed now, try again later
"""


def routers(kind: str = "plain") -> str:
    """Macros and routers for a kind of site. Only on Debian the site's aliases stand behind ours."""
    mine = "\nsplitmx_unknown:\n"
    text = _ROUTERS.replace(mine, f"{DEBIAN_ALIASES}{mine[1:]}") if kind == "debian" else _ROUTERS
    return ROUTER_MACROS + "\n" + text
