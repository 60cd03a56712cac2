#!/usr/bin/env bash
# Every check that reads the code without running it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { echo "lint: $*"; }

step gofmt
unformatted=$(git ls-files -z --cached --others --exclude-standard '*.go' | xargs -0 gofmt -l)
if [ -n "$unformatted" ]; then
  printf 'not formatted by gofmt:\n%s\n' "$unformatted" >&2
  exit 1
fi

step go mod tidy
go mod tidy -diff

step go vet
go vet ./...

step staticcheck
go tool -modfile=hack/tools/go.mod staticcheck ./...

step "kubectl-mayfly on macOS and Windows"
for os in darwin windows; do
  GOOS=$os CGO_ENABLED=0 go build -o /dev/null ./cmd/kubectl-mayfly
done

step generated files
hack/verify-generated.sh

step shell scripts
for script in $(git ls-files '*.sh') .ci/run; do bash -n "$script"; done
