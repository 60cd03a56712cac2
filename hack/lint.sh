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

step "go vet and staticcheck, with the code of every build tag"
tags=e2e,lifetimes
go vet ./...
go vet -tags "$tags" ./...
go tool -modfile=hack/tools/go.mod staticcheck ./...
go tool -modfile=hack/tools/go.mod staticcheck -tags "$tags" ./test/... ./pkg/provider/... ./pkg/kms/...

step "go vet of the other modules"
for module in $(git ls-files '*/go.mod'); do
  packages=$(cd "$(dirname "$module")" && go list ./... 2>/dev/null) || true
  [ -z "$packages" ] || (cd "$(dirname "$module")" && go vet ./...)
done

step "kubectl-mayfly on macOS and Windows"
for os in darwin windows; do
  GOOS=$os CGO_ENABLED=0 go build -o /dev/null ./cmd/kubectl-mayfly
done

step generated files
hack/verify-generated.sh

step shell scripts
for script in $(git ls-files '*.sh') .ci/run; do bash -n "$script"; done
