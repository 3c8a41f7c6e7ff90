# SPDX-License-Identifier: Apache-2.0
"""The texts that make an Exim ask splitmx, the same for every site: ACL statements and transports; the routers stand in
`exim_routers`.

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

import re

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

  # A bounce for what this host has forwarded under a sender of its own (SRS) is the site's own business.
.ifdef SRS_SECRET
.ifdef _HAVE_NATIVE_SRS
  warn
    domains = +splitmx_domains
    senders = :
    condition = ${if inbound_srs{$local_part}{SRS_SECRET}}
    set acl_m_splitmx = decision=pass
.endif
.endif

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

  # Refused as an outsider, and whether the client is one cannot be told now: later. A database behind SPLITMX_CLIENTS
  # does not answer (the statement above was skipped; here that is a 451), or its name is not known: no DNS.
  defer
    domains = +splitmx_domains
    condition = ${if eq{$acl_m_splitmx_from}{outsider=yes}}
    condition = ${if match{$acl_m_splitmx}{\N^decision=refuse\s.*\bcode=5\d\d\b\N}}
    hosts = SPLITMX_CLIENTS
    message = 451 4.3.0 Client cannot be looked up now, try again later
  defer
    domains = +splitmx_domains
    condition = ${if eq{$acl_m_splitmx_from$host_lookup_deferred}{outsider=yes1}}
    condition = ${if match{$acl_m_splitmx}{\N^decision=refuse\s.*\bcode=5\d\d\b\N}}
    message = 451 4.3.0 Client cannot be looked up now, try again later
    log_message = splitmx: the client's name cannot be looked up, it may be one of ours

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

TRANSPORT_MACROS = r"""# The sender stays on the wire where somebody else, or nobody, gets the reports.
SPLITMX_SENDER = ${if or{{match{$address_data}{\N\s(bounce=postmaster|copy=relay)(\s|$)\N}}\
  {match{$return_path}{\N@copy-errors\.splitmx\.invalid$\N}}}{$sender_address}fail}
SPLITMX_STORE_SENDER = ${if match{$address_data}{\N\scopy=local(\s|$)\N}{$sender_address}fail}
"""

_COMMON = """  driver = smtp
.ifdef _OPT_TRANSPORT_SMTP_MESSAGE_LINELENGTH_LIMIT
  message_linelength_limit = 1G
.endif
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
# through would make forged mail pass DMARC there. Lines longer than SMTP allows (998 octets) were taken and go on as
# they came: Exim (from 4.95 on) would bounce them, and a copy would be lost in silence.
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
.ifdef _OPT_TRANSPORT_SMTP_MESSAGE_LINELENGTH_LIMIT
  message_linelength_limit = 1G
.endif
  protocol = lmtp
  port = 24
  return_path = SPLITMX_STORE_SENDER
.ifdef _HAVE_DANE
  hosts_try_dane =
.endif

splitmx_smtp_store:
  driver = smtp
.ifdef _OPT_TRANSPORT_SMTP_MESSAGE_LINELENGTH_LIMIT
  message_linelength_limit = 1G
.endif
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


def transports() -> str:
    """Macros and transports, each of them once for the usual port and once for all others."""
    blocks = re.findall(r"(?ms)^(splitmx_(?:smtp_\w+|lmtp)):\n((?:[ .].*?\n)+)", TRANSPORTS)
    others = [f"\n{name}_port:\n{block}  connection_max_messages = 1\n" for name, block in blocks]
    return "".join([TRANSPORT_MACROS, "\n", TRANSPORTS, OTHER_PORTS, *others])


OTHER_PORTS = """
# The same at any other port: there a connection is never handed on to other mail that waits, since Exim would take one
# to another port of that host for it.
"""

DEBIAN_ALIASES = r"""
# Debian's own router for aliases has to stand behind ours (the routers 150 and 200 route by domain): whom no directory
# lists, root for one, may be an alias all the same.
splitmx_aliases:
  driver = redirect
  domains = +splitmx_routed
  condition = ${if and{{eq{SPLITMX_WORD}{unknown}} {match_domain{$domain}{+local_domains}}}}
  allow_fail
  allow_defer
  data = ${lookup{$local_part}lsearch{/etc/aliases}}
.ifdef SYSTEM_ALIASES_USER
  user = SYSTEM_ALIASES_USER
.endif
.ifdef SYSTEM_ALIASES_GROUP
  group = SYSTEM_ALIASES_GROUP
.endif
.ifdef SYSTEM_ALIASES_FILE_TRANSPORT
  file_transport = SYSTEM_ALIASES_FILE_TRANSPORT
.endif
.ifdef SYSTEM_ALIASES_PIPE_TRANSPORT
  pipe_transport = SYSTEM_ALIASES_PIPE_TRANSPORT
.endif
.ifdef SYSTEM_ALIASES_DIRECTORY_TRANSPORT
  directory_transport = SYSTEM_ALIASES_DIRECTORY_TRANSPORT
.endif

# The same for its real-NAME, by which users are told from this host that their .forward has errors.
splitmx_real_local:
  driver = accept
  domains = +splitmx_routed
  local_part_prefix = real-
  condition = ${if and{{eq{SPLITMX_WORD}{unknown}} {match_ip{$sender_host_address}{:@[]}} \
    {match_domain{$domain}{+local_domains}}}}
  check_local_user
  transport = LOCAL_DELIVERY

"""
