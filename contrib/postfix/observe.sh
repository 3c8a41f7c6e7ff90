# Observing: nothing changes but the log.
#
# splitmx on a Postfix in /etc/postfix, deployed live.
# Keep a copy of main.cf and master.cf. First write the tables: splitmx build
case $- in *i*) ;; *) set -e ;; esac  # as a script it ends at the first error
export MAIL_CONFIG=/etc/postfix

# while one of these is missing Postfix takes no mail for anybody: where it runs, nothing is done
for table in /var/lib/splitmx/maps/domains.sqlite; do
  [ -e "$table" ] || { missing=$table; echo "splitmx: $table is missing: run splitmx build" >&2; }
done
[ -z "${missing-}" ] || ! postfix status 2>/dev/null || case $- in *i*) ;; *) exit 1 ;; esac

# names of ours, asked without the daemon
cat > /etc/postfix/splitmx-policy.cf <<'END'
dbpath = /var/lib/splitmx/maps/domains.sqlite
query = SELECT CASE WHEN EXISTS (SELECT 1 FROM domain WHERE name = '%d' OR (sub = 1 AND '%d' LIKE '%%.' || name)) THEN 'splitmx' ELSE 'splitmx_observe' END FROM policy WHERE name = '%d' OR (sub = 1 AND '%d' LIKE '%%.' || name) LIMIT 1
END

# only recipients of ours meet the policy service
postconf -e 'smtpd_restriction_classes = splitmx, splitmx_observe'

# a dead or hung daemon costs ours 5 s, others nothing
postconf -e 'splitmx = check_policy_service { unix:splitmx/policy.sock, timeout=5s, try_limit=1 }'

# a dead or hung daemon costs ours 5 s, others nothing
postconf -e 'splitmx_observe = check_policy_service { unix:splitmx/policy.sock, timeout=5s, try_limit=1, default_action=DUNNO }'

# before permit_mynetworks: a peer may stand in mynetworks
postconf -e 'smtpd_recipient_restrictions = check_recipient_access sqlite:/etc/postfix/splitmx-policy.cf'

postfix check
# Then, with the daemon running: postfix reload
