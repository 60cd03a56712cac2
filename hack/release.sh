#!/usr/bin/env bash
# Makes in dist/VERSION/, or DIR/VERSION/ with "release.sh DIR", all that a
# release consists of. It tags, signs and uploads nothing: docs/dev/release.md says
# what a person does before and after.
# RELEASE_REHEARSAL=1 tries it without the tag, for the chart's version.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { echo "release: $*"; }
fail() {
  echo "release: $*" >&2
  exit 1
}

version=$(sed -n 's/^version: //p' charts/mayfly/Chart.yaml)
section=$version

# 1. The source is the commit of the tag, and everything names its version.
if [ -n "${RELEASE_REHEARSAL:-}" ]; then
  hack/changelog.sh "$version" >/dev/null 2>&1 || section=Unreleased
else
  [ -z "$(git status --porcelain)" ] || fail "the work tree has changes: commit them"
  tag=$(git describe --tags --exact-match 2>/dev/null) || fail "HEAD has no tag: docs/dev/release.md says how to make v$version"
  [ "$tag" = "v$version" ] || fail "HEAD is $tag, and the version in charts/mayfly/Chart.yaml is $version"
fi
app=$(sed -n 's/^appVersion: //p' charts/mayfly/Chart.yaml)
[ "$app" = "$version" ] || fail "charts/mayfly/Chart.yaml has version $version and appVersion $app"
epoch=$(git log -1 --format=%ct)

out=${1:-dist}/$version
rm -rf "$out"
mkdir -p "$out"
out=$(cd "$out" && pwd)

# 2. What changed, in the words for users.
step "the section of CHANGELOG.md"
hack/changelog.sh "$section" >"$out/notes.md" || fail "write the section $section first"

# 3. The images for all platforms, and an SBOM for each.
step "the images and their SBOMs"
for program in mayfly-node mayfly-kms; do
  (cd hack/image && SOURCE_DATE_EPOCH=$epoch go run . --program "$program" --version "$version" --out "$out")
done

# 4. The chart. "helm package" would write the time of day into the archive.
step "the chart"
chart=$out/mayfly-$version.tgz
git ls-files -z charts/mayfly | tar --null --files-from=- --transform='s,^charts/,,' \
  --format=ustar --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX -cf - | gzip -n -9 >"$chart"
helm=$(go run ./test/toolcache/cmd/toolcache helm)
"$helm" template mayfly "$chart" --namespace kube-system --kube-version 1.35.0 >/dev/null || fail "Helm does not take $chart"

# 5. The manifests for those without Helm.
cp deploy/crds.yaml "$out/mayfly-crds-$version.yaml"
cp deploy/mayfly.yaml "$out/mayfly-$version.yaml"

# 6. The plugin of kubectl for every platform, and the manifest for krew.
step "kubectl-mayfly"
SOURCE_DATE_EPOCH=$epoch go run ./hack/archive --version "$version" --out "$out"

# 7. One file to sign, which holds all others.
step "checksums"
sums=$(cd "$out" && sha256sum -- *)
printf '%s\n' "$sums" >"$out/SHA256SUMS"

step "$out"
ls -l "$out"
