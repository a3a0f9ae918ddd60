#!/bin/sh
# Run a command and print its duration: timed.sh NAME COMMAND [ARGUMENT...]
name=$1
shift
began=$(date +%s)
status=0
"$@" || status=$?
took=$(($(date +%s) - began))
echo "== $name: $((took / 60)) min $((took % 60)) s, exit code $status"
exit "$status"
