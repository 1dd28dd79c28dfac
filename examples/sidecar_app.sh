#!/bin/sh
# An application in any language beside its sidecar: it runs a command while this replica leads, and only then.
#
#   leases elector scheduler --backend etcd://etcd-1,etcd-2 &
#   sh examples/sidecar_app.sh http://localhost:4040 ./scheduler.sh
#
# It needs Linux, with curl, awk, and setsid of util-linux. Three rules make it safe, in whatever language:
#   - "expires_in" seconds after an answer that says "is_leader" was asked for, it does not count any more. So no
#     answer is waited for longer, and a sidecar that hangs, or is gone, stops the command as well.
#   - Nothing of the command works beside its successor. All its processes are asked to end (TERM), and $GRACE
#     seconds later they are ended (KILL). The sidecar's --drain, by default 0.5 s, has to cover that.
#   - Whatever the command sends is to carry $LEASES_TOKEN, for the resource to refuse what comes late.
# Two things escape it: a process of the command that makes a group of its own, and a KILL of this script itself.
set -u
sidecar=${1:?usage: sidecar_app.sh URL COMMAND [ARGUMENT...]}
shift
for tool in curl awk setsid; do
    command -v "$tool" >/dev/null || { echo "sidecar_app.sh needs $tool; install it" >&2; exit 69; }
done

grace=${GRACE:-0.1}  # seconds that the command has to end
worker=              # the process of the command, while it runs; its group has the same number
token=0              # of the leader that was seen last; 0: nobody
ending=

clock() {  # in hundredths of a second since the host has started, as `deadline` is
    read -r now _ </proc/uptime
    now=$((${now%.*} * 100 + 1${now#*.} - 100))
}

field() {  # a number or a word of the state, which is one JSON object on one line
    printf '%s\n' "$state" | sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p"
}

signal() {  # all of the command; the process alone in the moment before it has its group
    kill "-$1" "-$worker" 2>/dev/null || kill "-$1" "$worker" 2>/dev/null
}

stop() {
    [ -n "$worker" ] || return 0
    signal TERM
    sleep "$grace"
    signal KILL
    wait "$worker" 2>/dev/null
    worker=
    echo "stopped"
}

trap 'ending=yes' INT TERM HUP

while [ -z "$ending" ]; do
    clock
    asked=$now
    [ -n "$worker" ] || deadline=$((asked + 500))
    left=$((deadline - asked))
    # It answers when the leader is another one, and after a quarter of a second in any case.
    if [ "$left" -gt 0 ] && state=$(
        curl -fsS --noproxy '*' --max-time "$((left / 100)).$((left / 10 % 10))$((left % 10))" \
            "$sidecar/wait?token=$token&timeout=0.25" 2>/dev/null
    ); then
        seen=$(field token)
    else
        state='' seen=null
        [ -n "$worker" ] || sleep 0.2
    fi
    [ "$seen" = null ] && seen=0
    if [ "$(field is_leader)" != true ]; then
        stop
        token=$seen
        continue
    fi
    [ "$seen" = "$token" ] || stop
    token=$seen
    deadline=$((asked + $(field expires_in | LC_ALL=C awk '{ print int($1 * 100) }')))
    clock
    if [ -z "$worker" ] && [ "$((deadline - now))" -gt 50 ]; then  # else too little is left to begin
        LEASES_TOKEN=$token setsid "$@" &
        worker=$!
        echo "leads with token $token"
    fi
done
stop
