#!/bin/bash
# visitor FOLDER NAME HOST...: until FOLDER/stop exists it looks up each host, then visits the web service under NAME.
# What fails is a line in FOLDER/NAME.failed; FOLDER/NAME.done says at the end how many look-ups and visits there were.
# Bash asks by itself, so that the two are the C library's look-up and a connection, and no program's retries.
folder=$1 name=$2
shift 2
fail() { echo "$(date +%T.%N) $*" >>"$folder/$name.failed"; }
look_ups=0 visits=0
while [ ! -e "$folder/stop" ]; do
    for host in "$@"; do
        if answer=$(getent ahostsv4 "$host" 2>&1); then look_ups=$((look_ups + 1)); else fail "look-up of $host: $? $answer"; fi
    done
    if exec 3<>/dev/tcp/web/8000; then
        printf 'GET /visit?by=%s HTTP/1.0\r\n\r\n' "$name" >&3
        answer=$(timeout 20 cat <&3)
        case $answer in
        *" 200 OK"*'"row"'*) visits=$((visits + 1)) ;;
        *) fail "visit: $answer" ;;
        esac
        exec 3>&-
    else
        fail "no connection to web"
    fi 2>>"$folder/$name.failed"
    echo "$look_ups $visits" >"$folder/$name.now"
    sleep 0.02
done
mv "$folder/$name.now" "$folder/$name.done"
