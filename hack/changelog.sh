#!/usr/bin/env bash
# Prints the section of a version from CHANGELOG.md, without its heading, which
# is "## VERSION" or "## VERSION (DATE)". Fails if there is none, or it is empty.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=${1:?usage: changelog.sh VERSION}
section=$(awk -v version="$version" '
  /^## / { inside = ($2 == version); next }
  inside { print }
' CHANGELOG.md)
if [ -z "${section//[[:space:]]/}" ]; then
  echo "changelog.sh: CHANGELOG.md has nothing under \"## $version\"" >&2
  exit 1
fi
printf '%s\n' "$section" | sed -e '/./,$!d'
