#!/usr/bin/env bash
# Fails if a generated file is not what its source generates, and shows how
# the two differ. Changes nothing in the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
hack/generate.sh "$fresh"

stale=0
while IFS= read -r file; do
  if ! diff -uN "$file" "$fresh/$file"; then
    stale=1
  fi
done < <({
  find pkg/apis -name 'zz_generated.*.go'
  find charts/mayfly/files/crds -name 'secrets-store.csi.x-k8s.io_*.yaml'
  cd "$fresh" && find pkg charts -type f
} | sort -u)

if [ "$stale" -ne 0 ]; then
  echo "generated files are stale: run hack/generate.sh" >&2
  exit 1
fi
hack/verify-rendered.sh
go run ./hack/picture | diff -u docs/how-it-works.svg - || {
  echo "docs/how-it-works.svg is stale: run make generate" >&2
  exit 1
}
(cd hack/dashboard && go run .) | diff -u charts/mayfly/files/dashboard.json - || {
  echo "charts/mayfly/files/dashboard.json is stale: run make generate" >&2
  exit 1
}
hack/generate-proto.sh --verify
echo "generated files are up to date"
