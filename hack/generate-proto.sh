#!/usr/bin/env bash
# Generates the Go code of every .proto file under pkg, beside the file. Give
# it a directory to write there instead; it then holds the same paths as the
# repository. With --verify it changes nothing, and fails if a generated file
# is not what its source generates.
#
# It needs Go and the module proxy, and no protoc.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

mapfile -t sources < <(find pkg -name '*.proto' | LC_ALL=C sort)

generate() {
  echo "generating the Go code of ${sources[*]}"
  (cd hack/protogen && go run . "$root" "$1" "${sources[@]}")
}

verify() {
  local stale=0 file
  fresh=$(mktemp -d)
  trap 'rm -rf "$fresh"' EXIT
  generate "$fresh"
  while IFS= read -r file; do
    diff -uN "$file" "$fresh/$file" || stale=1
  done < <({
    find pkg -name '*.pb.go'
    cd "$fresh" && find pkg -type f
  } | sort -u)
  if [ "$stale" -ne 0 ]; then
    echo "generated files are stale: run hack/generate-proto.sh" >&2
    exit 1
  fi
  echo "generated files are up to date"
}

case ${1:-} in
  --verify) verify ;;
  "") generate "$root" ;;
  *) generate "$(mkdir -p "$1" && cd "$1" && pwd)" ;;
esac
