# Static maps alone.
#
# splitmx on a Postfix in /etc/postfix, deployed static.
# Keep a copy of main.cf and master.cf. First write the tables: splitmx build
# note: without the daemon suspended recipients and loops are not refused at RCPT
#
# Address classes, which stay as they are:
#   example.com: relay_domains
case $- in *i*) ;; *) set -e ;; esac  # as a script it ends at the first error
export MAIL_CONFIG=/etc/postfix

# while one of these is missing Postfix takes no mail for anybody: where it runs, nothing is done
for table in /var/lib/splitmx/maps/relay_domains /var/lib/splitmx/maps/relay_recipients.lmdb /var/lib/splitmx/maps/transport.lmdb /var/lib/splitmx/maps/virtual_alias.lmdb; do
  [ -e "$table" ] || { missing=$table; echo "splitmx: $table is missing: run splitmx build" >&2; }
done
[ -z "${missing-}" ] || ! postfix status 2>/dev/null || case $- in *i*) ;; *) exit 1 ;; esac

# the split domains, exactly: no subdomain becomes ours by accident
postconf -e 'relay_domains = regexp:/var/lib/splitmx/maps/relay_domains'

# who is here goes to the local transport, who is there to the destination
postconf -e 'transport_maps = lmdb:/var/lib/splitmx/maps/transport'

# aliases and groups; listed addresses stay themselves
postconf -e 'virtual_alias_maps = lmdb:/var/lib/splitmx/maps/virtual_alias'

# who may get mail: here, there, aliases and groups alike
postconf -e 'relay_recipient_maps = lmdb:/var/lib/splitmx/maps/relay_recipients'

# above the largest group; Postfix defers larger ones for ever
postconf -e 'virtual_alias_expansion_limit = 100000'

# once is once, by alias and group too; costs the X-Original-To header
postconf -e 'enable_original_recipient = no'

# no flush log for each deferral to the other side; ETRN of other domains stays
postconf -e 'fast_flush_domains = '

postfix check
# Then, with the daemon running: postfix reload
