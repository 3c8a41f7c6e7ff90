# SPDX-License-Identifier: Apache-2.0
"""An Exim laid out as cPanel's: the routers, lists and ACL that its documentation and published hosts show, in their
order, with our sections at its markers. Written anew after their descriptions; what needs cPanel's own programs (its
Perl, BoxTrapper, mailman) is a program of ours that keeps the message."""

from __future__ import annotations

import re
from pathlib import Path

from tests.mta.daemon import Splitmx

_LISTS = "ROOT/usr/local/cpanel/3rdparty/mailman/lists"
_SUFFIX = "  local_part_suffix = +*\n  local_part_suffix_optional\n"
_VALIASES = "${lookup{$local_part@$domain}lsearch{ROOT/etc/valiases/${lookup{$domain}dsearch{ROOT/etc/valiases}}}}"
_HOME = "ROOT/home/${lookup{$domain}lsearch{ROOT/etc/userdomains}}"
_MAILBOX = (
    f"${{lookup{{$local_part}}lsearch{{{_HOME}/etc/${{lookup{{$domain}}dsearch{{{_HOME}/etc}}}}/passwd}}{{1}}{{0}}}}"
)

_CONF = f"""
@CONFIG@
SRS_SECRET = SECRET
domainlist local_domains = lsearch;ROOT/etc/localdomains
domainlist secondarymx_domains = lsearch;ROOT/etc/secondarymx
domainlist relay_domains = +local_domains : +secondarymx_domains
domainlist user_domains = lsearch;ROOT/etc/userdomains
domainlist manualmx_domains = lsearch;ROOT/etc/manualmx
hostlist relay_hosts = net-iplsearch;ROOT/etc/relayhosts
acl_smtp_rcpt = acl_smtp_rcpt
begin acl
acl_smtp_rcpt:
@custom_begin_recipient@
  accept
    hosts = :
    endpass
    verify = recipient
  deny
    domains = !$primary_hostname : +local_domains
    condition = ${{if exists{{{_HOME}/etc/.${{sg{{$local_part}}{{\\N[/+].*\\N}}{{}}}}@${{domain}}.suspended_incoming}}}}
    message = 525 5.7.13 Disabled recipient address
  accept
    hosts = +relay_hosts
    control = submission/sender_retain
  accept
    authenticated = *
    control = submission/sender_retain
  deny
    ! domains = +relay_domains
    message = 550 5.7.1 relay not permitted
  require
    verify = sender
  require
    verify = recipient
  accept

begin routers
@PREROUTERS@
democheck:
  driver = redirect
  require_files = +/etc/demouids-none
  allow_fail
  data = :fail: demo accounts are not permitted to relay email
enforce_mail_permissions:
  driver = redirect
  domains = ! +local_domains
  condition = ${{if eq{{$sender_address_local_part}}{{blocked}}}}
  allow_fail
  data = :fail: may not send
@POSTMAILCOUNT@
inbound_srs:
  driver = redirect
  senders = :
  domains = +local_domains
  condition = ${{if inbound_srs{{$local_part}}{{SRS_SECRET}}}}
  data = $srs_recipient
manualmx:
  driver = manualroute
  domains = ! +local_domains
  condition = ${{lookup{{$domain}}lsearch{{ROOT/etc/manualmx}}{{1}}{{0}}}}
  route_data = ${{lookup{{$domain}}lsearch{{ROOT/etc/manualmx}}}}
  transport = remote_smtp
dkim_lookuphost:
  driver = manualroute
  domains = ! +local_domains
  condition = ${{if match_domain{{$sender_address_domain}}{{+local_domains}}}}
  route_list = * OUTSIDE
  transport = ${{if eq{{$local_part@$domain}}{{$original_local_part@$original_domain}}{{dkim_remote_smtp}}\\
    {{remote_forwarded_smtp}}}}
lookuphost:
  driver = manualroute
  domains = ! +local_domains
  route_list = * OUTSIDE
  transport = ${{if eq{{$local_part@$domain}}{{$original_local_part@$original_domain}}{{remote_smtp}}\\
    {{remote_forwarded_smtp}}}}
fail_remote_domains:
  driver = redirect
  domains = ! +local_domains : ! localhost
  allow_fail
  data = :fail: The mail server could not deliver mail to $local_part@$domain.
@ROUTERSTART@
suspended_list:
  driver = redirect
  domains = +user_domains
  condition = ${{if exists{{ROOT/var/cpanel/suspended/${{lookup{{$domain}}lsearch{{ROOT/etc/userdomains}}}}}}}}
  allow_fail
  allow_defer
  data = :fail: 525 5.7.13 Disabled recipient address
@PREFILTER@
central_filter:
  driver = redirect
  domains = +user_domains
  require_files = ROOT/etc/vfilters/${{lookup{{$domain}}dsearch{{ROOT/etc/vfilters}}}}
  allow_filter
  forbid_pipe
  file = ROOT/etc/vfilters/${{lookup{{$domain}}dsearch{{ROOT/etc/vfilters}}}}
  user = Debian-exim
  no_verify
mailman_virtual_router:
  driver = accept
  domains = +local_domains
  condition = ${{lookup{{${{lc:$local_part}}_${{lc:$domain}}}}dsearch,filter=dir{{{_LISTS}}}{{1}}{{0}}}}
  local_part_suffix = -admin : -bounces : -bounces+* : -confirm : -join : -leave : -owner : -request : -subscribe
  local_part_suffix_optional
  transport = mailman_virtual_transport
@PREVALIASNOSTAR@
virtual_aliases_nostar:
  driver = redirect
  domains = +local_domains
{_SUFFIX}  allow_defer
  allow_fail
  data = {_VALIASES}
  file_transport = address_file
  pipe_transport = virtual_address_pipe
  user = Debian-exim
  retry_use_local_part
  unseen
@PREVIRTUALUSER@
virtual_boxtrapper_user:
  driver = accept
  domains = +user_domains
{_SUFFIX}  condition = {_MAILBOX}
  require_files = {_HOME}/etc/${{lookup{{$domain}}dsearch{{{_HOME}/etc}}}}/.boxtrapperenable-$local_part
  transport = local_boxtrapper_delivery
virtual_user:
  driver = accept
  domains = +user_domains
{_SUFFIX}  condition = {_MAILBOX}
  transport = dovecot_virtual_delivery
@PRENOALIASDISCARD@
has_alias_but_no_mailbox_discarded_to_prevent_loop:
  driver = redirect
  domains = +user_domains
{_SUFFIX}  condition = ${{if !eq{{{_VALIASES}}}{{}}}}
  data = :blackhole:
@PREVALIASSTAR@
valias_domain_file:
  driver = redirect
  domains = +user_domains
  data = ${{if exists{{ROOT/etc/vdomainaliases/${{lookup{{$domain}}dsearch{{ROOT/etc/vdomainaliases}}}}}}\\
    {{$local_part@${{lookup{{$domain}}lsearch{{ROOT/etc/vdomainaliases/$domain_data}}}}}}}}
virtual_aliases:
  driver = redirect
  domains = +user_domains
  allow_defer
  allow_fail
  data = ${{lookup{{*}}lsearch{{ROOT/etc/valiases/${{lookup{{$domain}}dsearch{{ROOT/etc/valiases}}}}}}}}
  qualify_domain = $primary_hostname
@PRELOCALUSER@
localuser:
  driver = accept
  local_parts = ${{map{{<, acme,zeta}}{{$item}}}}
  domains = +user_domains : $primary_hostname
  transport = dovecot_delivery
@ROUTEREND@

begin transports
@TRANSPORTSTART@
remote_smtp:
  driver = smtp
dkim_remote_smtp:
  driver = smtp
  headers_add = X-Signed: dkim
remote_forwarded_smtp:
  driver = smtp
  max_rcpt = 1
  return_path = ${{srs_encode{{SRS_SECRET}}{{$return_path}}{{$original_domain}}}}
dovecot_virtual_delivery:
  driver = smtp
  protocol = lmtp
  hosts = STORE
  port = 24
  hosts_override
  allow_localhost
  rcpt_include_affixes
dovecot_delivery:
  driver = smtp
  protocol = lmtp
  hosts = STORE
  port = 24
  hosts_override
  allow_localhost
virtual_address_pipe:
  driver = pipe
  return_output
address_file:
  driver = appendfile
  user = Debian-exim
local_boxtrapper_delivery:
  driver = pipe
  command = ROOT/bin/keep boxtrapper
  user = Debian-exim
mailman_virtual_transport:
  driver = pipe
  command = ROOT/bin/keep mailman
  user = Debian-exim
"""

_KEEP = '#!/bin/sh\ncat > "ROOT/kept/$1.$$"\n'


def programs(root: Path) -> None:
    """What stands for cPanel's programs: `bin/keep NAME` keeps standard input in `kept/NAME.PID`."""
    (root / "kept").mkdir(mode=0o777)
    (root / "kept").chmod(0o777)
    (root / "bin").mkdir()
    keep = root / "bin/keep"
    keep.write_text(_KEEP.replace("ROOT", str(root)))
    keep.chmod(0o755)


def kept(root: Path, name: str, subject: str) -> int:
    """How many messages with this subject a program kept."""
    found = 0
    for path in (root / "kept").glob(f"{name}.*"):
        found += f"\nSubject: {subject}\n" in "\n" + path.read_text()
    return found


def layout(root: Path, daemon: Splitmx, *, store: str, outside: str) -> str:
    """The whole configuration, our parts in it as docs/cpanel.md says. store, outside: addresses of the recorders that
    stand for Dovecot and for all other hosts."""
    local = daemon.run("exim", "show", "--kind", "cpanel", "--part", "local", check=True).stdout
    acl = daemon.run("exim", "show", "--kind", "cpanel", "--part", "acl", check=True).stdout
    ours = dict(re.findall(r"(?ms)^@(\w+)@\n(.*?)(?=^@|\Z)", local)) | {"custom_begin_recipient": acl}
    text = _CONF.replace("ROOT", str(root)).replace("OUTSIDE", outside).replace("STORE", store)
    return re.sub(r"(?m)^@(\w+)@\n", lambda match: ours.get(match[1], ""), text)
