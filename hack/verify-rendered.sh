#!/usr/bin/env bash
# Fails if deploy/ is not what the chart renders, and shows how the two differ.
# Changes nothing in the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
hack/render.sh "$fresh" >/dev/null

if ! diff -ru --exclude=kms --exclude=audit-policy.yaml deploy "$fresh"; then # written by hand
  echo "deploy/ is stale: run hack/render.sh" >&2
  exit 1
fi
echo "deploy/ is up to date"
