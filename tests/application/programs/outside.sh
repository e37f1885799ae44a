#!/bin/bash
# outside FOLDER ADDRESS: as visitor.sh, from outside the containers, over the published port.
folder=$1 address=$2
visits=0
while [ ! -e "$folder/stop" ]; do
    answer=$(curl -sS -f -m 20 "$address/visit?by=outside" 2>&1)
    case $answer in
    *'"row"'*) visits=$((visits + 1)) ;;
    *) echo "$(date +%T.%N) $answer" >>"$folder/outside.failed" ;;
    esac
    echo "0 $visits" >"$folder/outside.now"
    sleep 0.02
done
mv "$folder/outside.now" "$folder/outside.done"
