#!/bin/sh
# Lints the protos, compares them with the last release's, and generates clients into build/clients/.
# Clients in Go and TypeScript are generated where go and npm are there.
set -eu
cd "$(dirname "$0")/.."
bin="$PWD/.venv/bin"
plugins="$PWD/.venv/plugins"
PATH="$bin:$plugins/bin:$plugins/node_modules/.bin:$PATH"
export PATH

buf lint proto
buf breaking proto --against proto/release.binpb

[ "${1:-}" = "--check" ] && exit 0
rm -rf build/clients
buf generate proto --template proto/buf.gen.yaml
if command -v npm >/dev/null; then
    [ -x "$plugins/node_modules/.bin/protoc-gen-es" ] ||
        npm install --silent --no-save --prefix "$plugins" @bufbuild/protoc-gen-es@2.13.0
    buf generate proto --template proto/buf.gen.ts.yaml
else
    echo "no npm: no clients in TypeScript" >&2
fi
if command -v go >/dev/null; then
    [ -x "$plugins/bin/protoc-gen-go" ] ||
        GOBIN="$plugins/bin" go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11
    [ -x "$plugins/bin/protoc-gen-go-grpc" ] ||
        GOBIN="$plugins/bin" go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.5.1
    buf generate proto --template proto/buf.gen.go.yaml
else
    echo "no go: no clients in Go" >&2
fi
