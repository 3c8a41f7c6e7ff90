# Unknown addresses are probed at the other side.
#
# splitmx on a Postfix in /etc/postfix, deployed live.
# Keep a copy of main.cf and master.cf. First write the tables: splitmx build
#
# Address classes, which stay as they are:
#   example.com: relay_domains
case $- in *i*) ;; *) set -e ;; esac  # as a script it ends at the first error
export MAIL_CONFIG=/etc/postfix

# while one of these is missing Postfix takes no mail for anybody: where it runs, nothing is done
for table in /var/lib/splitmx/maps/domains.sqlite /var/lib/splitmx/maps/relay_domains; do
  [ -e "$table" ] || { missing=$table; echo "splitmx: $table is missing: run splitmx build" >&2; }
done
[ -z "${missing-}" ] || ! postfix status 2>/dev/null || case $- in *i*) ;; *) exit 1 ;; esac

# names of ours, asked without the daemon
cat > /etc/postfix/splitmx-domains.cf <<'END'
dbpath = /var/lib/splitmx/maps/domains.sqlite
query = SELECT '%s' FROM domain WHERE name = '%d' OR (sub = 1 AND '%d' LIKE '%%.' || name) LIMIT 1
END

# names of ours, asked without the daemon
cat > /etc/postfix/splitmx-others.cf <<'END'
dbpath = /var/lib/splitmx/maps/domains.sqlite
query = SELECT 'OK' WHERE NOT EXISTS (SELECT 1 FROM domain WHERE name = '%d' OR (sub = 1 AND '%d' LIKE '%%.' || name))
END

# names of ours, asked without the daemon
cat > /etc/postfix/splitmx-policy.cf <<'END'
dbpath = /var/lib/splitmx/maps/domains.sqlite
query = SELECT CASE WHEN EXISTS (SELECT 1 FROM domain WHERE name = '%d' OR (sub = 1 AND '%d' LIKE '%%.' || name)) THEN 'splitmx' ELSE 'splitmx_observe' END FROM policy WHERE name = '%d' OR (sub = 1 AND '%d' LIKE '%%.' || name) LIMIT 1
END

# routes of probes
cat > /etc/postfix/splitmx-probes.regexp <<'END'
/^relay:\[example\-com\.mail\.protection\.outlook\.com\]$/ probe-relay:[example-com.mail.protection.outlook.com]
END

# the split domains, exactly: no subdomain becomes ours by accident
postconf -e 'relay_domains = regexp:/var/lib/splitmx/maps/relay_domains'

# who is here goes to the local transport, who is there to the destination
postconf -e 'transport_maps = pipemap:{sqlite:/etc/postfix/splitmx-domains.cf, socketmap:unix:splitmx/socketmap.sock:transport}'

# aliases and groups; listed addresses stay themselves
postconf -e 'virtual_alias_maps = pipemap:{sqlite:/etc/postfix/splitmx-domains.cf, socketmap:unix:splitmx/socketmap.sock:virtual_alias}'

# who may get mail: here, there, aliases and groups alike
postconf -e 'relay_recipient_maps = pipemap:{sqlite:/etc/postfix/splitmx-domains.cf, socketmap:unix:splitmx/socketmap.sock:relay_recipients}, sqlite:/etc/postfix/splitmx-others.cf'

# only recipients of ours meet the policy service
postconf -e 'smtpd_restriction_classes = splitmx, splitmx_observe'

# a dead or hung daemon costs ours 5 s, others nothing
postconf -e 'splitmx = check_policy_service { unix:splitmx/policy.sock, timeout=5s, try_limit=1 }'

# a dead or hung daemon costs ours 5 s, others nothing
postconf -e 'splitmx_observe = check_policy_service { unix:splitmx/policy.sock, timeout=5s, try_limit=1, default_action=DUNNO }'

# before permit_mynetworks: a peer may stand in mynetworks
postconf -e 'smtpd_recipient_restrictions = check_recipient_access sqlite:/etc/postfix/splitmx-policy.cf'

# above the largest group; Postfix defers larger ones for ever
postconf -e 'virtual_alias_expansion_limit = 100000'

# once is once, by alias and group too; costs the X-Original-To header
postconf -e 'enable_original_recipient = no'

# no flush log for each deferral to the other side; ETRN of other domains stays
postconf -e 'fast_flush_domains = '

# a mailbox that is new at the other side is tried again soon
postconf -e 'address_verify_negative_refresh_time = 10m'

# a mailbox that is new at the other side is tried again soon
postconf -e 'address_verify_negative_expire_time = 1h'

# a sure no is a no
postconf -e 'unverified_recipient_reject_code = 550'

# names of inner hosts stay inside
postconf -e 'unverified_recipient_reject_reason = Address unknown'

# probes go by their own services
postconf -e 'address_verify_transport_maps = pipemap:{sqlite:/etc/postfix/splitmx-domains.cf, socketmap:unix:splitmx/socketmap.sock:transport, regexp:/etc/postfix/splitmx-probes.regexp}, $transport_maps'

# probes keep no mail waiting
postconf -Me 'probe-relay/unix=probe-relay unix - - y - - smtp -o syslog_name=postfix/probe-relay'

# smtpd keeps a temporary failure of transport_maps for its life: keep that short
postconf -P smtp/inet/max_use=20
postconf -P smtp/inet/max_idle=20s

postfix check
# Then, with the daemon running: postfix reload
