#!/usr/bin/env bash
# Runs every fuzz target of the module, one after the other, for the time
# given (such as 20s).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

grep -rEl --include='*_test.go' '^func Fuzz' pkg cmd | xargs -n1 dirname | sort -u | while read -r dir; do
  grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go | sed 's/^func //' | sort -u | while read -r target; do
    echo "fuzzing $dir $target"
    go test "./$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$1" -fuzzminimizetime 10x </dev/null
  done
done
