#!/bin/sh
# An application in any language beside its sidecar: it runs a command while this replica leads, and only then.
#
#   leases elector scheduler --backend etcd://etcd-1,etcd-2 &
#   sh examples/sidecar_app.sh http://localhost:4040 ./scheduler.sh
#
# It needs curl. Two rules make it safe, in whatever language:
#   - "expires_in" seconds after an answer that says "is_leader" was asked for, it does not count any more. So no
#     answer is waited for longer, and a sidecar that hangs, or is gone, stops the command as well.
#   - Whatever the command sends is to carry $LEASES_TOKEN, for the resource to refuse what comes late.
set -u
sidecar=${1:?usage: sidecar_app.sh URL COMMAND [ARGUMENT...]}
shift

worker=       # the process of the command, while it runs
token=0       # of the leader that was seen last; 0: nobody
patience=5    # seconds that the next answer may take

field() {  # a number or a word of the state, which is one JSON object on one line
    printf '%s\n' "$state" | sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p"
}

stop() {
    [ -n "$worker" ] || return 0
    kill "$worker" 2>/dev/null
    wait "$worker" 2>/dev/null
    worker=
    echo "stopped"
}

trap 'stop; exit 0' INT TERM HUP

while :; do
    # It answers when the leader is another one, and after half a second in any case.
    if state=$(curl -fsS --noproxy '*' --max-time "$patience" "$sidecar/wait?token=$token&timeout=0.5" 2>/dev/null); then
        seen=$(field token)
    else
        state='' seen=null
        [ -n "$worker" ] || sleep 0.2
    fi
    [ "$seen" = null ] && seen=0
    if [ "$(field is_leader)" != true ]; then
        stop
        token=$seen patience=5
        continue
    fi
    patience=$(field expires_in)
    if [ "$seen" != "$token" ] || [ -z "$worker" ]; then
        stop
        token=$seen
        case $patience in 0.*) patience=5; continue ;; esac  # too little is left to begin
        LEASES_TOKEN=$token "$@" &
        worker=$!
        echo "leads with token $token"
    fi
done
