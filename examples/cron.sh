#!/bin/sh
# A nightly job in the crontab of every host, which one of them runs and the others skip. On each:
#
#   0 3 * * * /usr/local/bin/cron.sh
#
# --skip            held by another is success, at once, and cron has nothing to complain about
# --ttl             how long the others wait if this host dies; the command never outlives the lease
# $LEASES_TOKEN     the fencing token, for a resource that can compare it
#
# Exit codes: the command's own; 69 the store cannot be reached; 70 the lease was lost. See leases hold --help.
exec leases hold nightly-report --skip --ttl 30s -- sh -c '
    echo "report $LEASES_NAME, token $LEASES_TOKEN"
'
