# SPDX-License-Identifier: Apache-2.0
"""The texts that make an Exim ask splitmx: ACL statements, routers, transports. The same for every site.

What differs between sites stands in macros and domain lists of the main section (`transport.mta.exim_plan`). The
rules behind the texts, with their sources:

- The query stands in `address_data` of a first router that declines, never in `set`: before 4.98 a failing `set`
  ends routing with success, and the mail is gone (Exim's bug 3058).
- Every fixed router tests `$address_data`; a reply that is no complete known answer, the empty one first of all, is
  deferred: an empty answer is what `${readsocket` gives when the other side closes.
- A question that fails is put once more, at once, to the same socket. Exim keeps a handle for each socket; when the
  connection fails it closes the descriptor and keeps its number, and what next bears that number (a log, a hints
  database, the message itself) is written to or closed in its stead. The second question finds the number unused and
  clears it. (lookups/readsock.c, internal_readsock_open, label `bad`: 4.94 to 4.99; a tcp socket is not affected.)
- `warn` skips what defers, so the ACL empties its variable before it asks.
- Transport names are constants; a host list is checked against a pattern before it is used, because manualroute
  expands it once more.
- Routers run for senders, for children of redirects and at delivery: they ask without a client. The ACL asks with it.
"""

from __future__ import annotations

ACL = r"""# Statements for the head of the RCPT ACL, before whatever accepts or denies recipients; for our domains only.
  warn
    domains = +splitmx_domains : +splitmx_observed
    set acl_m_splitmx_from = outsider=yes
    set acl_m_splitmx =
  warn
    domains = +splitmx_domains : +splitmx_observed
    hosts = SPLITMX_CLIENTS
    set acl_m_splitmx_from = outsider=no
  warn
    domains = +splitmx_domains : +splitmx_observed
    authenticated = *
    set acl_m_splitmx_from = outsider=no

  # One question with the client. When it fails, the answer stays empty.
  warn
    domains = +splitmx_domains
    set acl_m_splitmx = ${if match{$local_part}{\N[\x00-\x1f\x7f]\N}\
      {decision=unknown }\
      {SPLITMX_ACL_ANSWER}}

  # Neither a known word nor complete, an empty answer among them: try again later.
  defer
    domains = +splitmx_domains
    condition = ${if or{\
      {match{$acl_m_splitmx}{\N^decision=(pass|local|unknown)(\s|$)\N}}\
      {match{$acl_m_splitmx}{\N^decision=expand\s.*\btargets(64)?=\S\N}}\
      {match{$acl_m_splitmx}{\N^decision=relay\s.*\bverify=(yes|no)\b\N}}\
      {match{$acl_m_splitmx}{\N^decision=(loop|suspended|refuse)\s.*\bcode=[45]\d\d\s.*\btext=\S\N}}\
      }{no}{yes}}
    message = 451 4.3.0 Recipient cannot be looked up now, try again later
    log_message = splitmx: no usable answer from SPLITMX_SOCKET for $local_part@$domain: "${length_200:$acl_m_splitmx}"

  # Loops (temporary while a listed address may only be late at the other side), suspended, peer_only, outsiders.
  defer
    domains = +splitmx_domains
    condition = ${if match{$acl_m_splitmx}{\N^decision=(loop|suspended|refuse)\s.*\bcode=4\d\d\b\N}}
    message = ${extract{code}{$acl_m_splitmx}} ${extract{text}{$acl_m_splitmx}}
    log_message = splitmx: ${extract{decision}{$acl_m_splitmx}} (temporary)
  deny
    domains = +splitmx_domains
    condition = ${if match{$acl_m_splitmx}{\N^decision=(loop|suspended|refuse)\s\N}}
    message = ${extract{code}{$acl_m_splitmx}} ${extract{text}{$acl_m_splitmx}}
    log_message = splitmx: ${extract{decision}{$acl_m_splitmx}}

  # Nobody here lists it: the routers have the last word, so that the site's own aliases before ours still count.
  deny
    domains = +splitmx_domains
    condition = ${if match{$acl_m_splitmx}{\N^decision=unknown(\s|$)\N}}
    !verify = recipient

  # unknown = "verify": the destination is asked. Unreachable: 451; no such recipient: 550.
  deny
    domains = +splitmx_domains
    condition = ${if match{$acl_m_splitmx}{\N^decision=(relay|expand|local)\s.*\bverify=yes\b\N}}
    !verify = recipient/callout=SPLITMX_CALLOUT

  # Domains that are only observed: the daemon logs what it would have decided; nothing waits for it.
  warn
    domains = +splitmx_observed
    set acl_m_splitmx_observed = ${readsocket{SPLITMX_SOCKET}{SPLITMX_ACL_QUESTION}{1s}{ }\
      {${readsocket{SPLITMX_SOCKET}{SPLITMX_ACL_QUESTION}{1s}{ }{}}}}
"""

# In a host list each IPv6 address needs brackets before its port.
ROUTERS = r"""# Routers for our domains: behind the site's own alias and SRS routers, before all others that route.
# They never speak for another domain: each has `domains =`.

# Reports about failed copies end here. (An empty errors_to would silence the delivery itself too: `unseen` hands it
# on to the routers that follow.)
splitmx_nobody:
  driver = redirect
  domains = copy-errors.splitmx.invalid
  senders = :
  data = :blackhole:

# The one question. It stands in address_data, and the router declines.
splitmx_ask:
  driver = redirect
  domains = +splitmx_routed
  address_data = ${if match{$local_part}{\N[\x00-\x1f\x7f]\N}\
    {decision=unknown }\
    {SPLITMX_ANSWER}}
  data =

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

# delivery = "all": the destination is the delivery, the copy for the store here is silent.
splitmx_copy_lmtp:
  driver = manualroute
  domains = +splitmx_routed
  condition = ${if and{{SPLITMX_COPY_HERE} {eq{${extract{store_via}{$address_data}}}{lmtp}}}}
  unseen
  no_verify
  errors_to = SPLITMX_NOBODY
  route_data = <;SPLITMX_STORE_HOST
  transport = splitmx_lmtp
  self = send
  host_find_failed = defer

splitmx_copy_smtp:
  driver = manualroute
  domains = +splitmx_routed
  condition = ${if and{{SPLITMX_COPY_HERE} {eq{${extract{store_via}{$address_data}}}{smtp}}}}
  unseen
  no_verify
  errors_to = SPLITMX_NOBODY
  route_data = <;SPLITMX_STORE_HOST
  transport = splitmx_smtp_store
  self = send
  host_find_failed = defer

splitmx_copy_socket:
  driver = accept
  domains = +splitmx_routed
  condition = ${if and{{SPLITMX_COPY_HERE} {eq{${extract{store_via}{$address_data}}}{socket}}}}
  unseen
  no_verify
  errors_to = SPLITMX_NOBODY
  transport = splitmx_socket

# envelope, plus = "strip": another recipient on the wire; headers stay.
splitmx_envelope:
  driver = redirect
  domains = +splitmx_routed
  condition = ${if and{{eq{SPLITMX_WAY}{relay}} \
    {!eq{SPLITMX_WIRE}{}} \
    {!eqi{SPLITMX_WIRE}{${quote_local_part:$local_part}@$domain}}}}
  errors_to = SPLITMX_ERRORS
  data = SPLITMX_WIRE
  forbid_file
  forbid_pipe
  forbid_include

# delivery = "dual": a copy for the destination, a silent one.
splitmx_copy_there:
  driver = manualroute
  domains = +splitmx_routed
  condition = ${if and{{eq{SPLITMX_WAY}{local}} {eq{${extract{copy}{$address_data}}}{relay}}}}
  unseen
  no_verify
  errors_to = SPLITMX_NOBODY
  route_data = <;SPLITMX_HOSTS
  transport = SPLITMX_BY_LEVEL
  self = defer
  host_find_failed = defer

# Listed at the other side: a recipient is good without asking anybody, even while DNS is down.
splitmx_listed:
  driver = accept
  domains = +splitmx_routed
  condition = ${if and{{eq{SPLITMX_WAY}{relay}} {!eq{${extract{verify}{$address_data}}}{yes}}}}
  verify_only
  verify_sender = false

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
  transport = splitmx_lmtp
  self = send
  host_find_failed = defer

splitmx_store_smtp:
  driver = manualroute
  domains = +splitmx_routed
  condition = ${if and{{eq{SPLITMX_WAY}{local}} {eq{${extract{store_via}{$address_data}}}{smtp}}}}
  route_data = <;SPLITMX_STORE_HOST
  transport = splitmx_smtp_store
  self = send
  host_find_failed = defer

splitmx_store_socket:
  driver = accept
  domains = +splitmx_routed
  condition = ${if and{{eq{SPLITMX_WAY}{local}} {eq{${extract{store_via}{$address_data}}}{socket}}}}
  transport = splitmx_socket

# For local routers without local_part_suffix: ann+news is delivered as ann.
.ifdef SPLITMX_STRIP_EXTENSION
splitmx_strip:
  driver = redirect
  domains = +splitmx_routed
  condition = ${if and{{eq{SPLITMX_WAY}{local}} {match{${extract{strip}{$address_data}}}{\N^\d+$\N}}}}
  data = ${quote_local_part:${substr{0}{${eval:${strlen:$local_part}-${extract{strip}{$address_data}}}}{$local_part}}}\
    @$domain
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

ROUTER_MACROS = r"""# What the routers read out of one reply.
SPLITMX_NOBODY = nobody@copy-errors.splitmx.invalid
SPLITMX_WORD = ${extract{decision}{$address_data}{$value}{none}}
SPLITMX_WAY = ${if eq{SPLITMX_WORD}{expand}{${extract{self}{$address_data}{$value}{none}}}{SPLITMX_WORD}}
SPLITMX_COPY_HERE = and{{eq{SPLITMX_WAY}{relay}} {eq{${extract{copy}{$address_data}}}{local}}}
SPLITMX_WIRE = ${extract{address64}{$address_data}{${base64d:$value}}\
  {${extract{address}{$address_data}{$value}\
  {${extract{envelope}{$address_data}{${quote_local_part:$local_part}@$value}}}}}}
SPLITMX_LISTED_TARGETS = ${extract{targets64}{$address_data}{${base64d:$value}}{${extract{targets}{$address_data}}}}
# A file has the alias without the extension: the targets get it here, as the daemon gives it to them.
SPLITMX_TARGETS = ${if match{$address_data}{\N\sextended=yes(\s|$)\N}\
  {${map{<,SPLITMX_LISTED_TARGETS}{${sg{$item}{\N@[^@]*$\N}{}}\
  ${if match{$local_part}{SPLITMX_EXTENSION}{$0}}@${sg{$item}{\N^.*@\N}{}}}}}\
  {SPLITMX_LISTED_TARGETS}}
SPLITMX_HOSTS = ${map{<; ${extract{hosts}{$address_data}}}\
  {${if match{$item}{:}{[$item]}{$item}}:${extract{port}{$address_data}}}}
.ifdef _HAVE_DANE
SPLITMX_PROVEN = forall{<; ${map{<; ${extract{hosts}{$address_data}}}\
  {${if match{$item}{\N^(.+)/MX$\N}{${lookup dnsdb{>; defer_strict,mxh=$1}}}{$item}}}}}\
  {!eq{${lookup dnsdb{>; defer_strict,dnssec_strict,tlsa=_${extract{port}{$address_data}}._tcp.$item}}}{}}
.else
SPLITMX_PROVEN = eq{no}{dane}
.endif
SPLITMX_GOOD_HOSTS = {match{${extract{hosts}{$address_data}}}{\N^[0-9A-Za-z_][-0-9A-Za-z._:;/]*$\N}} \
  {match{${extract{port}{$address_data}}}{\N^\d{1,5}$\N}} \
  {match{${extract{tls}{$address_data}}}{\N^(none|may|encrypt|ca|ca\+name|dane)$\N}}
SPLITMX_GOOD_STORE = {or{{!eq{${extract{copy}{$address_data}}}{local}} \
  {match{${extract{store_via}{$address_data}}}{\N^(lmtp|smtp|socket)$\N}}}}
SPLITMX_STORE_HOST = ${if match{${extract{store_hosts}{$address_data}}}{:}\
  {[${extract{store_hosts}{$address_data}}]}{${extract{store_hosts}{$address_data}}}}\
  :${extract{store_port}{$address_data}{$value}{24}}
SPLITMX_BY_LEVEL = ${if eq{${extract{tls}{$address_data}}}{none}{splitmx_smtp_none}\
  {${if eq{${extract{tls}{$address_data}}}{encrypt}{splitmx_smtp_encrypt}\
  {${if eq{${extract{tls}{$address_data}}}{ca}{splitmx_smtp_ca}\
  {${if eq{${extract{tls}{$address_data}}}{ca+name}{splitmx_smtp_ca_name}\
  {${if eq{${extract{tls}{$address_data}}}{dane}{splitmx_smtp_dane}{splitmx_smtp_may}}}}}}}}}}
SPLITMX_ERRORS = ${if eq{${extract{bounce}{$address_data}}}{postmaster}\
  {${extract{errors}{$address_data}{$value}{postmaster@$domain}}}fail}
"""

TRANSPORT_MACROS = r"""# The sender stays on the wire where somebody else, or nobody, gets the reports.
SPLITMX_SENDER = ${if match{$address_data}{\N\s(bounce=postmaster|copy=relay)(\s|$)\N}{$sender_address}fail}
SPLITMX_STORE_SENDER = ${if match{$address_data}{\N\scopy=local(\s|$)\N}{$sender_address}fail}
"""

_COMMON = """  driver = smtp
  return_path = SPLITMX_SENDER
.ifdef SPLITMX_INTERFACE
  interface = SPLITMX_INTERFACE
.endif
.ifdef SPLITMX_HELO
  helo_data = SPLITMX_HELO
.endif
"""

_CA = """.ifdef SPLITMX_CA_FILE
  tls_verify_certificates = SPLITMX_CA_FILE
.endif
"""

TRANSPORTS = (
    """# Transports to the other side. None of them signs with DKIM: a signature of ours on mail that only passes
# through would make forged mail pass DMARC there.
splitmx_smtp_none:
"""
    + _COMMON
    + """  hosts_avoid_tls = *
.ifdef _HAVE_DANE
  hosts_try_dane =
.endif

splitmx_smtp_may:
"""
    + _COMMON
    + """.ifdef _HAVE_DANE
  hosts_try_dane =
.endif

splitmx_smtp_encrypt:
"""
    + _COMMON
    + """  hosts_require_tls = *
.ifdef _HAVE_DANE
  hosts_try_dane =
.endif

# A certificate of a known authority, whatever its name.
splitmx_smtp_ca:
"""
    + _COMMON
    + _CA
    + """  hosts_require_tls = *
  tls_verify_hosts = *
  tls_verify_cert_hostnames =
.ifdef _HAVE_DANE
  hosts_try_dane =
.endif

# The same, and the host's name in it.
splitmx_smtp_ca_name:
"""
    + _COMMON
    + _CA
    + """  hosts_require_tls = *
  tls_verify_hosts = *
  tls_verify_cert_hostnames = *
.ifdef _HAVE_DANE
  hosts_try_dane =
.endif

# TLSA records that DNSSEC proves, or nothing.
splitmx_smtp_dane:
"""
    + _COMMON
    + """.ifdef _HAVE_DANE
  hosts_require_dane = *
.endif
  hosts_require_tls = *
  dnssec_request_domains = *

# Stores that the configuration names.
splitmx_lmtp:
  driver = smtp
  protocol = lmtp
  port = 24
  return_path = SPLITMX_STORE_SENDER
.ifdef _HAVE_DANE
  hosts_try_dane =
.endif

splitmx_smtp_store:
  driver = smtp
  return_path = SPLITMX_STORE_SENDER
.ifdef _HAVE_DANE
  hosts_try_dane =
.endif

splitmx_socket:
  driver = lmtp
  socket = ${if match{${extract{store_path}{$address_data}}}{\\N^/[-0-9A-Za-z._/]+$\\N}\\
    {${extract{store_path}{$address_data}}}{/nonexistent}}
  batch_max = 100
  batch_id = ${extract{store_path}{$address_data}}
  return_path = SPLITMX_STORE_SENDER
.ifdef SPLITMX_LMTP_USER
  user = SPLITMX_LMTP_USER
.endif
"""
)
