dnl SPDX-License-Identifier: Apache-2.0
dnl splitmx for Sendmail 8.17: for sendmail.mc, in front of MAILER(). The daemon: socketmap = ["inet:127.0.0.1:10460"].
dnl Our domains stand in the class SplitMx, and in class w (local-host-names) for who is here.
LOCAL_CONFIG
# The name of the map is the name on the wire. -d: five seconds; -T: a failure is told apart from a plain no. Without
# -T Sendmail takes a dead daemon for a no, and refuses everybody.
Ktransport socket -d5 -T<TMPF> inet:10460@127.0.0.1
Krelay_recipients socket -d5 -T<TMPF> inet:10460@127.0.0.1
C{SplitMx}example.com

LOCAL_RULE_0
# Who is at the other side goes to the hosts of the answer; everything else is delivered as before.
# (The name to its end: example.com.au is not example.com.)
R$+ < @ $={SplitMx} >	$: $1 < @ $2 . >
R$+ < @ $={SplitMx} . >	$: < $(transport $1@$2 $: : $) > $1 < @ $2 . >
R< $* < TMPF > $* > $*	$#error $@ 4.3.0 $: "451 4.3.0 Recipient cannot be looked up now, try again later"
R< $- : [ $+ ] > $+ < @ $+ >	$#esmtp $@ [$2] $: $3 < @ $4 >
R< $- : $+ > $+ < @ $+ >	$#esmtp $@ $2 $: $3 < @ $4 >
R< $* > $+ < @ $+ >	$: $2 < @ $3 >

LOCAL_RULESETS
# At RCPT: who is nowhere is refused.
SLocal_check_rcpt
R$*	$: $1 $| $>canonify $1
R$* $| $+ < @ $={SplitMx} . >	$: $1 $| $2 < @ $3 >
R$* $| $+ < @ $={SplitMx} >	$: $1 $| < $(relay_recipients $2@$3 $: NOBODY $) >
R$* $| $* < TMPF > $*	$#error $@ 4.3.0 $: "451 4.3.0 Recipient cannot be looked up now, try again later"
R$* $| < NOBODY >	$#error $@ 5.1.1 $: "550 5.1.1 No such recipient here"
R$* $| $*	$: $1
