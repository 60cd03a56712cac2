{{/*
The command line of the driver. What the driver's own defaults say is still
written out where the chart has a value for it: the manifest then tells all.
*/}}
{{- define "mayfly.args" -}}
{{- include "mayfly.checkMemory" . }}
{{- $vault := .Values.vault }}
- {{ printf "--driver-name=%s" .Values.driverName | quote }}
- --nodeid=$(NODE_NAME)
- --endpoint=unix:///csi/csi.sock
- --plugins-registry-dir=/registration
- {{ printf "--kubelet-registration-path=%s/csi.sock" (include "mayfly.pluginDir" .) | quote }}
- {{ printf "--rotation-poll-interval=%s" .Values.refresh.interval | quote }}
{{- if .Values.rotationEvents }}
- --rotation-events
{{- end }}
- --refresh-workers={{ int64 .Values.refresh.workers }}
- {{ printf "--refresh-timeout=%s" .Values.refresh.timeout | quote }}
- {{ printf "--last-good-max-age=%s" .Values.refresh.lastGoodMaxAge | quote }}
- {{ printf "--volume-size-limit=%s" .Values.volume.sizeLimit | quote }}
- --volume-inode-limit={{ int64 .Values.volume.inodeLimit }}
- {{ printf "--max-volume-size-limit=%s" .Values.volume.maxSizeLimit | quote }}
- --max-volume-inode-limit={{ int64 .Values.volume.maxInodeLimit }}
- {{ printf "--min-refresh-interval=%s" .Values.refresh.minInterval | quote }}
- {{ printf "--memory-budget=%s" .Values.memory.budget | quote }}
- {{ printf "--namespace-memory-limit=%s" .Values.memory.namespaceLimit | quote }}
- {{ printf "--volume-memory-limit=%s" .Values.memory.volumeLimit | quote }}
- {{ printf "--state-size-limit=%s" .Values.memory.stateSize | quote }}
- {{ printf "--namespace-state-limit=%s" .Values.memory.namespaceStateLimit | quote }}
- --kube-api-qps={{ .Values.kubeAPI.qps }}
- --kube-api-burst={{ int64 .Values.kubeAPI.burst }}
- {{ printf "--class-file-dirs=%s" (join "," (concat (list "/etc/mayfly/class-files") .Values.classFiles.directories)) | quote }}
{{- if .Values.syncSecret.enabled }}
- --sync-secrets
{{- end }}
{{- if .Values.rolloutRestart.enabled }}
- --rollout-restart
{{- end }}
{{- if .Values.strictClasses }}
- --strict-classes
{{- end }}
{{- if .Values.allowLocalAddresses }}
- --allow-local-addresses
{{- end }}
{{- with $vault.address }}
- {{ printf "--vault-addr=%s" . | quote }}
{{- end }}
{{- with $vault.fallbackAddress }}
{{- if not $vault.address }}
{{- fail "vault.fallbackAddress: is the second address of the store at vault.address, which is empty: set both, or have classes name their own" }}
{{- end }}
- {{ printf "--vault-fallback-addr=%s" . | quote }}
{{- end }}
{{- with $vault.namespace }}
- {{ printf "--vault-namespace=%s" . | quote }}
{{- end }}
- {{ printf "--vault-mount=%s" $vault.authMountPath | quote }}
{{- with $vault.audience }}
- {{ printf "--vault-audience=%s" . | quote }}
{{- end }}
{{- with include "mayfly.allowed" (list $vault.allowedAddresses $vault.address) }}
- {{ printf "--vault-allowed-addresses=%s" . | quote }}
{{- end }}
{{- with $vault.allowedAuthMountPaths }}
- {{ printf "--vault-allowed-auth-mounts=%s" (join "," .) | quote }}
{{- end }}
{{- if $vault.allowCertAuth }}
- --vault-allow-cert-auth
{{- end }}
{{- if $vault.forbidSkipVerify }}
- --vault-forbid-skip-verify
{{- end }}
{{- if $vault.disableRevocation }}
- --vault-disable-revocation
{{- end }}
- {{ printf "--vault-request-timeout=%s" $vault.requestTimeout | quote }}
- --vault-max-retries={{ int64 $vault.maxRetries }}
{{- if $vault.tls.caConfigMap.name }}
- {{ printf "--vault-tls-ca-cert=/etc/mayfly/vault-ca/%s" $vault.tls.caConfigMap.key | quote }}
{{- end }}
{{- with $vault.tls.serverName }}
- {{ printf "--vault-tls-server-name=%s" . | quote }}
{{- end }}
{{- if $vault.tls.clientCertSecret }}
- --vault-tls-client-cert=/etc/mayfly/vault-client/tls.crt
- --vault-tls-client-key=/etc/mayfly/vault-client/tls.key
{{- end }}
{{- if $vault.tls.skipVerify }}
- --vault-tls-skip-verify
{{- end }}
{{- $akeyless := .Values.akeyless }}
{{- with $akeyless.gatewayURL }}
- {{ printf "--akeyless-gateway-url=%s" . | quote }}
{{- end }}
{{- with $akeyless.fallbackGatewayURL }}
- {{ printf "--akeyless-fallback-gateway-url=%s" . | quote }}
{{- end }}
{{- with $akeyless.accessID }}
- {{ printf "--akeyless-access-id=%s" . | quote }}
{{- end }}
{{- with $akeyless.k8sAuthConfig }}
- {{ printf "--akeyless-k8s-auth-config=%s" . | quote }}
{{- end }}
- {{ printf "--akeyless-audience=%s" $akeyless.audience | quote }}
{{- with include "mayfly.allowed" (list $akeyless.allowedAddresses $akeyless.gatewayURL) }}
- {{ printf "--akeyless-allowed-addresses=%s" . | quote }}
{{- end }}
{{- if $akeyless.forbidSkipVerify }}
- --akeyless-forbid-skip-verify
{{- end }}
{{- if $akeyless.shareByServiceAccount }}
- --akeyless-share-by-service-account
{{- end }}
{{- if $akeyless.disableRevocation }}
- --akeyless-disable-revocation
{{- end }}
- {{ printf "--akeyless-request-timeout=%s" $akeyless.requestTimeout | quote }}
{{- if .Values.providerPlugins.enabled }}
- {{ printf "--provider-volume=%s" .Values.linux.providersDir | quote }}
- {{ printf "--additional-provider-volume-paths=%s" (join "," .Values.linux.additionalProvidersDirs) | quote }}
{{- with .Values.providerPlugins.audiences }}
{{- $pairs := list }}
{{- range $name, $audiences := . }}
{{- range $audiences | default (list "") }}
{{- $pairs = append $pairs (printf "%s=%s" $name .) }}
{{- end }}
{{- end }}
- {{ printf "--provider-audiences=%s" (join "," $pairs) | quote }}
{{- end }}
- {{ printf "--max-call-recv-msg-size=%s" .Values.providerPlugins.maxMessageSize | quote }}
- {{ printf "--provider-timeout=%s" .Values.providerPlugins.timeout | quote }}
{{- else }}
- --provider-volume=
- --additional-provider-volume-paths=
{{- end }}
{{- if .Values.startupTaint.remove }}
- {{ printf "--remove-startup-taint=%s" .Values.startupTaint.key | quote }}
{{- end }}
{{- with .Values.audit.path }}
- {{ printf "--audit-log=%s" . | quote }}
- {{ printf "--audit-level=%s" $.Values.audit.level | quote }}
{{- end }}
- {{ printf "--health-addr=%s" (include "mayfly.healthAddr" .) | quote }}
- {{ printf "--metrics-addr=%s" .Values.metrics.address | quote }}
- {{ printf "--status-address=%s" .Values.status.address | quote }}
{{- if .Values.tracing.enabled }}
- --enable-otel-tracing
{{- end }}
- --shutdown-grace={{ sub .Values.linux.terminationGracePeriodSeconds 5 }}s
- {{ printf "--log-format=%s" .Values.log.format | quote }}
- {{ printf "--log-level=%s" .Values.log.level | quote }}
{{- range .Values.linux.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{/* The directories of the provider plugins' sockets, by the mount's name. */}}
{{- define "mayfly.providerDirs" -}}
{{- if .Values.providerPlugins.enabled }}
{{- range $i, $dir := concat (list .Values.linux.providersDir) .Values.linux.additionalProvidersDirs }}
providers-{{ $i }}: {{ $dir }}
{{- end }}
{{- end }}
{{- end }}

{{/* The directory of the audit log, empty if it is no file. */}}
{{- define "mayfly.auditDir" -}}
{{- if hasPrefix "/" .Values.audit.path }}
{{- dir .Values.audit.path }}
{{- end }}
{{- end }}

{{- define "mayfly.volumeMounts" -}}
{{- $root := trimSuffix "/" .Values.linux.kubeletRootDir }}
# The CSI socket, and the state: a tmpfs that the driver mounts in here and that
# must outlive the container, so the mount has to reach the node.
- name: plugin
  mountPath: /csi
  mountPropagation: Bidirectional
# The pods' volumes: a tmpfs mounted in here must reach the pod, and the path
# must be the one that kubelet names.
- name: pods
  mountPath: {{ $root }}/pods
  mountPropagation: Bidirectional
# Where kubelet looks for drivers.
- name: registration
  mountPath: /registration
{{- if .Values.vault.tls.caConfigMap.name }}
- name: vault-ca
  mountPath: /etc/mayfly/vault-ca
  readOnly: true
{{- end }}
{{- if .Values.vault.tls.clientCertSecret }}
- name: vault-client
  mountPath: /etc/mayfly/vault-client
  readOnly: true
{{- end }}
{{- range $i, $name := .Values.classFiles.configMaps }}
- name: class-configmap-{{ $i }}
  mountPath: /etc/mayfly/class-files/configmaps/{{ $name }}
  readOnly: true
{{- end }}
{{- range $i, $name := .Values.classFiles.secrets }}
- name: class-secret-{{ $i }}
  mountPath: /etc/mayfly/class-files/secrets/{{ $name }}
  readOnly: true
{{- end }}
{{- range $name, $dir := include "mayfly.providerDirs" . | fromYaml }}
- name: {{ $name }}
  mountPath: {{ $dir }}
  readOnly: true
{{- end }}
{{- with include "mayfly.auditDir" . }}
- name: audit
  mountPath: {{ . }}
{{- end }}
{{- with .Values.linux.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "mayfly.volumes" -}}
{{- $root := trimSuffix "/" .Values.linux.kubeletRootDir }}
- name: plugin
  hostPath:
    path: {{ include "mayfly.pluginDir" . }}
    type: DirectoryOrCreate
- name: pods
  hostPath:
    path: {{ $root }}/pods
    type: Directory
- name: registration
  hostPath:
    path: {{ $root }}/plugins_registry
    type: Directory
{{- with .Values.vault.tls.caConfigMap.name }}
- name: vault-ca
  configMap:
    name: {{ . }}
{{- end }}
{{- with .Values.vault.tls.clientCertSecret }}
- name: vault-client
  secret:
    secretName: {{ . }}
    defaultMode: 0400
{{- end }}
{{- range $i, $name := .Values.classFiles.configMaps }}
- name: class-configmap-{{ $i }}
  configMap:
    name: {{ $name }}
{{- end }}
{{- range $i, $name := .Values.classFiles.secrets }}
- name: class-secret-{{ $i }}
  secret:
    secretName: {{ $name }}
    defaultMode: 0400
{{- end }}
{{- range $name, $dir := include "mayfly.providerDirs" . | fromYaml }}
- name: {{ $name }}
  hostPath:
    path: {{ $dir }}
    type: DirectoryOrCreate
{{- end }}
{{- with include "mayfly.auditDir" . }}
- name: audit
  hostPath:
    path: {{ . }}
    type: DirectoryOrCreate
{{- end }}
{{- with .Values.linux.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
