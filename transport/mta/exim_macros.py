# SPDX-License-Identifier: Apache-2.0
"""Exim macros: what the routers read out of a reply, and how they tell copies and kept mail from an address."""

from __future__ import annotations

# In a host list each IPv6 address needs brackets before its port.
ROUTER_MACROS = r"""# What the routers read out of one reply.
SPLITMX_NOBODY = nobody@copy-errors.splitmx.invalid
SPLITMX_WORD = ${extract{decision}{$address_data}{$value}{none}}
SPLITMX_WAY = ${if eq{SPLITMX_WORD}{expand}{${extract{self}{$address_data}{$value}{none}}}{SPLITMX_WORD}}
SPLITMX_COPY_HERE = and{{eq{SPLITMX_WAY}{relay}} {eq{${extract{copy}{$address_data}}}{local}}}
# Quoted where RFC 5321 asks for it. (${quote_local_part:} also quotes what is not ASCII, and not "a..b".)
SPLITMX_BARE = \N^[^\x00-\x20"(),.:;<>@\[\\\]\x7f]+(\.[^\x00-\x20"(),.:;<>@\[\\\]\x7f]+)*$\N
SPLITMX_QUOTED = ${if match{$local_part}{SPLITMX_BARE}{$local_part}\
  {"${sg{$local_part}{\N[\\"]\N}{\\\\\$0}}"}}
SPLITMX_WIRE = ${extract{address64}{$address_data}{${base64d:$value}}\
  {${extract{address}{$address_data}{$value}\
  {${extract{envelope}{$address_data}{SPLITMX_QUOTED@$value}}}}}}
SPLITMX_LISTED_TARGETS = ${extract{targets64}{$address_data}{${base64d:$value}}{${extract{targets}{$address_data}}}}
# A file has the alias without the extension: the targets get it here, as the daemon gives it to them. The sender chose
# it, so that it is quoted; in a redirect's data a comma would begin another address, and without `<` a # a comment.
SPLITMX_UNQUOTED = ${if match{$item}{\N^"(.*)"@[^@]*$\N}{${sg{$1}{\N\\(.)\N}{\$1}}}{${sg{$item}{\N@[^@]*$\N}{}}}}
SPLITMX_EXTENDED = ${quote_local_part:SPLITMX_UNQUOTED${if match{$local_part}{SPLITMX_EXTENSION}{$0}}}\
  @${sg{$item}{\N^.*@\N}{}}
SPLITMX_TARGETS = ${map{<\n ${sg{SPLITMX_LISTED_TARGETS}{\N((?:"(?:[^"\\]|\\.)*"|[^",])+),?\N}{\$1\n}}}\
  {<${if match{$address_data}{\N\sextended=yes(\s|$)\N}{SPLITMX_EXTENDED}{$item}}>}}
SPLITMX_HOSTS = ${map{<; ${extract{hosts}{$address_data}}}\
  {${if match{$item}{:}{[$item]}{$item}}:${extract{port}{$address_data}}}}
.ifdef _HAVE_DANE
SPLITMX_PROVEN = forall{<; ${map{<; ${extract{hosts}{$address_data}}}\
  {${if match{$item}{\N^(.+)/MX$\N}{${lookup dnsdb{>; defer_strict,mxh=$1}}}{$item}}}}}\
  {!eq{${lookup dnsdb{>; defer_strict,dnssec_strict,tlsa=_${extract{port}{$address_data}}._tcp.$item}}}{}}
.else
SPLITMX_PROVEN = eq{no}{dane}
.endif
SPLITMX_GOOD_HOSTS = {match{${extract{hosts}{$address_data}}}{\N^[0-9A-Za-z_:][-0-9A-Za-z._:;/]*$\N}} \
  {match{${extract{port}{$address_data}}}{\N^\d{1,5}$\N}} \
  {match{${extract{tls}{$address_data}}}{\N^(none|may|encrypt|ca|ca\+name|dane)$\N}}
SPLITMX_GOOD_STORE = {or{{!eq{${extract{copy}{$address_data}}}{local}} \
  {match{${extract{store_via}{$address_data}}}{\N^(lmtp|smtp|socket)$\N}}}}
SPLITMX_AT_STORE = ${extract{store_port}{$address_data}{$value}{24}}
SPLITMX_STORE_HOST = ${if match{${extract{store_hosts}{$address_data}}}{:}\
  {[${extract{store_hosts}{$address_data}}]}{${extract{store_hosts}{$address_data}}}}\
  :SPLITMX_AT_STORE
# Exim hands an open connection on to other mail that waits, in the same transport, for a host of that name, whatever
# its port: so that all ports but the usual one have transports of their own, which hand none on.
SPLITMX_AT_PORT = ${if eq{${extract{port}{$address_data}}}{25}{}{_port}}
SPLITMX_BY_LMTP = splitmx_lmtp${if eq{SPLITMX_AT_STORE}{24}{}{_port}}
SPLITMX_BY_SMTP = splitmx_smtp_store${if eq{SPLITMX_AT_STORE}{25}{}{_port}}
SPLITMX_BY_LEVEL = ${if eq{${extract{tls}{$address_data}}}{none}{splitmx_smtp_none}\
  {${if eq{${extract{tls}{$address_data}}}{encrypt}{splitmx_smtp_encrypt}\
  {${if eq{${extract{tls}{$address_data}}}{ca}{splitmx_smtp_ca}\
  {${if eq{${extract{tls}{$address_data}}}{ca+name}{splitmx_smtp_ca_name}\
  {${if eq{${extract{tls}{$address_data}}}{dane}{splitmx_smtp_dane}{splitmx_smtp_may}}}}}}}}}}SPLITMX_AT_PORT
# An envelope domain names nobody: what was said for the address before holds, for a copy too.
SPLITMX_ERRORS = ${if eq{${extract{bounce}{$address_data}}}{postmaster}\
  {${extract{errors}{$address_data}{$value}fail}}fail}
SPLITMX_COPY_THERE = and{{eq{SPLITMX_WAY}{local}} {eq{${extract{copy}{$address_data}}}{relay}} \
  {!match{$address_data}{\N\scopied=yes$\N}}}
# What a copy loses: the extension, where the destination knows none.
SPLITMX_COPY_SHORT = and{{eq{${extract{plus}{$address_data}}}{strip}} \
  {or{{match{$address_data}{\N\sextended=yes(\s|$)\N}} {match{${extract{strip}{$address_data}}}{\N^\d+$\N}}}}}
SPLITMX_COPY_NAME = ${if and{{SPLITMX_COPY_THERE} {SPLITMX_COPY_SHORT}}\
  {${sg{$local_part}{SPLITMX_EXTENSION}{}}}{$local_part}}
SPLITMX_COPY_QUOTED = ${if match{SPLITMX_COPY_NAME}{SPLITMX_BARE}{SPLITMX_COPY_NAME}\
  {"${sg{SPLITMX_COPY_NAME}{\N[\\"]\N}{\\\\\$0}}"}}
# A copy that keeps its address travels as an address of its own, so that it waits and fails alone: this ending stands
# behind its local part, and the transports leave it out of RCPT. Only the parent's own name with the ending is a copy:
# an extension, which a sender chooses, may end like that too.
SPLITMX_ENDING = .splitmx-copy
SPLITMX_IS_CHILD = and{{eq{$parent_domain}{$domain}} {!eqi{$parent_local_part}{$local_part$local_part_suffix}} \
  {or{{eqi{$local_part}{$parent_local_part}} {eqi{$local_part}{${sg{$parent_local_part}{SPLITMX_EXTENSION}{}}}} \
  {eqi{SPLITMX_QUOTED@$domain}{SPLITMX_WIRE}}}}}
# So does mail for an address that is its own parent: what is left behind a copy, or kept by who forwards. Exim notes
# its delivery, and forgets to look there when it sends it in one transaction with others: it would be delivered again
# with every attempt for them.
SPLITMX_KEPT = .splitmx-kept
# A .forward that keeps the mail: the address comes again, without an extension that means nobody else, and its copy has
# been made. What was said of the parent is there until the new answer takes its place.
SPLITMX_WAS_MADE = ${if and{{eq{$parent_domain}{$domain}} \
  {match{$address_data}{\N^decision=local\s.*\bcopy=relay\b\N}} {or{{eqi{$parent_local_part}{$local_part}} \
  {and{{match{$address_data}{\N\s(strip=\d+|extended=yes)(\s|$)\N}} \
  {eqi{${sg{$parent_local_part}{SPLITMX_EXTENSION}{}}}{$local_part}}}}}}}{ copied=yes}}
SPLITMX_TO_STORE = and{{SPLITMX_IS_CHILD} {eq{SPLITMX_WAY}{local}}}
"""
