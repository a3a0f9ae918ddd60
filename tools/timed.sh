#!/usr/bin/env bash
# Run a command and say how long it took: timed.sh [--limit MINUTES] NAME COMMAND [ARGUMENT...]
# With a limit, the command's process group gets SIGINT when the time is up, so that pytest still says what has failed.
# TIMED_FACTOR, for machines that are busy with other things, multiplies the limit.
# What is left of the group when the command has ended, or a minute later, is killed. The exit code is then 124.
set -u
limit=
if [ "$1" = --limit ]; then
    limit=$(awk "BEGIN { print $2 * ${TIMED_FACTOR:-1} }")
    shift 2
fi
name=$1
shift
began=$(date +%s)
status=0
if [ -n "$limit" ]; then
    # Job control gives the command a process group of its own; whatever ends us ends it.
    set -m
    timeout --signal=INT --kill-after="${TIMED_KILL_AFTER:-60}" "${limit}m" "$@" </dev/null &
    group=$!
    trap 'kill -INT -- "-$group"' INT
    trap 'kill -TERM -- "-$group"' TERM HUP
    while :; do
        status=0
        wait "$group" || status=$?
        kill -0 "$group" 2>/dev/null || break # a signal ends `wait`, not the command
    done
    if [ "$status" = 124 ] || [ "$status" = 137 ]; then
        kill -KILL -- "-$group" 2>/dev/null
        status=124
        echo "== $name: STOPPED at its limit of $limit min"
    fi
else
    "$@" || status=$?
fi
took=$(($(date +%s) - began))
echo "== $name: $((took / 60)) min $((took % 60)) s, exit code $status"
exit "$status"
