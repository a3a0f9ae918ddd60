#!/bin/sh
# Start a server (unless one is running), run and watch examples/hello on it, and leave the server running.
set -eu
pilot=.venv/bin/pilot
data=${PILOT_DATA_DIR:-.pilothouse}
mkdir -p -m 700 "$data"
log=$data/up.log

free() { # prints the port if it is free, else 0 (any free port)
    .venv/bin/python - "$1" <<'PY'
import socket, sys
with socket.socket() as probe:
    try:
        probe.bind(("127.0.0.1", int(sys.argv[1])))
        print(sys.argv[1])
    except OSError:
        print(0)
PY
}

running() { [ -f "$data/up.pid" ] && kill -0 "$(cat "$data/up.pid")" 2>/dev/null; }

if ! running; then
    port=${PILOT_PORT:-$(free 8080)}
    grpc=${PILOT_GRPC_PORT:-$(free 9090)}
    nohup "$pilot" up --data-dir "$data" --port "$port" --grpc-port "$grpc" >"$log" 2>&1 &
    echo $! >"$data/up.pid"
    tries=0
    until grep -q '^pilothouse ready' "$log"; do
        tries=$((tries + 1))
        if [ "$tries" -gt 300 ] || ! running; then
            echo "the server did not start; its log:" >&2
            cat "$log" >&2
            exit 1
        fi
        sleep 0.1
    done
fi

context=$(sed -n "s/^Logged in as admin (context '\([^']*\)').*/\1/p" "$log" | tail -n 1)
outcome=0
"$pilot" --context "$context" pipeline run --file examples/hello/.pilot.yaml || outcome=$?

url=$(sed -n 's/^pilothouse ready http=\([^ ]*\).*/\1/p' "$log" | tail -n 1)
cat <<END

The server is still up:  $url   (API documentation: $url/docs)
  look around:           $pilot run list    $pilot run view last    $pilot agent list
                         (commands go where \`$pilot whoami\` says; this server is --context $context)
  stop it:               kill $(cat "$data/up.pid")
END
exit "$outcome"
