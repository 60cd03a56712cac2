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

{{/* The driver's folder on the node. */}}
{{- define "mayfly.pluginDir" -}}
{{- printf "%s/plugins/%s" (trimSuffix "/" .Values.linux.kubeletRootDir) .Values.driverName }}
{{- end }}

{{/* The port of linux.metricsAddr, empty if there is none. */}}
{{- define "mayfly.metricsPort" -}}
{{- regexFind "[0-9]+$" .Values.linux.metricsAddr }}
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
