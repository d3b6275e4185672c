#!/bin/sh
# Lines through the bus, as a shell user would pipe them. Every line must arrive, in order; without backpressure, the loss must be
# reported at once, and in the exit code.
#
#   tests/lines.sh CASE LINES
#
# CASE is one of:
#   file  listen > file
#   json  listen --json > file
#   read  listen | while read -r line; do ..., which is much slower than the sender
#   loss  the same with send --no-backpressure, while nothing reads what listen prints
#
# BROADCASTERD names the command, and BROADCASTER_SOCKET the bus, whose daemon must be running.
set -eu
bus=${BROADCASTERD:-broadcasterd} case=$1 lines=$2
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
seq -f %.0f 1 "$lines" >sent

listen() {
    "$bus" listen example.lines --fail-on-loss --timeout 60 "$@"
}

# Sends every line, once there is a listener.
send() {
    cat sent | "$bus" send example.lines --lines --wait-for 1 --timeout 60 "$@"
}

case $case in
file)
    listen --count "$lines" >received &
    send
    wait $!
    ;;
json)
    listen --count "$lines" --json >objects &
    send
    wait $!
    sed 's/.*"payload":"\([0-9]*\)".*/\1/' objects >received
    ;;
read)
    listen --count "$lines" | while read -r line; do echo "$line"; done >received &
    send
    wait $!
    ;;
loss)
    mkfifo reports
    { listen 2>reports || echo $? >code; } | {
        exec 3<reports
        while read -r report <&3; do
            case $report in *' messages were lost; its output is read too slowly'*) break ;; esac
        done
        echo "$report"
        cat >received
    } &
    send --no-backpressure
    wait $!
    test "$(cat code)" = 7
    # The lines in front of the loss are complete.
    count=$(($(wc -l <received)))
    test "$count" -lt "$lines"
    mv sent all
    head -n "$count" all >sent
    ;;
*)
    echo "there is no case $case" >&2
    exit 2
    ;;
esac
cmp sent received
