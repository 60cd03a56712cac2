#!/usr/bin/env bash
# Generates what is made of pkg/apis: the deep copies beside the types, and the
# CRDs in charts/mayfly/files/crds, from which the chart and deploy/ have them
# (hack/render.sh). Give it a directory to write there instead; it then holds the
# same paths as the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=${1:-.}
gen=(go tool -modfile=hack/tools/go.mod controller-gen)

for version in v1 v1alpha1; do
  dir=pkg/apis/secretsstore/$version
  echo "generating $dir/zz_generated.deepcopy.go"
  mkdir -p "$out/$dir"
  "${gen[@]}" object "paths=./$dir" "output:object:dir=$out/$dir"
done

echo "generating charts/mayfly/files/crds"
mkdir -p "$out/charts/mayfly/files/crds"
rm -f "$out"/charts/mayfly/files/crds/secrets-store.csi.x-k8s.io_*.yaml
"${gen[@]}" crd:maxDescLen=200 "paths=./pkg/apis/..." "output:crd:dir=$out/charts/mayfly/files/crds"

# kubectl mayfly doctor compares a cluster's CRDs with these.
mkdir -p "$out/pkg/cli/doctor/crds"
cp "$out"/charts/mayfly/files/crds/secrets-store.csi.x-k8s.io_*.yaml "$out/pkg/cli/doctor/crds/"
