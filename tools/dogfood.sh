#!/usr/bin/env bash
# Run this repository's own pipeline (.pilot.yaml) on a temporary server.
set -euo pipefail
cd "$(dirname "$0")/.."
make setup
data=$(mktemp -d)
export PILOT_CONFIG_HOME=$data/config
.venv/bin/pilot up --data-dir "$data/pilothouse" --port 0 --grpc-port 0 >"$data/up.log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" || true; rm -rf "$data"' EXIT
for _ in $(seq 300); do
    grep -q '^pilothouse ready' "$data/up.log" && break
    kill -0 "$server" || { cat "$data/up.log"; exit 1; }
    sleep 0.1
done
.venv/bin/pilot --context local --no-color pipeline run
