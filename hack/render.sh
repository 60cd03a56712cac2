#!/usr/bin/env bash
# Renders deploy/ from the chart: its defaults, in the namespace kube-system.
# Give it a directory to write there instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=${1:-deploy}
helm=$(go run ./test/toolcache/cmd/toolcache helm)
# The CSIDriver object has serviceAccountTokenInSecrets from Kubernetes 1.35 on.
kubernetes=1.35.0
charts=$(mktemp -d)
trap 'rm -rf "$charts"' EXIT

title() {
  echo "# Made from charts/mayfly by hack/render.sh. Do not edit."
  echo "# $*"
}

# Nobody but Helm should hold these objects for Helm's.
plain() { sed -E '/^ +(app\.kubernetes\.io\/managed-by: Helm|helm\.sh\/(chart|resource-policy): .*)$/d'; }

"$helm" template mayfly charts/mayfly --namespace kube-system --kube-version "$kubernetes" --no-hooks --skip-tests \
  --output-dir "$charts" >/dev/null
templates=$charts/mayfly/templates

mkdir -p "$out"
echo "rendering $out/crds.yaml"
{
  title "The CRDs. They go first; removing one removes every object of its kind."
  cat "$templates/crds.yaml"
} | plain >"$out/crds.yaml"

echo "rendering $out/mayfly.yaml"
{
  title "The driver, for Kubernetes $kubernetes and later; the chart also serves older ones."
  for name in csidriver serviceaccount rbac admissionpolicy classwarnings aggregate-roles daemonset; do
    cat "$templates/$name.yaml"
    rm "$templates/$name.yaml"
  done
} | plain >"$out/mayfly.yaml"

echo "rendering $out/alerts.yaml"
{
  echo "# A copy of charts/mayfly/files/alerts.yaml by hack/render.sh. Do not edit."
  cat charts/mayfly/files/alerts.yaml
} >"$out/alerts.yaml"

echo "copying $out/dashboard.json"
cp charts/mayfly/files/dashboard.json "$out/dashboard.json"

rm "$templates/crds.yaml"
if [ -n "$(ls "$templates")" ]; then
  echo "the defaults render what this script does not know: $(ls "$templates")" >&2
  exit 1
fi
