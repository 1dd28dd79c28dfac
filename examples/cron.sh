#!/bin/sh
# A job that cron starts every hour, and that is skipped while the one before it still runs:
#
#   0 * * * * /usr/local/bin/cron.sh
#
# With a store that several hosts share, the same line in the crontab of each lets one of them run it.
#
# --skip            held by another is success, at once, and cron has nothing to complain about
# --ttl             how long the others wait if this one dies; the command never outlives the lease
# $LEASES_TOKEN     the fencing token, for a resource that can compare it
#
# Exit codes: the command's own; 69 the store cannot be reached; 70 the lease was lost. See leases hold --help.
exec leases hold nightly-report --skip --ttl 30s -- sh -c '
    echo "report $LEASES_NAME, token $LEASES_TOKEN"
'
