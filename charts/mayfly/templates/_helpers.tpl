{{- define "mayfly.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "mayfly.fullname" -}}
{{- $name := include "mayfly.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* The labels by which the DaemonSet finds its pods. They can never change. */}}
{{- define "mayfly.selectorLabels" -}}
app.kubernetes.io/name: {{ include "mayfly.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mayfly.labels" -}}
{{ include "mayfly.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The labels of hooks' objects, which the DaemonSet must not find. */}}
{{- define "mayfly.hookLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The annotations of an object's metadata, from a list of maps: the first wins. */}}
{{- define "mayfly.annotations" -}}
{{- $all := dict }}
{{- range . }}
{{- $all = merge $all (deepCopy .) }}
{{- end }}
{{- with $all }}
  annotations:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}

{{- define "mayfly.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "mayfly.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "mayfly.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag }}
{{- with .Values.image.digest }}
{{- printf "%s@%s" $.Values.image.repository . }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository $tag }}
{{- end }}
{{- end }}

{{/*
Values had other names before, some of them the Secrets Store CSI driver's. Where
an old name is set, its value counts. Each template that uses such a value calls
this first.
*/}}
{{- define "mayfly.oldNames" -}}
{{- $values := .Values }}
{{- range $old, $new := .Files.Get "files/old-names.json" | fromJson }}
{{- $path := splitList "." $old }}
{{- $from := $values }}
{{- range initial $path }}
{{- $from = get $from . | default dict }}
{{- end }}
{{- if hasKey $from (last $path) }}
{{- $path = splitList "." $new }}
{{- $_ := set (get $values (first $path)) (last $path) (get $from (last (splitList "." $old))) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The driver's folder on the node. */}}
{{- define "mayfly.pluginDir" -}}
{{- printf "%s/plugins/%s" (trimSuffix "/" .Values.linux.kubeletRootDir) .Values.driverName }}
{{- end }}

{{/* The port of metrics.address, empty if there is none. */}}
{{- define "mayfly.metricsPort" -}}
{{- regexFind "[0-9]+$" .Values.metrics.address }}
{{- end }}

{{/* "true" if kubelet passes the tokens in the secrets field. */}}
{{- define "mayfly.tokenInSecrets" -}}
{{- $wanted := .Values.csiDriver.serviceAccountTokenInSecrets | toString }}
{{- if eq $wanted "auto" }}
{{- semverCompare ">=1.35.0-0" .Capabilities.KubeVersion.Version }}
{{- else }}
{{- $wanted }}
{{- end }}
{{- end }}

{{/* "true" if the release holds the ValidatingAdmissionPolicy. */}}
{{- define "mayfly.hasAdmissionPolicy" -}}
{{- $wanted := .Values.rbac.admissionPolicy | toString }}
{{- if eq $wanted "auto" }}
{{- semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version }}
{{- else }}
{{- $wanted }}
{{- end }}
{{- end }}

{{/*
"true" if the release holds the CRD of the given name: a list of the root and
the name. Without a cluster, as in "helm template", no CRD is there yet.
*/}}
{{- define "mayfly.ownsCRD" -}}
{{- $root := index . 0 }}
{{- $install := $root.Values.crds.install | toString }}
{{- if eq $install "auto" }}
{{- $found := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" (index . 1) }}
{{- if $found }}
{{- $owner := $found.metadata.annotations | default dict }}
{{- and (eq (get $owner "meta.helm.sh/release-name") $root.Release.Name) (eq (get $owner "meta.helm.sh/release-namespace") $root.Release.Namespace) }}
{{- else }}
{{- true }}
{{- end }}
{{- else }}
{{- $install }}
{{- end }}
{{- end }}

{{/*
The servers that classes may name, joined by commas, empty for any: a list of
the values' allow-list and default address. A list of the driver takes no path.
*/}}
{{- define "mayfly.allowed" -}}
{{- $allowed := index . 0 }}
{{- $own := index . 1 }}
{{- if has "*" $allowed }}
{{- else if $allowed }}
{{- join "," $allowed }}
{{- else if $own }}
{{- regexFind "^(https?://[^/?#]+|unix://.+)" $own }}
{{- end }}
{{- end }}

{{/* HOST:PORT of the health port. */}}
{{- define "mayfly.healthAddr" -}}
{{- $host := .Values.health.address }}
{{- if and $host (not .Values.linux.hostNetwork) }}
{{- fail "health.address: only with linux.hostNetwork; in a network of its own the pod has one address, which kubelet must reach" }}
{{- end }}
{{- ternary (printf "[%s]" $host) $host (contains ":" $host) }}:{{ int64 .Values.health.port }}
{{- end }}

{{/* A probe's request. kubelet asks the pod's address unless the port is bound to another. */}}
{{- define "mayfly.probe" -}}
httpGet:
  path: {{ index . 1 }}
  port: health
  {{- with (index . 0).Values.health.address }}
  host: {{ . | quote }}
  {{- end }}
{{- end }}

{{/* The bytes of a quantity; empty where it is none. */}}
{{- define "mayfly.bytes" -}}
{{- $number := regexFind "^[0-9.]+" . }}
{{- $units := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- $unit := regexReplaceAll "^[0-9.]+" . "" }}
{{- if and $number (hasKey $units $unit) }}
{{- mulf (float64 $number) (get $units $unit) | int64 }}
{{- end }}
{{- end }}

{{/*
Fails for a memory limit below what the process itself takes, and for a budget
that the limit does not leave.
*/}}
{{- define "mayfly.checkMemory" -}}
{{- $limits := (.Values.linux.driver.resources | default dict).limits | default dict }}
{{- $limit := toString ($limits.memory | default "") }}
{{- with include "mayfly.bytes" $limit }}
{{- $own := 67108864 }}
{{- if lt (int64 .) (int64 $own) }}
{{- fail (printf "linux.driver.resources.limits.memory is %s: the driver itself takes 64Mi, and pods' secrets come on top; the default is 192Mi" $limit) }}
{{- end }}
{{- $left := sub (int64 .) (int64 $own) }}
{{- $budget := toString $.Values.memory.budget }}
{{- if gt (include "mayfly.bytes" $budget | int64) $left }}
{{- fail (printf "memory.budget is %s, and linux.driver.resources.limits.memory is %s: the driver itself takes 64Mi of that, so the kernel would end it before the budget is used up; raise the limit, or leave the budget at auto" $budget $limit) }}
{{- end }}
{{- end }}
{{- end }}
